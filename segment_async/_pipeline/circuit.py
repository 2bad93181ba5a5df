"""The circuit breaker: what the answers so far say of the server.

    closed ── five attempts in a row without a usable answer ──► half-open: one request, then a back-off, and again
      ▲   └── told to wait ──► paused: no request until then ──────────┘
      └──────────────── a usable answer ───────────────────────────────┘

It also tells a server that fails from a message that makes it fail, by what happened to other batches in between.
This file is pure: numbers go in, numbers come out; it keeps counters and changes no batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from segment_async._outcome import Status

from .retry import (
    REFUSALS,
    SUSPECT_AFTER,
    Answer,
    Failure,
    Finish,
    History,
    NoCredentials,
    NoResponse,
    Retry,
    RetryPolicy,
    Split,
)

# Attempts in a row without a usable answer that open the circuit.
FAILURE_THRESHOLD: Final = 5
# 5xx in a row of one batch that count when the share of failing attempts is estimated.
_COUNTED_FAULTS: Final = 20
# Single messages refused in a row after which it is not the messages that the server objects to.
_REFUSED_THRESHOLD: Final = 50

Baseline = tuple[int, int]
"""Attempts of all batches, delivered and failed, when a batch failed last."""
Answered = tuple[int, int]
"""Attempts of all batches that were delivered, and that met a 5xx."""


class CircuitBreaker:
    """Attributes:
    half_open: one request at a time, until one is answered.
    delivered: batches that were delivered.
    """

    def __init__(self, policy: RetryPolicy, random: Callable[[], float]) -> None:
        self.half_open = False
        self.delivered = 0
        self._policy = policy
        self._random = random
        self._pause_until = 0.0
        self._probe_not_before = 0.0
        self._probe_failures = 0
        self._failures_in_a_row = 0
        self._failed = 0
        self._server_faults = 0
        self._refused_in_a_row = 0

    @property
    def not_before(self) -> float:
        """When the next request may begin."""
        return max(self._pause_until, self._probe_not_before) if self.half_open else self._pause_until

    def places(self, most: int) -> int:
        """Requests that may be in flight at once, of those that the client allows."""
        return 1 if self.half_open else most

    def probe_now(self) -> None:
        """Do not wait out the back-off of the next probe."""
        self._probe_not_before = 0.0

    # -- what an attempt ended with

    def note_retry(self, action: Retry, history: History, now: float) -> Baseline | None:
        """The attempt is to be repeated. Returns the batch's new baseline; `None`: it keeps the one it has."""
        self._server_faults += 0 < history.server_faults <= _COUNTED_FAULTS
        if action.pause:
            self._pause_until = max(self._pause_until, now + action.delay)
            # After the pause one request goes first; the others follow when it succeeds.
            self.half_open = True
            self._probe_not_before = 0.0
            return None
        if not action.counted:
            return None
        # A batch that fails again and again says nothing about the server any more.
        self._failed += history.server_faults < SUSPECT_AFTER
        self._note_failure(now)
        return self.delivered, self._failed

    def note_end(self, action: Finish | Split, answer: Answer | Failure, messages: int, now: float) -> bool:
        """The batch is finished or split. `True`: failures so far were the server's fault, and that is over now."""
        if isinstance(answer, NoCredentials):
            return False
        if isinstance(action, Finish):
            self._note_refusals(action, messages)
            is_failure = action.reason in ("gave_up", "unexpected_answer")
        else:
            # Splitting a batch that is suspected of causing a 5xx, or too large for a slow link, is no sign that the
            # server is well.
            is_failure = isinstance(answer, NoResponse) or answer.status >= 500
        if is_failure:
            self._note_failure(now)
            return False
        return self._note_answer(now)

    def _note_refusals(self, action: Finish, messages: int) -> None:
        if action.status is Status.DELIVERED:
            self.delivered += 1
            self._refused_in_a_row = 0
        elif action.reason in REFUSALS and messages == 1:
            self._refused_in_a_row += 1

    def _note_failure(self, now: float) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row < FAILURE_THRESHOLD:
            return
        # From the first step on, however often the batch that failed last has failed: among batches that the server
        # takes, that number says nothing.
        self._probe_failures += 1
        self.half_open = True
        self._probe_not_before = now + self._policy.delay(self._probe_failures, self._random())

    def _note_answer(self, now: float) -> bool:
        self._failures_in_a_row = 0
        # An answer within a pause belongs to a request from before it: one request still goes first afterwards.
        is_over = self.half_open and now >= self._pause_until
        if is_over:
            self.half_open = False
            self._probe_failures = 0
        return is_over

    # -- what may be the cause

    @property
    def refuses_everything(self) -> bool:
        """Single messages were refused one after the other, and none was delivered in between."""
        return self._refused_in_a_row >= _REFUSED_THRESHOLD

    @property
    def answered(self) -> Answered:
        return self.delivered, self._server_faults

    def others_failing(self, since: Answered, own: int) -> float:
        """The share of attempts that met a 5xx since then, but for so many of one's own.

        An estimate for what comes next, by the rule of succession: a half if there was none. Other batches count only for
        as long as they may have bad luck: several messages that never pass must not keep each other alive.
        """
        own = min(own, _COUNTED_FAULTS)
        delivered, faults = self.delivered - since[0], max(0, self._server_faults - since[1] - own)
        return (faults + 1) / (delivered + faults + 2)

    def is_poison_suspect(self, baseline: Baseline | None, was_suspect: bool) -> bool:
        """Whether others were delivered between two failures of this batch, and none has begun to fail since."""
        if baseline is None:
            return was_suspect
        delivered, failed = baseline
        if self._failed != failed:
            return False
        return was_suspect or self.delivered > delivered
