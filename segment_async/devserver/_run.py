"""The endpoint as a program: the common part of `python -m segment_async.devserver` and `segment-async dev`.

Prints and saves events, runs a command next to the endpoint, and stops on a signal. Uses only the public side of the
endpoint.
"""

import asyncio
import os
import secrets
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import orjson

from ._access import is_loopback_name
from ._endpoint import Endpoint, serve
from ._tracking import Answered

if TYPE_CHECKING:
    from segment_async.plans import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command line. `command` runs with `SEGMENT_HOST` set; the endpoint stops when it ends."""

    host: str = "127.0.0.1"
    port: int = 8765
    rate: int | None = None
    chaos: str = ""
    save: Path | None = None
    keep: int = 5_000
    allow_origins: tuple[str, ...] = ()
    command: Sequence[str] = ()
    plan: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be from 0 to 65535, not {self.port}")
        if self.keep < 1 or (self.rate is not None and self.rate < 1):
            raise ValueError("keep and rate must be at least 1")


Show = Callable[[str], None]
_VARIABLE: Final = "SEGMENT_DEV_TOKEN"


async def run(options: Options, *, show: Show, show_answered: Callable[[Answered], None]) -> int:
    """Serve until a signal arrives or the command ends, and return the exit status.

    `show` is called with each line to print, first the address; `show_answered` with each request.

    Raises:
        OSError: the address or a file cannot be opened.
        ValueError: `chaos` is malformed, or the plan cannot be used.
        ImportError: there is a plan, and the extra `plans` is not installed.
    """
    plan = _loaded(options.plan) if options.plan else None
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
            plan=plan,
        ) as endpoint:
            _introduce(endpoint, token, show)
            if options.command:
                return await _run_beside(endpoint, options.command, stopped)
            await stopped
            return 0


def _introduce(endpoint: Endpoint, token: str | None, show: Show) -> None:
    show(f"Listening on {endpoint.url}")
    if token is not None:
        show(f"Other machines can reach it, so it requires a token (set {_VARIABLE} to choose one). Open")
        show(f"{endpoint.url}/?token={token}")
        show("in a browser, and use the token as the write key of your SDK.")


def _loaded(path: Path) -> "Plan":
    from segment_async.plans import Plan, require_validator

    require_validator()
    return Plan.load(path)


def _appended(path: Path) -> BinaryIO:
    """Open a file for appending. A new one is readable by its owner alone, because events are personal data."""
    return open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def save(file: BinaryIO, answered: Answered) -> None:
    """Append the events in the format of `/_dev/events`, one per line."""
    # This blocks the event loop, which is acceptable in a development tool.
    file.writelines(orjson.dumps(event.as_dict(), option=orjson.OPT_APPEND_NEWLINE) for event in answered.events)
    file.flush()


@contextmanager
def _signals() -> Generator[asyncio.Future[signal.Signals], None, None]:
    """A future for the first SIGINT or SIGTERM; later ones are ignored."""
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
    """Run the command until it ends, and pass our stop signal on. Requests that it sends while it stops are served."""
    environment = {**os.environ, "SEGMENT_HOST": endpoint.url}
    process = await asyncio.create_subprocess_exec(*command, env=environment)

    async def pass_on() -> None:
        number = await stopped
        # A terminal sends Ctrl-C to both processes, and many servers stop at once on a second one.
        if number != signal.SIGINT or not os.isatty(0):
            process.send_signal(number)

    passing = asyncio.create_task(pass_on())
    try:
        status = await process.wait()
    finally:
        passing.cancel()
    return status if status >= 0 else 128 - status
