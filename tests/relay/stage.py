"""What a test of the relay needs around Redis: an endpoint that notes what arrives, relays as processes, and a proxy.

Everything waits for a condition, within a limit; nothing sleeps for a time that was guessed.
"""

import asyncio
import gzip
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from aiohttp import web

ROOT = Path(__file__).parents[2]
SOON = 30.0
"""Seconds that something has to happen, on a machine with other work."""


async def until(condition: Callable[[], object], what: str, seconds: float = SOON) -> float:
    """Wait until it is true; returns the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        if loop.time() > began + seconds:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.01)
    return loop.time() - began


@dataclass
class Arrival:
    at: float
    ids: list[str]
    events: list[str]
    retry_count: int


@dataclass
class Sink:
    """A Segment that takes everything, unless `answer` says otherwise; `arrivals` has what it was sent."""

    url: str = ""
    arrivals: list[Arrival] = field(default_factory=list)
    answer: Callable[[Arrival], Awaitable[int]] | None = None

    @property
    def ids(self) -> list[str]:
        return [message_id for arrival in self.arrivals for message_id in arrival.ids]

    @property
    def repeated(self) -> set[str]:
        return {message_id for message_id, count in Counter(self.ids).items() if count > 1}

    def first_of(self, message_id: str) -> Arrival:
        return next(arrival for arrival in self.arrivals if message_id in arrival.ids)

    def last_of(self, message_id: str) -> Arrival:
        return next(arrival for arrival in reversed(self.arrivals) if message_id in arrival.ids)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            # aiohttp has decompressed it.
            messages = orjson.loads(body)["batch"]
        except orjson.JSONDecodeError:
            messages = orjson.loads(gzip.decompress(body))["batch"]
        arrival = Arrival(
            asyncio.get_running_loop().time(),
            [each["messageId"] for each in messages],
            [each.get("event", "") for each in messages],
            int(request.headers.get("X-Retry-Count", "0")),
        )
        self.arrivals.append(arrival)
        status = 200 if self.answer is None else await self.answer(arrival)
        return web.json_response({"success": status == 200}, status=status)


@asynccontextmanager
async def sink() -> AsyncIterator[Sink]:
    application = web.Application(client_max_size=2**20)
    made = Sink()
    application.add_routes([web.post("/v1/batch", made.take)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = "http://{}:{}".format(*runner.addresses[0])
    try:
        yield made
    finally:
        await runner.cleanup()


class RelayProcess:
    """`segment-async relay` as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    async def until_ready(self) -> None:
        await until(lambda: "delivering" in self.log or self.process.returncode is not None, "the relay has begun")
        assert self.process.returncode is None, self.log

    def send(self, number: int) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def end(self, number: int = signal.SIGTERM) -> int:
        self.send(number)
        async with asyncio.timeout(SOON):
            code = await self.process.wait()
            await self._reading
        return code


@asynccontextmanager
async def relay(url: str, host: str, *options: str, key: str = "key") -> AsyncIterator[RelayProcess]:
    """A relay that is killed at the end, if it was not ended before."""
    environment = {**os.environ, "SEGMENT_WRITE_KEY": key, "SEGMENT_HOST": host, "PYTHONUNBUFFERED": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "segment_async.cli", "relay", url, *options),
        env=environment,
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    started = RelayProcess(process)
    try:
        yield started
    finally:
        if process.returncode is None:
            started.send(signal.SIGCONT)
            await started.end(signal.SIGKILL)


class Proxy:
    """Between a client and a server; `cut_after` says of bytes on their way whether the connection ends there."""

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self.port = 0
        # Of a reply: it is swallowed and the connection is cut, if this is true for the request before.
        self.swallows: Callable[[bytes], bool] = lambda _request: False
        self.stalls = False
        self.swallowed = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._upstream)
        self._writers |= {writer, upstream_writer}
        last = b""

        async def forward() -> None:
            nonlocal last
            while data := await reader.read(2**16):
                last = data
                upstream_writer.write(data)
            upstream_writer.close()

        async def back() -> None:
            while data := await upstream_reader.read(2**16):
                if self.swallows(last):
                    self.swallowed += 1
                    writer.transport.abort()
                    return
                if not self.stalls:
                    writer.write(data)
            writer.close()

        try:
            await asyncio.gather(forward(), back())
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers -= {writer, upstream_writer}
            writer.transport.abort()
            upstream_writer.transport.abort()

    def cut_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()


@asynccontextmanager
async def proxy(upstream: Path) -> AsyncIterator[Proxy]:
    made = Proxy(upstream)
    server = await asyncio.start_server(made._serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        made.cut_all()
        await asyncio.sleep(0)
