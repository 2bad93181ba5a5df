"""The law: `accepted == delivered + failed + dropped + handed_over + pending`, and `delivered ⊆ received ⊆ accepted`.

A `Ledger` keeps what the application was told, and holds it at any moment against the client's own counters and
against what arrived at the other end. It does not ask how a message got there, and knows no client's insides: counters,
deliveries and arrivals are all it sees.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import orjson

from segment_async import Outcome, Status

from .simulated_segment import Arrival, Message, taken_messages

ADDED_BY_THE_CLIENT = {"messageId", "timestamp", "context"}


class LawBroken(AssertionError):
    """A message is counted wrongly, lost, changed or doubled; says which, and how."""


class Counters(Protocol):
    """What the law needs of `client.statistics()`."""

    @property
    def accepted(self) -> int: ...
    @property
    def delivered(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def reasons(self) -> Mapping[str, int]: ...


class Watched(Protocol):
    """What the law needs of a `Delivery`."""

    @property
    def message_id(self) -> str: ...
    @property
    def outcome(self) -> Outcome | None: ...


def check_counters(counters: Counters) -> None:
    """Hold a client's counters against each other; true at any instant.

    Raises:
        LawBroken: they do not add up.
    """
    handed_over: int = getattr(counters, "handed_over", 0)
    settled = counters.delivered + counters.failed + counters.dropped + handed_over
    if counters.accepted != settled + counters.pending:
        raise LawBroken(f"accepted != delivered + failed + dropped + handed_over + pending: {counters}")
    if min(counters.accepted, counters.delivered, counters.failed, counters.dropped, handed_over, counters.pending) < 0:
        raise LawBroken(f"a counter is below zero: {counters}")
    if sum(counters.reasons.values()) != counters.failed + counters.dropped:
        raise LawBroken(f"the reasons do not add up to failed + dropped: {counters}")


class Ledger:
    """Every message that a client accepted from the test, and its `Delivery`."""

    def __init__(self) -> None:
        self._expected: dict[str, Message] = {}
        self._deliveries: dict[str, Watched] = {}

    def accept(self, delivery: Watched, message: Mapping[str, Any]) -> None:
        """Note that a call returned; `message` are the fields that were given, by their names on the wire.

        Raises:
            LawBroken: the id was given to another message before.
        """
        if delivery.message_id in self._expected:
            raise LawBroken(f"the id {delivery.message_id} was given twice")
        # Through JSON, so that the caller's later changes and his tuples are of no account here either.
        self._expected[delivery.message_id] = orjson.loads(orjson.dumps(message))
        self._deliveries[delivery.message_id] = delivery

    def __len__(self) -> int:
        return len(self._deliveries)

    def check(self, counters: Counters, arrivals: Sequence[Arrival]) -> None:
        """Hold everything against everything, at any moment between two steps of the loop.

        The client must have got all its messages through this ledger. `arrivals` are the requests that reached the
        other end, whatever it answered.

        Raises:
            LawBroken: names the first few messages.
        """
        check_counters(counters)
        self._check_told_outcomes(counters)
        self._check_payloads(arrivals)
        self._check_received(arrivals)

    def check_settled(self, counters: Counters, arrivals: Sequence[Arrival]) -> None:
        """As `check`, and nothing may be pending: after `aclose`, or a flush that returned 0."""
        self.check(counters, arrivals)
        _insist_on_none({"still pending": [key for key, outcome in self.outcomes().items() if outcome is None]})

    def outcomes(self) -> dict[str, Outcome | None]:
        return {message_id: delivery.outcome for message_id, delivery in self._deliveries.items()}

    def _check_told_outcomes(self, counters: Counters) -> None:
        told = Counter(outcome.status if outcome else None for outcome in self.outcomes().values())
        counted = {
            Status.DELIVERED: counters.delivered,
            Status.FAILED: counters.failed,
            Status.DROPPED: counters.dropped,
            None: counters.pending,
        }
        for status, count in counted.items():
            if told[status] != count:
                name = status.value if status else "pending"
                raise LawBroken(f"{count} messages are counted as {name}, the deliveries say {told[status]}")

    def _check_payloads(self, arrivals: Sequence[Arrival]) -> None:
        seen: dict[str, Message] = {}
        for arrival in arrivals:
            for message in arrival.messages:
                self._check_payload(message, seen.setdefault(message["messageId"], message))

    def _check_payload(self, message: Message, first: Message) -> None:
        message_id = message["messageId"]
        expected = self._expected.get(message_id)
        if expected is None:
            raise LawBroken(f"message {message_id} arrived and was never accepted: {message}")
        if message != first:
            raise LawBroken(f"message {message_id} changed between two attempts: {first} became {message}")
        if not _is_what_was_given(message, expected):
            raise LawBroken(f"message {message_id} is not what was accepted: {expected} became {message}")

    def _check_received(self, arrivals: Sequence[Arrival]) -> None:
        taken = {message_id: len(times) for message_id, times in taken_messages(arrivals).items()}
        arrived = Counter(message_id for arrival in arrivals for message_id in arrival.ids)
        breaches: dict[str, list[str]] = {}
        for message_id, outcome in self.outcomes().items():
            if outcome is not None:
                for breach in _breaches(outcome, taken.get(message_id, 0), arrived[message_id]):
                    breaches.setdefault(breach, []).append(message_id)
        _insist_on_none(breaches)


def _breaches(outcome: Outcome, times_taken: int, times_arrived: int) -> Iterator[str]:
    delivered = outcome.status is Status.DELIVERED
    if delivered and not times_taken:
        yield "delivered and never received"
    if times_taken > 1 and not outcome.possibly_delivered:
        yield "received twice, yet not possibly delivered"
    if times_taken and not delivered and not outcome.possibly_delivered:
        yield "received, yet neither delivered nor possibly delivered"
    if outcome.attempts < times_arrived:
        yield "told fewer attempts than arrived"


def check_retry_counts(arrivals: Iterable[Arrival]) -> None:
    """See that `X-Retry-Count` never falls from one arrival of a message to its next, and rises when a batch returns.

    For one client in one process whose batches were never taken apart and put together again.

    Raises:
        LawBroken: names the messages.
    """
    last: dict[str, Arrival] = {}
    for arrival in arrivals:
        for message_id in arrival.ids:
            before = last.get(message_id)
            if before is not None and not _counts_on(before, arrival):
                raise LawBroken(
                    f"the X-Retry-Count of message {message_id} went from {before.retry_count} to {arrival.retry_count}"
                )
        last.update(dict.fromkeys(arrival.ids, arrival))


def _counts_on(before: Arrival, after: Arrival) -> bool:
    # A half goes on with the count of its batch; the same batch again is a re-send.
    if len(after.ids) < len(before.ids):
        return after.retry_count >= before.retry_count
    return after.retry_count > before.retry_count


def _is_what_was_given(message: Message, expected: Message) -> bool:
    added = message.keys() - expected.keys()
    context = expected.get("context", {})
    return (
        added <= ADDED_BY_THE_CLIENT
        and all(message.get(key) == value for key, value in expected.items() if key != "context")
        and all(message.get("context", {}).get(key) == value for key, value in context.items())
    )


def _insist_on_none(breaches: Mapping[str, Sequence[str]]) -> None:
    for what, found in breaches.items():
        if found:
            few = ", ".join(sorted(found)[:5]) + (" …" if len(found) > 5 else "")
            raise LawBroken(f"{len(found)} messages are {what}: {few}")
