"""`segment-async dev`: the devserver with colours, and a command beside it."""

import asyncio
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from segment_async.devserver import Answered, Options, parts, run

_STYLES = {"time": "dim", "size": "dim", "reason": "red", "dropped": "red", "spec": "yellow", "style": "cyan"}


@click.command(short_help="Run a Segment on localhost, live in the browser.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen on; beyond loopback, with a token.",
)
@click.option("--port", default=8765, show_default=True, metavar="N", help="Port to listen on; 0 takes a free one.")
@click.option("--rate", type=int, metavar="N", help="Answer 429 beyond N requests a second.")
@click.option("--chaos", default="", metavar="SPEC", help='Misbehave: "429:10%,500:5%,slow:2s,reset:1%".')
@click.option(
    "--save", type=click.Path(path_type=Path), metavar="FILE", help="Append every event to this file, one a line."
)
@click.option("--keep", default=5_000, show_default=True, metavar="N", help="Hold the last N events.")
@click.option("--allow-origin", multiple=True, metavar="URL", help="Pages of this origin may post, too.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def dev(
    host: str,
    port: int,
    rate: int | None,
    chaos: str,
    save: Path | None,
    keep: int,
    allow_origin: tuple[str, ...],
    command: tuple[str, ...],
) -> None:
    """Run a Segment on localhost, and COMMAND with SEGMENT_HOST pointing to it.

    It accepts what Segment accepts, says what Segment would drop, and shows every event live in the browser:

        segment-async dev -- uvicorn app:app
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        options = Options(
            host=host,
            port=port,
            rate=rate,
            chaos=chaos,
            save=save,
            keep=keep,
            allow_origins=allow_origin,
            command=command,
        )
        shown = run(options, show=console.out, show_answered=lambda answered: console.print(styled(answered)))
        sys.exit(asyncio.run(shown))
    except (OSError, ValueError) as fault:
        raise click.ClickException(str(fault)) from fault


def styled(answered: Answered) -> Text:
    """The line for a request, in colours."""
    answer = "green" if answered.status == 200 else "bold red"
    line = Text("  ").join(Text(text, style=_STYLES.get(kind, answer)) for kind, text in parts(answered))
    line.no_wrap = True
    return line
