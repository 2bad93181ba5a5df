"""How entries ended here, until the server has recorded it: delivered ones are removed, failed ones become dead letters.

What cannot be recorded at once waits here and is tried again; meanwhile the outlet keeps these entries from other
relays. This file knows the group's commands, and nothing of holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from redis.exceptions import ResponseError

from segment_async._outcome import BatchResult, Status

from ._entries import dead_fields
from ._group import CHUNK, Group
from ._server import Server, Unreachable

_log = logging.getLogger("segment_async")

# Seconds until what was not recorded is tried again.
_RETRY: Final = 0.5


class Ended(NamedTuple):
    """Entries that ended alike."""

    entry_ids: Sequence[bytes]
    result: BatchResult
    answer: str


class Endings:
    """`counts`: how many entries ended, and how."""

    def __init__(
        self,
        server: Server,
        group: Group,
        *,
        max_dead: int,
        wall_clock: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self.counts: dict[BatchResult, int] = {}
        self._server = server
        self._group = group
        self._max_dead = max_dead
        self._wall_clock = wall_clock
        self._changed = changed
        self._unrecorded: deque[Ended] = deque()
        self._recording = asyncio.Lock()
        # The last try was refused, and that was logged.
        self._is_refused = False

    def unrecorded(self) -> list[bytes]:
        """Entries that have ended, which the server does not know yet."""
        return [entry_id for each in self._unrecorded for entry_id in each.entry_ids]

    async def add(self, entry_ids: Sequence[bytes], result: BatchResult, answer: str) -> None:
        """Record an ending; returns also if that must wait."""
        if entry_ids:
            self.counts[result] = self.counts.get(result, 0) + len(entry_ids)
            self._unrecorded.append(Ended(entry_ids, result, answer))
        self._changed()
        await self.record()

    async def keep_recording(self) -> None:
        """Record what could not be recorded at once, for ever."""
        while True:
            await asyncio.sleep(_RETRY)
            if self._unrecorded and self._server.up.is_set():
                await self.record()

    async def record(self) -> None:
        async with self._recording:
            while self._unrecorded and self._server.up.is_set():
                together = self._first()
                try:
                    if together[0].result.status is Status.FAILED:
                        await self._move_to_dead_letters(together[0])
                    await self._group.settle([entry_id for each in together for entry_id in each.entry_ids])
                except (Unreachable, ResponseError) as error:
                    if not self._is_refused:
                        _log.warning("Redis did not record how messages ended, and is asked again: %s", error)
                    self._is_refused = True
                    # One that is refused does not hold up the others.
                    self._unrecorded.rotate(-1)
                    return
                for _ in together:
                    self._unrecorded.popleft()
                self._is_refused = False
                self._changed()

    def _first(self) -> list[Ended]:
        """The first ones that can be recorded together: those that leave nothing behind."""
        together = [self._unrecorded[0]]
        if together[0].result.status is not Status.FAILED:
            for each in list(self._unrecorded)[1:]:
                if each.result.status is Status.FAILED:
                    break
                together.append(each)
        return together

    async def _move_to_dead_letters(self, ended: Ended) -> None:
        for first in range(0, len(ended.entry_ids), CHUNK):
            entries = await self._group.fields_of(ended.entry_ids[first : first + CHUNK])
            at = self._wall_clock()
            letters = [dead_fields(each, ended.result, ended.answer, at) for each in entries]
            if letters:
                await self._group.add_dead(letters, self._max_dead)
