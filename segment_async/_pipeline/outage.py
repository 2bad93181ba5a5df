"""What the log says while deliveries fail: when it begins, every few minutes, and when it is over.

This file is pure but for the log that it is given: `now` is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

# Failures in a row without a usable answer after which it is an outage.
_FAILURES_TO_TELL: Final = 3
# Seconds until the next attempt after which one failure is an outage.
_PAUSE_TO_TELL: Final = 10.0
# Seconds between two warnings while it lasts, and between those of two outages: a server may fail now and then.
_REPEAT_SECONDS: Final = 300.0
_QUIET_SECONDS: Final = 60.0


class Outage:
    """Attributes:
    since: the clock when the first of the failures came; `None`: deliveries work.
    error: what the last failure said.
    last_success: when something was last delivered, in seconds since the epoch; `None`: never so far.
    """

    def __init__(self, host: str, warn: Callable[..., None], inform: Callable[..., None]) -> None:
        self.since: float | None = None
        self.error = ""
        self.last_success: float | None = None
        self._host = host
        self._warn = warn
        self._inform = inform
        self._failures = 0
        # When the last warning came, and whether it was of this outage.
        self._told_at: float | None = None
        self._is_told = False
        self._most_pending = 0
        self._dropped_before = 0

    def note_failure(self, error: str, now: float, *, pending: int, dropped: int, retry_in: float) -> None:
        """An attempt failed and is to be repeated. `dropped`: messages that the client has dropped so far."""
        if self.since is None:
            self.since, self._dropped_before = now, dropped
        self.error = error
        self._failures += 1
        self._most_pending = max(self._most_pending, pending)
        pause = _REPEAT_SECONDS if self._is_told else _QUIET_SECONDS
        is_due = self._told_at is None or now >= self._told_at + pause
        if is_due and (self._failures >= _FAILURES_TO_TELL or retry_in >= _PAUSE_TO_TELL):
            self._told_at, self._is_told = now, True
            self._warn(
                "Deliveries to %s %s: %s. %s waiting; the next attempt is in %.1f s.",
                self._host,
                "fail" if now < self.since + 1 else f"have failed for {now - self.since:.0f} s",
                error,
                _messages(pending),
                retry_in,
            )

    def note_success(self, now: float, *, dropped: int, wall_clock: float) -> None:
        """Something was delivered. `wall_clock`: seconds since the epoch."""
        self.last_success = wall_clock
        since, most_pending, was_told = self.since, self._most_pending, self._is_told
        self.since, self.error, self._is_told = None, "", False
        self._failures = self._most_pending = 0
        if was_told and since is not None:
            # Last, as a handler of `logging` may raise.
            self._inform(
                "Deliveries to %s work again after %.0f s. At most %s waiting; %s dropped.",
                self._host,
                now - since,
                _messages(most_pending),
                _messages(dropped - self._dropped_before),
            )


def _messages(count: int) -> str:
    return "1 message was" if count == 1 else f"{count:,} messages were"
