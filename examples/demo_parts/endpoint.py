"""The endpoint in a child process: start it, stop it, start it again, and read what it received.

Uses the command line of the endpoint and the file to which it saves events; does not know the client.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

COMMAND = (sys.executable, "-m", "segment_async.devserver")
GREETING = "Listening on "
SECONDS_TO_STOP = 5


class EndpointError(Exception):
    """The endpoint ended before it was listening; the reason is on stderr."""


class EndpointProcess:
    """`url` and the saved file stay the same when the endpoint is started again; `up` says whether it is running."""

    def __init__(self, command: Sequence[str], saved: Path) -> None:
        self._command = (*command, "--save", str(saved))
        self._saved = saved
        self._process: asyncio.subprocess.Process | None = None
        self._output: asyncio.Task[None] | None = None
        self.url = "http://127.0.0.1:0"

    @property
    def up(self) -> bool:
        return self._process is not None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Return once the endpoint listens.

        Raises:
            EndpointError: the endpoint ended before that.
        """
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *("--port", str(urlsplit(self.url).port)),
            stdout=asyncio.subprocess.PIPE,
            process_group=0,  # Ctrl-C goes to the demo only, which then stops the endpoint
        )
        assert process.stdout is not None
        greeting = (await process.stdout.readline()).decode()
        if not greeting.startswith(GREETING):
            raise EndpointError(f"The endpoint did not start; its exit code is {await process.wait()}.")
        self.url = greeting.removeprefix(GREETING).strip()
        self._process = process
        # The endpoint prints a line for each batch, and would block if its output were not read.
        self._output = asyncio.create_task(_read_to_the_end(process.stdout))

    async def stop(self) -> None:
        """End the process, in any state; calling this twice is fine."""
        process, self._process = self._process, None
        if process is None or self._output is None:
            return
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), SECONDS_TO_STOP)
        except TimeoutError:
            process.kill()
        await self._output

    def received(self) -> list[str]:
        """The `messageId` of every received message, in the order of arrival."""
        with self._saved.open("rb") as lines:
            return [json.loads(line)["message"]["messageId"] for line in lines]


async def _read_to_the_end(stream: asyncio.StreamReader) -> None:
    while await stream.read(65_536):
        pass
