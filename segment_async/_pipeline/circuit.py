"""What the answers so far say of the server: whether it lives, wants a pause, or is tried with one request at a time.

    lives ── five attempts in a row without a usable answer ──► probed: one request, then a back-off, and again
      ▲  └── told to wait ──► paused: no request until then ─────────┘
      └──────────────── a usable answer ───────────────────────────┘

This file is pure: no clock, no queue, no network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from segment_async._http.transport import Response
from segment_async._outcome import Status

from .batch import Batch
from .retry import SUSPICIOUS, Again, NoCredentials, RetryPolicy, Settle, Silence, Split

# Attempts in a row without a usable answer after which the server is taken for dead.
_HANDFUL: Final = 5


class Server:
    """Attributes:
    is_probed: one request at a time, until one is answered.
    """

    def __init__(self, policy: RetryPolicy, chance: Callable[[], float]) -> None:
        self.is_probed = False
        self._policy = policy
        self._chance = chance
        self._pause_until = 0.0
        self._probe_not_before = 0.0
        self._probe_failures = 0
        self._failures_in_a_row = 0
        # Attempts of all batches.
        self._delivered = 0
        self._failed = 0

    @property
    def not_before(self) -> float:
        """When the next request may begin."""
        return max(self._pause_until, self._probe_not_before) if self.is_probed else self._pause_until

    def places(self, most: int) -> int:
        """Requests that may be under way at once, of those that the client allows."""
        return 1 if self.is_probed else most

    def hurry(self) -> None:
        """The next probe goes at once."""
        self._probe_not_before = 0.0

    # -- what became of an attempt

    def note_again(self, batch: Batch, action: Again, now: float) -> None:
        if action.pause:
            self._pause_until = max(self._pause_until, now + action.delay)
            # After the pause one request goes first; the others follow when it succeeds.
            self.is_probed = True
            self._probe_not_before = 0.0
        elif action.counted:
            # A batch that fails again and again says nothing of the server any more.
            self._failed += batch.history.server_faults < SUSPICIOUS
            batch.baseline = (self._delivered, self._failed)
            self._fails(batch, now)

    def note_end(self, batch: Batch, action: Settle | Split, answer: Response | Silence, now: float) -> bool:
        """To have lost patience with a batch, or to suspect it of a 5xx, is no sign that the server lives.

        `True`: it was the server's fault that batches failed, and that is over.
        """
        if isinstance(answer, NoCredentials):
            return False
        if isinstance(action, Settle):
            has_failed = action.reason in ("gave_up", "unexpected_answer")
            self._delivered += action.status is Status.DELIVERED
        else:
            has_failed = isinstance(answer, Response) and answer.status >= 500
        if has_failed:
            self._fails(batch, now)
            return False
        return self._answers(now)

    def _fails(self, batch: Batch, now: float) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row < _HANDFUL:
            return
        self._probe_failures = self._probe_failures + 1 if self.is_probed else batch.history.failures
        self.is_probed = True
        self._probe_not_before = now + self._policy.delay(self._probe_failures, self._chance())

    def _answers(self, now: float) -> bool:
        self._failures_in_a_row = 0
        # An answer within a pause is to a request from before it: one still goes first when it is over.
        is_over = self.is_probed and now >= self._pause_until
        if is_over:
            self.is_probed = False
        return is_over

    def delivers_others(self, batch: Batch) -> bool:
        """Others were delivered between two failures of this batch, and none has begun to fail since."""
        if batch.baseline is not None:
            delivered, failed = batch.baseline
            if self._failed != failed:
                batch.is_odd_one = False
            elif self._delivered > delivered:
                batch.is_odd_one = True
        return batch.is_odd_one
