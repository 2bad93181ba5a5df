"""`python -m segment_async.devserver`: the endpoint without any extra installed."""

import argparse
import asyncio
import signal
import sys

from ._endpoint import serve
from ._lines import line
from ._tracking import Answered


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m segment_async.devserver", description="A Segment on localhost.")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8765, help="the port to listen on; 0 takes a free one")
    parser.add_argument("--keep", type=int, default=5_000, help="how many events to hold")
    options = parser.parse_args()
    try:
        asyncio.run(_serve(options))
    except OSError as fault:
        sys.exit(f"cannot listen on {options.host}:{options.port}: {fault.strerror}")


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serve(options.host, options.port, keep=options.keep, report=_print) as endpoint:
        print(f"Listening on {endpoint.url}", flush=True)
        await stop.wait()


def _print(answered: Answered) -> None:
    print(line(answered), flush=True)


if __name__ == "__main__":
    main()
