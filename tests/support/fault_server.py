"""A server that goes wrong by script: raw asyncio, one step of the script for each attempt of a client.

    async with FaultServer([lose_answer(), answer(503, {"Retry-After": "1"})]) as server:
        client = Client("key", host=server.url)

The steps are in `faults.py`. After the last one every request is answered 200. What arrives is kept in `requests`, in
order of arrival; how a fault is done, and what a request means to Segment, is not known here.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Self

from .exchange import Exchange, ReceivedRequest, cut, read_head
from .faults import OnAccept, OnHead, OnRequest, Step, answer
from .simulated_segment import Arrival, Message, taken_messages

Script = Iterable[Step] | Callable[[ReceivedRequest], OnRequest]


class FaultServer:
    """A server on a loopback port of its own; down to begin with, yet with its port, when `up` is false.

    The script is a row of steps, one for each connection that ends before its first request or for each request; or a
    function that chooses a step by the request. Where the next step is one for a connection, pooled connections are
    closed, so that the client must connect again.
    """

    def __init__(self, script: Script = (), *, tls: ssl.SSLContext | None = None, up: bool = True) -> None:
        self.requests: list[ReceivedRequest] = []
        self.connections = 0
        self.failed_handshakes = 0
        self.script = script
        self._tls = tls
        self._starts_up = up
        self._port = 0
        self._listener: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._untouched: set[socket.socket] = set()
        self._mistakes: list[BaseException] = []
        self._news = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def script(self) -> Script:
        """What is still to come; set it to go on with another script."""
        return self._choose or self._steps

    @script.setter
    def script(self, script: Script) -> None:
        self._choose = script if callable(script) else None
        self._steps: deque[Step] = deque(() if callable(script) else script)

    @property
    def arrivals(self) -> list[Arrival]:
        """The whole requests, as Segment reads them."""
        return [request.arrival for request in self.requests if request.complete]

    @property
    def taken(self) -> dict[str, list[Message]]:
        return taken_messages(self.arrivals)

    async def wait_for_requests(self, count: int, *, at_most: float = 10.0) -> None:
        """Wait until so many requests have come in all.

        Raises:
            TimeoutError: they did not, within `at_most` seconds.
        """
        async with asyncio.timeout(at_most), self._news:
            await self._news.wait_for(lambda: len(self.requests) >= count)

    async def __aenter__(self) -> Self:
        self._bind()
        if self._starts_up:
            self.come_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop_listening()
        await self.reset_connections()
        if self._mistakes:
            raise BaseExceptionGroup("the fault server itself went wrong", self._mistakes)

    def come_up(self) -> None:
        """Accept connections, on the port that the server had all the time."""
        assert self._listener is not None
        self._listener.listen(128)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    async def go_down(self) -> None:
        """Reset every connection and refuse new ones; the port stays the server's own."""
        self._stop_listening()
        # With nothing awaited in between, so that no other server of the tests gets the port.
        self._bind()
        await self.reset_connections()

    def _stop_listening(self) -> None:
        if self._listener:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()

    async def reset_connections(self) -> None:
        # Most that came just now get as far as to be reset in earnest.
        await asyncio.sleep(0)
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        # The transports close in the loop's next round.
        await asyncio.sleep(0)

    async def change_certificate(self, tls: ssl.SSLContext) -> None:
        """Show another certificate from now on; open connections are reset."""
        self._tls = tls
        await self.reset_connections()

    def _bind(self) -> None:
        # Bound and not listening, a port refuses connections and no other program can get it.
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.setblocking(False)
        self._listener.bind(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]

    def _accept(self, listener: socket.socket) -> None:
        # No task does it: one that is cancelled just as a client has come would leave the socket open.
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        self.connections += 1
        self._untouched.add(sock)
        task = asyncio.get_running_loop().create_task(self._serve(sock, self.connections))
        self._serving.add(task)
        task.add_done_callback(partial(self._served, sock))

    def _served(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        if sock in self._untouched:
            # Cancelled before its first step, which would have taken the socket over.
            self._untouched.discard(sock)
            sock.close()
        if not task.cancelled() and (mistake := task.exception()):
            self._mistakes.append(mistake)

    async def _serve(self, sock: socket.socket, connection: int) -> None:
        self._untouched.discard(sock)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if isinstance(step := self._next_step(), OnAccept):
                self._steps.popleft()
                with sock:
                    await step.act(sock)
            elif streams := await self._open_streams(sock):
                await self._serve_requests(*streams, connection)

    def _next_step(self) -> Step | None:
        return self._steps[0] if self._steps else None

    async def _open_streams(self, sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=self._tls)
        except OSError:
            self.failed_handshakes += 1
            return None
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _serve_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        try:
            over = False
            while not over:
                over = await self._serve_request(reader, writer, connection)
            writer.close()
        except BaseException:
            cut(writer)
            raise

    async def _serve_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> bool:
        """Meet one request, and say whether it was the connection's last."""
        method, target, headers = await read_head(reader)
        step = self._next_step()
        if isinstance(step, OnAccept):
            raise ConnectionAbortedError("the next step is for a new connection")
        if step:
            self._steps.popleft()
        last = isinstance(self._next_step(), OnAccept)
        now = asyncio.get_running_loop().time()
        request = ReceivedRequest(connection, method, target, headers, now)
        exchange = Exchange(request, reader, writer, last=last)
        await self._meet(exchange, step)
        return exchange.over

    async def _meet(self, exchange: Exchange, step: OnHead | OnRequest | None) -> None:
        if not isinstance(step, OnHead):
            await exchange.read_body()
        await self._keep(exchange.request)
        if step is None:
            step = self._choose(exchange.request) if self._choose else answer()
        await step.act(exchange)

    async def _keep(self, request: ReceivedRequest) -> None:
        self.requests.append(request)
        async with self._news:
            self._news.notify_all()
