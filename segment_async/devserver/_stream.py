"""`/_dev/stream`: sends arriving events to open pages, as server-sent events.

Each page has a cursor into the stored events and receives updates as fast as it reads them. A slow page takes the
memory of one update: it misses the events that the ring has dropped in the meantime, and each update has their number.
A page that does not read at all is disconnected; a browser connects again by itself. The counts include all events.
"""

import asyncio
import secrets
from typing import Any, Final, NamedTuple

import orjson
from aiohttp import web

from ._arrivals import Arrivals, Event, Refusal
from ._faults import Faults, answer_word

_PAUSE: Final = 0.1  # between two writes to a page, so that a burst becomes one update
_KEEP_ALIVE: Final = 15.0  # a write notices that the page was closed
_EVENTS: Final = 500  # in one update
_BYTES: Final = 1_000_000  # of their JSON, about
_ID_CHARACTERS: Final = 100  # of an update's id; Python refuses to parse numbers of thousands of digits
_STALLED: Final = 60.0  # seconds that a page may take to read an update
_TYPES: Final = frozenset({"track", "identify", "page", "screen", "group", "alias"})


class Cursor(NamedTuple):
    """What a page has received: the number of clearings, the last event, refused request and second."""

    clearing: int = 0
    event: int = 0
    refusal: int = 0
    second: int = 0


class Stream:
    """`about` is sent to each page: facts that do not change while the endpoint runs."""

    def __init__(
        self, arrivals: Arrivals, faults: Faults, about: dict[str, object], *, stalled: float = _STALLED
    ) -> None:
        self._arrivals = arrivals
        self._faults = faults
        self._about = about
        self._stalled = stalled
        self._run = secrets.token_hex(4)  # after a restart of the endpoint, an open page must start over
        self._closing = False

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/_dev/stream", self._feed)]

    async def close(self, _: web.Application) -> None:
        self._closing = True
        self._arrivals.wake()

    async def _feed(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        cursor = self._resume(request.headers.get("Last-Event-ID", ""))
        try:
            while not self._closing:
                seen = self._arrivals.changes
                async with asyncio.timeout(self._stalled):
                    cursor = await self._send(response, cursor)
                if not self._arrivals.has_newer(cursor.event):
                    await self._wait_for_change(seen)
        except ConnectionError:
            pass  # the page was closed
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()  # what it did not read is in the buffer, and would stay there
        return response

    async def _wait_for_change(self, seen: int) -> None:
        try:
            async with asyncio.timeout(_KEEP_ALIVE):
                await self._arrivals.changed(seen)
        except TimeoutError:
            return
        await asyncio.sleep(_PAUSE)

    def _resume(self, last_id: str) -> Cursor:
        run, *numbers = last_id.split(".")
        if (
            len(last_id) > _ID_CHARACTERS
            or run != self._run
            or len(numbers) != len(Cursor._fields)
            or not all(map(str.isdecimal, numbers))
        ):
            return Cursor()
        return Cursor(*map(int, numbers))

    async def _send(self, response: web.StreamResponse, cursor: Cursor) -> Cursor:
        arrivals = self._arrivals
        if cursor.clearing != arrivals.clearings:
            cursor = Cursor(arrivals.clearings, arrivals.last_cleared)
        events = arrivals.since(cursor.event, count=_EVENTS, size=_BYTES)
        refusals = [refusal for refusal in arrivals.refusals if refusal.batch.number > cursor.refusal]
        seconds = arrivals.seconds(cursor.second)
        batches = {event.batch.number: event.batch for event in events}
        missed = events[0].number - cursor.event - 1 if events else 0
        cursor = Cursor(
            cursor.clearing,
            events[-1].number if events else cursor.event,
            refusals[-1].batch.number if refusals else cursor.refusal,
            seconds[-1].at if seconds else cursor.second,
        )
        update = {
            "run": f"{self._run}.{cursor.clearing}",
            "about": self._about,
            "chaos": str(self._faults.chaos),
            "summary": self._summary(),
            "seconds": [tuple(second) for second in seconds],
            "missed": missed,
            "batches": {str(number): batch.as_dict() for number, batch in batches.items()},
            "events": [_row(event) for event in events],
            "refusals": [_refused(refusal) for refusal in refusals],
        }
        name = ".".join((self._run, *map(str, cursor)))
        await response.write(b"id: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(update)))
        return cursor

    def _summary(self) -> dict[str, Any]:
        """The counts that the page shows: types that senders made up are not among them."""
        summary = self._arrivals.summary(("type", "verdict", "refused"))
        return {**summary, "type": {name: count for name, count in summary["type"].items() if name in _TYPES}}


def _row(event: Event) -> dict[str, Any]:
    """An event for the page. The message is sent as text, so that every digit is kept, and parsed when it is shown."""
    return {
        "number": event.number,
        "batch": event.batch.number,
        "type": event.type,
        "event": event.event,
        "users": event.users,
        "verdicts": event.verdicts,
        "json": event.json.decode(),
    }


def _refused(refusal: Refusal) -> dict[str, Any]:
    word = answer_word(refusal.status)
    return {"status": refusal.status, "word": word, "reason": refusal.reason, "batch": refusal.batch.as_dict()}
