"""The outlet of one process: what it reads or takes over, keeps by renewing, and settles or gives back.

    read ─► Fetcher ─► held ─► sending ─► settle ─► Endings
                        kept by Renewals

This file has the calls of the spool's protocol, and the close; it lives on the loop of the spool's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

from redis.exceptions import ResponseError

from segment_async._exceptions import SpoolUnavailable, stack_of
from segment_async._outcome import BatchResult
from segment_async.messages import MAX_MESSAGE_BYTES
from segment_async.spool._protocol import StoredMessage, Window

from ._endings import Endings
from ._fetcher import Fetcher
from ._group import CHUNK, SECONDS, Group, GroupSetup
from ._holds import Holds
from ._pace import Pace
from ._renewals import Renewals
from ._server import Server, Unreachable

_log = logging.getLogger("segment_async")

# Seconds until something that was refused is tried again.
_RETRY: Final = 0.5
# Bytes that may be read at once although the window has less room: the rest waits in the fetcher.
_READ_BYTES: Final = 8 * 2**20


class Outlet:
    """Attributes:
    holds: the entries that this process holds.
    fetcher: takes them.
    renewals: keep them.
    endings: those that ended here.
    is_used: this process reads; one that only appends makes no group.
    """

    def __init__(
        self,
        server: Server,
        group: Group,
        setup: GroupSetup,
        *,
        lease: float,
        endings: Endings,
        pace: Pace | None,
        now: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self.holds = Holds(lease, now)
        self.fetcher = Fetcher(group, setup, self.holds, endings, lease=lease, pace=pace, now=now, changed=changed)
        self.renewals = Renewals(server, group, self.holds, endings, lease=lease, pace=pace, now=now, changed=changed)
        self.endings = endings
        self.is_used = False
        self._server = server
        self._group = group
        self._setup = setup
        self._changed = changed
        # The last read, and what was given out last, with the number of its read.
        self._reading = 0
        self._given: tuple[int, list[StoredMessage]] | None = None
        # What was given out and is in no batch yet. As a batch is made of these alone, their number bounds its size.
        self._unsent: set[int] = set()
        self._largest = None if pace is None else pace.largest
        # Set when there may be room for more of them, or the read has to look again.
        self._may_go_on = asyncio.Event()
        # The last read was refused, and that was logged.
        self._is_refused = False
        self._closing = asyncio.Event()
        self._fetching: asyncio.Task[None] | None = None

    async def connected(self) -> None:
        """The server was reached, again or for the first time: find out what it still knows."""
        await self._setup.note_run(self._server.run)
        await self.renewals.check()
        self.is_used = True

    # -- reading

    async def read(self, number: int, max_count: int, max_bytes: int, received: int) -> Window:
        """As the protocol says. Reads are numbered; `received` is the last one whose window the caller got.

        A new one means that the caller of an earlier one is gone.
        """
        self._reading = number
        self._may_go_on.set()
        if self._given is not None and self._given[0] > received:
            self.fetcher.put_back(self._given[1])
            self._unsent.difference_update(each.key for each in self._given[1])
        self._given = None
        while self._reading == number:
            if self._closing.is_set():
                raise SpoolUnavailable("the spool is closed")
            count = max_count if self._largest is None else min(max_count, self._largest - len(self._unsent))
            if count <= 0:
                self._may_go_on.clear()
                await self._may_go_on.wait()
                continue
            if messages := self.fetcher.give_out(count, max_bytes):
                self._given = number, messages
                if self._largest is not None:
                    self._unsent.update(each.key for each in messages)
                return Window(messages)
            if not await self._server.reach(SECONDS):
                raise SpoolUnavailable(f"Redis cannot be used: {self._server.why}")
            # A task of its own: a caller that goes away does not interrupt it.
            if self._fetching is None or self._fetching.done():
                self._fetching = asyncio.get_running_loop().create_task(self._fetch(count, max_bytes))
            await asyncio.wait((self._fetching,))
        return Window(())

    async def _fetch(self, max_count: int, max_bytes: int) -> None:
        count = max(1, min(max_count, CHUNK, max(max_bytes, _READ_BYTES) // MAX_MESSAGE_BYTES))
        try:
            if not self.is_used:
                await self.connected()
            if await self.fetcher.take_over(count):
                return
            await self.fetcher.read_new(count)
            self._is_refused = False
        except Unreachable:
            pass
        except ResponseError as refusal:
            await self._rest("Redis refused to give messages out: %s", refusal)
        except Exception as error:
            await self._rest("Reading from Redis failed and is tried again.\n%s", stack_of(error))

    async def _rest(self, text: str, reason: object) -> None:
        """Pause before the next read; the log says why, once until one has worked again."""
        if not self._is_refused:
            _log.warning(text, reason)
        self._is_refused = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_RETRY):
                await self._closing.wait()

    # -- sending

    async def sending(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        """As the protocol says; waits for the pace, and for a server out of reach as long as the holds last."""
        self._leave_unsent(keys)
        return await self.renewals.note_attempt(keys, attempt)

    # -- what has ended

    async def settle(self, keys: Sequence[int], result: BatchResult, answer: str) -> None:
        """Record it; returns also if the server is out of reach, and then it is recorded later."""
        self._leave_unsent(keys)
        entry_ids = self.holds.entry_ids(keys)
        self.holds.end(keys)
        self._changed()
        await self.endings.add(entry_ids, result, answer)

    def _leave_unsent(self, keys: Sequence[int]) -> None:
        if self._unsent:
            self._unsent.difference_update(keys)
            self._may_go_on.set()

    # -- the end

    async def aclose(self) -> None:
        """Stop reading, record what has ended, give back what is held, and remove the consumer."""
        self._closing.set()
        self._may_go_on.set()
        await self.renewals.aclose()
        if self._fetching is not None:
            await asyncio.wait((self._fetching,))
        await self.endings.record()
        if unrecorded := self.endings.unrecorded():
            _log.warning(
                "Redis cannot be used at the close; messages that have ended are sent again: %d.", len(unrecorded)
            )
        if not (self.is_used and self._server.up.is_set()):
            return
        with suppress(Unreachable, ResponseError):
            # By what the server knows: a reply that was lost may have given entries to this process, too.
            while held := [each.entry_id for each in await self._group.held()]:
                if not await self._group.give_back(held):
                    break
            self.holds.end_all_but(())
            self.fetcher.clear()
            await self._group.leave()
