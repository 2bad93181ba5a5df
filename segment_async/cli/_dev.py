"""`segment-async dev`: the devserver with coloured output, and a command next to it."""

import asyncio
import errno
import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from segment_async.devserver import Answered, Options, parts, run
from segment_async.devserver._access import origin_of
from segment_async.devserver._run import HELP

from ._numbers import COUNT, PORT

_DEFAULTS = Options()
_STYLES = {
    "time": "dim",
    "size": "dim",
    "names": "bold",
    "reason": "red",
    "dropped": "red",
    "spec": "yellow",
    "plan": "magenta",
    "style": "cyan",
}


def _origins(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(map(origin_of, given))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


class _Console(Console):
    """A console that raises when the reader of a pipe has gone: rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@click.command(
    short_help="Run a Segment on localhost, live in the browser.",
    # What follows COMMAND belongs to it, even an option that both have, such as --port.
    context_settings={"allow_interspersed_args": False},
)
@click.option("--host", default=_DEFAULTS.host, show_default=True, metavar="ADDRESS", help=HELP["host"])
@click.option("--port", type=PORT, default=_DEFAULTS.port, show_default=True, metavar="N", help=HELP["port"])
@click.option("--rate", type=COUNT, metavar="N", help=HELP["rate"])
@click.option("--chaos", default="", metavar="SPEC", help=HELP["chaos"])
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE", help=HELP["save"])
@click.option("--load", type=click.Path(path_type=Path), metavar="FILE", help=HELP["load"])
@click.option("--keep", type=COUNT, default=_DEFAULTS.keep, show_default=True, metavar="N", help=HELP["keep"])
@click.option("--allow-origin", multiple=True, metavar="URL", callback=_origins, help=HELP["allow_origins"])
@click.option("--plan", type=click.Path(path_type=Path), metavar="FILE", help=HELP["plan"])
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def dev(
    host: str,
    port: int,
    rate: int | None,
    chaos: str,
    save: Path | None,
    load: Path | None,
    keep: int,
    allow_origin: tuple[str, ...],
    plan: Path | None,
    command: tuple[str, ...],
) -> None:
    """Run a Segment on localhost, and COMMAND with SEGMENT_HOST set to its address.

    It accepts what Segment accepts, reports what Segment would drop, and shows every event live in the browser:

        segment-async dev -- uvicorn app:app
    """
    console = _Console(highlight=False, soft_wrap=True)
    try:
        options = Options(
            host=host,
            port=port,
            rate=rate,
            chaos=chaos,
            save=save,
            load=load,
            keep=keep,
            allow_origins=allow_origin,
            command=command,
            plan=plan,
        )
        shown = run(options, show=console.out, show_answered=lambda answered: console.print(styled(answered)))
        sys.exit(asyncio.run(shown))
    except (ImportError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def styled(answered: Answered) -> Text:
    """The line for a request, with colours."""
    answer = "green" if answered.status == 200 else "bold red"
    line = Text("  ").join(Text(text, style=_STYLES.get(kind, answer)) for kind, text in parts(answered))
    line.no_wrap = True
    return line
