"""Entries that this process takes: those no relay had, and those of relays that are gone.

    take_over, read_new ─► held, decoded ─► waiting ─► give_out

Looking for abandoned entries is a part of reading, so that a relay takes no more over than its memory has room for.

This file knows the group's commands, and not when to read; it lives on the loop of the spool's thread.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from redis.exceptions import ResponseError

from segment_async.spool._protocol import StoredMessage

from ._endings import Endings
from ._entries import UNKNOWN, Entry, Fields, entry_of, order
from ._group import Group, GroupSetup
from ._holds import RENEW_AFTER, Holds
from ._pace import Pace

_log = logging.getLogger("segment_async")

# Seconds that one command waits for new entries, and so the longest that a close waits for it.
_BLOCK: Final = 0.5


class Fetcher:
    """Takes entries, and keeps their messages until they are given out.

    Attributes:
        claimed: entries that were taken over from other processes.
        unknown: entries that this version could not read.
        taken: entries that were ever held here.
    """

    def __init__(
        self,
        group: Group,
        setup: GroupSetup,
        holds: Holds,
        endings: Endings,
        *,
        lease: float,
        pace: Pace | None,
        now: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self.claimed = self.unknown = self.taken = 0
        self._group = group
        self._setup = setup
        self._holds = holds
        self._endings = endings
        self._lease = lease
        self._pace = pace
        self._now = now
        self._changed = changed
        # Messages that are held and were not given out yet.
        self._waiting: deque[StoredMessage] = deque()
        self._next_look = float("-inf")

    def give_out(self, max_count: int, max_bytes: int) -> list[StoredMessage]:
        given: list[StoredMessage] = []
        size = 0
        while self._waiting and len(given) < max_count:
            message = self._waiting[0]
            size += len(message.body)
            if given and size > max_bytes:
                break
            self._waiting.popleft()
            if message.key in self._holds:
                given.append(message)
        return given

    def put_back(self, messages: Sequence[StoredMessage]) -> None:
        """They were given out, but not received."""
        self._waiting.extendleft(reversed(messages))

    def clear(self) -> None:
        self._waiting.clear()

    # -- from the server

    async def take_over(self, count: int) -> bool:
        """Whether there were entries whose relays are gone; if not, the next look is a quarter of a lease away."""
        since = self._now()
        if since < self._next_look:
            return False
        abandoned = await self._group.abandoned(count)
        if abandoned:
            # What this process holds is renewed soon; what has ended here is recorded soon.
            ended = set(self._endings.unrecorded())
            abandoned = [each for each in abandoned if each.entry_id not in ended]
            abandoned = [each for each in abandoned if not self._holds.is_held(each.entry_id)]
        if not abandoned:
            self._next_look = since + RENEW_AFTER * self._lease
            with suppress(ResponseError):
                await self._group.tidy()
                if self._pace is not None:
                    self._pace.relays = len(await self._group.consumers())
            return False
        taken = await self._group.take_over(abandoned)
        self.claimed += await self._take(taken, since)
        return True

    async def read_new(self, count: int) -> None:
        """Take entries that no relay had; waits a moment for the first one."""
        since = self._now()
        await self._take([(each, 1) for each in await self._group.read_new(count, _BLOCK)], since)

    async def _take(self, entries: Sequence[tuple[Fields, int]], since: float) -> int:
        unknown: list[bytes] = []
        count = 0
        for (entry_id, fields), deliveries in entries:
            entry = entry_of(entry_id, fields)
            if entry is None:
                unknown.append(entry_id)
                continue
            count += 1
            key = self._holds.take(entry_id, since)
            self._waiting.append(StoredMessage(key, entry.message_id, entry.body, self._attempts(entry, deliveries)))
        self.taken += count
        self._changed()
        if unknown:
            self.unknown += len(unknown)
            _log.warning(
                "Messages in Redis need a newer version of segment_async; left to another relay: %d.", len(unknown)
            )
            await self._group.park(unknown, UNKNOWN)
        return count

    def _attempts(self, entry: Entry, deliveries: int) -> int:
        until = self._setup.doubtful_until
        is_doubtful = until is not None and order(entry.entry_id) <= order(until)
        return max(deliveries - 1, int(entry.is_repeated or is_doubtful))
