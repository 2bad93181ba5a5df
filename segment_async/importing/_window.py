"""Records on their way, in order: what the client was given and has not settled, and what is settled behind that.

The window is what a crash can repeat: the position of the state moves only past its front.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from segment_async import Delivery, Outcome, Status

from ._prepare import DUPLICATE, REJECTED, SKIPPED, Prepared
from ._records import Problem
from ._report import REFUSED, UNREACHABLE, Counts, Stopped
from ._state import Position

# Answers that say nothing of the message: the address is wrong, whatever is sent.
_WRONG_ADDRESS: Final = (404, 405, 501, 505)
_NO_ANSWERS: Final = ("gave_up", "unexpected_answer")


@dataclass(slots=True)
class InFlight:
    """A record that was given to the client, or needs none."""

    prepared: Prepared
    deliveries: list[Delivery]
    source: int


@dataclass(slots=True)
class Reject:
    """A record for the rejects file."""

    prepared: Prepared
    problem: Problem
    message: dict[str, Any] | None


class Window:
    """Attributes:
    counts: of all that left the window.
    position: the first record without an outcome.
    """

    def __init__(self, counts: Counts, position: Position) -> None:
        self.counts = counts
        self.position = position
        self._waiting: deque[InFlight] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, prepared: Prepared, deliveries: list[Delivery], source: int) -> None:
        self._waiting.append(InFlight(prepared, deliveries, source))

    @property
    def oldest(self) -> Delivery | None:
        """The delivery that the front waits for."""
        if not self._waiting:
            return None
        return next((each for each in self._waiting[0].deliveries if each.outcome is None), None)

    def end_source(self, source: int) -> None:
        """All records of a source have their outcome."""
        self.position = Position(source + 1)

    def next_settled(self) -> InFlight | None:
        """Look at the front: `None` if it has no outcome yet.

        Raises:
            Stopped: the outcome says that nothing can be delivered now.
        """
        if not self._waiting:
            return None
        front = self._waiting[0]
        for delivery in front.deliveries:
            outcome = delivery.outcome
            if outcome is None or outcome.status is Status.DROPPED:
                return None  # the client was closed before it: no outcome, but the next run's work
            if outcome.status is Status.FAILED:
                _stop_if_general(outcome)
        return front

    def pop(self) -> Reject | None:
        """Count the front and move past it; returns what belongs into the rejects file."""
        front = self._waiting.popleft()
        prepared = front.prepared
        self._move_past(front)
        counts = self.counts
        counts.records += 1
        if prepared.status == REJECTED:
            assert prepared.problem is not None
            counts.rejected += 1
            counts.reasons[prepared.problem.rule] += 1
            return Reject(prepared, prepared.problem, prepared.messages[0] if prepared.messages else None)
        if prepared.status == SKIPPED:
            counts.skipped += 1
        elif prepared.status == DUPLICATE:
            counts.duplicates += 1
        else:
            return self._count_sent(front)
        return None

    def _count_sent(self, front: InFlight) -> Reject | None:
        counts, prepared = self.counts, front.prepared
        for verdict in prepared.spec:
            counts.spec[verdict.rule] += 1
        failed: Reject | None = None
        for delivery, message in zip(front.deliveries, prepared.messages, strict=True):
            outcome = delivery.outcome
            if outcome is not None and outcome.status is Status.DELIVERED:
                counts.messages += 1
            elif failed is None:
                failed = Reject(prepared, _failure(outcome), message)
        if failed is None:
            counts.delivered += 1
        else:
            counts.failed += 1
            counts.reasons[failed.problem.rule] += 1
        return failed

    def _move_past(self, front: InFlight) -> None:
        record = front.prepared.record
        first, second = record.after
        if record.line is None:
            self.position = Position(front.source, record.number, group=first, row=second)
        else:
            self.position = Position(front.source, record.number, first, second)


def _failure(outcome: Outcome | None) -> Problem:
    assert outcome is not None
    status = f" with status {outcome.status_code}" if outcome.status_code is not None else ""
    return Problem(outcome.reason or "failed", "", f"Segment refused the message{status}.")


def _stop_if_general(outcome: Outcome) -> None:
    status = f" (status {outcome.status_code})" if outcome.status_code is not None else ""
    if outcome.reason == "unauthorized":
        raise Stopped(REFUSED, f"the write key was refused{status}: check SEGMENT_WRITE_KEY and --region")
    if outcome.reason == "redirected":
        where = f" to {outcome.location}" if outcome.location else ""
        raise Stopped(REFUSED, f"the address redirects{where}{status}: check --host")
    if outcome.status_code in _WRONG_ADDRESS and outcome.reason not in _NO_ANSWERS:
        raise Stopped(REFUSED, f"the address does not take batches{status}: check --host and --region")
    if outcome.reason in _NO_ANSWERS:
        raise Stopped(UNREACHABLE, f"no usable answer for too long{status}: run the same command again to resume")
