"""The side that SDKs talk to: `/v1/*`, answered as Segment answers.

A request is read within bounds, taken apart, each message judged, all of it kept. What Segment refuses as a whole is
refused as a whole. Knows nothing of the page or of `/_dev`.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

import orjson
from aiohttp import web

from segment_async.verdicts import BATCH_MESSAGES, BATCH_TOO_LONG, MESSAGE_BYTES, WRITE_KEY_MISSING, Verdict, judge

from ._arrivals import Arrivals, Batch, Event
from ._body import BODY_BYTES, TOO_LARGE, Envelope, Refused, basic_user, envelope, inflate

_CALLS: Final = ("track", "identify", "page", "screen", "group", "alias")
_BATCHES: Final = ("batch", "import", "b")
# The gzip of a body that deflate cannot shrink is a little longer than the body.
_WIRE_BYTES: Final = BODY_BYTES + 4_096
_NOTHING: Final = Envelope("", None, [])

Judged = tuple[object, bytes, list[Verdict]]
_Answerer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Answered(NamedTuple):
    """One request and its answer. `reason` says why it was not accepted; `events` are what it brought."""

    batch: Batch
    status: int
    events: list[Event]
    reason: str


class Tracking:
    """`report` is told of every request that was answered, accepted or not."""

    def __init__(self, arrivals: Arrivals, report: Callable[[Answered], None]) -> None:
        self._arrivals = arrivals
        self._report = report

    def routes(self) -> list[web.RouteDef]:
        batches = [web.post(f"/v1/{path}", self._taker(None)) for path in _BATCHES]
        return batches + [web.post(f"/v1/{path}", self._taker(call)) for call in _CALLS for path in (call, call[0])]

    def _taker(self, call: str | None) -> _Answerer:
        async def take(request: web.Request) -> web.StreamResponse:
            return await self._take(request, call)

        return take

    async def _take(self, request: web.Request, call: str | None) -> web.Response:
        received_at = time.time()
        body, plain, taken = b"", b"", _NOTHING
        judged: list[Judged] = []
        status, reason = 200, ""
        try:
            body = await _read(request)
            plain = inflate(body, request.headers.get("Content-Encoding", "").strip().lower())
            taken = _with_key(envelope(plain, call), request)
            judged = judge_all(taken)
        except Refused as refusal:
            status, reason = refusal.status, str(refusal)
        batch = Batch(
            number=self._arrivals.next_batch(),
            received_at=received_at,
            route=request.path,
            source=source_label(taken.write_key),
            attempt=_attempt(request.headers.get("X-Retry-Count", "")),
            messages=len(taken.messages),
            bytes=len(plain),
            wire_bytes=len(body),
            sent_at=taken.sent_at,
            headers=_shown(request.headers),
        )
        return self._answer(batch, status, judged, reason)

    def _answer(self, batch: Batch, status: int, judged: list[Judged], reason: str) -> web.Response:
        events = self._arrivals.add(batch, judged) if status == 200 else []
        self._report(Answered(batch, status, events, reason))
        answer: dict[str, object] = {"success": True} if status == 200 else {"success": False, "message": reason}
        return web.Response(status=status, body=orjson.dumps(answer), content_type="application/json")


async def _read(request: web.Request) -> bytes:
    if (request.content_length or 0) > _WIRE_BYTES:
        raise Refused(400, TOO_LARGE)
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > _WIRE_BYTES:
            raise Refused(400, TOO_LARGE)
    return bytes(body)


def _with_key(taken: Envelope, request: web.Request) -> Envelope:
    in_header = basic_user(request.headers.get("Authorization", ""))
    return taken._replace(write_key=in_header) if in_header else taken


def judge_all(taken: Envelope) -> list[Judged]:
    """Every message of a request with its JSON and its verdicts.

    Raises:
        Refused: one of them is so large that Segment refuses them all.
    """
    return [_judge_one(message, index, taken) for index, message in enumerate(taken.messages)]


def _judge_one(message: object, index: int, taken: Envelope) -> Judged:
    if isinstance(message, dict):
        message.pop("writeKey", None)  # some libraries repeat it in each message; it is not for showing
    where = f"message {index + 1} of {len(taken.messages)}"
    try:
        json = orjson.dumps(message)
    except orjson.JSONEncodeError as fault:
        raise Refused(400, f"{where} is nested too deeply") from fault
    if len(json) > MESSAGE_BYTES:
        raise Refused(400, f"{where} has {len(json):,} bytes of JSON, the limit is {MESSAGE_BYTES:,}")
    verdicts = judge(message, size=len(json))
    if not taken.write_key:
        verdicts.insert(0, WRITE_KEY_MISSING)
    if index >= BATCH_MESSAGES:
        verdicts.insert(0, BATCH_TOO_LONG)
    return message, json, verdicts


def source_label(write_key: str) -> str:
    """What stands for the write key wherever events are shown; a real key has 32 characters."""
    if len(write_key) <= 16:
        return write_key or "(no write key)"
    return f"{write_key[:4]}…{write_key[-4:]}"


def _attempt(retry_count: str) -> int:
    return int(retry_count) + 1 if retry_count.isdecimal() and len(retry_count) < 7 else 1


def _shown(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: _masked(name, value) for name, value in headers.items()}


def _masked(name: str, value: str) -> str:
    if name.lower() == "authorization":
        return f"{value.partition(' ')[0][:16]} …"
    return "…" if name.lower() == "cookie" else value
