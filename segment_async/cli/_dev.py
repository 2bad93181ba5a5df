"""`segment-async dev`: the devserver with coloured output, and a command next to it."""

import asyncio
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from segment_async.devserver import Answered, Options, parts, run

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


@click.command(short_help="Run a Segment on localhost, live in the browser.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen on; beyond loopback, a token is required.",
)
@click.option("--port", default=8765, show_default=True, metavar="N", help="Port to listen on; 0 picks a free one.")
@click.option("--rate", type=int, metavar="N", help="Respond with 429 beyond N requests per second.")
@click.option(
    "--chaos",
    default="",
    metavar="SPEC",
    help='Inject faults: "429:10%,500:5%,400:1%,401:1%,reset:1%,timeout:1%,slow:2s", or "down".',
)
@click.option(
    "--save", type=click.Path(path_type=Path), metavar="FILE", help="Append every event to this file, one per line."
)
@click.option(
    "--load", type=click.Path(path_type=Path), metavar="FILE", help="Begin with the events that --save wrote to FILE."
)
@click.option("--keep", default=5_000, show_default=True, metavar="N", help="Keep the last N events.")
@click.option("--allow-origin", multiple=True, metavar="URL", help="Also accept events from pages of this origin.")
@click.option(
    "--plan", type=click.Path(path_type=Path), metavar="FILE", help="Judge messages against this tracking plan, too."
)
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
    console = Console(highlight=False, soft_wrap=True)
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
