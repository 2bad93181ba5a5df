"""Log records about the pipeline, limited in number: a kind of trouble may come with every request.

They contain neither values nor secrets. Never called with a lock held: a handler of `logging` has a lock of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

_log = logging.getLogger("segment_async")

# Seconds between two log records of one kind.
_QUIET_SECONDS: Final = 60.0


class LimitedLog:
    """`now` is a monotonic clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._logged: dict[str, float] = {}

    def warn(self, kind: str, text: str, *args: object) -> None:
        """Log a warning, unless one of its kind was logged within the last minute."""
        now = self._now()
        last = self._logged.get(kind)
        if last is None or now - last >= _QUIET_SECONDS:
            self._logged[kind] = now
            _log.warning(text, *args)

    def warn_once(self, kind: str, text: str, *args: object) -> None:
        if kind not in self._logged:
            self._logged[kind] = self._now()
            _log.warning(text, *args)
