"""The side that SDKs talk to: `/v1/*`, answered as Segment answers.

A request is read within bounds, taken apart, each message judged, all of it kept. What Segment refuses as a whole is
refused as a whole; so is what the faults strike. Knows nothing of the page or of `/_dev`.
"""

import asyncio
import hmac
import math
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from itertools import islice
from typing import Final, NamedTuple

import orjson
from aiohttp import web

from ._arrivals import Arrivals, Batch, Event, Refusal
from ._body import BODY_BYTES, TOO_LARGE, Envelope, Refused, basic_user, envelope, inflate
from ._faults import RESET, Faults
from ._judging import Judged, judge_in_slices

_CALLS: Final = ("track", "identify", "page", "screen", "group", "alias")
_BATCHES: Final = ("batch", "import", "b")
# The gzip of a body that deflate cannot shrink is a little longer than the body.
_WIRE_BYTES: Final = BODY_BYTES + 4_096
# What is kept of a request beside its messages, for each of which it is kept as long.
_HEADERS: Final = 40
_CHARACTERS: Final = 400


class Answered(NamedTuple):
    """One request and its answer. `reason` says why it was not accepted; `events` are what it brought."""

    batch: Batch
    status: int
    events: list[Event]
    reason: str


class Tracking:
    """`report` is told of every request that was answered, accepted or not. With a `token`, no other key will do."""

    def __init__(
        self, arrivals: Arrivals, faults: Faults, report: Callable[[Answered], None], token: str | None = None
    ) -> None:
        self._arrivals = arrivals
        self._faults = faults
        self._report = report
        self._token = token

    def routes(self) -> list[web.RouteDef]:
        batches = [web.post(f"/v1/{path}", self._taker(None)) for path in _BATCHES]
        return batches + [web.post(f"/v1/{path}", self._taker(call)) for call in _CALLS for path in (call, call[0])]

    def _taker(self, call: str | None) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def take(request: web.Request) -> web.StreamResponse:
            return await self._take(request, call)

        return take

    async def _take(self, request: web.Request, call: str | None) -> web.Response:
        seen = _Seen(time.time())
        try:
            judged = await self._read(request, call, seen)
        except Refused as refusal:
            batch = seen.batch(request, self._arrivals.next_batch())
            self._arrivals.refuse(Refusal(batch, refusal.status, str(refusal)))
            self._report(Answered(batch, refusal.status, [], str(refusal)))
            return _refuse(request, refusal)
        batch = seen.batch(request, self._arrivals.next_batch())
        events: list[Event] = []
        async for some in _taking_turns(judged):
            events += self._arrivals.add(batch, some)
        self._report(Answered(batch, 200, events, ""))
        return web.Response(body=b'{"success":true}', content_type="application/json")

    async def _read(self, request: web.Request, call: str | None, seen: "_Seen") -> list[list[Judged]]:
        body = await _body(request)
        seen.wire_bytes = len(body)
        plain = inflate(body, request.headers.get("Content-Encoding", "").strip().lower())
        seen.bytes = len(plain)
        seen.taken = taken = _with_key(envelope(plain, call), request)
        if self._token is not None and not hmac.compare_digest(taken.write_key.encode(), self._token.encode()):
            raise Refused(401, "the write key is not the token that was printed at the start")
        await self._meet_fate()
        return [some async for some in _taking_turns(judge_in_slices(taken))]

    async def _meet_fate(self) -> None:
        fate = self._faults.next(time.monotonic())
        if fate.delay:
            await asyncio.sleep(fate.delay)
        if fate.status != 200:
            raise Refused(fate.status, fate.reason, retry_after=fate.retry_after)


async def _taking_turns(slices: Iterable[list[Judged]]) -> AsyncIterator[list[Judged]]:
    """The slices, with everybody else's turn after each: a request may bring a quarter of a million messages."""
    for some in slices:
        yield some
        await asyncio.sleep(0)


class _Seen:
    """How far the reading of a request has come, so that a refused one can be shown too."""

    def __init__(self, received_at: float) -> None:
        self.received_at = received_at
        self.wire_bytes = 0
        self.bytes = 0
        self.taken = Envelope("", None, [])

    def batch(self, request: web.Request, number: int) -> Batch:
        return Batch(
            number=number,
            received_at=self.received_at,
            route=request.path,
            source=source_label(self.taken.write_key),
            attempt=_attempt(request.headers.get("X-Retry-Count", "")),
            messages=len(self.taken.messages),
            bytes=self.bytes,
            wire_bytes=self.wire_bytes,
            sent_at=self.taken.sent_at and self.taken.sent_at[:_CHARACTERS],
            headers=_shown(request.headers),
        )


async def _body(request: web.Request) -> bytes:
    if (request.content_length or 0) > _WIRE_BYTES:
        raise Refused(400, TOO_LARGE)
    body = bytearray()
    try:
        async for piece in request.content.iter_any():
            body += piece
            if len(body) > _WIRE_BYTES:
                raise Refused(400, TOO_LARGE)
    except ConnectionError as fault:
        raise Refused(RESET, "the connection broke off within the request") from fault
    return bytes(body)


def _refuse(request: web.Request, refusal: Refused) -> web.Response:
    if refusal.status == RESET:
        _reset(request)
        return web.Response(status=503)  # goes nowhere; aiohttp wants something to send
    headers: dict[str, str] = {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = headers["X-RateLimit-Reset"] = str(math.ceil(refusal.retry_after))
    answer = orjson.dumps({"success": False, "message": str(refusal)})
    return web.Response(status=refusal.status, body=answer, content_type="application/json", headers=headers)


def _reset(request: web.Request) -> None:
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    # Without lingering, closing sends RST instead of the polite FIN.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _with_key(taken: Envelope, request: web.Request) -> Envelope:
    in_header = basic_user(request.headers.get("Authorization", ""))
    return taken._replace(write_key=in_header) if in_header else taken


def source_label(write_key: str) -> str:
    """What stands for the write key wherever events are shown; a real key has 32 characters."""
    if len(write_key) <= 16:
        return write_key or "(no write key)"
    return f"{write_key[:4]}…{write_key[-4:]}"


def _attempt(retry_count: str) -> int:
    return int(retry_count) + 1 if retry_count.isdecimal() and len(retry_count) < 7 else 1


def _shown(headers: Mapping[str, str]) -> dict[str, str]:
    some = islice(headers.items(), _HEADERS)
    return {str(name)[:_CHARACTERS]: _masked(name, value)[:_CHARACTERS] for name, value in some}


def _masked(name: str, value: str) -> str:
    if name.lower() == "authorization":
        return f"{value.partition(' ')[0][:16]} …"
    return "…" if name.lower() == "cookie" else value
