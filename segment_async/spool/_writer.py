"""What a turn of the writer does: groups of steps, each in one transaction of the shard that it concerns.

    Writer   the shards that this process holds: its own, and those of processes that died
    Shard    the messages of one file, in order of acceptance, and which of them this process holds

A *position* is a message's place in its shard, never used twice. A *key* is a position and the number of the shard.
Within a shard, messages up to the *cursor* are held or gone; the others are only on disk:

    ┌ gone ┐┌──── held ────┐┌──── on disk only ────┐
    └──────┘└──────────────┘└──────────────────────┘
                           cursor          counters.position

The first process on a path uses the path itself; each further one takes the lowest number that no process holds, with
everything in it. What dead processes left under other numbers is adopted once there is nothing of its own to read, and
from time to time, so that processes that start together find their own first.

Used by one thread at a time. This file knows no threads, loops or callers.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult, Counts, Status

from . import _files as files
from . import _tables as tables
from ._database import Database, Options, is_busy, is_others, other_owner
from ._files import Lock, Place, open_files
from ._protocol import (
    Appended,
    AppendResult,
    DroppedMessage,
    SpoolStatistics,
    StoredMessage,
    TryLater,
    Window,
)
from ._tables import Counters, Damaged, Head, Row

_POSITION_BITS: Final = 44
# Seconds until what the disk refused is tried again: messages that callers keep in memory, and notes.
_TRY_LATER: Final = 0.5
_QUIET_SECONDS: Final = 60.0
# Seconds that a turn spends on opening what dead processes left: callers wait for its end.
_ADOPT_SECONDS: Final = 0.05
_Sized = TypeVar("_Sized", Head, Row)
_FULL: Final = Appended("full")
_MADE_ROOM: Final = BatchResult(Status.DROPPED, "queue_full")
_TOO_OLD: Final = BatchResult(Status.DROPPED, "too_old")
_DAMAGED: Final = DroppedMessage("", b"", "damaged")

Messages = Sequence[tuple[bytes, bytes]]
"""Messages to store: their ids and bodies."""


@dataclass
class Append:
    """`known`: answers to messages whose ids are pending in other shards, by id."""

    messages: Messages
    hold: int = 0
    make_room: bool = False
    known: dict[bytes, Appended] = field(default_factory=dict[bytes, Appended])

    @cached_property
    def size(self) -> int:
        return sum(len(body) for _, body in self.messages)


class Note(NamedTuple):
    """What to record about messages: the number of an attempt, or how they ended. In a shard, keys are positions."""

    keys: Sequence[int]
    what: int | BatchResult
    answer: str = ""


Step = Append | Note


def key_of(slot: int, position: int) -> int:
    return slot << _POSITION_BITS | position


def slot_of(key: int) -> int:
    return key >> _POSITION_BITS


def position_of(key: int) -> int:
    return key & (1 << _POSITION_BITS) - 1


# -- one shard


@dataclass
class _Noted:
    """What the first `notes` that the disk has not taken say of messages that are held."""

    counters: Counters = field(default_factory=Counters)
    ended: set[int] = field(default_factory=set[int])
    notes: int = 0


class Shard:
    """The messages of one file.

    Attributes:
        held: the messages that this process holds, and their sizes, by position.
        unrecorded: notes that the disk has not taken; they go first with the next transaction.
        dropped: where it puts messages that it gave up by itself, for a reader to take.
        doubts: transactions of which it is not known whether they were committed: their messages were refused.
        revived: dead letters that another process put back.
    """

    def __init__(self, slot: int, database: Database, options: Options, dropped: list[DroppedMessage]) -> None:
        self.slot = slot
        self.database = database
        self.options = options
        self.held: dict[int, int] = {}
        self.unrecorded: list[Note] = []
        self.dropped = dropped
        self.doubts: list[_Change] = []
        self.revived = 0
        self._noted = _Noted()
        # As each try takes all notes, notes alone are tried again after a while.
        self._next_try = 0.0
        # Positions of messages that another process erased, and that were reported.
        self._purged: set[int] = set()
        self._cursor = 0
        # The counters that what is known here belongs to.
        self._known: Counters | None = None
        self.look()
        # What was lost when it was opened.
        self.dropped += itertools.repeat(_DAMAGED, database.file.lost)

    @property
    def counters(self) -> Counters:
        return self.database.counters

    @property
    def unread(self) -> int:
        """How many pending messages this process does not hold."""
        return self.counters.pending - len(self.held)

    @property
    def has_work(self) -> bool:
        return bool(self.unrecorded or self.doubts)

    @property
    def _is_known(self) -> bool:
        """Nothing was changed by others since the last look."""
        return self._known is not None and self._known.revision == self.counters.revision

    def commit(self, steps: Sequence[Step], others: Sequence[Shard], *, may_hold: bool) -> list[AppendResult]:
        """Take the steps, in their order and in one transaction; returns the answers to the appends.

        If it raises, no message was taken; the notes are kept, and tried again with the next transaction.
        """
        all_steps = (*self.unrecorded, *steps)
        self.unrecorded += [step for step in steps if isinstance(step, Note)]
        appends = [step for step in steps if isinstance(step, Append)]
        for other, append in itertools.product(others, appends):
            append.known |= other.database.read(other.find, append.messages)
        if not may_hold or any(other.unread for other in others):
            for append in appends:
                append.hold = 0
        if appends and len(all_steps) == 1 and not self.doubts:
            result = self._append_few(appends[0])
            if result is not None:
                return [result]
        now = self.options.monotonic()
        is_due = bool(self.unrecorded) and now >= self._next_try
        if steps and not appends and not is_due:
            return []
        if is_due:
            self._next_try = now + _TRY_LATER
        size = sum(append.size for append in appends) if appends else None
        try:
            done = self.database.transact(partial(self._take, all_steps), size)
        except SpoolUnavailable as refusal:
            # What was sent is recorded all the same, as room is kept for that. If others were writing all the time, it
            # would only wait for them once more.
            if appends and is_due and not is_busy(refusal.__cause__):
                with contextlib.suppress(SpoolUnavailable):
                    self._committed(self.database.transact(partial(self._take, tuple(self.unrecorded))))
            raise
        self._committed(done)
        return done.answers

    def _take(
        self, steps: Sequence[Step], connection: sqlite3.Connection, counters: Counters
    ) -> tuple[Counters, _Change]:
        self._sync(connection)
        change = _Change(self, counters)
        tables.remove(connection, "purged", list(self._purged))
        for doubt in self.doubts:
            change.take_back(connection, doubt)
        for step in steps:
            change.take(connection, step)
        if change.stored or change.dropped:
            self.doubts.append(change)
        return change.counters, change

    def _append_few(self, step: Append) -> AppendResult | None:
        """Take an ordinary append in one statement; `None`: it is not ordinary, and nothing was changed."""
        counters = self.counters
        planned = _Change(self, counters)
        is_few = 0 < len(step.messages) <= tables.FEW and step.size <= planned.room and not step.known
        if not is_few or not self._is_known or self._purged:
            return None
        result = AppendResult(planned.add(step.messages, step.hold))
        if not self.database.append(step.messages, counters, planned.counters, step.size, self.doubts, planned):
            return None
        self._committed(planned)
        return result

    def _committed(self, done: _Change) -> None:
        # Not those of the database, which an inspector of another thread may have changed by now.
        self._known = done.counters._replace(revision=done.counters.revision + 1)
        self.doubts.clear()
        self.unrecorded.clear()
        self._noted, self._next_try = _Noted(), 0.0
        self._purged.clear()
        self.held.update(done.held)
        for position in done.released:
            self.held.pop(position, None)
        self._cursor = max(self._cursor, *done.held, 0)
        self.dropped += done.dropped_in_doubt.values()

    def read(self, max_count: int, max_bytes: int) -> list[StoredMessage]:
        """Hold the next messages; none if there is none.

        Raises:
            SpoolUnavailable: they cannot be read.
        """
        if not self.unread and self._is_known:
            return []

        def work(connection: sqlite3.Connection) -> tuple[list[Row], dict[int, int]]:
            self._sync(connection)
            heads = self._next(connection, max_count, max_bytes)
            return tables.read_rows(connection, heads), tables.load_attempts(connection, [h.position for h in heads])

        rows, attempts = self.database.read(work)
        for row in rows:
            self.held[row.position] = row.size
            self._cursor = max(self._cursor, row.position)
        messages = [
            StoredMessage(
                key_of(self.slot, row.position), row.message_id.decode(), row.body, attempts.get(row.position, 0)
            )
            for row in rows
        ]
        if self.options.max_age is None:
            return messages
        oldest = self.database.clock.now() - self.options.max_age * 1000
        old = sum(1 for _ in itertools.takewhile(lambda row: row.accepted_at < oldest, rows))
        if old:
            self.dropped += [DroppedMessage(each.message_id, each.body, "too_old", each.key) for each in messages[:old]]
            # Whatever stands in the way, the next transaction takes the note, and the rest is read.
            with contextlib.suppress(Exception):
                self.commit([Note([row.position for row in rows[:old]], _TOO_OLD)], (), may_hold=False)
        return messages[old:]

    def _next(self, connection: sqlite3.Connection, max_count: int, max_bytes: int) -> list[Head]:
        heads: list[Head] = []
        size, kept = 0, self._kept_by_callers
        unheld = (head for head in self.unheld(connection) if head.position not in kept)
        for head in itertools.islice(unheld, max_count) if self.unread else ():
            size += head.size
            if heads and size > max_bytes:
                return heads
            heads.append(head)
        if self.unread and not heads and not kept:
            # A page that is out of order may hide messages from a search for the next one.
            raise Damaged(f"{self.counters.pending} messages are pending, {len(self.held)} can be read")
        return heads

    @property
    def _kept_by_callers(self) -> set[int]:
        """Where messages may be that were refused, and that their callers append again: read as well, they would come twice."""
        if not self.options.callers_keep:
            return set()
        stored = [part for doubt in self.doubts for part in doubt.stored]
        return {position for first, messages in stored for position in range(first, first + len(messages))}

    def unheld(self, connection: sqlite3.Connection) -> Iterator[Head]:
        """The messages that this process does not hold, oldest first."""
        cursor = self._cursor
        while heads := tables.read_heads(connection, cursor):
            yield from (head for head in heads if head.position not in self.held)
            cursor = heads[-1].position

    def release(self, position: int) -> bool:
        """Do not hold this message any longer; it is read again. `False`: it was erased meanwhile."""
        if self.held.pop(position, None) is None:
            return False
        self._cursor = min(self._cursor, position - 1)
        return True

    def find(self, connection: sqlite3.Connection, messages: Messages) -> dict[bytes, Appended]:
        """Answers to those of the messages whose ids are pending here, by id."""
        found = tables.find_ids(connection, [message_id for message_id, _ in messages])
        return {message_id: Appended("known", key_of(self.slot, position)) for message_id, position in found.items()}

    def noted(self) -> Counters:
        """What is not recorded yet, to be added to the counters."""
        noted = self._noted
        for note in self.unrecorded[noted.notes :]:
            if isinstance(note.what, BatchResult):
                # A message may have been settled twice: the first outcome counts.
                sizes = {p: self.held[p] for p in note.keys if p in self.held and p not in noted.ended}
                noted.ended.update(sizes)
                noted.counters = noted.counters.settled(len(sizes), sum(sizes.values()), note.what)
        noted.notes = len(self.unrecorded)
        return noted.counters

    def look(self) -> None:
        """Notice what an inspector, or a salvage, has changed."""
        self.database.read(self._sync)

    def _sync(self, connection: sqlite3.Connection) -> None:
        counters, known = self.counters, self._known
        if self._is_known:
            return
        purged = {p: mid for p, mid in tables.read_purged(connection).items() if p not in self._purged}
        there = tables.find_positions(connection, list(self.held))
        gone = [position for position in self.held if position not in there]
        if known is not None:
            # What is held is on its way, and its holder says how it ends.
            unheld = [each for each in purged.items() if each[0] not in self.held]
            self.dropped += [DroppedMessage(mid.decode(), b"", "purged", key_of(self.slot, p)) for p, mid in unheld]
            lost = counters.reasons.get("damaged", 0) - known.reasons.get("damaged", 0)
            self.dropped += itertools.repeat(_DAMAGED, lost - sum(position not in purged for position in gone))
            # They failed once, and have new positions.
            self.revived += max(0, min(known.failed - counters.failed, counters.position - known.position))
        for position in gone:
            del self.held[position]
        if gone:
            self._noted = _Noted()
        self._purged.update(purged)
        self._known, self._cursor = counters, 0


class _Change:
    """What changes in a shard; in memory it is applied once it is committed.

    Attributes:
        counters: as they will be. `answers`: to the appends.
        stored: the groups stored, by first position. `held`: messages that are held at once, with their sizes.
        released: positions that are not held any more.
        dropped: messages that made room, by position. `dropped_in_doubt`: those of transactions that were in doubt.
    """

    def __init__(self, shard: Shard, counters: Counters) -> None:
        self.shard = shard
        self.counters = counters
        self.answers: list[AppendResult] = []
        self.stored: list[tuple[int, Messages]] = []
        self.held: dict[int, int] = {}
        self.released: set[int] = set()
        self.dropped: dict[int, DroppedMessage] = {}
        self.dropped_in_doubt: dict[int, DroppedMessage] = {}

    @property
    def room(self) -> int:
        return self.shard.options.max_bytes - self.counters.pending_bytes - self.counters.dead_bytes

    def add(self, messages: Messages, hold: int) -> list[Appended]:
        """Count new messages, and hold the first of them unless an older one waits to be read."""
        first, count = self.counters.position + 1, len(messages)
        held = len(self.shard.held) + len(self.held) - len(self.released)
        hold = min(hold, count) if self.counters.pending <= held else 0
        sizes = [len(body) for _, body in messages]
        self.held.update(zip(range(first, first + hold), sizes, strict=False))
        self.stored.append((first, messages))
        self.counters = self.counters.plus(position=count, accepted=count, pending_bytes=sum(sizes))
        key = key_of(self.shard.slot, first)
        answers = [Appended("stored", each, True) for each in range(key, key + hold)]
        return answers + [Appended("stored", each) for each in range(key + hold, key + count)]

    # -- within a transaction

    def take_back(self, connection: sqlite3.Connection, doubt: _Change) -> None:
        """Remove messages that were refused because a commit failed, if they are there after all, and not on their way.

        Then they are counted as accepted. What an inspector has put back at their positions is not.
        """
        is_there = doubt.counters.accepted == self.counters.accepted
        refused = {mid: p for first, messages in doubt.stored for p, (mid, _) in enumerate(messages, first)}
        found = tables.find_ids(connection, list(refused))
        held = self.shard.held
        positions = [p for mid, p in found.items() if is_there and refused[mid] == p and p not in held]
        count, size = tables.remove_messages(connection, positions)
        self.counters = self.counters.plus(accepted=-count, pending_bytes=-size)
        there = tables.find_positions(connection, list(doubt.dropped))
        self.dropped_in_doubt.update(each for each in doubt.dropped.items() if each[0] not in there)

    def take(self, connection: sqlite3.Connection, step: Step) -> None:
        if isinstance(step, Note):
            self._record(connection, step)
            return
        # Nearly always all messages of a group are new and have room.
        has_room = step.size <= self.room and not step.known
        answers = self._store(connection, step.messages, step.hold) if has_room else None
        self.answers.append(self._append_each(connection, step) if answers is None else AppendResult(answers))

    # -- appends

    def _append_each(self, connection: sqlite3.Connection, step: Append) -> AppendResult:
        known = {**self.shard.find(connection, step.messages), **step.known}
        fresh: dict[bytes, bytes] = {}
        for message_id, body in step.messages:
            if message_id not in known and len(body) <= self.shard.options.max_bytes:
                fresh.setdefault(message_id, body)
        dropped_before = len(self.dropped)
        self._make_room(connection, sum(map(len, fresh.values())), at_any_price=step.make_room)
        room = self.room
        fitting: list[tuple[bytes, bytes]] = []
        for message_id, body in fresh.items():
            if len(body) <= room:
                room -= len(body)
                fitting.append((message_id, body))
        answers = self._store(connection, fitting, step.hold)
        if answers is None:
            raise Damaged("an id is pending that cannot be found")
        stored = {message_id: answer for (message_id, _), answer in zip(fitting, answers, strict=True)}
        known.update((message_id, Appended("known", answer.key)) for message_id, answer in stored.items())
        # The first message with an id is the stored one; further ones are known.
        result = [
            stored.pop(message_id) if message_id in stored else known.get(message_id, _FULL)
            for message_id, _ in step.messages
        ]
        return AppendResult(result, tuple(itertools.islice(self.dropped.values(), dropped_before, None)))

    def _store(self, connection: sqlite3.Connection, messages: Messages, hold: int) -> list[Appended] | None:
        """Store new messages; `None`: one is known."""
        first, count = self.counters.position + 1, len(messages)
        inserted = tables.insert_messages(connection, first, self.shard.database.clock.now(), messages)
        if inserted < count:
            tables.remove(connection, "messages", range(first, first + count))
            return None
        return self.add(messages, hold)

    def _make_room(self, connection: sqlite3.Connection, wanted: int, *, at_any_price: bool) -> None:
        """Dead letters go first: their outcome is known. Then, if the caller says so, the oldest that are not held."""
        while self.room < wanted and self.counters.dead:
            letters = _until(tables.read_dead(connection, 0, 100), wanted - self.room)
            if not letters:
                raise Damaged("dead letters are counted that are not there")
            tables.remove(connection, "dead", [letter.position for letter in letters])
            size = sum(letter.size for letter in letters)
            self.counters = self.counters.plus(dead=-len(letters), dead_bytes=-size)
        if self.room < wanted and at_any_price:
            unheld = (head for head in self.shard.unheld(connection) if head.position not in self.held)
            rows = tables.read_rows(connection, _until(unheld, wanted - self.room))
            count, size = tables.remove_messages(connection, [row.position for row in rows])
            self.counters = self.counters.settled(count, size, _MADE_ROOM)
            for row in rows:
                key = key_of(self.shard.slot, row.position)
                self.dropped[row.position] = DroppedMessage(row.message_id.decode(), row.body, "queue_full", key)

    # -- notes

    def _record(self, connection: sqlite3.Connection, note: Note) -> None:
        if isinstance(note.what, int):
            tables.store_attempts(connection, note.keys, note.what)
            return
        failed = note.what.status is Status.FAILED
        if failed:
            now = self.shard.database.clock.now()
            tables.move_to_dead_letters(connection, note.keys, note.what, note.answer, now)
        count, size = tables.remove_messages(connection, note.keys)
        self.counters = self.counters.settled(count, size, note.what)
        if failed:
            self.counters = self.counters.plus(dead=count, dead_bytes=size)
        self.released |= self.shard.held.keys() & note.keys


def _until(rows: Iterable[_Sized], wanted: int) -> list[_Sized]:
    """The first of them, until their sizes reach what is wanted."""
    taken: list[_Sized] = []
    for row in rows:
        taken.append(row)
        wanted -= row.size
        if wanted <= 0:
            break
    return taken


# -- all shards of a process


class Writer:
    """The shards of one spool that this process holds.

    Attributes:
        may_hold: what is appended may be held at once.
    """

    def __init__(self, base: Path, options: Options) -> None:
        self.may_hold = True
        self._base = base
        self._options = options
        self._own: Shard | None = None
        self._adopted: list[Shard] = []
        self._dropped: list[DroppedMessage] = []
        self._recovered = self._damages = 0
        self._is_read = False
        # Numbers of files that are to be looked at, whether a dead process left something there; whether all were once.
        self._unseen: list[int] = []
        self._has_looked = False
        # The counters of adopted shards that were empty and closed, by their numbers.
        self._given_back: dict[int, Counters] = {}
        # Stamps of shards that were found empty.
        self._empty: dict[int, object] = {}
        self._is_in_trouble = False
        self._next_warning: dict[str, float] = {}

    # -- in

    def commit(self, steps: Sequence[Step] = ()) -> list[AppendResult | TryLater | SpoolUnavailable]:
        """Take the steps as far as the disk does; returns the answers to the appends."""
        appends = [step for step in steps if isinstance(step, Append)]
        refusal = self._open_own() if appends else None
        results: list[AppendResult | TryLater | SpoolUnavailable] = []
        for shard in self._all():
            some = list(self._steps_of(shard, steps))
            if some or (shard.has_work and (appends or not steps)):
                results += self._commit(shard, some)
        if refusal is not None:
            results = [SpoolUnavailable(str(refusal)) for _ in appends]
        if appends:
            trouble = next((result for result in results if isinstance(result, SpoolUnavailable)), None)
            self._report_trouble(trouble)
            if trouble is not None and self._options.callers_keep:
                return [TryLater(_TRY_LATER) for _ in appends]
        return results

    def _steps_of(self, shard: Shard, steps: Sequence[Step]) -> Iterator[Step]:
        for step in steps:
            if isinstance(step, Note):
                if positions := [position_of(key) for key in step.keys if slot_of(key) == shard.slot]:
                    yield step._replace(keys=positions)
            elif shard is self._own:
                yield step

    def _commit(self, shard: Shard, steps: Sequence[Step]) -> Sequence[AppendResult | SpoolUnavailable]:
        others = [other for other in self._all() if other is not shard and other.counters.pending]
        try:
            return shard.commit(steps, others, may_hold=self.may_hold)
        except Exception as fault:
            why_not = str(fault)
            if not isinstance(fault, SpoolUnavailable):
                self._options.log("The spool failed, and refuses what it was asked for: %s", self._base, fault=fault)
                why_not = f"the spool failed: {type(fault).__name__}"
            if shard.unrecorded:
                self._warn("unrecorded", f"The spool cannot record what was sent: {why_not}; trying again")
            appends = [step for step in steps if isinstance(step, Append)]
            return [SpoolUnavailable(why_not, maybe_stored=bool(shard.doubts)) for _ in appends]

    def _report_trouble(self, refusal: SpoolUnavailable | None) -> None:
        if refusal is not None:
            instead = "kept in memory" if self._options.callers_keep else "refused"
            self._warn("trouble", f"The spool cannot be written: {refusal}; new messages are {instead} until it can")
        elif self._is_in_trouble:
            self._warn("end of trouble", f"The spool can be written again: {self._base}")
        self._is_in_trouble = refusal is not None

    def _warn(self, kind: str, text: str) -> None:
        """At most once a minute of each kind."""
        now = self._options.monotonic()
        if now >= self._next_warning.get(kind, now):
            self._next_warning[kind] = now + _QUIET_SECONDS
            self._options.log("%s", text)

    # -- out

    def read(self, max_count: int, max_bytes: int) -> Window | None:
        """The next messages, from the shard with the oldest; `None` if there is nothing to say, or `is_looking`.

        Raises:
            SpoolUnavailable: the disk cannot be read.
        """
        self._is_read = True
        refusal = self._open_own()
        messages, fault = ([], None) if self.is_looking else self._read_shards(max_count, max_bytes)
        if not messages and not self._has_looked:
            # The first time, without waiting for the next look: a process that ends soon sends these as well. A flush
            # waits for what is known when the read is answered.
            self._adopt_left()
            if self.is_looking:
                return None
            messages, fault = self._read_shards(max_count, max_bytes)
        refusal = refusal or fault
        if not messages and not self._dropped:
            if refusal is not None:
                raise refusal
            return None
        window = Window(messages, self._dropped.copy(), self._has_looked)
        self._dropped.clear()
        return window

    def _read_shards(self, max_count: int, max_bytes: int) -> tuple[list[StoredMessage], SpoolUnavailable | None]:
        """The next messages, and what refused to be read before them."""
        messages: list[StoredMessage] = []
        refusal = None
        for shard in self._all():
            try:
                messages = shard.read(max_count, max_bytes)
            except SpoolUnavailable as fault:
                refusal = refusal or fault
            if messages:
                break
        return messages, refusal

    def release(self, window: Window) -> None:
        """Take back what a reader was given that is gone."""
        self._dropped += window.dropped
        shards = {shard.slot: shard for shard in self._all()}
        for message in window.messages:
            shard = shards.get(slot_of(message.key))
            # An adopted shard is closed once it is empty.
            if shard is None or not shard.release(position_of(message.key)):
                self._dropped.append(DroppedMessage(message.message_id, b"", "purged", message.key))

    # -- which shards

    def look_after(self) -> bool:
        """What no caller asks for: a disk that works again, shards of dead processes, empty ones; whether it goes on."""
        has_more = False
        for shard in self._all():
            with contextlib.suppress(SpoolUnavailable):
                shard.look()
            if shard.has_work or shard.database.clock.was_set(shard.counters):
                self._commit(shard, ())
            has_more = shard.database.maintain() or has_more
        for shard in [each for each in self._adopted if not each.counters.pending]:
            self._adopted.remove(shard)
            # Its dead letters are for the next process that holds it.
            self._given_back[shard.slot] = shard.counters._replace(dead=0, dead_bytes=0)
            self._close(shard)
        if self._is_read:
            self._adopt_left()
        return has_more or bool(self._unseen)

    @property
    def is_looking(self) -> bool:
        """The first look at what dead processes may have left is not over: go on in the next turn."""
        return bool(self._unseen) and not self._has_looked

    def _adopt_left(self) -> None:
        """Open what dead processes left, as far as a turn has time for it.

        Not before there is a shard of its own, which may be the one of the last process.
        """
        if self._own is None:
            return
        if not self._unseen:
            self._unseen = files.slots_on_disk(self._base)
        end = self._options.monotonic() + _ADOPT_SECONDS
        while self._unseen:
            slot = self._unseen.pop(0)
            if all(shard.slot != slot for shard in self._all()):
                self._adopt(Place(self._base, slot))
            if self._options.monotonic() >= end:
                break
        self._has_looked = self._has_looked or not self._unseen

    def _all(self) -> list[Shard]:
        """The older messages first, as far as that is known."""
        return self._adopted if self._own is None else [*self._adopted, self._own]

    def _open_own(self) -> SpoolUnavailable | None:
        """Open the shard of this process, if it is not open; returns why it cannot be."""
        try:
            if self._own is None:
                files.prepare_folder(self._base)
                if is_others(self._base, self._options):
                    return SpoolUnavailable(other_owner(self._base))
                places = (Place(self._base, slot) for slot in itertools.count())
                self._own = next(shard for place in places if (shard := self._open(place)) is not None)
        except SpoolUnavailable as refusal:
            return refusal
        except OSError as fault:
            return SpoolUnavailable(f"{self._base}: {fault}")
        return None

    def _open(self, place: Place) -> Shard | None:
        """Open a shard; `None` if another process, or another spool of this one, has it."""
        with open_files.guard:
            found = files.file_id(place.database)
            if found in open_files.databases or found in open_files.inherited:
                return None
            with contextlib.suppress(Damaged):
                files.check_files(place)
            lock = Lock.acquire(place.lock)
        if lock is None:
            return None
        database = Database(place, lock, self._options)
        try:
            shard = Shard(place.slot, database, self._options, self._dropped)
        except BaseException:
            database.close()
            raise
        if self._options.fingerprint not in ("", shard.counters.fingerprint):
            # Clients with another key must know before anything is stored, and after a rotation if nothing is left.
            self._commit(shard, ())
        # Messages that were left in it; those that are lost count too.
        self._recovered += shard.counters.pending + database.file.lost
        return shard

    def _adopt(self, place: Place) -> None:
        with contextlib.suppress(SpoolUnavailable, OSError):
            # Before it is opened: what is put back from then on changes it.
            stamp = place.stamp()
            shard = None if self._empty.get(place.slot) == stamp else self._open(place)
            if shard is None:
                return
            if shard.counters.pending:
                self._adopted.append(shard)
                self._given_back.pop(shard.slot, None)
            else:
                self._close(shard)
                self._empty[place.slot] = stamp

    def _close(self, shard: Shard) -> None:
        self._damages += shard.database.file.damages
        self._recovered += shard.revived
        shard.database.close()

    # -- books, and the end

    def look(self) -> Callable[[], SpoolStatistics]:
        """What makes the statistics of now, in any thread and later, as few turns are followed by a question."""
        shards = self._all()
        counters = [shard.counters for shard in shards] + [shard.noted() for shard in shards if shard.unrecorded]
        return partial(
            statistics_of,
            [*self._given_back.values(), *counters],
            recovered=self._recovered + sum(shard.revived for shard in shards),
            disk_bytes=sum(shard.database.file.disk_bytes for shard in shards),
            unrecorded=sum(len(shard.unrecorded) for shard in shards),
            damages=self._damages + sum(shard.database.file.damages for shard in shards),
            capacity=self._options.max_bytes,
        )

    def close(self) -> None:
        """Close every shard."""
        self.commit()
        if unrecorded := self.look()().unrecorded:
            text = "The spool closes while the disk refuses: %s: notes not recorded: %d"
            self._options.log(text, self._base, unrecorded)
        for shard in self._all():
            shard.database.close()


_SUMMED: Final = [
    each.name for each in fields(SpoolStatistics) if hasattr(Counters, each.name) and each.name != "reasons"
]


def statistics_of(shards: Sequence[Counters], **others: int) -> SpoolStatistics:
    reasons: Counter[str] = Counter()
    for counters in shards:
        reasons.update(counters.reasons)
    sums = {name: sum(getattr(counters, name) for counters in shards) for name in _SUMMED}
    return SpoolStatistics(**sums, **others, reasons=Counts(reasons))
