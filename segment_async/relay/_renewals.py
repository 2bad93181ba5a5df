"""Keeps what this process holds: noting an attempt renews its holds, and others are renewed every quarter of a lease.

    note_attempt ─┐
    keep_holds ───┴─► one exchange that renews ─► still held, or lost to another relay

When the server is out of reach nothing is sent: an attempt that is not noted could not be told from none.

This file knows the group's commands; it lives on the loop of the spool's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import ResponseError

from ._endings import Endings
from ._group import Group
from ._holds import RENEW_AFTER, Holds
from ._pace import Pace
from ._server import Server, Unreachable

_log = logging.getLogger("segment_async")

# Seconds until an attempt is noted again, after a server that takes no writes has refused the note.
_RETRY: Final = 0.5


class Renewals:
    """`lost`: holds that ended before their entries did."""

    def __init__(
        self,
        server: Server,
        group: Group,
        holds: Holds,
        endings: Endings,
        *,
        lease: float,
        pace: Pace | None,
        now: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self.lost = 0
        self._server = server
        self._group = group
        self._holds = holds
        self._endings = endings
        self._lease = lease
        self._pace = pace
        self._now = now
        self._changed = changed
        self._closing = asyncio.Event()
        # Exchanges under way that would renew holds.
        self._renewing = 0
        self._settled = asyncio.Event()

    async def check(self) -> None:
        """Give up what the server does not know as held by this process."""
        if len(self._holds):
            known = {each.entry_id for each in await self._group.held()}
            self._lose(self._holds.end_all_but(known))

    async def note_attempt(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        """Note an attempt; waits for the pace, and for a server out of reach as long as the holds last."""
        is_paced, since = self._pace is None, self._now()
        valid: dict[bytes, int] = {}
        while not self._closing.is_set() and (valid := self._holds.valid(keys)):
            try:
                if self._pace is not None and not is_paced:
                    await self._pause(await self._pace.take(len(valid)))
                    is_paced = True
                    continue
                since = self._now()
                held = await self._renewed(self._group.note_attempt(valid, attempt))
            except Unreachable:
                await self._until_up(RENEW_AFTER * self._lease)
                continue
            except ResponseError as refusal:
                if not self._server.up.is_set():
                    # It takes no writes for now, or another one has taken over; it may be found at once.
                    await self._pause(_RETRY)
                    continue
                _log.warning("Redis refused to note an attempt; another relay sends the messages: %s", refusal)
                held = set[bytes]()
            self._holds.renew(held, since)
            # The holds may have ended while the reply was on its way, as the machine slept.
            valid = {entry_id: key for entry_id, key in self._holds.valid(keys).items() if entry_id in held}
            break
        ended = set(keys).difference(() if self._closing.is_set() else valid.values())
        # Those that were given up before are counted already.
        self._lose(self._holds.end(ended))
        self._changed()
        return ended

    async def _renewed(self, exchange: Coroutine[Any, Any, set[bytes]]) -> set[bytes]:
        """An exchange that renews holds; a close waits for it, so that it takes nothing back that was given back."""
        self._renewing += 1
        try:
            return await exchange
        finally:
            self._renewing -= 1
            self._settled.set()

    async def _until_up(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._server.up.wait()

    async def _pause(self, seconds: float) -> None:
        """A close ends it."""
        if seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closing.wait()

    async def keep_holds(self) -> None:
        """Renew holds in time, for ever, and give up those that could not be renewed."""
        while not self._closing.is_set():
            await self._pause(RENEW_AFTER * self._lease / 3)
            self._lose(self._holds.end_expired())
            # What has ended and cannot be recorded is not sent by another relay meanwhile.
            due = [*self._holds.due(), *self._endings.unrecorded()]
            if not due or not self._server.up.is_set() or self._closing.is_set():
                continue
            since = self._now()
            with suppress(Unreachable, ResponseError):
                held = await self._renewed(self._group.renew(due))
                self._holds.renew(held, since)
                self._lose(self._holds.end_entries(set(due) - held))
                self._changed()

    def _lose(self, count: int) -> None:
        if count and not self._closing.is_set():
            self.lost += count
            _log.warning("Holds on messages have ended, so other relays send them now: %d.", count)

    async def aclose(self) -> None:
        """Renew nothing any more, once the exchanges under way have ended."""
        self._closing.set()
        while self._renewing:
            self._settled.clear()
            await self._settled.wait()
