"""What the fault server can do to one attempt of a client: one function a fault, each returns a step of a script.

when the connection is accepted
    fin_on_accept, rst_on_accept      closed at once, with FIN or RST
    never_read                        accepted and left alone; under TLS this is the handshake that stalls
when the head of a request is there
    reset_in_body                     RST after some bytes of the body
    read_slowly                       the body is read a piece at a time, then answered
when the request is there
    answer                            any status, headers and body, doubled headers too
    redirect                          3xx with a Location
    silence                           no answer, the connection stays open
    lose_answer                       taken, then RST (or FIN) in place of the answer
    close_on_reuse                    answered, and RST as soon as the next request begins: a stale connection
    slow_bytes                        the answer, a byte at a time
    raw, garbage                      bytes that are no HTTP
    short_body, cut_body              fewer bytes than promised, then FIN or RST
    mis_chunked                       chunked, and wrongly so
    endless_body                      a body without an end
    bad_gzip, gzip_bomb               Content-Encoding: gzip, and it is none; 200 MB from 200 KB
    huge_headers                      1 MB of headers
    informational, switch_protocols   100, 101, 103 that were not asked for

A port that refuses is `FaultServer.go_down`, a certificate that changes is `FaultServer.change_certificate`, wrong
certificates come from `private_ca`. Nothing here knows how the server accepts, counts or records.
"""

import asyncio
import functools
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from .exchange import OK_BODY, Exchange, reset_on_close


@dataclass(frozen=True)
class OnAccept:
    """A step that meets a connection before a byte of it is read."""

    act: Callable[[socket.socket], Awaitable[None]]


@dataclass(frozen=True)
class OnHead:
    """A step that meets a request whose body is still unread."""

    act: Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True)
class OnRequest:
    """A step that meets a whole request."""

    act: Callable[[Exchange], Awaitable[None]]


Step = OnAccept | OnHead | OnRequest


def fin_on_accept() -> OnAccept:
    async def act(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)
        # Closed with bytes unread, the socket would send RST instead.
        while await asyncio.get_running_loop().sock_recv(sock, 65_536):
            pass

    return OnAccept(act)


def rst_on_accept() -> OnAccept:
    async def act(sock: socket.socket) -> None:
        reset_on_close(sock)

    return OnAccept(act)


def never_read() -> OnAccept:
    async def act(sock: socket.socket) -> None:
        await asyncio.get_running_loop().create_future()

    return OnAccept(act)


def reset_in_body(*, after: int) -> OnHead:
    async def act(exchange: Exchange) -> None:
        await exchange.read_some(after)
        exchange.reset()

    return OnHead(act)


def read_slowly(*, piece: int, pause: float) -> OnHead:
    async def act(exchange: Exchange) -> None:
        await exchange.read_body(piece=piece, pause=pause)
        await exchange.answer(200, {}, OK_BODY)

    return OnHead(act)


def answer(status: int = 200, headers: Mapping[str, str] | None = None, body: bytes = OK_BODY) -> OnRequest:
    """Answer, and keep the connection; `headers` may be a multidict, for headers that come twice."""

    async def act(exchange: Exchange) -> None:
        await exchange.answer(status, headers or {}, body)

    return OnRequest(act)


def redirect(url: str, status: int = 307) -> OnRequest:
    return answer(status, {"Location": url}, b"")


def silence() -> OnRequest:
    async def act(exchange: Exchange) -> None:
        await exchange.wait_until_peer_leaves()

    return OnRequest(act)


def lose_answer(status: int = 200, *, politely: bool = False) -> OnRequest:
    """Take the request and close the connection unanswered, with RST or `politely` with FIN."""

    async def act(exchange: Exchange) -> None:
        exchange.request.status = status
        exchange.close() if politely else exchange.reset()

    return OnRequest(act)


def close_on_reuse(status: int = 200) -> OnRequest:
    """Answer, then cut the connection when the next request's first byte comes; that request costs no step."""

    async def act(exchange: Exchange) -> None:
        await exchange.answer(status, {}, OK_BODY)
        if await exchange.reader.read(1):
            exchange.request.cut = asyncio.get_running_loop().time()
        exchange.reset()

    return OnRequest(act)


def slow_bytes(*, pause: float = 0.0, status: int = 200, body: bytes = OK_BODY) -> OnRequest:
    async def act(exchange: Exchange) -> None:
        exchange.request.status = status
        for byte in exchange.compose(status, {}, body):
            await exchange.write(bytes([byte]))
            await asyncio.sleep(pause)

    return OnRequest(act)


def raw(text: bytes, *, then: Callable[[Exchange], None] = Exchange.close) -> OnRequest:
    """Write these bytes for an answer, then close the connection, or cut it with `Exchange.reset`."""

    async def act(exchange: Exchange) -> None:
        await exchange.write(text)
        then(exchange)

    return OnRequest(act)


def garbage() -> OnRequest:
    return raw(b"\x16\x03\x01SSH-2.0-OpenSSH_9.7 this is not the port you want\r\n\r\n")


def short_body(*, then: Callable[[Exchange], None] = Exchange.close) -> OnRequest:
    return raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + OK_BODY, then=then)


def cut_body() -> OnRequest:
    return short_body(then=Exchange.reset)


def mis_chunked(chunks: bytes = b"5\r\nhello world\r\nzz\r\n") -> OnRequest:
    return raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)


def endless_body(status: int = 200) -> OnRequest:
    async def act(exchange: Exchange) -> None:
        exchange.over = True
        await exchange.write(f"HTTP/1.1 {status} Odd\r\nConnection: close\r\n\r\n".encode())
        while True:
            await exchange.write(b" " * 65_536)

    return OnRequest(act)


def bad_gzip(status: int = 200) -> OnRequest:
    return answer(status, {"Content-Encoding": "gzip"}, b"\x1f\x8b\x08 and that was it")


def gzip_bomb(status: int = 200) -> OnRequest:
    return answer(status, {"Content-Encoding": "gzip"}, _bomb())


@functools.cache
def _bomb() -> bytes:
    """200 MB of zeros in 200 KB: one deflated megabyte, two hundred times."""
    megabyte = bytes(1_000_000)
    packer = zlib.compressobj(level=9, wbits=-15)
    block = packer.compress(megabyte) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = functools.reduce(lambda checksum, _: zlib.crc32(megabyte, checksum), range(200), 0)
    head, empty_last_block = b"\x1f\x8b\x08" + bytes(7), b"\x03\x00"
    return head + block * 200 + empty_last_block + struct.pack("<II", checksum, 200_000_000)


def huge_headers(*, lines: int = 1000, length: int = 1000) -> OnRequest:
    return answer(200, {f"X-Filler-{number}": "x" * length for number in range(lines)})


def informational(*statuses: int, then: OnRequest | None = None) -> OnRequest:
    """Send answers of 1xx first, each a head without a body, then an answer or another step."""

    async def act(exchange: Exchange) -> None:
        for status in statuses:
            await exchange.write(f"HTTP/1.1 {status} Odd\r\nLink: </style.css>; rel=preload\r\n\r\n".encode())
        await (then or answer()).act(exchange)

    return OnRequest(act)


def switch_protocols() -> OnRequest:
    head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    return raw(head + b"\x81\x05hello")
