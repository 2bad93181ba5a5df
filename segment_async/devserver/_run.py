"""The endpoint as a program: the common part of `python -m segment_async.devserver` and `segment-async dev`.

Prints and saves events, runs a command next to the endpoint, and stops on a signal. Uses only the public side of the
endpoint.
"""

import asyncio
import errno
import os
import secrets
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._access import is_loopback_name
from ._endpoint import Endpoint, serve
from ._saved import SavedFile, loaded
from ._tracking import Answered

if TYPE_CHECKING:
    from segment_async.plans import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command line.

    `command` runs with `SEGMENT_HOST` set, and beyond loopback with the token as `SEGMENT_WRITE_KEY`; the endpoint stops
    when it ends.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    rate: int | None = None
    chaos: str = ""
    save: Path | None = None
    load: Path | None = None
    keep: int = 5_000
    allow_origins: tuple[str, ...] = ()
    command: Sequence[str] = ()
    plan: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be from 0 to 65535, not {self.port}")
        if self.keep < 1 or (self.rate is not None and self.rate < 1):
            raise ValueError("keep and rate must be at least 1")


HELP: Final = {
    "host": "Address to listen on; beyond loopback, a token is required (SEGMENT_DEV_TOKEN).",
    "port": "Port to listen on; 0 picks a free one.",
    "rate": "Respond with 429 beyond N requests per second.",
    "chaos": 'Inject faults: "429:10%,500:5%,400:1%,401:1%,reset:1%,timeout:1%,slow:2s", or "down".',
    "save": "Append every event to this file, one per line.",
    "load": "Begin with the events that --save wrote to FILE.",
    "keep": "Keep the last N events.",
    "allow_origins": "Also accept events from pages of this origin.",
    "plan": "Judge messages against this tracking plan, too.",
}
"""What each option does, for both command lines."""

Show = Callable[[str], None]
_VARIABLE: Final = "SEGMENT_DEV_TOKEN"


async def run(options: Options, *, show: Show, show_answered: Callable[[Answered], None]) -> int:
    """Serve until a signal arrives or the command ends, and return the exit status.

    `show` is called with each line to print, first the address; `show_answered` with each request.

    Raises:
        OSError: the address or a file cannot be opened, or the command cannot be started.
        ValueError: `chaos` or a line of `load` is malformed, or the plan cannot be used.
        ImportError: there is a plan, and the extra `plans` is not installed.
    """

    def tell(text: str) -> None:
        # In `| grep -m 1 Listening`, nothing reads the lines after the first one that matches.
        with _output_may_end():
            show(text)

    _print_any_text()
    plan = _loaded_plan(options.plan) if options.plan else None
    with ExitStack() as stack:
        saved = stack.enter_context(SavedFile(options.save, tell)) if options.save else None
        stopped = stack.enter_context(_signals())

        def report(answered: Answered) -> None:
            # The terminal or the pipe may be gone; the events are accepted and saved all the same.
            with suppress(OSError), _output_may_end():
                show_answered(answered)
            if saved is not None:
                with suppress(OSError):
                    saved.append(answered.events)

        token = None if is_loopback_name(options.host) else os.environ.get(_VARIABLE) or secrets.token_urlsafe(16)
        try:
            async with serve(
                options.host,
                options.port,
                keep=options.keep,
                rate=options.rate,
                chaos=options.chaos,
                allow_origins=options.allow_origins,
                token=token,
                report=report,
                load=loaded(options.load) if options.load else (),
                plan=plan,
            ) as endpoint:
                variables = _variables(endpoint, token)
                _introduce(endpoint, token, tell)
                if options.command:
                    return await _run_beside(options.command, variables, stopped)
                tell(f"Before your application, run: {_assignment(variables)}")
                await stopped
                return 0
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise OSError(_port_in_use(options)) from error
            raise


@contextmanager
def _output_may_end() -> Generator[None, None, None]:
    """Discard the output once nothing reads it any more: what is unwritten at the exit would change the exit code."""
    try:
        yield
    except BrokenPipeError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _print_any_text() -> None:
    """Print what the terminal's encoding does not have as an escape, instead of failing: events have any text."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _port_in_use(options: Options) -> str:
    return (
        f"port {options.port} of {options.host} is in use, perhaps by another segment-async dev: stop that program, or "
        "choose another port with --port (0 picks a free one)"
    )


def _variables(endpoint: Endpoint, token: str | None) -> dict[str, str]:
    """What an application needs in its environment to send to the endpoint."""
    variables = {"SEGMENT_HOST": endpoint.url}
    return variables if token is None else {**variables, "SEGMENT_WRITE_KEY": token}


def _introduce(endpoint: Endpoint, token: str | None, show: Show) -> None:
    show(f"Listening on {endpoint.url}")
    page = endpoint.url
    if token is not None:
        show(f"Other machines can reach it, so it requires a token (set {_VARIABLE} to choose one).")
        page = f"{endpoint.url}/?token={token}"
    show(f"Open this in a browser:      {page}")


def _assignment(variables: dict[str, str]) -> str:
    """The command that sets the variables, for PowerShell or another shell."""
    if os.name == "nt":
        return "; ".join(f'$env:{name} = "{value}"' for name, value in variables.items())
    return "export " + " ".join(f"{name}={value}" for name, value in variables.items())


def _loaded_plan(path: Path) -> "Plan":
    from segment_async.plans import Plan, require_validator

    require_validator()
    return Plan.load(path)


@contextmanager
def _signals() -> Generator[asyncio.Future[signal.Signals], None, None]:
    """A future for the first SIGINT or SIGTERM; later ones are ignored."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(number)

    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, stop, number)
                stack.callback(loop.remove_signal_handler, number)
            except NotImplementedError:  # on Windows
                call_stop = partial(_call_soon, loop, stop, number)
                stack.callback(signal.signal, number, signal.signal(number, call_stop))
        yield stopped


def _call_soon(
    loop: asyncio.AbstractEventLoop, stop: Callable[[signal.Signals], None], number: signal.Signals, *_: Any
) -> None:
    loop.call_soon_threadsafe(stop, number)


async def _run_beside(
    command: Sequence[str], variables: dict[str, str], stopped: asyncio.Future[signal.Signals]
) -> int:
    """Run the command until it ends, and pass our stop signal on. Requests that it sends while it stops are served."""
    try:
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **variables})
    except FileNotFoundError:
        raise FileNotFoundError(f"command not found: {command[0]}") from None

    async def pass_on() -> None:
        number = await stopped
        # A terminal sends Ctrl-C to both processes, and many servers stop at once on a second one.
        if number == signal.SIGINT and os.isatty(0):
            return
        if os.name == "nt":  # which has no signals to send
            process.terminate()
        else:
            process.send_signal(number)

    passing = asyncio.create_task(pass_on())
    try:
        status = await process.wait()
    finally:
        passing.cancel()
    return status if status >= 0 else 128 - status
