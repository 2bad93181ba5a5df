"""The law for a client with a spool, across the processes that work with it, one after the other.

A `SpoolLedger` is for one run. It knows what was offered, by the calls of all processes, and what each process was told.
A message belongs to the spool once its call has returned: whatever happens to the process, it is delivered, or fails
or is dropped with a reason. `KEPT` says that it is pending.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from segment_async import Outcome, Status
from segment_async.spool import BatchResult, SpoolStatistics

from .law import Counters, LawBroken, Watched, _breaches, _insist_on_none, _is_what_was_given, check_counters
from .simulated_segment import Arrival, Message

# Reasons of a client that drops a message before the spool has it.
BEFORE_THE_SPOOL = frozenset({"queue_full", "spool_unavailable", "no_identity", "before_send", "invalid", "disabled"})


class Store(Protocol):
    """What the law needs of what is stored, across processes."""

    @property
    def ended(self) -> Mapping[str, Sequence[BatchResult]]: ...
    @property
    def pending_ids(self) -> AbstractSet[str]: ...
    @property
    def taken_over(self) -> AbstractSet[str]: ...
    def statistics(self, recovered: int) -> SpoolStatistics: ...


class SpoolLedger:
    """`keeps_in_memory`: while the disk refuses, the client keeps messages in memory, of which a close drops the rest."""

    def __init__(self, store: Store, *, keeps_in_memory: bool = False) -> None:
        self._store = store
        self._before_the_spool = BEFORE_THE_SPOOL | ({"close_timeout"} if keeps_in_memory else set())
        self._offered: dict[str, Message] = {}
        # How often an id was given to a call.
        self._times_offered: Counter[str] = Counter()
        # Of the process that runs.
        self._deliveries: list[Watched] = []
        self._told: dict[int, tuple[str, Outcome]] = {}
        self._stored: set[int] = set()
        # Of all processes: ids whose awaited call returned, without those that the client dropped by itself.
        self._acknowledged: set[str] = set()
        self._looked_at = 0
        self._first_seen: dict[str, Message] = {}
        self._arrived: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()

    # -- what the application does

    def offer(self, message: Mapping[str, Any]) -> None:
        """Note a message that a call gets; the same id always comes with the same fields."""
        message_id = message["messageId"]
        self._offered[message_id] = dict(message)
        self._times_offered[message_id] += 1

    def accept(self, delivery: Watched, *, stored: bool) -> None:
        """Note that a call returned; an awaited one does so once the message is stored."""
        if stored:
            self._stored.add(len(self._deliveries))
        self._deliveries.append(delivery)

    def accept_elsewhere(self, message_id: str) -> None:
        """Note that another process was told that its message is stored."""
        self._acknowledged.add(message_id)

    @property
    def deliveries(self) -> Sequence[Watched]:
        """Those of the process that runs."""
        return self._deliveries

    def end_process(self) -> None:
        """The process is gone, with its deliveries; what was acknowledged is the spool's from now on."""
        self._note_outcomes()
        for number, delivery in enumerate(self._deliveries):
            outcome = delivery.outcome
            is_stored = number in self._stored or (outcome is not None and outcome.status is Status.KEPT)
            if is_stored and (outcome is None or outcome.reason not in self._before_the_spool):
                self._acknowledged.add(delivery.message_id)
        self._deliveries = []
        self._stored = set()
        self._told = {}

    # -- the law

    def check(self, counters: Counters, arrivals: Sequence[Arrival]) -> None:
        """Hold the running process against the store and against what arrived, at any moment.

        Raises:
            LawBroken: names the first few messages.
        """
        check_counters(counters)
        check_counters(self._store.statistics(0))
        self._note_arrivals(arrivals)
        self._note_outcomes()
        self._check_told(counters)

    def check_settled(self, counters: Counters, arrivals: Sequence[Arrival]) -> None:
        """As `check`; and nothing is pending, in the client or in the store.

        Raises:
            LawBroken: names the first few messages.
        """
        self.check(counters, arrivals)
        _insist_on_none(
            {
                "pending in the store": list(self._store.pending_ids),
                "without an outcome": [each.message_id for each in self._deliveries if each.outcome is None],
            }
        )
        if counters.pending:
            raise LawBroken(f"{counters.pending} messages are pending: {counters}")

    def check_the_end(self) -> None:
        """After the last process: what was acknowledged has ended, and how it ended is true.

        Raises:
            LawBroken: names the first few messages.
        """
        self.end_process()
        ended = self._store.ended
        lost = self._acknowledged - ended.keys() - self._store.pending_ids
        _insist_on_none({"acknowledged, and gone from the spool": list(lost)})
        breaches: dict[str, list[str]] = {}
        for message_id, results in ended.items():
            for breach in self._breaches_of(message_id, results):
                breaches.setdefault(breach, []).append(message_id)
        _insist_on_none(breaches)

    def _breaches_of(self, message_id: str, results: Sequence[BatchResult]) -> Iterable[str]:
        taken, arrived = self._taken[message_id], self._arrived[message_id]
        times_stored = len(results) + (message_id in self._store.pending_ids)
        if len(results) > 1:
            # The id was stored again after it had ended.
            is_told = message_id in self._store.taken_over or any(result.possibly_delivered for result in results)
            if taken > times_stored and not is_told:
                yield "received more often than stored, yet not possibly delivered"
        elif message_id not in self._store.taken_over and message_id not in self._store.pending_ids:
            yield from _breaches(Outcome(results[0].status, message_id, *results[0][1:]), taken, arrived)

    def _check_told(self, counters: Counters) -> None:
        # Calls with the same id may share one outcome.
        told = Counter(outcome.status for _, outcome in set(self._told.values()))
        for status, count in (
            (Status.DELIVERED, counters.delivered),
            (Status.FAILED, counters.failed),
            (Status.DROPPED, counters.dropped),
        ):
            if told[status] > count:
                raise LawBroken(f"{count} messages are counted as {status.value}, the deliveries say {told[status]}")
        fresh = {each.message_id for each in self._deliveries if self._times_offered[each.message_id] == 1}
        if len(fresh) > counters.accepted:
            raise LawBroken(f"fewer are counted as accepted than calls returned: {counters}")

    def _note_outcomes(self) -> None:
        for number, delivery in enumerate(self._deliveries):
            outcome, (_, before) = delivery.outcome, self._told.get(number, (None, None))
            if before is not None and outcome != before:
                raise LawBroken(f"an outcome is final, yet {before} became {outcome}")
            if outcome is not None and before is None:
                self._told[number] = (delivery.message_id, outcome)

    def _note_arrivals(self, arrivals: Sequence[Arrival]) -> None:
        for arrival in arrivals[self._looked_at :]:
            for message in arrival.messages:
                self._check_payload(message)
            self._arrived.update(arrival.ids)
            if arrival.taken:
                self._taken.update(arrival.ids)
        self._looked_at = len(arrivals)

    def _check_payload(self, message: Message) -> None:
        message_id = message["messageId"]
        offered = self._offered.get(message_id)
        if offered is None:
            raise LawBroken(f"message {message_id} arrived and was never offered: {message}")
        first = self._first_seen.setdefault(message_id, message)
        if first != message and self._times_offered[message_id] == 1:
            raise LawBroken(f"message {message_id} changed between two attempts: {first} became {message}")
        if not _is_what_was_given(message, offered):
            raise LawBroken(f"message {message_id} is not what was offered: {offered} became {message}")
