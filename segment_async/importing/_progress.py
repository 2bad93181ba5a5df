"""How far an import is, how fast, and how long it will take. Pure: it is told once a second how much was delivered."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from ._reading import Opened
from ._report import Progress
from ._sources import Source
from ._window import Window

_TICKS: Final = 10


class Meter:
    """Args:
    total_bytes: of all sources; `None` if unknown, or if not all of them is imported.
    estimated: how many records there are, about; `None` if unknown.
    window: of the import; what it has counted at the start was done by earlier runs.
    """

    def __init__(
        self, sources: Sequence[Source], total_bytes: int | None, estimated: int | None, window: Window
    ) -> None:
        self._sizes = [source.size or 0 for source in sources]
        self._total_bytes = total_bytes
        self._estimated = estimated
        self._window = window
        self._resumed = window.counts.records
        self._delivered = deque([window.counts.messages], maxlen=_TICKS + 1)
        # A record may make several messages, or none.
        self._done = deque([window.counts.records], maxlen=_TICKS + 1)

    def tick(self, opened: Opened | None, trouble: str | None = None) -> Progress:
        """One second has passed; `opened` is the source that is being read, `trouble` why nothing is delivered."""
        counts = self._window.counts
        self._delivered.append(counts.messages)
        self._done.append(counts.records)
        pace = _a_second(self._done)
        share = self._share(opened)
        left = None
        if share and pace > 0 and self._estimated:
            left = max(0.0, self._estimated - counts.records) / pace
        elif share and pace > 0 and counts.records > self._resumed:
            left = counts.records / share * (1 - share) / pace
        return Progress(counts, len(self._window), share, _a_second(self._delivered), left, trouble)

    def _share(self, opened: Opened | None) -> float | None:
        by_count = min(1.0, self._window.counts.records / self._estimated) if self._estimated else None
        if not self._total_bytes:
            return by_count
        before = sum(self._sizes[: self._window.position.source])
        here = opened.done_bytes() if opened is not None else 0
        if here is None:
            return by_count
        return min(1.0, (before + here) / self._total_bytes)


def _a_second(counted: Sequence[int]) -> float:
    return (counted[-1] - counted[0]) / (len(counted) - 1)
