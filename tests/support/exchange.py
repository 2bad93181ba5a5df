"""One request met by the fault server, and the ways to treat it: the verbs that `faults.py` is written in.

Raw HTTP/1.1 over asyncio's streams, with nothing checked on the way out: the point is to say what no proper server
says. Which fault comes when is not known here.
"""

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from multidict import CIMultiDict

from .simulated_segment import Arrival

OK_BODY = b'{"success": true}'


@dataclass
class ReceivedRequest:
    """A request as it came over the wire.

    `status` is what it was answered, or would have been had the answer not been lost; `None`: nothing. `complete` is
    false while the body has not been read to its end. `cut` is when the connection was cut under the next request.
    """

    connection: int
    method: str
    target: str
    headers: CIMultiDict[str]
    arrived: float
    body: bytes = field(default=b"", repr=False)
    complete: bool = False
    status: int | None = None
    cut: float | None = None

    @property
    def arrival(self) -> Arrival:
        """The request as Segment reads it: its messages, its retry count, whether it was taken."""
        arrival = Arrival.read(self.body, self.headers)
        arrival.status = self.status
        return arrival

    @property
    def json(self) -> Mapping[str, Any]:
        return self.arrival.envelope


async def read_head(reader: asyncio.StreamReader) -> tuple[str, str, CIMultiDict[str]]:
    """Read a request's first line and headers.

    Raises:
        asyncio.IncompleteReadError: the peer left first.
    """
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    fields = (line.split(":", 1) for line in lines[1:] if line)
    return method, target, CIMultiDict((name, value.strip()) for name, value in fields)


class Exchange:
    """A request, and the connection on which it is to be answered.

    `over` is true once the connection is not to be used for another request.
    """

    def __init__(
        self, request: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, last: bool
    ) -> None:
        self.request = request
        self.reader = reader
        self.writer = writer
        self.over = last
        self._says_close = last

    async def read_body(self, *, piece: int = 65_536, pause: float = 0.0) -> None:
        """Read the body to its end, in pieces of so many bytes with so many seconds between them."""
        if "chunked" in self.request.headers.get("Transfer-Encoding", ""):
            await self._read_chunks()
        else:
            await self.read_some(int(self.request.headers.get("Content-Length", 0)), piece=piece, pause=pause)
        self.request.complete = True

    async def read_some(self, count: int, *, piece: int = 65_536, pause: float = 0.0) -> None:
        """Read so many more bytes of the body."""
        while count > 0:
            read = await self.reader.readexactly(min(count, piece))
            self.request.body += read
            count -= len(read)
            await asyncio.sleep(pause)

    async def _read_chunks(self) -> None:
        while size := int((await self.reader.readline()).split(b";")[0], 16):
            await self.read_some(size)
            await self.reader.readline()
        await self.reader.readline()

    async def write(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.request.status = status
        await self.write(self.compose(status, headers, body))

    def compose(self, status: int, headers: Mapping[str, str], body: bytes) -> bytes:
        """Put an answer together; a length that `headers` give wins over the true one, 204 and 304 have no body."""
        fields = CIMultiDict(headers)
        if status in (204, 304):
            body = b""
        elif "Transfer-Encoding" not in fields:
            fields.setdefault("Content-Length", str(len(body)))
        if self._says_close:
            fields.setdefault("Connection", "close")
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {status:03d} {_phrase(status)}\r\n{lines}\r\n".encode("latin-1") + body

    def close(self) -> None:
        """End the connection in good order (FIN), after what was written."""
        self.over = True
        self.writer.close()

    def reset(self) -> None:
        """Cut the connection (RST); under TLS, without a close_notify."""
        self.over = True
        cut(self.writer)

    async def wait_until_peer_leaves(self) -> None:
        self.over = True
        while await self.reader.read(65_536):
            pass


def reset_on_close(sock: socket.socket) -> None:
    """Have the closing of a socket send RST: linger, for zero seconds."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def cut(writer: asyncio.StreamWriter) -> None:
    """Drop a connection with RST, whatever state it is in."""
    sock = writer.get_extra_info("socket")
    if sock.fileno() >= 0:
        reset_on_close(sock)
    writer.transport.abort()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Odd"
