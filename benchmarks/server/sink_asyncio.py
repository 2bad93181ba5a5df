"""The sink for machines without a C compiler: the same HTTP and orders as `sink.c`, on one raw asyncio protocol.

A program of its own that uses only the standard library. It receives a few thousand requests a second, which the
harness measures and reports.
"""

import asyncio
import json
import socket
import sys
import time
from collections import deque

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"success":true}'
KEPT_LIMIT = 1 << 30


class Book:
    """What arrived, and how to respond."""

    def __init__(self) -> None:
        self.latency = 0.0
        self.stalled = False
        self.waiting: deque[tuple[float, asyncio.Transport]] = deque()
        self.reset()

    def reset(self) -> None:
        self.requests = self.answered = self.bytes = self.lost_bodies = self.first_ns = self.last_ns = 0
        self.kept = bytearray()

    def statistics(self) -> bytes:
        names = ("requests", "answered", "bytes", "lost_bodies", "first_ns", "last_ns")
        figures = {name: getattr(self, name) for name in names}
        return json.dumps({**figures, "cpu_ns": time.process_time_ns()}).encode()

    def keep(self, body: bytes, compressed: bool) -> None:
        if len(self.kept) + len(body) > KEPT_LIMIT:
            self.lost_bodies += 1
        else:
            self.kept += len(body).to_bytes(4) + int(compressed).to_bytes(4) + body

    def answer(self, transport: asyncio.Transport) -> None:
        if self.stalled or self.latency or self.waiting:
            self.waiting.append((time.monotonic() + self.latency, transport))
            asyncio.get_running_loop().call_later(self.latency, self.answer_due)
        else:
            self._write(transport)

    def answer_due(self) -> None:
        # A loop's timer may fire one clock tick early.
        while self.waiting and not self.stalled and self.waiting[0][0] <= time.monotonic() + 0.001:
            self._write(self.waiting.popleft()[1])

    def _write(self, transport: asyncio.Transport) -> None:
        transport.write(ANSWER)
        self.answered += 1
        self.last_ns = time.monotonic_ns()


class Connection(asyncio.Protocol):
    def __init__(self, book: Book) -> None:
        self._book = book
        self._input = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._input += data
        while (blank := self._input.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._input[: blank + 4])
            length, compressed = framing(head)
            if len(self._input) < len(head) + length:
                return
            body = bytes(self._input[len(head) : len(head) + length])
            del self._input[: len(head) + length]
            self._take(head, body, compressed)

    def _take(self, head: bytes, body: bytes, compressed: bool) -> None:
        path = head.split(b" ", 2)[1].decode()
        if path.startswith("/_sink/"):
            self._execute(path.removeprefix("/_sink/"))
            return
        book = self._book
        book.first_ns = book.first_ns or time.monotonic_ns()
        book.requests += 1
        book.bytes += len(head) + len(body)
        book.keep(body, compressed)
        book.answer(self._transport)

    def _execute(self, order: str) -> None:
        book, response = self._book, b"{}"
        match order.split("/"):
            case ["reset"]:
                book.reset()
            case ["latency", milliseconds]:
                book.latency = int(milliseconds) / 1000
            case ["stall", value]:
                book.stalled = value == "1"
                book.answer_due()
            case ["bodies"]:
                response = bytes(book.kept)
            case _:
                response = book.statistics()
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(response) + response)


def framing(head: bytes) -> tuple[int, bool]:
    """The length of a request's body, and whether it is compressed."""
    length, compressed = 0, False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        compressed |= name.lower() == b"content-encoding"
    return length, compressed


async def main() -> None:
    loop, book, closed = asyncio.get_running_loop(), Book(), asyncio.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    server = await loop.create_server(lambda: Connection(book), sock=listener)
    print(listener.getsockname()[1], flush=True)
    loop.add_reader(sys.stdin, closed.set)
    await closed.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
