"""`python -m segment_async.devserver`: runs the endpoint without any extra. This file only parses the options."""

import argparse
import asyncio
import sys
from pathlib import Path

from ._access import origin_of
from ._lines import line
from ._run import HELP, Options, run
from ._tracking import Answered

_DEFAULTS = Options()


def main() -> None:
    try:
        options = _options()
        sys.exit(asyncio.run(run(options, show=_show, show_answered=_show_answered)))
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m segment_async.devserver", description="A Segment on localhost.")
    parser.add_argument("--host", default=_DEFAULTS.host, metavar="ADDRESS", help=_help("host"))
    parser.add_argument("--port", type=int, default=_DEFAULTS.port, metavar="N", help=_help("port"))
    parser.add_argument("--rate", type=int, metavar="N", help=_help("rate"))
    parser.add_argument("--chaos", default="", metavar="SPEC", help=_help("chaos"))
    parser.add_argument("--save", type=Path, metavar="FILE", help=_help("save"))
    parser.add_argument("--load", type=Path, metavar="FILE", help=_help("load"))
    parser.add_argument("--keep", type=int, default=_DEFAULTS.keep, metavar="N", help=_help("keep"))
    parser.add_argument("--allow-origin", action="append", default=[], metavar="URL", help=_help("allow_origins"))
    parser.add_argument("--plan", type=Path, metavar="FILE", help=_help("plan"))
    # What follows COMMAND belongs to it, even an option that both have, such as --port.
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND", help="Run this next to it, with SEGMENT_HOST set."
    )
    given = parser.parse_args()
    command: list[str] = given.command
    try:
        allow_origins = tuple(map(origin_of, given.allow_origin))
    except ValueError as error:
        parser.error(f"argument --allow-origin: {error}")
    try:
        return Options(
            host=given.host,
            port=given.port,
            rate=given.rate,
            chaos=given.chaos,
            save=given.save,
            load=given.load,
            keep=given.keep,
            allow_origins=allow_origins,
            command=command[1:] if command[:1] == ["--"] else command,
            plan=given.plan,
        )
    except ValueError as error:
        parser.error(str(error))


def _help(name: str) -> str:
    text = HELP[name].replace("%", "%%")
    return f"{text} [default: %(default)s]" if getattr(_DEFAULTS, name) else text


def _show(text: str) -> None:
    print(text, flush=True)


def _show_answered(answered: Answered) -> None:
    _show(line(answered))


if __name__ == "__main__":
    main()
