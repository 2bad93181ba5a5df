"""The counters of one client, and the bounds on what may be pending in memory.

Two counters are derived, so that the law holds at every look by construction:

    accepted  = gone + pending - arriving + spooled
    delivered = gone - failed - dropped - handed_over

The owner is the queue, whose lock guards every change; each change is a few assignments without a call in between, so
that a signal handler or a finalizer, which only run at calls, never finds half of one. This file is pure.
"""

from __future__ import annotations

from segment_async._outcome import HEALTHY, REASONS, BatchResult, Counts, Health, Statistics, Status


class Accounts:
    """Attributes:
    pending, pending_bytes: messages in memory without an outcome, and bytes of their JSON, wherever they wait.
    arriving: of these, messages that a spool has not stored yet and whose calls still wait: not accepted so far.
    spooled, spooled_bytes: accepted messages that only the spool holds.
    gone: messages with an outcome.
    handed_over: of these, messages that another process delivers.
    reasons: of these, how many failed or were dropped, by reason.
    rejected: calls whose messages were not accepted.
    """

    __slots__ = (
        "arriving", "gone", "handed_over", "max_bytes", "max_messages", "pending", "pending_bytes", "reasons",
        "recovered", "rejected", "requests", "retries", "spooled", "spooled_bytes",
    )  # fmt: skip

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.pending = self.pending_bytes = self.arriving = 0
        self.spooled = self.spooled_bytes = self.recovered = 0
        self.gone = self.handed_over = 0
        self.requests = self.retries = self.rejected = 0
        self.reasons: dict[str, int] = {}

    @property
    def dropped(self) -> int:
        """Messages that were dropped, for whatever reason."""
        # A copy, made in one step: another thread may count a reason that is new.
        return sum(count for reason, count in self.reasons.copy().items() if REASONS[reason].status is Status.DROPPED)

    # -- bounds

    def has_room(self, size: int) -> bool:
        return self.pending < self.max_messages and self.pending_bytes + size <= self.max_bytes

    # -- messages end

    def settle(self, count: int, size: int, result: BatchResult) -> None:
        """Messages in memory have their outcome; those that a spool keeps are pending there."""
        if result.status is Status.KEPT:
            self.unload(count, size)
        elif count:
            self._end(result, count, count, size)

    def refuse(self, result: BatchResult) -> None:
        """A message has its outcome as soon as it is accepted."""
        self._end(result, 1)

    def _end(
        self,
        result: BatchResult,
        count: int,
        in_memory: int = 0,
        size: int = 0,
        *,
        spooled: tuple[int, int] | None = None,
    ) -> None:
        """So many messages end, so many of them in memory. `spooled`: what the spool holds from then on, and bytes."""
        reason = result.reason
        is_handed_over = result.status is Status.HANDED_OVER
        of_reason = 0 if reason is None else self.reasons.get(reason, 0) + count
        # No call from here on.
        if reason is not None:
            self.reasons[reason] = of_reason
        elif is_handed_over:
            self.handed_over += count
        self.gone += count
        self.pending, self.pending_bytes = self.pending - in_memory, self.pending_bytes - size
        if spooled is not None:
            self.spooled, self.spooled_bytes = spooled

    # -- between memory and spool

    def load(self, size: int) -> None:
        """A spooled message is in memory again."""
        if not self.spooled:
            # Another process has put it there.
            self.recovered, self.spooled_bytes = self.recovered + 1, 0
            self.pending, self.pending_bytes = self.pending + 1, self.pending_bytes + size
            return
        # What others left, or removed, was not counted with its size.
        left = max(0, self.spooled_bytes - size) if self.spooled > 1 else 0
        self.spooled, self.spooled_bytes = self.spooled - 1, left
        self.pending, self.pending_bytes = self.pending + 1, self.pending_bytes + size

    def unload(self, count: int, size: int) -> None:
        """Messages in memory are only in the spool from now on."""
        self.pending, self.pending_bytes = self.pending - count, self.pending_bytes - size
        self.spooled, self.spooled_bytes = self.spooled + count, self.spooled_bytes + size

    def lose(self, size: int, result: BatchResult) -> None:
        """The spool itself gave a message up."""
        left = max(0, self.spooled - 1)
        self._end(result, 1, spooled=(left, max(0, self.spooled_bytes - size) if left else 0))

    def forget(self, count: int, size: int) -> None:
        """Messages in memory were not accepted after all."""
        self.pending, self.pending_bytes = self.pending - count, self.pending_bytes - size

    # -- looks

    def recount(self, seen: int, pending: int, pending_bytes: int) -> bool:
        """Correct the bounds after an exception interrupted a change; messages without an outcome stay accepted.

        `False`: messages came while they were counted, as `pending` is not what was `seen` before.
        """
        if self.pending != seen:
            return False
        self.pending, self.pending_bytes = pending, pending_bytes
        return True

    def statistics(
        self, in_flight: int, in_flight_bytes: int, oldest_age: float, health: Health = HEALTHY
    ) -> Statistics:
        reasons = Counts(self.reasons)
        failed = sum(count for reason, count in reasons.items() if REASONS[reason].status is Status.FAILED)
        dropped = sum(reasons.values()) - failed
        pending = self.pending - self.arriving + self.spooled
        return Statistics(
            accepted=self.gone + pending,
            delivered=self.gone - failed - dropped - self.handed_over,
            failed=failed,
            dropped=dropped,
            pending=pending,
            queued=pending - in_flight,
            queued_bytes=self.pending_bytes + self.spooled_bytes - in_flight_bytes,
            in_flight=in_flight,
            oldest_age=oldest_age,
            requests=self.requests,
            retries=self.retries,
            recovered=self.recovered,
            reasons=reasons,
            handed_over=self.handed_over,
            rejected=self.rejected,
            capacity=self.max_messages,
            capacity_bytes=self.max_bytes,
            **health._asdict(),
        )
