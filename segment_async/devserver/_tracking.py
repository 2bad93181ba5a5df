"""The paths for SDKs: `/v1/*`, with the responses of Segment.

Reads a request within limits, parses it, judges each message and stores all of them. A request that Segment would
refuse is refused as a whole, and so is one that gets a fault. This file knows neither the page nor `/_dev`.
"""

import asyncio
import hmac
import math
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson
from aiohttp import web

from ._arrivals import Arrivals, Event, ReceivedBatch, Refusal
from ._body import BODY_BYTES, TOO_LARGE, ParsedRequest, RequestRefused, basic_user, inflate, parse
from ._faults import DOWN, RESET, TIMEOUT, Faults
from ._judging import Judged, judge_in_slices

if TYPE_CHECKING:
    from segment_async.plans import Plan

_CALLS: Final = ("track", "identify", "page", "screen", "group", "alias")
_BATCHES: Final = ("batch", "import", "b")
# Gzip makes a body that cannot be compressed a little longer.
_WIRE_BYTES: Final = BODY_BYTES + 4_096
# Seconds that a request without a response is kept open; the clients' own limits are shorter.
_MAX_HOLD: Final = 600.0
_HOLD_CHECK: Final = 0.1
# Limits for the headers of a request, which are kept as long as its messages.
_MAX_HEADERS: Final = 40
_MAX_CHARACTERS: Final = 400


class Answered(NamedTuple):
    """One request and its response. `reason` says why it was refused; `events` are its messages."""

    batch: ReceivedBatch
    status: int
    events: list[Event]
    reason: str


class Tracking:
    """`report` is called with every request, accepted or refused. With a `token`, it is the only accepted write key.

    Raises:
        ValueError: `plan` is not a plan.
    """

    def __init__(
        self,
        arrivals: Arrivals,
        faults: Faults,
        report: Callable[[Answered], None],
        token: str | None = None,
        plan: "Plan | None" = None,
    ) -> None:
        if plan is not None and not hasattr(plan, "judge"):
            # Each request would fail.
            raise ValueError('plan must be a Plan of segment_async.plans, such as Plan.load("plan.json")')
        self._arrivals = arrivals
        self._faults = faults
        self._report = report
        self._token = token
        self._plan = plan

    def routes(self) -> list[web.RouteDef]:
        batches = [web.post(f"/v1/{path}", self._handler(None)) for path in _BATCHES]
        return batches + [web.post(f"/v1/{path}", self._handler(call)) for call in _CALLS for path in (call, call[0])]

    def _handler(self, call: str | None) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._handle(request, call)

        return handle

    async def _handle(self, request: web.Request, call: str | None) -> web.Response:
        incoming = _IncomingRequest(time.time())
        try:
            judged = await self._read(request, call, incoming)
        except RequestRefused as refusal:
            batch = incoming.batch(request, self._arrivals.next_batch())
            self._arrivals.refuse(Refusal(batch, refusal.status, str(refusal)))
            self._report(Answered(batch, refusal.status, [], str(refusal)))
            return await _refuse(request, refusal)
        batch = incoming.batch(request, self._arrivals.next_batch())
        events: list[Event] = []
        async for some in _with_pauses(judged):
            events += self._arrivals.add(batch, some)
        self._report(Answered(batch, 200, events, ""))
        return web.Response(body=b'{"success":true}', content_type="application/json")

    async def _read(self, request: web.Request, call: str | None, incoming: "_IncomingRequest") -> list[list[Judged]]:
        if self._faults.chaos.down:
            raise RequestRefused(DOWN, "injected by --chaos")
        body = await _body(request)
        incoming.wire_bytes = len(body)
        plain = inflate(body, request.headers.get("Content-Encoding", "").strip().lower())
        incoming.bytes = len(plain)
        incoming.parsed = parsed = _with_key(parse(plain, call), request)
        if self._token is not None and not hmac.compare_digest(parsed.write_key.encode(), self._token.encode()):
            raise RequestRefused(401, "the write key must be the token that was printed at the start")
        await self._inject_fault()
        return [some async for some in _with_pauses(judge_in_slices(parsed, self._plan))]

    async def _inject_fault(self) -> None:
        planned = self._faults.next(time.monotonic())
        if planned.delay:
            await asyncio.sleep(planned.delay)
        if planned.status != 200:
            raise RequestRefused(planned.status, planned.reason, retry_after=planned.retry_after)


async def _with_pauses(slices: Iterable[list[Judged]]) -> AsyncIterator[list[Judged]]:
    """The slices, with a turn for other tasks after each: a request may have a quarter of a million messages."""
    for some in slices:
        yield some
        await asyncio.sleep(0)


class _IncomingRequest:
    """What was read of a request so far, so that a refused one can be shown, too."""

    def __init__(self, received_at: float) -> None:
        self.received_at = received_at
        self.wire_bytes = 0
        self.bytes = 0
        self.parsed = ParsedRequest("", None, [])

    def batch(self, request: web.Request, number: int) -> ReceivedBatch:
        return ReceivedBatch(
            number=number,
            received_at=self.received_at,
            route=request.path,
            source=source_label(self.parsed.write_key),
            attempt=_attempt(request.headers.get("X-Retry-Count", "")),
            messages=len(self.parsed.messages),
            bytes=self.bytes,
            wire_bytes=self.wire_bytes,
            sent_at=self.parsed.sent_at and self.parsed.sent_at[:_MAX_CHARACTERS],
            headers=_shown(request.headers),
        )


async def _body(request: web.Request) -> bytes:
    if (request.content_length or 0) > _WIRE_BYTES:
        raise RequestRefused(400, TOO_LARGE)
    body = bytearray()
    try:
        async for piece in request.content.iter_any():
            body += piece
            if len(body) > _WIRE_BYTES:
                raise RequestRefused(400, TOO_LARGE)
    except ConnectionError as error:
        raise RequestRefused(RESET, "the connection was closed in the middle of the request") from error
    return bytes(body)


async def _refuse(request: web.Request, refusal: RequestRefused) -> web.Response:
    if refusal.status == TIMEOUT:
        await _hold(request)
    if refusal.status in (RESET, TIMEOUT, DOWN):
        return reset(request)
    headers: dict[str, str] = {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = headers["X-RateLimit-Reset"] = str(math.ceil(refusal.retry_after))
    content = orjson.dumps({"success": False, "message": str(refusal)})
    return web.Response(status=refusal.status, body=content, content_type="application/json", headers=headers)


async def _hold(request: web.Request) -> None:
    """Wait until the client has closed the connection."""
    end = time.monotonic() + _MAX_HOLD
    while request.transport is not None and time.monotonic() < end:  # noqa: ASYNC110  # aiohttp has no event for this
        await asyncio.sleep(_HOLD_CHECK)


def reset(request: web.Request) -> web.Response:
    """Reset the connection. The response is never sent; aiohttp needs one."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        # With a linger time of 0, closing the socket sends RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=503)


def _with_key(parsed: ParsedRequest, request: web.Request) -> ParsedRequest:
    in_header = basic_user(request.headers.get("Authorization", ""))
    return parsed._replace(write_key=in_header) if in_header else parsed


def source_label(write_key: str) -> str:
    """The write key as it is shown: a real one, of 32 characters, is masked."""
    if len(write_key) <= 16:
        return write_key or "(no write key)"
    return f"{write_key[:4]}…{write_key[-4:]}"


def _attempt(retry_count: str) -> int:
    return int(retry_count) + 1 if retry_count.isdecimal() and len(retry_count) < 7 else 1


def _shown(headers: Mapping[str, str]) -> dict[str, str]:
    some = islice(headers.items(), _MAX_HEADERS)
    return {_text(name): _text(_masked(name, value)) for name, value in some}


def _text(header: str) -> str:
    """What can be encoded: aiohttp decodes bytes that are not UTF-8 to lone surrogates."""
    return header[:_MAX_CHARACTERS].encode(errors="replace").decode()


def _masked(name: str, value: str) -> str:
    if name.lower() == "authorization":
        return f"{value.partition(' ')[0][:16]} …"
    return "…" if name.lower() == "cookie" else value
