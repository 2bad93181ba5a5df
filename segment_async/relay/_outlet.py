"""The outlet of one process: what it reads or takes over, keeps by renewing, and settles or gives back.

    read ─► entries no relay had, and those of relays that are gone ─► held ─► sending ─► settle ─► Endings
                                                       renewed every quarter of a lease

Reading is also what looks for abandoned entries, so that a relay takes no more over than its memory has room for. When
the server is out of reach nothing is sent: an attempt that is not noted could not be told from none.

This file knows the group's commands; it lives on the loop of the spool's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import ResponseError

from segment_async._exceptions import SpoolUnavailable, stack_of
from segment_async._outcome import BatchResult
from segment_async.messages import MAX_MESSAGE_BYTES
from segment_async.spool._protocol import StoredMessage, Window

from ._endings import Endings
from ._entries import UNKNOWN, Entry, Fields, entry_of, order
from ._group import CHUNK, SECONDS, Group, GroupSetup
from ._holds import RENEW_AFTER, Holds
from ._pace import Pace
from ._server import Server, Unreachable

_log = logging.getLogger("segment_async")

# Seconds that one command waits for new entries, and so the longest that a close waits for it.
_BLOCK: Final = 0.5
# Seconds until something that was refused is tried again.
_RETRY: Final = 0.5
# Bytes that may be read at once although the window has less room: the rest waits here.
_READ_BYTES: Final = 8 * 2**20


class Outlet:
    """Attributes:
    holds: the entries that this process holds.
    claimed: entries that were taken over from other processes.
    unknown: entries that this version could not read.
    lost: holds that ended before their entries did.
    taken: entries that were ever held here.
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
        self.claimed = self.unknown = self.lost = self.taken = 0
        self.endings = endings
        self.is_used = False
        self._server = server
        self._group = group
        self._setup = setup
        self._lease = lease
        self._pace = pace
        self._now = now
        self._changed = changed
        # Messages that are held and were not given out yet.
        self._buffer: deque[StoredMessage] = deque()
        # The last read, and what was given out last, with the number of its read.
        self._reading = 0
        self._given: tuple[int, list[StoredMessage]] | None = None
        self._next_look = float("-inf")
        # The last read was refused, and that was logged.
        self._is_refused = False
        self._closing = asyncio.Event()
        # Exchanges under way that would renew holds.
        self._renewing = 0
        self._settled = asyncio.Event()
        self._fetching: asyncio.Task[None] | None = None

    async def connected(self) -> None:
        """The server was reached, again or for the first time: find out what it still knows."""
        await self._setup.note_run(self._server.run)
        if len(self.holds):
            known = {each.entry_id for each in await self._group.held()}
            self._lose(self.holds.end_all_but(known))
        self.is_used = True

    # -- reading

    async def read(self, number: int, max_count: int, max_bytes: int, received: int) -> Window:
        """As the protocol says. Reads are numbered; `received` is the last one whose window the caller got.

        A new one means that the caller of an earlier one is gone.
        """
        self._reading = number
        if self._given is not None and self._given[0] > received:
            self._buffer.extendleft(reversed(self._given[1]))
        self._given = None
        while self._reading == number:
            if self._closing.is_set():
                raise SpoolUnavailable("the spool is closed")
            if messages := self._give_out(max_count, max_bytes):
                self._given = number, messages
                return Window(messages)
            if not await self._server.reach(SECONDS):
                raise SpoolUnavailable(f"Redis cannot be used: {self._server.why}")
            # A task of its own: a caller that goes away does not interrupt it.
            if self._fetching is None or self._fetching.done():
                self._fetching = asyncio.get_running_loop().create_task(self._fetch(max_count, max_bytes))
            await asyncio.wait((self._fetching,))
        return Window(())

    def _give_out(self, max_count: int, max_bytes: int) -> list[StoredMessage]:
        given: list[StoredMessage] = []
        size = 0
        while self._buffer and len(given) < max_count:
            message = self._buffer[0]
            size += len(message.body)
            if given and size > max_bytes:
                break
            self._buffer.popleft()
            if message.key in self.holds:
                given.append(message)
        return given

    async def _fetch(self, max_count: int, max_bytes: int) -> None:
        count = max(1, min(max_count, CHUNK, max(max_bytes, _READ_BYTES) // MAX_MESSAGE_BYTES))
        try:
            if not self.is_used:
                await self.connected()
            if self._now() >= self._next_look and await self._take_over(count):
                return
            since = self._now()
            await self._take([(each, 1) for each in await self._group.read_new(count, _BLOCK)], since)
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
        await self._pause(_RETRY)

    async def _take_over(self, count: int) -> bool:
        """Whether there were entries whose relays are gone; if not, the next look is a quarter of a lease away."""
        since = self._now()
        abandoned = await self._group.abandoned(count)
        if abandoned:
            # What this process holds is renewed soon; what has ended here is recorded soon.
            ended = set(self.endings.unrecorded())
            abandoned = [each for each in abandoned if each.entry_id not in ended]
            abandoned = [each for each in abandoned if not self.holds.is_held(each.entry_id)]
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

    async def _take(self, entries: Sequence[tuple[Fields, int]], since: float) -> int:
        unknown: list[bytes] = []
        count = 0
        for (entry_id, fields), deliveries in entries:
            entry = entry_of(entry_id, fields)
            if entry is None:
                unknown.append(entry_id)
                continue
            count += 1
            key = self.holds.take(entry_id, since)
            self._buffer.append(StoredMessage(key, entry.message_id, entry.body, self._attempts(entry, deliveries)))
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

    # -- sending

    async def sending(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        """Note an attempt; waits for the pace, and for a server out of reach as long as the holds last."""
        is_paced, since = self._pace is None, self._now()
        valid: dict[bytes, int] = {}
        while not self._closing.is_set() and (valid := self.holds.valid(keys)):
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
                _log.warning("Redis refused to note an attempt; another relay sends the messages: %s", refusal)
                held = set[bytes]()
            self.holds.renew(held, since)
            valid = {entry_id: key for entry_id, key in valid.items() if entry_id in held}
            break
        ended = set(keys).difference(() if self._closing.is_set() else valid.values())
        self._lose(len(ended))
        self.holds.end(ended)
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

    def _lose(self, count: int) -> None:
        if count and not self._closing.is_set():
            self.lost += count
            _log.warning("Holds on messages have ended, which other relays send now: %d.", count)

    async def keep_holds(self) -> None:
        """Renew holds in time, for ever, and give up those that could not be renewed."""
        while not self._closing.is_set():
            await self._pause(RENEW_AFTER * self._lease / 3)
            self._lose(self.holds.end_expired())
            # What has ended and cannot be recorded is not sent by another relay meanwhile.
            due = [*self.holds.due(), *self.endings.unrecorded()]
            if not due or not self._server.up.is_set() or self._closing.is_set():
                continue
            since = self._now()
            with suppress(Unreachable, ResponseError):
                held = await self._renewed(self._group.renew(due))
                self.holds.renew(held, since)
                self._lose(self.holds.end_entries(set(due) - held))
                self._changed()

    # -- what has ended

    async def settle(self, keys: Sequence[int], result: BatchResult, answer: str) -> None:
        """Record it; returns also if the server is out of reach, and then it is recorded later."""
        entry_ids = self.holds.entry_ids(keys)
        self.holds.end(keys)
        self._changed()
        await self.endings.add(entry_ids, result, answer)

    # -- the end

    async def aclose(self) -> None:
        """Stop reading, record what has ended, give back what is held, and remove the consumer."""
        self._closing.set()
        while self._renewing:
            self._settled.clear()
            await self._settled.wait()
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
            self._buffer.clear()
            await self._group.leave()
