"""`segment-async import`: the options, and the run from the first look at the sources to the exit code."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import orjson

from segment_async.importing import (
    Importer,
    ImportOptions,
    ImportReport,
    ImportUsageError,
    dry_run,
    initial_mapping,
    load_mapping,
    load_transform,
)

from ._import_progress import progress_shown, say, say_lines, shown
from ._import_report import announcement, as_text, exact_number, show_dry, summary
from ._numbers import COUNT, FROM_ZERO

_SIGNALS: Final = {signal.SIGINT: 130, signal.SIGTERM: 143}
_USAGE: Final = 2


class _Import(click.Command):
    """Exits with 2 for wrong options, even if nothing reads standard error any more."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.show = partial(_show, error)  # type: ignore[method-assign]
            raise


def _show(error: click.UsageError, _: object = None) -> None:
    text = io.StringIO()
    click.UsageError.show(error, text)
    say_lines(text.getvalue().rstrip("\n"))


@click.command("import", cls=_Import, short_help="Import history from files.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--map", "map_file", type=click.Path(path_type=Path), metavar="FILE", help="TOML: how rows become messages."
)
@click.option("--init", is_flag=True, help="Print a first mapping for SOURCE, with guesses, and stop.")
@click.option(
    "--format", type=click.Choice(["csv", "jsonl", "parquet", "segment"]), help="Default: by name and content."
)
@click.option("--destinations", metavar="all|none|NAME,NAME", help="Where Segment forwards the data; required.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Read and check everything, send nothing.")
@click.option("--limit", type=COUNT, metavar="N", help="Stop after N records.")
@click.option("--since", metavar="TIME", help="Skip messages before this time (ISO-8601).")
@click.option("--until", metavar="TIME", help="Skip messages at this time and later.")
@click.option("--strict", is_flag=True, help="Also reject what violates Segment's spec without being dropped.")
@click.option("--plan", type=click.Path(path_type=Path), metavar="FILE", help="Check messages against a tracking plan.")
@click.option(
    "--on-violation",
    type=click.Choice(["warn", "reject"]),
    default="warn",
    show_default=True,
    help="Count and send what violates the plan, or reject it.",
)
@click.option(
    "--rate", type=FROM_ZERO, default=500, show_default=True, metavar="N", help="Messages a second; 0: no limit."
)
@click.option("--ordered", is_flag=True, help="One request at a time, so that messages arrive in order.")
@click.option(
    "--id",
    "ids",
    default="content",
    show_default=True,
    metavar="content|columns:A,B|row|keep",
    help="Where messageIds come from.",
)
@click.option(
    "--transform", metavar="MODULE:FUNCTION", help="A function that makes messages from a row, instead of a mapping."
)
@click.option(
    "--state", type=click.Path(path_type=Path), metavar="FILE", help="State file; default: beside the source."
)
@click.option("--restart", is_flag=True, help="Ignore what an earlier run did.")
@click.option("--rejects", type=click.Path(path_type=Path), metavar="FILE", help="Default: beside the state file.")
@click.option("--max-rejects", metavar="N|N%", help="Stop once this many records were rejected or failed.")
@click.option("--write-key-file", type=click.Path(path_type=Path), metavar="FILE", help="Instead of SEGMENT_WRITE_KEY.")
@click.option(
    "--region", type=click.Choice(["us", "eu"]), default="us", show_default=True, help="The workspace's region."
)
@click.option(
    "--host", metavar="URL", help="Where to send, such as a proxy; default: SEGMENT_HOST, or Segment in the region."
)
@click.option(
    "--give-up-after",
    type=FROM_ZERO,
    default=43_200,
    show_default=True,
    metavar="SECONDS",
    help="Stop after this long without an answer.",
)
@click.option("--json", "is_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="Print no progress and no summary.")
def import_(sources: tuple[str, ...], map_file: Path | None, **given: Any) -> None:
    """Import history into Segment: checked, paced, and resumed where it stopped.

    SOURCE is a file, a directory, a glob, an address such as s3://bucket/orders.csv, or - for standard input. The write
    key comes from SEGMENT_WRITE_KEY. Rehearse it first:

        segment-async import orders.csv --map orders.toml --dry-run
    """
    # Warnings of the client, such as those of a retry, would run through the progress; what matters is in the summary.
    logger = logging.getLogger("segment_async")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        if not given["init"]:
            options = _options(sources, map_file, given)
            quiet, is_json = bool(given["quiet"]), bool(given["is_json"])
            sys.exit(_dry(options, quiet, is_json) if given["is_dry"] else _import(options, quiet, is_json))
        mapping = _first_mapping(sources, given["format"])
    except ImportUsageError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or 'source'}: {error.strerror or error}")
    except KeyboardInterrupt:
        # Before the import handles signals, or in a dry run. click would exit with 1, which means rejects.
        say("Interrupted.")
        sys.exit(_SIGNALS[signal.SIGINT])
    finally:
        logger.setLevel(level)
    # Not above: an `OSError` of the output, such as of a pipe that `head` has closed, is no error of a source.
    click.echo(mapping.encode(), nl=False)


def _refuse(text: str) -> NoReturn:
    say_lines(f"Error: {text}")
    sys.exit(_USAGE)


def _first_mapping(sources: tuple[str, ...], file_format: str | None) -> str:
    if len(sources) != 1:
        raise ImportUsageError("--init takes one source")
    return initial_mapping(sources[0], file_format)


def _options(sources: tuple[str, ...], map_file: Path | None, given: dict[str, Any]) -> ImportOptions:
    ids, _, columns = str(given["ids"]).partition(":")
    transform = given["transform"]
    if transform is not None:
        sys.path.insert(0, "")
    return ImportOptions(
        sources=sources,
        write_key=_write_key(given["write_key_file"]),
        mapping=load_mapping(map_file) if map_file is not None else None,
        ids=ids,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # checked by the options
        id_columns=tuple(column.strip() for column in columns.split(",") if column.strip()),
        transform=load_transform(transform) if transform is not None else None,
        transform_name=transform or "",
        **{name: given[name] for name in _PASSED},
    )


_PASSED: Final = (
    *("region", "host", "format", "destinations", "limit", "since", "until", "strict", "rate", "ordered", "state"),
    *("restart", "rejects", "max_rejects", "give_up_after", "plan", "on_violation"),
    "write_key_file",
)


def _write_key(file: Path | None) -> str:
    if file is None:
        return os.environ.get("SEGMENT_WRITE_KEY", "")
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ImportUsageError(f"write key file {file}: cannot be read") from error


# -- an import


def _import(options: ImportOptions, quiet: bool, is_json: bool) -> int:
    # Rows have no cycles: looking for some among those on their way is a tenth of the work.
    gc.set_threshold(100_000)
    with progress_shown(quiet) as show:
        importer = Importer(options, on_progress=show)
        try:
            importer.prepare()
            if not quiet:
                say(announcement(options, importer))
            report = asyncio.run(_run(importer))
        finally:
            importer.close()
    with shown():
        if is_json:
            click.echo(orjson.dumps(report.as_dict(), option=orjson.OPT_INDENT_2))
        elif not quiet:
            click.echo(as_text(summary(report)), nl=False)
    if report.problem is not None:
        say(f"Stopped: {report.problem}")
        if options.restart:
            say("Leave --restart out of the next run, or it begins again.")
    for text in report.broken:
        say(f"Damaged: {text}")
    if (report.counts.rejected or report.counts.failed) and not quiet:
        say(f"Rejects: {report.rejects}")
    return report.exit_code


async def _run(importer: Importer) -> ImportReport:
    loop = asyncio.get_running_loop()
    for number, code in _SIGNALS.items():
        loop.add_signal_handler(number, importer.stop, code, f"interrupted by {number.name}")
    try:
        return await importer.run()
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


# -- a dry run


def _dry(options: ImportOptions, quiet: bool, is_json: bool) -> int:
    found = dry_run(options)
    with shown():
        if is_json:
            click.echo(orjson.dumps(found.as_dict(), exact_number, orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))
        elif not quiet:
            show_dry(found, options)
    return found.exit_code
