"""The one warning for a client whose messages wait while no event loop has ever run for it.

Pure: the time and the counts are arguments. This file knows neither messages nor clients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

# Seconds that messages wait before it is worth a warning: a script may queue many before it runs its loop.
_PATIENCE_SECONDS: Final = 10.0


class IdleWarning:
    __slots__ = ("_is_given", "_since")

    def __init__(self) -> None:
        self._since: float | None = None
        self._is_given = False

    def age(self, now: float) -> float:
        """Seconds since the first message."""
        return 0.0 if self._since is None else now - self._since

    def due(self, now: float, pending: Callable[[], int], is_full: bool) -> str | None:
        """The warning, once, when messages have waited for long or have filled the queue; else `None`."""
        if self._since is None:
            self._since = now
        if self._is_given or (now - self._since < _PATIENCE_SECONDS and not is_full):
            return None
        self._is_given = True
        count = pending()
        return (
            f"No event loop has run for the client, so nothing is sent: {count:,} "
            f"{'message waits' if count == 1 else 'messages wait'}, the first for {now - self._since:.1f} s. "
            "Use `async with client`, or await any of its calls; code without an event loop uses "
            "segment_async.blocking.Client."
        )
