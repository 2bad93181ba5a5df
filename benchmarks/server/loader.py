"""Load on the web application, from another process, over a fixed number of keep-alive connections.

`loader.py PORT CONNECTIONS SECONDS RATE`, a program of its own that uses only the standard library. A rate of 0 is a
closed loop: each connection sends its next request when the response has arrived. Any other rate is an open loop:
requests are sent at that rate whether or not responses arrive, and the time of a request counts from when it was due,
so a stall shows in every request it delays.
"""

import asyncio
import json
import selectors
import sys
import time
from array import array
from collections import deque
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

# The path had to come first.
from benchmarks.report.figures import percentiles
from benchmarks.workload import BROWSER_HEADERS

HEADERS = b"".join(f"{name}: {value}\r\n".encode() for name, value in BROWSER_HEADERS)


class Load:
    """The requests of all connections."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.durations = array("d")
        self.number = 0
        self.ended = 0.0

    def request(self) -> bytes:
        self.number += 1
        return b"GET /orders/%d HTTP/1.1\r\n%b\r\n" % (self.number, HEADERS)


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, load: Load, idle: "deque[Connection] | None") -> None:
        self._load, self._idle = load, idle
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._idle is None:
            self.send(time.perf_counter())
        else:
            self._idle.append(self)

    def send(self, due: float) -> None:
        self._due = due
        self._transport.write(self._load.request())

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._got.endswith(b'"paid"}'):
            return
        self._got = b""
        now = time.perf_counter()
        self._load.durations.append(now - self._due)
        self._load.ended = now
        if self._idle is not None:
            self._idle.append(self)
        elif now < self._load.deadline:
            self.send(now)


async def closed(port: int, connections: int, seconds: float) -> Load:
    load = Load(time.perf_counter() + seconds)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(load, None), "127.0.0.1", port)
    await asyncio.sleep(seconds + 0.2)
    return load


async def open_loop(port: int, connections: int, seconds: float, rate: int) -> Load:
    load, loop, idle = Load(0), asyncio.get_running_loop(), deque[Connection]()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(load, idle), "127.0.0.1", port)
    start, sent = time.perf_counter(), 0
    while sent < rate * seconds and time.perf_counter() < start + 2 * seconds:
        while idle and sent < rate * (time.perf_counter() - start):
            idle.popleft().send(start + sent / rate)
            sent += 1
        await asyncio.sleep(max(0.0001, start + sent / rate - time.perf_counter()))
    await asyncio.sleep(0.5)
    return load


async def main(port: int, connections: int, seconds: float, rate: int) -> None:
    start = time.perf_counter()
    load = await (open_loop(port, connections, seconds, rate) if rate else closed(port, connections, seconds))
    took = load.ended - start
    times = {name: value * 1000 for name, value in percentiles(load.durations).items()}
    print(json.dumps({"requests": len(load.durations), "per_second": len(load.durations) / took, **times}))


if __name__ == "__main__":
    # select has microsecond timers; epoll rounds them to a millisecond.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
