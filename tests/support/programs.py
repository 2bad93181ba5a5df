"""Runs the programs of `tests/programs` as their users would: in a real process, to its own end.

What a program sends is the receiving end's to know; here are its exit code, what it said, and how long its end took.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "programs"


@dataclass
class Ended:
    """`seconds` passed from the last thing that the program printed, or from its start, to its end."""

    code: int
    out: str
    err: str
    seconds: float


class Program:
    """A process that runs; leave it by `end`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._said: list[str] = []
        self._spoke = asyncio.get_running_loop().time()
        self._reading: asyncio.Task[None] | None = None
        self._errors: asyncio.Task[bytes] = asyncio.create_task(self._read_errors())

    async def _read_errors(self) -> bytes:
        return await self._process.stderr.read() if self._process.stderr is not None else b""

    async def says(self, text: str, *, within: float = 60.0) -> str:
        """Wait for a line that holds this text.

        Raises:
            AssertionError: it ended before, saying something else.
        """
        async with asyncio.timeout(within):
            while text not in (line := await self._line()):
                assert line, f"it ended without {text!r}: {self._said}, {(await self._errors).decode()}"
        return line

    async def _line(self) -> str:
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode()
        if line:
            self._said.append(line)
            self._spoke = asyncio.get_running_loop().time()
        return line

    def go_on_reading(self) -> None:
        """Take what it says in the background, until `end`, so that it is never held up by what is not read."""
        self._reading = asyncio.create_task(self._read_on())

    async def _read_on(self) -> None:
        while await self._line():
            pass

    def signal(self, number: int, *, whole_group: bool = False) -> None:
        """`whole_group`: to all of its processes."""
        if self._process.returncode is None:
            if whole_group:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)

    async def end(self, *, within: float = 60.0) -> Ended:
        """Wait until it has ended by itself."""
        async with asyncio.timeout(within):
            await (asyncio.shield(self._reading) if self._reading is not None else self._read_on())
            code = await self._process.wait()
            seconds = asyncio.get_running_loop().time() - self._spoke
            return Ended(code, "".join(self._said), (await self._errors).decode(), seconds)

    async def kill(self) -> None:
        # Its children too: while one holds a pipe of its, it has not ended.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._errors.cancel()
        if self._reading is not None:
            self._reading.cancel()


@asynccontextmanager
async def running(
    *command: str | Path, host: str, together: bool = False, **environment: str
) -> AsyncIterator[Program]:
    """A Python process that sends to `host`; at the end of the block it is over, one way or another.

    `together`: what it writes to stderr is taken as said too.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "SEGMENT_HOST": host, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if together else asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    program = Program(process)
    try:
        yield program
    finally:
        await program.kill()


async def finished(*command: str | Path, host: str, **environment: str) -> Ended:
    """Run a Python program to its end."""
    async with running(*command, host=host, **environment) as program:
        return await program.end()
