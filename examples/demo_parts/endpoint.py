"""The endpoint in a process of its own: started, taken down, brought back, and asked what it received.

Knows the endpoint only by its command line and by the file in which it saves what arrives; knows nothing of the client.
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
    """The endpoint ended before it listened; it has said why on stderr."""


class EndpointProcess:
    """`url` stays the same when the endpoint comes back, and so does the file that it saves to; `up`: is it there?"""

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
            EndpointError: it ended before that.
        """
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *("--port", str(urlsplit(self.url).port)),
            stdout=asyncio.subprocess.PIPE,
            process_group=0,  # Ctrl-C is for the demo, which then stops the endpoint itself
        )
        assert process.stdout is not None
        greeting = (await process.stdout.readline()).decode()
        if not greeting.startswith(GREETING):
            raise EndpointError(f"The endpoint did not start; its exit code is {await process.wait()}.")
        self.url = greeting.removeprefix(GREETING).strip()
        self._process = process
        # It prints a line for each batch, and would wait for ever if nobody took them.
        self._output = asyncio.create_task(_read_to_the_end(process.stdout))

    async def stop(self) -> None:
        """End the process, whatever it is doing; stopping it twice is fine."""
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
        """The `messageId` of everything that ever arrived, in the order of arrival."""
        with self._saved.open("rb") as lines:
            return [json.loads(line)["message"]["messageId"] for line in lines]


async def _read_to_the_end(stream: asyncio.StreamReader) -> None:
    while await stream.read(65_536):
        pass
