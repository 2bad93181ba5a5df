"""The counters of one client, and the bounds on what may be pending in memory.

Two counters are derived, so that the law holds at every look by construction:

    accepted  = gone + pending - arriving + spooled
    delivered = gone - failed - dropped - handed_over

The owner is the queue, whose lock guards every change; each change is a few assignments without a call in between, so
that a signal handler or a finalizer, which only run at calls, never finds half of one. This file is pure.
"""

from __future__ import annotations

from segment_async._outcome import REASONS, BatchResult, Counts, Statistics, Status


class Accounts:
    """Attributes:
    pending, pending_bytes: messages in memory without an outcome, and bytes of their JSON, wherever they wait.
    arriving: of these, messages that a spool has not stored yet and whose calls still wait: not accepted so far.
    spooled, spooled_bytes: accepted messages that only the spool holds.
    gone: messages with an outcome.
    handed_over: of these, messages that another process delivers.
    reasons: of these, how many failed or were dropped, by reason.
    """

    __slots__ = (
        "arriving", "gone", "handed_over", "max_bytes", "max_messages", "pending", "pending_bytes", "reasons",
        "recovered", "requests", "retries", "spooled", "spooled_bytes",
    )  # fmt: skip

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.pending = self.pending_bytes = self.arriving = 0
        self.spooled = self.spooled_bytes = self.recovered = 0
        self.gone = self.handed_over = 0
        self.requests = self.retries = 0
        self.reasons: dict[str, int] = {}

    # -- bounds

    def has_room(self, size: int) -> bool:
        return self.pending < self.max_messages and self.pending_bytes + size <= self.max_bytes

    # -- messages end

    def settle(self, count: int, size: int, result: BatchResult) -> None:
        """Messages in memory have their outcome."""
        self._note(count, result)
        self.gone, self.pending, self.pending_bytes = self.gone + count, self.pending - count, self.pending_bytes - size

    def refuse(self, result: BatchResult) -> None:
        """A message has its outcome as soon as it is accepted."""
        self._note(1, result)
        self.gone += 1

    def _note(self, count: int, result: BatchResult) -> None:
        if result.status is Status.HANDED_OVER:
            self.handed_over += count
        elif result.reason is not None:
            self.reasons[result.reason] = self.reasons.get(result.reason, 0) + count

    # -- between memory and spool

    def recover(self, count: int) -> None:
        """Messages of earlier processes were found; their bytes are counted as they come into memory."""
        self.recovered, self.spooled = self.recovered + count, self.spooled + count

    def load(self, size: int) -> None:
        """A spooled message is in memory again."""
        if not self.spooled:
            # It was put back into the spool from outside.
            self.recover(1)
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
        self._note(1, result)
        self.gone, self.spooled = self.gone + 1, max(0, self.spooled - 1)
        self.spooled_bytes = max(0, self.spooled_bytes - size) if self.spooled else 0

    def take_back(self, size: int) -> None:
        """A message that was arriving is not accepted after all."""
        self.arriving, self.pending, self.pending_bytes = self.arriving - 1, self.pending - 1, self.pending_bytes - size

    # -- looks

    def recount(self, pending: int, pending_bytes: int) -> None:
        """Correct the bounds after an exception interrupted a change; messages without an outcome stay accepted."""
        self.pending, self.pending_bytes = pending, pending_bytes

    def statistics(self, in_flight: int, in_flight_bytes: int, oldest_age: float) -> Statistics:
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
        )
