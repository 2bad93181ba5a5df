"""Holds what was seen against what a case expects, and says in words where they differ.

One function for each thing that may differ; none of them knows which client it judges.
"""

import datetime as dt
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sized
from itertools import pairwise
from typing import Any

from tests.support.simulated_segment import MAX_BATCH_BYTES, MAX_BATCH_MESSAGES, Arrival, taken_messages

from .case import ALL, Case, Seen

# A loaded machine is late, never early: what is awaited at most is awaited for this much longer.
SLACK = 0.6


def findings(case: Case, seen: Seen) -> list[str]:
    """Everything in which a run differs from what its case expects; nothing: it conforms."""
    return [finding for check in _CHECKS for finding in check(case, seen)]


def _success(case: Case, seen: Seen) -> Iterator[str]:
    if seen.report["success"] is not case.expect.success:
        yield "it says that all was delivered" if seen.report["success"] else f"it says: {seen.report.get('error')}"


def _delivered(case: Case, seen: Seen) -> Iterator[str]:
    expected = case.expect.delivered
    ids = {event["messageId"] for event in case.events} if expected == ALL else set(expected)
    taken = taken_messages(_arrivals(seen))
    if missing := ids - taken.keys():
        yield f"{_count(missing, 'message')} of {len(ids)} lost"
    if surplus := taken.keys() - ids:
        yield f"{_count(surplus, 'message')} sent that Segment drops"
    doubled = [message_id for message_id, times in taken.items() if len(times) > 1]
    if doubled and not case.expect.twice_is_fine:
        yield f"{_count(doubled, 'message')} delivered twice"


def _requests(case: Case, seen: Seen) -> Iterator[str]:
    if case.expect.requests is None:
        return
    least, most = case.expect.requests
    if not least <= len(seen.requests) <= most:
        yield f"{_count(seen.requests, 'request')} in place of {least if least == most else f'{least} to {most}'}"


def _retry_counts(case: Case, seen: Seen) -> Iterator[str]:
    expected = case.expect.retry_counts
    if expected is None:
        return
    counts = [request.headers.get("X-Retry-Count") for request in seen.requests]
    if counts != [str(count) if count else None for count in expected]:
        yield f"X-Retry-Count is {', '.join(count or 'absent' for count in counts) or 'never seen'}"


def _gaps(case: Case, seen: Seen) -> Iterator[str]:
    gaps = [after.arrived - before.arrived for before, after in pairwise(seen.requests)]
    for index, (least, most) in case.expect.gaps.items():
        if index > len(gaps):
            yield f"request {index + 1} never came"
        elif not least <= gaps[index - 1] <= most + SLACK:
            yield f"request {index + 1} came after {gaps[index - 1]:.1f} s"


def _messages(case: Case, seen: Seen) -> Iterator[str]:
    arrived = {message["messageId"]: message for arrival in _arrivals(seen) for message in arrival.messages}
    for message_id, fields in case.expect.messages.items():
        message = arrived.get(message_id)
        if message is None:
            yield f"{message_id} never arrived"
        else:
            yield from (
                f"{name} is {message.get(name)!r}" for name in fields if not _holds(message.get(name), fields[name])
            )


def _holds(actual: Any, expected: Any) -> bool:
    """Whether a value is as expected; an object may hold more than that."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        return all(_holds(actual.get(key), value) for key, value in expected.items())
    return bool(actual == expected)


def _looks(case: Case, seen: Seen) -> Iterator[str]:
    for look in case.expect.looks:
        yield from look(seen)


_CHECKS: tuple[Callable[[Case, Seen], Iterator[str]], ...] = (
    _looks,
    _delivered,
    _success,
    _messages,
    _requests,
    _retry_counts,
    _gaps,
)
"""In the order in which findings are told: a table shows the first."""


# What some cases look at besides.


def path_is(path: str) -> Callable[[Seen], Iterator[str]]:
    def look(seen: Seen) -> Iterator[str]:
        yield from sorted({f"it posts to {request.target}" for request in seen.requests if request.target != path})

    return look


def authorized_as(write_key: str) -> Callable[[Seen], Iterator[str]]:
    def look(seen: Seen) -> Iterator[str]:
        basic = "Basic " + b64encode(f"{write_key}:".encode()).decode()
        for request in seen.requests:
            if request.headers.get("Authorization", basic) != basic:
                yield "the Authorization is not that of the write key"
            if request.json.get("writeKey") != write_key:
                yield f"the body's writeKey is {request.json.get('writeKey')!r}"

    return look


def authorized_by_header(seen: Seen) -> Iterator[str]:
    for request in seen.requests:
        if "Authorization" not in request.headers:
            yield "there is no Authorization"


def names_itself(seen: Seen) -> Iterator[str]:
    for request in seen.requests:
        agent = request.headers.get("User-Agent", "")
        if not any(name in agent.lower() for name in ("segment", "analytics")):
            yield f"the User-Agent is {agent!r}"
        if not request.headers.get("Content-Type", "").startswith("application/json"):
            yield f"the Content-Type is {request.headers.get('Content-Type')!r}"


def sent_at_is_fresh(seen: Seen) -> Iterator[str]:
    moments = [_moment(request.json.get("sentAt")) for request in seen.requests]
    if None in moments:
        yield f"sentAt is {seen.requests[moments.index(None)].json.get('sentAt')!r}"
        return
    known = [moment for moment in moments if moment]
    for (before, after), (first, second) in zip(pairwise(seen.requests), pairwise(known), strict=True):
        waited = after.arrived - before.arrived
        if abs((second - first).total_seconds() - waited) > SLACK:
            yield f"sentAt moved by {(second - first).total_seconds():.1f} s in {waited:.1f} s"


def same_ids(seen: Seen) -> Iterator[str]:
    if len({tuple(arrival.ids) for arrival in _arrivals(seen)}) > 1:
        yield "the messageId changed"


def halves_go_on_counting(seen: Seen) -> Iterator[str]:
    for arrival in _arrivals(seen)[1:]:
        if not arrival.retry_count:
            yield "the count began again in a half"


def not_refused_again(prefix: str) -> Callable[[Seen], Iterator[str]]:
    """No batch of these messages may be answered 413: the client was told before what is too large."""

    def look(seen: Seen) -> Iterator[str]:
        for arrival in _arrivals(seen):
            if arrival.status == 413 and any(message_id.startswith(prefix) for message_id in arrival.ids):
                yield f"a batch of {len(arrival.ids)} was tried again"

    return look


def small_enough(seen: Seen) -> Iterator[str]:
    for arrival in _arrivals(seen):
        if arrival.size > MAX_BATCH_BYTES:
            yield f"a batch has {arrival.size:,} bytes"


def few_enough(seen: Seen) -> Iterator[str]:
    for arrival in _arrivals(seen):
        if len(arrival.messages) > MAX_BATCH_MESSAGES:
            yield f"a batch has {len(arrival.messages):,} messages"


def sent_again_at_once(seen: Seen) -> Iterator[str]:
    """The request that met a closed connection comes again before any back-off is over."""
    cut = seen.requests[0].cut if seen.requests else None
    if cut is None:
        yield "it did not use the connection again"
    elif (waited := seen.requests[-1].arrived - cut) > 0.25:
        yield f"sent again after {waited:.1f} s"


def nothing_elsewhere(seen: Seen) -> Iterator[str]:
    if seen.elsewhere:
        yield "the redirect was followed, with the write key"


def library_is_own(message_id: str) -> Callable[[Seen], Iterator[str]]:
    def look(seen: Seen) -> Iterator[str]:
        for arrival in _arrivals(seen):
            for message in arrival.messages:
                library = message.get("context", {}).get("library") or {}
                if message["messageId"] == message_id and not {"name", "version"} <= library.keys():
                    yield f"context.library is {library!r}"
                if library.get("name") == "mine":
                    yield "the caller's context.library won"

    return look


def context_holds(key: str, value: Any) -> Callable[[Seen], Iterator[str]]:
    def look(seen: Seen) -> Iterator[str]:
        for arrival in _arrivals(seen):
            for message in arrival.messages:
                if message.get("context", {}).get(key) != value:
                    yield f"context.{key} is {message.get('context', {}).get(key)!r}"

    return look


def nothing_empty(seen: Seen) -> Iterator[str]:
    for arrival in _arrivals(seen):
        for message in arrival.messages:
            empty = sorted(name for name, value in message.items() if value is None or value == {})
            if empty:
                yield f"{', '.join(empty)} travel{'s' if len(empty) == 1 else ''} empty"


def timestamp_is_utc(seen: Seen) -> Iterator[str]:
    for arrival in _arrivals(seen):
        for message in arrival.messages:
            text = message.get("timestamp", "")
            if _moment(text) is None or "." not in text:
                yield f"timestamp is {text!r}"


def _moment(text: object) -> dt.datetime | None:
    """Read a time as Segment wants it, with zone and milliseconds; `None` for any other."""
    try:
        moment = dt.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.utcoffset() == dt.timedelta() else None


def _arrivals(seen: Seen) -> list[Arrival]:
    return [request.arrival for request in seen.requests if request.complete]


def _count(things: Sized, noun: str) -> str:
    return f"{len(things) or 'no'} {noun}{'' if len(things) == 1 else 's'}"
