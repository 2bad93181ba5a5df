"""How fast messages go out: a token bucket that counts messages and does not burst after a pause. Pure."""

from __future__ import annotations

from typing import Final

_BURST_SECONDS: Final = 0.05


class Pace:
    """Admits `rate` messages a second; 0: no limit. Times are seconds of a monotonic clock."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate * _BURST_SECONDS)
        self._level = self._most
        self._updated = now

    @property
    def is_limited(self) -> bool:
        return self._rate > 0

    def take(self, count: int, now: float) -> float:
        """Count messages, and return the seconds to wait before sending them."""
        if not self._rate:
            return 0.0
        self._level = min(self._most, self._level + (now - self._updated) * self._rate) - count
        self._updated = now
        return max(0.0, -self._level / self._rate)

    def charge(self, count: int, now: float) -> None:
        """Count messages that waited behind an outage and all go out now: others wait for them."""
        if self._rate:
            self._level = min(self._level, 0.0) - count
            self._updated = now
