"""`python -m segment_async.devserver`: runs the endpoint without any extra. This file only parses the options."""

import argparse
import asyncio
import sys
from pathlib import Path

from ._lines import line
from ._run import Options, run
from ._tracking import Answered


def main() -> None:
    try:
        options = _options()
        sys.exit(asyncio.run(run(options, show=_show, show_answered=_show_answered)))
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m segment_async.devserver", description="A Segment on localhost.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; beyond loopback, a token is required"
    )
    parser.add_argument("--port", type=int, default=8765, help="port to listen on; 0 picks a free one (default: 8765)")
    parser.add_argument("--rate", type=int, metavar="N", help="respond with 429 beyond N requests per second")
    parser.add_argument(
        "--chaos",
        default="",
        metavar="SPEC",
        help='inject faults: "429:10%%,500:5%%,400:1%%,401:1%%,reset:1%%,timeout:1%%,slow:2s", or "down"',
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="append every event to this file, one per line")
    parser.add_argument(
        "--load", type=Path, metavar="FILE", help="begin with the events that --save wrote to this file"
    )
    parser.add_argument("--keep", type=int, default=5_000, metavar="N", help="keep the last N events (default: 5000)")
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help="also accept events from pages of this origin",
    )
    parser.add_argument("--plan", type=Path, metavar="FILE", help="judge messages against this tracking plan, too")
    given = parser.parse_args()
    return Options(
        host=given.host,
        port=given.port,
        rate=given.rate,
        chaos=given.chaos,
        save=given.save,
        load=given.load,
        keep=given.keep,
        allow_origins=tuple(given.allow_origin),
        plan=given.plan,
    )


def _show(text: str) -> None:
    print(text, flush=True)


def _show_answered(answered: Answered) -> None:
    _show(line(answered))


if __name__ == "__main__":
    main()
