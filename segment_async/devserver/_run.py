"""The endpoint as a program: what `python -m segment_async.devserver` and `segment-async dev` have in common.

Prints, saves, runs a command beside it, stops on a signal. Knows the endpoint from outside only.
"""

import asyncio
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import orjson

from ._endpoint import Endpoint, serve
from ._guard import is_loopback_name
from ._tracking import Answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What can be said on the command line; `command` is run with `SEGMENT_HOST` set, and ends the endpoint."""

    host: str = "127.0.0.1"
    port: int = 8765
    rate: int | None = None
    chaos: str = ""
    save: Path | None = None
    keep: int = 5_000
    allow_origins: tuple[str, ...] = ()
    command: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port {self.port} is not between 0 and 65535")
        if self.keep < 1 or (self.rate is not None and self.rate < 1):
            raise ValueError("keep and rate are 1 or more")


Show = Callable[[str], None]
_VARIABLE: Final = "SEGMENT_DEV_TOKEN"


async def run(options: Options, *, show: Show, show_answered: Callable[[Answered], None]) -> int:
    """Serve until a signal comes or the command ends; returns the exit status.

    `show` gets the lines that are for people, the address first; `show_answered` each request.

    Raises:
        OSError: the address or the file cannot be had.
        ValueError: the chaos is of no known form.
    """
    with ExitStack() as stack:
        saved = stack.enter_context(_appended(options.save)) if options.save else None
        stopped = stack.enter_context(_signals())

        def report(answered: Answered) -> None:
            show_answered(answered)
            if saved is not None:
                save(saved, answered)

        token = None if is_loopback_name(options.host) else os.environ.get(_VARIABLE) or secrets.token_urlsafe(16)
        async with serve(
            options.host,
            options.port,
            keep=options.keep,
            rate=options.rate,
            chaos=options.chaos,
            allow_origins=options.allow_origins,
            token=token,
            report=report,
        ) as endpoint:
            _introduce(endpoint, token, show)
            if options.command:
                return await _run_beside(endpoint, options.command, stopped)
            await stopped
            return 0


def _introduce(endpoint: Endpoint, token: str | None, show: Show) -> None:
    show(f"Listening on {endpoint.url}")
    if token is not None:
        show(f"Other machines can reach it, so it asks for a token ({_VARIABLE} sets another one). Watch it at")
        show(f"{endpoint.url}/?token={token}")
        show("and give the token to your SDK as its write key.")


def _appended(path: Path) -> BinaryIO:
    """Open a file to append to, readable by its owner alone when it is new: events are personal data."""
    return open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def save(file: BinaryIO, answered: Answered) -> None:
    """Append the events as `/_dev/events` shows them, one a line."""
    # On the loop: a development tool may wait for its disk.
    file.writelines(orjson.dumps(event.as_dict(), option=orjson.OPT_APPEND_NEWLINE) for event in answered.events)
    file.flush()


@contextmanager
def _signals() -> Iterator[asyncio.Future[signal.Signals]]:
    """The first signal to stop, once it has come; the ones after it are ignored."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        yield stopped
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _run_beside(endpoint: Endpoint, command: Sequence[str], stopped: asyncio.Future[signal.Signals]) -> int:
    """Run the command to its end. A signal to us is its signal to stop; what it still sends then is still taken."""
    environment = {**os.environ, "SEGMENT_HOST": endpoint.url}
    process = await asyncio.create_subprocess_exec(*command, env=environment)

    async def pass_on() -> None:
        number = await stopped
        # A terminal sends Ctrl-C to both of us; to many servers a second one means "at once".
        if number != signal.SIGINT or not os.isatty(0):
            process.send_signal(number)

    passing = asyncio.create_task(pass_on())
    try:
        status = await process.wait()
    finally:
        passing.cancel()
    return status if status >= 0 else 128 - status
