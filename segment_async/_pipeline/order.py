"""The order in which messages are accepted: a place in it is a number, and a flush waits for all places before one.

Every change is made with the queue's lock held; the looks here take it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from threading import RLock

from .accounts import Accounts
from .backlog import Backlog
from .delivery import Delivery


class Order:
    """Attributes:
    read_count: messages that were ever read, or that a spool lost: the place of the next one.
    put_count: with a spool: messages that were ever put, to be stored in this order.
    recovered: with a spool: messages that earlier processes left, as far as these are counted; they may be read before
        older ones.
    is_over: with a spool: the client is closing, and nothing is read any more. What is on disk only is kept.
    """

    # fmt: off
    __slots__ = (
        "_accounts", "_backlog", "_lock", "_ready", "_unstored", "is_over", "put_count", "read_count", "recovered",
    )
    # fmt: on

    def __init__(
        self,
        lock: RLock,
        accounts: Accounts,
        backlog: Backlog,
        ready: deque[Delivery],
        unstored: Sequence[deque[Delivery]] = (),
    ) -> None:
        self.read_count = self.put_count = self.recovered = 0
        self.is_over = False
        self._lock = lock
        self._accounts = accounts
        self._backlog = backlog
        # Messages in memory that are in no batch yet; with a spool, those that it has not stored wait by themselves.
        self._ready = ready
        self._unstored = unstored

    def place_to_reach(self) -> int:
        """The place after all messages that are accepted now.

        With a spool, it moves on by what is recovered meanwhile, which may be read first. A message that is not stored
        yet may end as it is, with no place: a flush waits for these first, and then for the `stored_place`.
        """
        with self._lock:
            return self.stored_place() + self._count_unstored()

    def stored_place(self) -> int:
        """As `place_to_reach`, but for messages that a spool has not stored yet."""
        with self._lock:
            opened = self._backlog.open
            # An exception may have come after the messages moved, and before they were counted as read.
            read = self.read_count if opened is None else max(self.read_count, opened.stop)
            return read + len(self._ready) + self._accounts.spooled - self.recovered

    def are_stored(self, put_count: int) -> bool:
        """Whether none of the first messages that were put waits to be stored."""
        with self._lock:
            return self.put_count - self._count_unstored() >= put_count

    def _count_unstored(self) -> int:
        return sum(map(len, self._unstored))

    def left(self, place: int) -> int:
        """Messages before this place that have no outcome yet."""
        with self._lock:
            place += self.recovered
            unread = 0 if self.is_over else max(0, place - self.read_count)
            return self._backlog.left(place) + unread

    def reached(self) -> int:
        """The last place before which there are none."""
        with self._lock:
            last = sys.maxsize if self.is_over else self.read_count
            return min((batch.start for batch in self._backlog.batches()), default=last) - self.recovered

    def note_recovered(self, recovered: int) -> None:
        """So many messages were left by earlier processes, as far as that is known: they are pending. The lock is held."""
        accounts, backlog = self._accounts, self._backlog
        # What was said earlier may come here later.
        new = max(0, recovered - self.recovered)
        # What a flush waits for may be read after these, or it waits until these are known.
        flush_before = backlog.flush_before + (new if backlog.flush_before >= self.read_count else 0)
        # No call in between, as in the accounts themselves.
        self.recovered, accounts.recovered, accounts.spooled, backlog.flush_before = (
            self.recovered + new,
            accounts.recovered + new,
            accounts.spooled + new,
            flush_before,
        )
