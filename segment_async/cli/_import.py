"""`segment-async import`: the options, the progress on a terminal or in a log, and the summary."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from segment_async.importing import (
    DryRun,
    Importer,
    ImportOptions,
    ImportReport,
    ImportUsageError,
    Progress,
    dry_run,
    initial_mapping,
    load_mapping,
    load_transform,
)

_LINE_SECONDS: Final = 10
_SIGNALS: Final = {signal.SIGINT: 130, signal.SIGTERM: 143}
_USAGE: Final = 2


@click.command("import", short_help="Import history from files.")
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
@click.option("--limit", type=int, metavar="N", help="Stop after N records.")
@click.option("--since", metavar="TIME", help="Skip messages before this time (ISO-8601).")
@click.option("--until", metavar="TIME", help="Skip messages at this time and later.")
@click.option("--strict", is_flag=True, help="Also reject what violates Segment's spec without being dropped.")
@click.option("--plan", type=click.Path(path_type=Path), metavar="FILE", help="Check messages against a tracking plan.")
@click.option(
    "--on-violation",
    type=click.Choice(["warn", "reject"]),
    default="warn",
    show_default=True,
    help="What is against the plan is counted and sent, or rejected.",
)
@click.option("--rate", type=float, default=500, show_default=True, metavar="N", help="Messages a second; 0: no limit.")
@click.option("--ordered", is_flag=True, help="One request at a time, for calls where the last one wins.")
@click.option(
    "--id",
    "ids",
    default="content",
    show_default=True,
    metavar="content|columns:A,B|row|keep",
    help="Where messageIds come from.",
)
@click.option("--transform", metavar="MODULE:FUNCTION", help="Makes messages of a row, in place of a mapping.")
@click.option(
    "--state", type=click.Path(path_type=Path), metavar="FILE", help="State file; default: beside the source."
)
@click.option("--restart", is_flag=True, help="Ignore what an earlier run did.")
@click.option("--rejects", type=click.Path(path_type=Path), metavar="FILE", help="Default: beside the state file.")
@click.option("--max-rejects", metavar="N|N%", help="Stop when so many records were rejected or failed.")
@click.option("--write-key-file", type=click.Path(path_type=Path), metavar="FILE", help="Instead of SEGMENT_WRITE_KEY.")
@click.option("--region", type=click.Choice(["us", "eu"]), default="us", show_default=True, help="Of the workspace.")
@click.option("--host", metavar="URL", help="Another address, such as a proxy or segment-async dev.")
@click.option(
    "--give-up-after",
    type=float,
    default=43_200,
    show_default=True,
    metavar="SECONDS",
    help="Stop when there was no answer for so long.",
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
        if given["init"]:
            click.echo(_first_mapping(sources, given["format"]), nl=False)
            return
        options = _options(sources, map_file, given)
        quiet, is_json = bool(given["quiet"]), bool(given["is_json"])
        sys.exit(_dry(options, quiet, is_json) if given["is_dry"] else _import(options, quiet, is_json))
    except ImportUsageError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or 'source'}: {error.strerror or error}")
    finally:
        logger.setLevel(level)


def _refuse(text: str) -> NoReturn:
    click.echo(f"Error: {text}", err=True)
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
    with _shown(quiet) as show:
        importer = Importer(options, on_progress=show)
        try:
            importer.prepare()
            if not quiet:
                _say(_announcement(options, importer))
            report = asyncio.run(_run(importer))
        finally:
            importer.close()
    if is_json:
        click.echo(orjson.dumps(report.as_dict(), option=orjson.OPT_INDENT_2))
    elif not quiet:
        Console(highlight=False).print(_summary(report))
    if report.problem is not None:
        _say(f"Stopped: {report.problem}")
    for text in report.broken:
        _say(f"Damaged: {text}")
    if (report.counts.rejected or report.counts.failed) and not quiet:
        _say(f"Rejects: {report.rejects}")
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


def _announcement(options: ImportOptions, importer: Importer) -> str:
    if importer.already_done:
        return "An earlier run finished this import: nothing is sent. Use --restart to import again."
    records = importer.estimated_records
    resumed = f", {importer.resumed:,} of them done before" if importer.resumed else ""
    if records is None:
        amount = "An unknown number of records" + resumed
    else:
        amount = f"About {records:,} {'record' if records == 1 else 'records'}{resumed}"
    if not options.rate:
        return f"{amount}, without a limit of the rate."
    pace = f"at {options.rate:,.10g} a second"
    if records is None:
        return f"{amount}, {pace}."
    return f"{amount}, {pace}: {duration(max(0, records - importer.resumed) / options.rate)}."


def duration(seconds: float) -> str:
    """A time that people read: the two largest units."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3_600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _summary(report: ImportReport) -> Table:
    counts = report.counts
    table = _table("records", "")
    for name in ("delivered", "rejected", "failed", "skipped", "duplicates"):
        table.add_row(name, f"{getattr(counts, name):,}")
    table.add_row("total", f"{counts.records:,}", style="bold")
    if report.pending:
        table.add_row("without an outcome", f"{report.pending:,}")
    for reason, number in counts.reasons.most_common():
        table.add_row(Text(f"  {reason}", "red"), f"{number:,}")
    for name, found in (("spec", counts.spec), ("plan", counts.plan)):
        for rule, number in found.most_common():
            table.add_row(Text(f"  {name}: {rule}", "yellow"), f"{number:,}")
    table.add_row("messages delivered", f"{counts.messages:,}")
    table.add_row("time", duration(report.seconds))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


# -- a dry run


def _dry(options: ImportOptions, quiet: bool, is_json: bool) -> int:
    found = dry_run(options)
    if is_json:
        click.echo(orjson.dumps(found.as_dict(), _exact, orjson.OPT_INDENT_2))
    elif not quiet:
        _show_dry(found, options)
    return found.exit_code


def _show_dry(found: DryRun, options: ImportOptions) -> None:
    Console(highlight=False).print(_dry_table(found, options))
    _show_findings(found)
    for text in found.broken:
        click.echo(f"damaged: {_harmless(text)}")
    for title, columns in (("unmapped columns", found.unmapped), ("mapped columns without a value", found.unseen)):
        if columns:
            click.echo(f"{title}: {_harmless(', '.join(columns))}")
    for message in found.messages:
        click.echo(orjson.dumps(message, _exact))


def _dry_table(found: DryRun, options: ImportOptions) -> Table:
    counts = found.counts
    table = _table("dry run: nothing was sent", "")
    table.add_row("records", f"{counts.records:,}")
    for name, label in (("delivered", "to send"), ("rejected",) * 2, ("skipped",) * 2, ("duplicates",) * 2):
        table.add_row(label, f"{getattr(counts, name):,}")
    for name, number in found.types.most_common():
        table.add_row(f"  {name}", f"{number:,}")
    table.add_row("distinct users", f"{'' if found.users.is_exact else 'about '}{found.users.count:,}")
    if found.first is not None:
        table.add_row("first", found.first)
        table.add_row("last", found.last)
    if found.seconds is not None:
        table.add_row(f"time at {options.rate:,.10g} a second", duration(found.seconds))
    return table


def _show_findings(found: DryRun) -> None:
    for title, findings in (("rejected", found.rejected), ("spec", found.spec), ("plan", found.plan)):
        for rule, finding in findings.items():
            click.echo(f"{title}: {rule}: {finding.count:,}")
            for example in finding.examples:
                click.echo(f"  {_harmless(example)}")


def _exact(value: object) -> object:
    """A number as it is sent."""
    return orjson.Fragment(str(value)) if isinstance(value, Decimal) else str(value)


def _harmless(text: str) -> str:
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


# -- progress, on stderr


def _say(text: str) -> None:
    click.echo(_harmless(text), err=True)


@contextmanager
def _shown(quiet: bool) -> Generator[Callable[[Progress], object] | None, None, None]:
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _Lines(time.monotonic).show


@contextmanager
def _bar() -> Generator[Callable[[Progress], object], None, None]:
    console = Console(stderr=True, highlight=False)
    bar = Bar(BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.description}"), console=console)
    with bar:
        task = bar.add_task("", total=None)

        def show(progress: Progress) -> None:
            share = progress.share
            total = None if share is None else 1.0
            bar.update(task, completed=share or 0, total=total, description=line_of(progress, with_share=False))

        yield show


class _Lines:
    """A line every ten seconds, for logs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = clock() + _LINE_SECONDS

    def show(self, progress: Progress) -> None:
        if self._clock() >= self._next:
            self._next += _LINE_SECONDS
            _say(line_of(progress))


def line_of(progress: Progress, *, with_share: bool = True) -> str:
    """The state of an import in one line."""
    counts = progress.counts
    parts = [f"{counts.delivered:,} delivered", f"{counts.rejected + counts.failed:,} rejected or failed"]
    parts.append(f"{progress.rate:,.0f}/s")
    if with_share and progress.share is not None:
        parts.insert(0, f"{progress.share:.0%}")
    if progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    return ", ".join(parts)
