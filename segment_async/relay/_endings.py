"""How entries ended here, until the server has recorded it: delivered ones are removed, failed ones become dead letters.

What cannot be recorded at once waits here and is tried again; meanwhile the outlet keeps these entries from other
relays. Recording is not a transaction, because a server whose memory is full would refuse one; it takes a script of
commands that need no memory.

This file knows the server and entries, and nothing of holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, cast

from redis.exceptions import ResponseError

from segment_async._outcome import BatchResult, Status

from ._entries import GROUP, Fields, Keys, dead_fields, pairs_of
from ._group import CHUNK, SECONDS
from ._server import Server, Unreachable

_log = logging.getLogger("segment_async")

# Seconds until what was not recorded is tried again.
_RETRY: Final = 0.5
# XDEL and XACK of the entries ARGV[2] of the group ARGV[1]. They are one argument, as the client library takes a
# microsecond to pack each.
_SETTLE: Final = """
local entries = {}
for entry in string.gmatch(ARGV[2], '%S+') do entries[#entries + 1] = entry end
local reply = redis.pcall('XDEL', KEYS[1], unpack(entries))
return type(reply) == 'table' and reply or redis.pcall('XACK', KEYS[1], ARGV[1], unpack(entries))
"""


class Ended(NamedTuple):
    """Entries that ended alike."""

    entry_ids: Sequence[bytes]
    result: BatchResult
    answer: str


class EndedEntries:
    """The commands for entries that have ended. Each raises `Unreachable`, or `ResponseError` if it was refused."""

    def __init__(self, server: Server, keys: Keys, max_dead: int) -> None:
        self._server = server
        self._keys = keys
        self._max_dead = max_dead

    async def remove(self, entry_ids: Sequence[bytes]) -> None:
        for first in range(0, len(entry_ids), CHUNK):
            ids = entry_ids[first : first + CHUNK]
            await self._server.ask("EVAL", _SETTLE, 1, self._keys.messages, GROUP, b" ".join(ids), seconds=SECONDS)

    async def fields_of(self, entry_ids: Sequence[bytes]) -> list[Fields]:
        """The entries that are still there."""
        commands = [("XRANGE", self._keys.messages, each, each) for each in entry_ids]
        replies = await self._server.ask_all(commands, seconds=SECONDS)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return [pair for reply in replies for pair in pairs_of(reply)]

    async def add_dead(self, letters: Sequence[Sequence[bytes]]) -> list[ResponseError | None]:
        """The refusal of each letter, if it was refused."""
        command = ("XADD", self._keys.dead, "MAXLEN", "~", self._max_dead, "*")
        replies = await self._server.ask_all([(*command, *fields) for fields in letters], seconds=SECONDS)
        refusals = [reply if isinstance(reply, Exception) else None for reply in replies]
        for refusal in refusals:
            if refusal is not None and not isinstance(refusal, ResponseError):
                raise refusal
        return cast("list[ResponseError | None]", refusals)


class Endings:
    """`counts`: how many entries ended, and how."""

    def __init__(
        self,
        server: Server,
        entries: EndedEntries,
        *,
        wall_clock: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self.counts: dict[BatchResult, int] = {}
        self._server = server
        self._entries = entries
        self._wall_clock = wall_clock
        self._changed = changed
        self._unrecorded: deque[Ended] = deque()
        # Entries of which the dead letter is written; they are removed next.
        self._moved: set[bytes] = set()
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
                        await self._move_first_to_dead_letters()
                    else:
                        await self._entries.remove([entry_id for each in together for entry_id in each.entry_ids])
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

    async def _move_first_to_dead_letters(self) -> None:
        """What was moved is removed at once, and not moved again: in a full server it makes room for the rest."""
        while (ended := self._unrecorded[0]).entry_ids:
            ids = ended.entry_ids[:CHUNK]
            refused = await self._add_dead(ended, [each for each in ids if each not in self._moved])
            done = [each for each in ids if each not in refused]
            await self._entries.remove(done)
            self._moved.difference_update(done)
            self._unrecorded[0] = ended._replace(entry_ids=[*refused, *ended.entry_ids[CHUNK:]])
            if not done:
                raise next(iter(refused.values()))

    async def _add_dead(self, ended: Ended, entry_ids: Sequence[bytes]) -> dict[bytes, ResponseError]:
        """Write dead letters; returns those that were refused, by their entries."""
        entries = await self._entries.fields_of(entry_ids) if entry_ids else []
        if not entries:
            return {}
        at = self._wall_clock()
        refusals = await self._entries.add_dead([dead_fields(each, ended.result, ended.answer, at) for each in entries])
        answers = [(entry_id, refusal) for (entry_id, _), refusal in zip(entries, refusals, strict=True)]
        self._moved.update(entry_id for entry_id, refusal in answers if refusal is None)
        return {entry_id: refusal for entry_id, refusal in answers if refusal is not None}
