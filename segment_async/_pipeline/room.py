"""Callers that wait for room in the queue: first come, first served, and no longer than the policy allows.

They are woken when there is room for them and take it themselves once they run; meanwhile no other call overtakes them.
Those whose loop does not run any more are woken as well and hold nothing: their loop may be closed, and if it runs again
they come back.
It is called with the queue's lock held.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from itertools import islice
from typing import Final

from segment_async._lifecycle.waiting import MOMENT
from segment_async.messages import MAX_MESSAGE_BYTES

from .accounts import Accounts
from .clock import LoopClock

# Seconds after the limit at which a waiter finds that its loop stood still.
_LATE: Final = 0.1
# How many waiters on other loops are woken at once. The next ones are woken when one of these goes.
_OTHERS_AT_ONCE: Final = 100


class Waiter:
    """A caller that waits.

    Attributes:
        paced: it shares its loop with the consumer, and waits also while too many messages are unread.
        woken: there was room for it when it was last woken.
        has_limit: its time is limited; one that found room and only waits for messages to be read has no limit.
    """

    __slots__ = ("future", "has_limit", "paced", "size", "woken")

    def __init__(self, size: int, paced: bool) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.size = size
        self.paced = paced
        self.woken = False
        self.has_limit = False

    @property
    def is_left(self) -> bool:
        """Whether its loop has ended or stands: no room is kept for it."""
        return not self.future.get_loop().is_running()

    def wait_again(self, has_limit: bool) -> None:
        self.woken = False
        self.has_limit = has_limit
        if self.future.done():
            self.future = asyncio.get_running_loop().create_future()


class Room:
    """Attributes:
    timeout: seconds that a full queue may hold callers up; `None`: as long as it takes.
    waiters: in the order in which they came.
    """

    __slots__ = ("_accounts", "_clock", "_full_since", "_is_extended", "timeout", "waiters")

    def __init__(self, accounts: Accounts, clock: LoopClock, timeout: float | None) -> None:
        # Thousands may wait, and each may leave from anywhere.
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._accounts = accounts
        self._clock = clock
        self.timeout = timeout
        # The clock's reading when the queue became full; `None` once there was room again.
        self._full_since: float | None = None
        self._is_extended = False

    @property
    def is_full(self) -> bool:
        """No room for the next message: what waits in batches should leave now."""
        return self._full_since is not None or self._accounts.pending >= self._accounts.max_messages

    @property
    def _places(self) -> int:
        return self._accounts.max_messages - self._accounts.pending

    @property
    def _bytes(self) -> int:
        return self._accounts.max_bytes - self._accounts.pending_bytes

    def note_full(self) -> None:
        if self._full_since is None:
            self._full_since = self._clock.now()

    def note_room(self) -> None:
        self._full_since = None
        self._is_extended = False

    def note_late(self, late: float) -> None:
        """A waiter is so many seconds past its limit: while the loop stood still, nothing could leave the queue. Once,
        callers get up to as much time again.
        """
        if late > _LATE and not self._is_extended and self.timeout is not None and self.time_left() == 0.0:
            self._is_extended = True
            self._full_since = self._clock.now() - self.timeout + min(late, self.timeout)

    def time_left(self) -> float | None:
        """Seconds that a full queue may still hold callers up; `None`: as long as it takes."""
        # Read only once: another thread may make room in between.
        since = self._full_since
        if self.timeout is None or since is None:
            return None
        left = since + self.timeout - self._clock.now()
        return left if left > MOMENT else 0.0

    def is_for_all(self, size: int) -> bool:
        """Whether a message of so many bytes takes no waiter's room: not that of one that was woken and is about to
        take it, nor that of the first that was not, unless it only waits for messages to be read.
        """
        places, room, count = self._places, self._bytes, len(self.waiters)
        if places > count and room >= count * MAX_MESSAGE_BYTES + size:
            # Room for all of them, whatever their sizes.
            return True
        for waiter in self.waiters:
            if waiter.is_left:
                continue
            if places <= 0 or room < waiter.size:
                return False
            if not waiter.woken:
                break
            places -= 1
            room -= waiter.size
        return places > 0 and room >= size

    def is_for_newcomer(self, size: int) -> bool:
        """Whether a caller that comes now may go before those that were woken and are about to go."""
        return not self.waiters or (not self.last_waits() and self.is_for_all(size))

    def first_waits(self) -> bool:
        """Whether the first of the waiters was not woken."""
        return bool(self.waiters) and not next(iter(self.waiters)).woken

    def last_waits(self) -> bool:
        """Whether the last of the waiters was not woken: then none that comes after it is."""
        return bool(self.waiters) and not next(reversed(self.waiters)).woken

    def to_wake(self, readable: int) -> list[asyncio.Future[None]]:
        """The waiters that there is room for, and at most `readable` paced ones.

        Thousands may wait: a look must not pass all of them.
        """
        places, room = self._places, self._bytes
        most = min(max(places, 0), readable + _OTHERS_AT_ONCE) + 1
        looked_at = list(islice(self.waiters, most))
        woken: list[asyncio.Future[None]] = []
        while left := [waiter for waiter in looked_at if waiter.is_left]:
            for waiter in left:
                self.waiters.pop(waiter, None)
                waiter.woken = True
                woken.append(waiter.future)
            looked_at = list(islice(self.waiters, most))
        for waiter in looked_at:
            places -= 1
            room -= waiter.size
            if places < 0 or room < 0:
                if not waiter.has_limit:
                    # It found room before; its time counts from now on.
                    woken.append(waiter.future)
                break
            readable -= waiter.paced
            if waiter.paced and readable < 0:
                break
            if not waiter.woken:
                waiter.woken = True
                woken.append(waiter.future)
        return woken
