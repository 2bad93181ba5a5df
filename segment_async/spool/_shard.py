"""One shard: messages in the order of their acceptance, until each has its outcome.

Used by one thread at a time. This file knows no threads, no loops, no files, no other shards.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult, Status

from . import _tables as tables
from ._backlog import Backlog
from ._intake import Intake, NewMessage
from ._ledger import Attempts, Ledger, Range, key_of, position_of, ranges
from ._protocol import Appended, DroppedMessage, StoredMessage
from ._store import DiskFull, Store
from ._tables import Damaged, Row

# A file is written anew when nearly nothing of it is in use: then it costs next to nothing.
_LITTLE: Final = 2**20
_MUCH: Final = 2**24
_TOO_OLD: Final = BatchResult(Status.DROPPED, "too_old")
_DAMAGED: Final = DroppedMessage("", b"", "damaged")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a shard may keep: bytes of JSON, milliseconds; `now` is the wall clock in milliseconds."""

    max_bytes: int
    max_age: int | None
    now: Callable[[], int]


class Note(NamedTuple):
    """Something to record about held messages: the number of an attempt, or how they ended."""

    where: list[Range]
    what: int | BatchResult


class Shard:
    """Attributes:
    slot: its number among the shards of a path.
    ledger: as of the last commit.
    recovered: messages that were there when it was opened.
    unrecorded: notes that the disk has not taken; they go first with every write.
    dropped: messages that the shard gave up by itself, for whoever reads to take away.
    """

    def __init__(self, slot: int, store: Store, limits: Limits) -> None:
        self.slot = slot
        self.store = store
        self.ledger = store.query(tables.load_ledger)
        self.recovered = self.ledger.pending
        self.unrecorded: list[Note] = []
        self.dropped: list[DroppedMessage] = []
        self._limits = limits
        self._backlog = Backlog()
        # Bytes and id of each message that was read and is not settled, by its position.
        self._held: dict[int, tuple[int, str]] = {}
        # Appends of which nobody knows whether they were committed: to be taken back at the next chance.
        self._in_doubt: list[tuple[Range, list[bytes]]] = []
        # What was noted by processes that are gone.
        self._attempts: list[Attempts] = []
        self._openings = store.openings
        self._lost = self.ledger.lost
        self._outside: int | None = None
        # What was erased before: nobody here waits for it.
        store.query(tables.take_purged)

    # -- in

    @property
    def has_work(self) -> bool:
        """Something to write even if no message comes."""
        return bool(self.unrecorded or self._in_doubt)

    def write(self, messages: Sequence[NewMessage] = ()) -> list[Appended]:
        """Record the notes and take the messages, in one transaction.

        Raises:
            DiskFull: nothing was taken; notes alone may still be recorded, from the reserve.
            SpoolUnavailable: nothing was taken.
        """
        notes = self.unrecorded
        if not messages and not self.has_work:
            return []
        if messages and not self.store.keep_reserve():
            raise DiskFull("the disk is full")
        intakes: list[Intake] = []

        def work(connection: sqlite3.Connection, ledger: Ledger) -> tuple[Ledger, list[Appended]]:
            self._return_given_up(intakes)
            ledger = self._take_back(connection, ledger)
            for note in notes:
                ledger = self._record(connection, ledger, note)
            intake = Intake(connection, ledger, self._backlog, self._limits.max_bytes)
            intakes.append(intake)
            results = intake.take(messages, self._limits.now())
            if intake.rows:
                self._in_doubt.append(((intake.base + 1, intake.ledger.position), [row[1] for row in intake.rows]))
            return intake.ledger, results

        try:
            self.ledger, results = self.store.transact(work)
        except BaseException:
            self._return_given_up(intakes)
            raise
        self._in_doubt.clear()
        self.unrecorded = []
        self._forget_held(notes)
        self._backlog.follow(intakes[-1].base, intakes[-1].rows, self.ledger.position)
        return results

    def _return_given_up(self, intakes: list[Intake]) -> None:
        for intake in intakes:
            self._backlog.put_back(intake.given_up)
        intakes.clear()

    def _take_back(self, connection: sqlite3.Connection, ledger: Ledger) -> Ledger:
        for where, message_ids in self._in_doubt:
            count, size = tables.remove_by_id(connection, where, message_ids)
            ledger = ledger.after(accepted=-count, pending_bytes=-size)
        return ledger

    def _record(self, connection: sqlite3.Connection, ledger: Ledger, note: Note) -> Ledger:
        for where in note.where:
            if isinstance(note.what, int):
                tables.store_attempts(connection, where, note.what, self._limits.now())
                continue
            if note.what.status is Status.FAILED:
                count, size = tables.bury(connection, where, note.what, self._limits.now())
                ledger = ledger.after(dead=count, dead_bytes=size)
            ledger = ledger.ended(*tables.remove_messages(connection, where), note.what)
        return ledger

    def _forget_held(self, notes: Sequence[Note]) -> None:
        for note in notes:
            if isinstance(note.what, BatchResult):
                for position in _positions(note):
                    self._held.pop(position, None)

    # -- out

    def read(self, max_count: int, max_bytes: int) -> list[StoredMessage]:
        """Hold the next messages; none where there is none.

        Raises:
            SpoolUnavailable: they cannot be read.
        """
        taken: list[Row] = []

        def work(connection: sqlite3.Connection) -> None:
            if self._openings != self.store.openings:
                taken.clear()
                self._begin_again(connection)
            self._look_outside(connection)
            size = sum(len(row[3]) for row in taken)
            while len(taken) < max_count and (row := self._backlog.next(connection, self.ledger.position)) is not None:
                size += len(row[3])
                if taken and size > max_bytes:
                    self._backlog.put_back([row])
                    return
                taken.append(row)
            if not taken:
                self._check_books(connection)

        try:
            self.store.query(work)
        except BaseException:
            self._backlog.put_back(taken)
            raise
        return [self._hold(row) for row in taken if not self._is_too_old(row)]

    def give_back(self, messages: Sequence[StoredMessage]) -> None:
        """Hold them no longer; they are the next ones to be read."""
        now = self._limits.now()
        rows = [(position_of(each.key), each.message_id.encode(), now, each.body) for each in messages]
        for position, *_ in rows:
            self._held.pop(position, None)
        self._backlog.put_back(rows)

    def let_go(self, messages: Sequence[StoredMessage]) -> None:
        """They are another shard's now."""

        def work(connection: sqlite3.Connection, ledger: Ledger) -> tuple[Ledger, None]:
            for each in messages:
                position = position_of(each.key)
                count, size = tables.remove_messages(connection, (position, position))
                ledger = ledger.after(accepted=-count, pending_bytes=-size)
            return ledger, None

        self.ledger, _ = self.store.transact(work)
        for each in messages:
            self._held.pop(position_of(each.key), None)

    def _hold(self, row: Row) -> StoredMessage:
        position, message_id, _, body = row
        name = message_id.decode()
        self._held[position] = len(body), name
        noted = [each for each in self._attempts if each.first <= position <= each.last]
        if not noted:
            return StoredMessage(key_of(self.slot, position), name, body)
        attempts = max(each.number for each in noted)
        since = min(each.since for each in noted) / 1000
        return StoredMessage(key_of(self.slot, position), name, body, attempts, since)

    def _is_too_old(self, row: Row) -> bool:
        position, message_id, accepted_at, body = row
        if self._limits.max_age is None or accepted_at >= self._limits.now() - self._limits.max_age:
            return False
        name = message_id.decode()
        self._held[position] = len(body), name
        self.unrecorded.append(Note([(position, position)], _TOO_OLD))
        self.dropped.append(DroppedMessage(name, body, "too_old"))
        return True

    def _begin_again(self, connection: sqlite3.Connection) -> None:
        """The store failed: it may have hidden something, and something may be lost."""
        self._backlog.begin_again(self._held)
        ledger = tables.load_ledger(connection)
        held = sum(tables.count_messages(connection, where) for where in ranges(self._held))
        # What is held is in memory, and its fate is told by whoever holds it.
        lost = ledger.lost - self._lost - (len(self._held) - held)
        self.dropped.extend(itertools.repeat(_DAMAGED, max(0, lost)))
        self._lost = ledger.lost
        self._openings, self._outside = self.store.openings, None

    def _look_outside(self, connection: sqlite3.Connection) -> None:
        """Somebody may have put dead letters back in line, or erased messages; or the file was mended."""
        now = tables.outside_version(connection)
        if now == self._outside:
            return
        self.ledger = tables.load_ledger(connection)
        self._attempts = tables.load_attempts(connection)
        if purged := tables.take_purged(connection):
            self._backlog.forget({message_id.encode() for message_id in purged})
            # What is held is on its way, and how it ends is told by whoever holds it.
            held = {message_id for _, message_id in self._held.values()}
            self.dropped.extend(DroppedMessage(each, b"", "purged") for each in purged if each not in held)
        self._outside = now

    def _check_books(self, connection: sqlite3.Connection) -> None:
        """All is read: then what the ledger calls pending is held, or was changed from outside."""
        self._backlog.skip_to(self.ledger.position)
        if self.ledger.pending == len(self._held):
            return
        ledger, count, unread = tables.load_ledger_and_counts(connection, self._backlog.cursor)
        if ledger.pending != count:
            raise Damaged(f"{ledger.pending} messages are pending, {count} are there")
        # A page whose order is damaged may hide messages from whoever looks for the next one.
        if ledger.pending > len(self._held) + unread:
            raise Damaged(f"{ledger.pending} messages are pending, {len(self._held) + unread} can be read")

    # -- books

    def give_room_back(self) -> None:
        """To the disk, what a long outage took and nothing is in any more."""
        if self.ledger.pending_bytes + self.ledger.dead_bytes > _LITTLE:
            return
        with contextlib.suppress(SpoolUnavailable):
            if self.store.query(tables.free_bytes) > _MUCH:
                self.store.query(tables.shrink)

    def counted(self) -> Ledger:
        """The ledger with what is not recorded yet."""
        ledger = self.ledger
        for note in self.unrecorded:
            if isinstance(note.what, BatchResult):
                sizes = [self._held[position][0] for position in _positions(note) if position in self._held]
                ledger = ledger.ended(len(sizes), sum(sizes), note.what)
        return ledger

    @property
    def is_done(self) -> bool:
        """Nothing pending, nothing to write."""
        return not self.ledger.pending and not self.has_work


def _positions(note: Note) -> list[int]:
    return [position for first, last in note.where for position in range(first, last + 1)]
