"""Stores the last events, and counts all events since the last clearing.

Memory is bounded for any input: a ring of events, the recent ids, a limited number of names, five minutes of seconds.
This file knows neither sockets nor HTTP; the time is an argument. A message is kept as JSON, which takes a quarter of
the memory of the parsed object and cannot be changed by a reader.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, NamedTuple, cast

import orjson

from segment_async.verdicts import DUPLICATE_ID, MESSAGE_ID_CHARACTERS, SEVERITIES, Verdict

from ._faults import answer_word
from ._ids import RecentIds

_IDS_REMEMBERED: Final = 100_000
_NAMES_COUNTED: Final = 1_000
# The most characters of a type and of an event name, apart from the message itself. A sender may choose 32 KB.
_LABEL: Final = 200
_SECONDS: Final = 300
_REFUSALS: Final = 200
COUNTED: Final = ("type", "event", "verdict", "rule", "refused")
_OTHER: Final = "(others)"
_CALLS: Final = frozenset({"track", "identify", "page", "screen", "group", "alias"})


class ReceivedBatch(NamedTuple):
    """One request. `attempt` is 1 for the first one with these messages; `wire_bytes` is the size on the wire."""

    number: int
    received_at: float
    route: str
    source: str
    attempt: int
    messages: int
    bytes: int
    wire_bytes: int
    sent_at: str | None
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        """Without the write key, which `source` is."""
        return f"ReceivedBatch(number={self.number}, route={self.route!r}, messages={self.messages})"

    def as_dict(self) -> dict[str, object]:
        """The batch for JSON."""
        return {**self._asdict(), "received_at": iso(self.received_at)}


class Refusal(NamedTuple):
    """One request that was not accepted. `status` is 0 or less if it got no response; see `_faults`."""

    batch: ReceivedBatch
    status: int
    reason: str


class Event(NamedTuple):
    """One message that was answered with 200, and its verdicts."""

    number: int
    batch: ReceivedBatch
    json: bytes
    verdicts: tuple[Verdict, ...]
    type: str
    event: str | None
    users: tuple[str, ...]

    def __repr__(self) -> str:
        """Without the message, whose contents must not end up in logs."""
        rules = [verdict.rule for verdict in self.verdicts]
        return f"Event(number={self.number}, batch={self.batch.number}, bytes={len(self.json)}, rules={rules})"

    @property
    def message(self) -> Any:
        """A new copy of the message."""
        return orjson.loads(self.json)

    def as_dict(self) -> dict[str, object]:
        """The event in the format of `/_dev/events`, for `orjson.dumps`."""
        return {
            "received_at": iso(self.batch.received_at),
            "source": self.batch.source,
            "route": self.batch.route,
            "batch": self.batch.number,
            "attempt": self.batch.attempt,
            "message": orjson.Fragment(self.json),
            "verdicts": self.verdicts,
        }


class Arrivals:
    """Keeps the last `keep` events, and counts all of them."""

    def __init__(self, keep: int) -> None:
        self.held: deque[Event] = deque(maxlen=keep)
        self.refusals: deque[Refusal] = deque(maxlen=_REFUSALS)
        self.total: int = 0
        self.clearings: int = 0
        self.last_cleared: int = 0
        self.changes: int = 0
        self._numbers = 0
        self._batches = 0
        self._ids = RecentIds(_IDS_REMEMBERED)
        self._counts: dict[str, Counter[str]] = {}
        self._seconds: deque[Second] = deque(maxlen=_SECONDS)
        self._waiting: set[asyncio.Event] = set()
        self.clear()

    def clear(self) -> None:
        """Delete events, counts and ids. Event numbers continue, so that no new event has the number of an old one."""
        self.held.clear()
        self.refusals.clear()
        self.total = 0
        self.clearings += 1
        self.last_cleared = self._numbers
        self._ids.clear()
        self._counts = {name: Counter() for name in COUNTED}
        self._seconds.clear()
        self.wake()

    def next_batch(self) -> int:
        self._batches += 1
        return self._batches

    def add(self, batch: ReceivedBatch, judged: Iterable[tuple[object, bytes, list[Verdict]]]) -> list[Event]:
        """Store messages of a batch. Adds the verdict about duplicate ids, which depends on earlier messages."""
        second = self._second(int(batch.received_at))
        events = [self._event(batch, *entry) for entry in judged]
        for event in events:
            self._count(event, second)
        self.held.extend(events)
        self.total += len(events)
        self.wake()
        return events

    def refuse(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)
        self._counts["refused"][answer_word(refusal.status)] += 1
        second = self._second(int(refusal.batch.received_at))
        second.verdicts["refused"] = second.verdicts.get("refused", 0) + 1
        self.wake()

    def _event(self, batch: ReceivedBatch, message: object, json: bytes, verdicts: list[Verdict]) -> Event:
        fields = cast("dict[str, object]", message) if isinstance(message, dict) else {}
        if self._is_duplicate(fields.get("messageId")) and DUPLICATE_ID not in verdicts:
            verdicts.insert(0, DUPLICATE_ID)
        self._numbers += 1
        call, name = fields.get("type"), fields.get("event")
        return Event(
            self._numbers,
            batch,
            json,
            tuple(verdicts),
            _label(call) if isinstance(call, str) else "",
            _label(name) if isinstance(name, str) else None,
            tuple(_label(str(user)) for user in (fields.get("userId"), fields.get("anonymousId")) if user is not None),
        )

    def _is_duplicate(self, message_id: object) -> bool:
        if not isinstance(message_id, str) or not 0 < len(message_id) < MESSAGE_ID_CHARACTERS:
            return False
        return self._ids.seen_before(message_id)

    def _count(self, event: Event, second: "Second") -> None:
        _count_name(self._counts["type"], event.type)
        kind = event.type if event.type in _CALLS else "other"
        second.types[kind] = second.types.get(kind, 0) + 1
        if event.event is not None:
            _count_name(self._counts["event"], event.event)
        if not event.verdicts:
            return
        self._counts["rule"].update({verdict.rule for verdict in event.verdicts})
        severities = {verdict.severity for verdict in event.verdicts}
        self._counts["verdict"].update(severities)
        worst = next(severity for severity in SEVERITIES if severity in severities)
        second.verdicts[worst] = second.verdicts.get(worst, 0) + 1

    def _second(self, at: int) -> "Second":
        """The counts for a request that arrived at this second.

        If later requests were counted before it, it counts with them: pages have read the earlier seconds already.
        """
        last = self._seconds[-1].at if self._seconds else -1
        # If the clock was set back, the seconds begin again.
        if at > last or last - at > _SECONDS:
            self._seconds.append(Second(at, {}, {}))
        return self._seconds[-1]

    def seconds(self, since: int = 0) -> list["Second"]:
        """The counts of each second from `since` on; seconds without events are left out."""
        return [second for second in self._seconds if second.at >= since]

    def summary(self, names: Iterable[str] = COUNTED) -> dict[str, Any]:
        """The counts since the last clearing: of all events, and of each kind."""
        return {"total": self.total, **{name: dict(self._counts[name].most_common()) for name in names}}

    def select(
        self, *, call: str | None = None, event: str | None = None, user: str | None = None, verdict: str | None = None
    ) -> Iterator[Event]:
        """The events that match, oldest first. `verdict` is a severity, a rule, or "none" for those without verdicts."""
        for candidate in tuple(self.held):
            if call is not None and candidate.type != _label(call):
                continue
            if event is not None and candidate.event != _label(event):
                continue
            if user is not None and _label(user) not in candidate.users:
                continue
            if verdict is None or _has_verdict(candidate.verdicts, verdict):
                yield candidate

    def since(self, number: int, *, count: int, size: int) -> list[Event]:
        """The first stored events after the one with this number: at most `count`, or about `size` bytes of JSON."""
        newer: list[Event] = []
        start = max(0, number + 1 - self.held[0].number) if self.held else 0  # their numbers are consecutive
        for event in islice(self.held, start, start + count):
            newer.append(event)
            size -= len(event.json)
            if size <= 0:
                break
        return newer

    def has_newer(self, number: int) -> bool:
        """Whether there is a stored event after the one with this number."""
        return bool(self.held) and self.held[-1].number > number

    async def changed(self, seen: int) -> None:
        """Wait until `changes` differs from `seen`: an event arrived, or the events were cleared."""
        while self.changes == seen:
            change = asyncio.Event()
            self._waiting.add(change)
            try:
                await change.wait()
            finally:
                self._waiting.discard(change)

    async def wait(self, count: int, timeout: float) -> bool:
        """Whether `count` events have arrived since the last clearing; waits up to `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self.total < count:
                    await self.changed(self.changes)
        except TimeoutError:
            return False
        return True

    def wake(self) -> None:
        """Wake all waiters, so that they check again."""
        self.changes += 1
        for change in self._waiting:
            change.set()


class Second(NamedTuple):
    """How many events came within one second of the clock, by type, and by the gravest verdict."""

    at: int
    types: dict[str, int]
    verdicts: dict[str, int]


def _label(name: str) -> str:
    return name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…"


def _count_name(counter: Counter[str], name: str) -> None:
    """Count a name that a sender chose; the number of different names is limited."""
    counter[name if name in counter or len(counter) < _NAMES_COUNTED else _OTHER] += 1


def _has_verdict(verdicts: tuple[Verdict, ...], wanted: str) -> bool:
    if wanted == "none":
        return not verdicts
    return any(wanted in (verdict.severity, verdict.rule) for verdict in verdicts)


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
