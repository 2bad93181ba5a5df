"""Arriving work: datagrams that `server/pinger.py` sends over loopback, read in the loop as requests are.

A timer cannot replace them: epoll rounds timers to a millisecond.
"""

import asyncio
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.probes import Task

PINGER = Path(__file__).parents[1] / "server" / "pinger.py"


class Arrivals:
    """Iterate to get the numbers of the arrivals until the pinger ends; meanwhile `lags` fills with nanoseconds.

    A ping carries the time it was sent. A lag is its age when the loop reads it.
    """

    def __init__(self, task: Task) -> None:
        self.lags = array("q")
        self._task = task

    def __enter__(self) -> Self:
        self._pings, self._pace = _receiver(), _receiver()
        ports = [str(each.getsockname()[1]) for each in (self._pings, self._pace)]
        core = "-" if self._task.other_core is None else str(self._task.other_core)
        command = [sys.executable, str(PINGER), *ports, str(self._task.rate), str(self._task.seconds), core]
        self._pinger = subprocess.Popen(command)
        asyncio.get_running_loop().add_reader(self._pings, self._on_ping)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._pings)
        self._pings.close()
        self._pace.close()
        self._pinger.wait(timeout=10)

    def _on_ping(self) -> None:
        try:
            while sent := self._pings.recv(8):
                self.lags.append(time.monotonic_ns() - int.from_bytes(sent))
        except BlockingIOError:
            return

    async def wait_for_end(self) -> None:
        await asyncio.get_running_loop().sock_recv(self._pace, 8)

    async def __aiter__(self) -> AsyncIterator[int]:
        loop, number = asyncio.get_running_loop(), 0
        while await loop.sock_recv(self._pace, 8):
            yield number
            number += 1


def _receiver() -> socket.socket:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    receiver.bind(("127.0.0.1", 0))
    receiver.setblocking(False)
    return receiver
