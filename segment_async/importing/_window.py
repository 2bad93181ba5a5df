"""Records on their way, in order: what the client was given and has not settled, and what is settled behind that.

The window is what a crash can repeat: the position of the state moves only past its front.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from segment_async import Delivery, Outcome, Status
from segment_async.verdicts import Verdict

from ._prepare import SKIPPED, Prepared
from ._records import Problem, Record
from ._report import REFUSED, UNREACHABLE, Counts, Stopped
from ._state import Position

# Answers that say nothing of the message: the address is wrong, whatever is sent.
_WRONG_ADDRESS: Final = (404, 405, 501, 505)
_DELIVERED: Final = Status.DELIVERED  # Python 3.11 takes 0.1 µs to look up a member
_NO_ANSWERS: Final = ("gave_up", "unexpected_answer")


class Reject(NamedTuple):
    """A record for the rejects file."""

    prepared: Prepared
    problem: Problem
    message: dict[str, Any] | None


class Window:
    """All its records are of one source at a time.

    Attributes:
        counts: of all that left the window.
        add: takes the next record.
    """

    def __init__(self, counts: Counts, position: Position) -> None:
        self.counts = counts
        self._waiting: deque[Prepared] = deque()
        self.add: Callable[[Prepared], None] = self._waiting.append
        self._begun = position
        self._last: Record | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def position(self) -> Position:
        """The first record without an outcome."""
        record, source = self._last, self._begun.source
        if record is None:
            return self._begun
        first, second = record.after
        if record.line is None:
            return Position(source, record.number, group=first, row=second)
        return Position(source, record.number, first, second)

    def begin(self, position: Position) -> None:
        """The records that follow begin here; those before have their outcomes."""
        self._begun, self._last = position, None

    @property
    def oldest(self) -> Delivery | None:
        """The delivery that the front waits for."""
        if not self._waiting:
            return None
        return next((each for each in self._waiting[0].deliveries if each.outcome is None), None)

    def next_reject(self, error_of: Callable[[int | None], str]) -> Reject | None:
        """Count what has its outcome and move past it, up to a record that belongs into the rejects file.

        Returns `None` if there is no such record: the front waits for its outcome, or the window is empty. `error_of`: why
        a message was given up whose last answer had this status, for the text of `Stopped`.

        Raises:
            Stopped: an outcome says that nothing can be delivered now.
        """
        waiting, counts = self._waiting, self.counts
        while waiting:
            front = waiting[0]
            failed: Outcome | None = None
            messages = 0
            for delivery in front.deliveries:
                outcome = delivery.outcome
                if outcome is None:
                    return None
                if outcome.status is _DELIVERED:
                    messages += 1
                elif outcome.status is Status.DROPPED:
                    return None  # dropped when the client was closed: no outcome, but the next run's work
                else:
                    _stop_if_general(outcome, error_of)
                    failed = failed or outcome
            waiting.popleft()
            self._last = front.record
            counts.records += 1
            if messages and failed is None:
                counts.messages += messages
                counts.delivered += 1
                if front.findings:
                    self._note(front.findings)
            elif (reject := self._other(front, messages, failed)) is not None:
                return reject
        return None

    def _note(self, findings: Sequence[Verdict]) -> None:
        for verdict in findings:
            counter = self.counts.plan if verdict.severity == "plan" else self.counts.spec
            counter[verdict.rule] += 1

    def _other(self, front: Prepared, messages: int, failed: Outcome | None) -> Reject | None:
        """Count a record of which not all was delivered; `messages` were."""
        counts = self.counts
        if failed is not None:
            counts.messages += messages
            self._note(front.findings)
            return self._failed(front, failed)
        if front.problem is not None:
            counts.rejected += 1
            counts.reasons[front.problem.rule] += 1
            return Reject(front, front.problem, front.messages[0] if front.messages else None)
        if front.status == SKIPPED:
            counts.skipped += 1
        else:
            counts.duplicates += 1
        return None

    def _failed(self, front: Prepared, outcome: Outcome) -> Reject:
        problem = _failure(outcome)
        self.counts.failed += 1
        self.counts.reasons[problem.rule] += 1
        message = next(
            message
            for message, delivery in zip(front.messages, front.deliveries, strict=True)
            if delivery.message_id == outcome.message_id
        )
        return Reject(front, problem, message)


def _failure(outcome: Outcome) -> Problem:
    status = f" with status {outcome.status_code}" if outcome.status_code is not None else ""
    return Problem(outcome.reason or "failed", "", f"Segment refused the message{status}.")


def _stop_if_general(outcome: Outcome, error_of: Callable[[int | None], str]) -> None:
    status = f" (status {outcome.status_code})" if outcome.status_code is not None else ""
    if outcome.reason == "unauthorized":
        raise Stopped(REFUSED, f"the write key was refused{status}: check SEGMENT_WRITE_KEY and --region")
    if outcome.reason == "redirected":
        where = f" to {outcome.location}" if outcome.location else ""
        raise Stopped(REFUSED, f"the address redirects{where}{status}: check --host")
    if outcome.status_code in _WRONG_ADDRESS and outcome.reason not in _NO_ANSWERS:
        raise Stopped(REFUSED, f"the address does not take batches{status}: check --host and --region")
    if outcome.reason in _NO_ANSWERS:
        error = error_of(outcome.status_code)
        raise Stopped(
            UNREACHABLE, f"no usable answer for too long: run the same command again to resume. Last error: {error}"
        )
