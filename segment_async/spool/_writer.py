"""What a turn of the writer does: groups of steps, each in one transaction of the shard that it concerns.

    Writer   the shards that this process holds: its own, those of processes that died, one in memory for bad days
    Shard    the messages of one file, in order of acceptance, and which of them this process holds

A *position* is a message's place in its shard, never used twice. A *key* is a position and the number of the shard.
Within a shard, messages up to the *cursor* are held or gone; the others are only on disk:

    ┌ gone ┐┌──── held ────┐┌──── on disk only ────┐
    └──────┘└──────────────┘└──────────────────────┘
                           cursor          counters.position

The first process on a path uses the path itself; each further one takes the lowest number that no process holds, with
everything in it. What dead processes left under other numbers is adopted a little later, so that processes that start
together find their own first.

Used by one thread at a time. This file knows no threads, loops or callers.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult, Counts, Status

from . import _tables as tables
from ._database import Database, MemoryDatabase, Options, Write, foreign_shard, other_owner
from ._files import Lock, Place, check_files, open_files, prepare_folder, slots_on_disk
from ._protocol import Appended, AppendResult, DroppedMessage, SpoolStatistics, StoredMessage, Window
from ._tables import Counters, Damaged, Head, Row

_logger = logging.getLogger("segment_async")

_POSITION_BITS: Final = 44
_MEMORY_SLOT: Final = 1 << 18
_MEMORY_BYTES: Final = 2**25
_MOVED_AT_ONCE: Final = (256, 2**20)
_QUIET_SECONDS: Final = 60.0
_FULL: Final = Appended("full")
_MADE_ROOM: Final = BatchResult(Status.DROPPED, "queue_full")
_TOO_OLD: Final = BatchResult(Status.DROPPED, "too_old")
_DAMAGED: Final = DroppedMessage("", b"", "damaged")


class Append(NamedTuple):
    """A group of messages to store: their ids and bodies."""

    messages: Sequence[tuple[bytes, bytes]]
    hold: int = 0
    make_room: bool = False

    @property
    def size(self) -> int:
        return sum(len(body) for _, body in self.messages)


class Note(NamedTuple):
    """What to record about messages: the number of an attempt, or how they ended. In a shard, keys are positions."""

    keys: Sequence[int]
    what: int | BatchResult
    answer: str = ""


Step = Append | Note


class _Doubt(NamedTuple):
    """What a transaction did of which it is not known whether it was committed."""

    rows: Sequence[Row]
    dropped: Mapping[int, DroppedMessage]


# -- one shard


class Shard:
    """The messages of one file.

    Attributes:
        held: the messages that this process holds, and their sizes, by position.
        recovered: messages that were there when the shard was opened.
        unrecorded: notes that the disk has not taken; they go first with the next transaction.
        dropped: messages that the shard gave up by itself, until a reader takes them.
    """

    def __init__(self, slot: int, database: Database, options: Options) -> None:
        self.slot = slot
        self.database = database
        self.held: dict[int, int] = {}
        self.unrecorded: list[Note] = []
        self.dropped: list[DroppedMessage] = []
        self._options = options
        self._cursor = 0
        self._version: tuple[int, int] | None = None
        self._damaged = 0
        self._purged: set[int] = set()
        self._doubts: list[_Doubt] = []
        self.recovered: int = database.read(self._synced(lambda _, counters: counters.pending))

    @property
    def counters(self) -> Counters:
        return self.database.counters

    @property
    def max_bytes(self) -> int:
        return self._options.max_bytes

    @property
    def unread(self) -> int:
        """How many pending messages this process does not hold."""
        return self.counters.pending - len(self.held)

    @property
    def has_work(self) -> bool:
        return bool(self.unrecorded or self._doubts)

    @property
    def is_in_doubt(self) -> bool:
        """Whether messages that were refused may be stored all the same, until the next transaction."""
        return bool(self._doubts)

    def commit(
        self, steps: Sequence[Step] = (), *, may_hold: bool = False, elsewhere: Mapping[bytes, int] | None = None
    ) -> list[AppendResult]:
        """Take the steps, in their order and in one transaction; returns the answers to the appends.

        `elsewhere`: keys of messages that are pending in other shards, by id.

        Raises:
            SpoolUnavailable: no message was taken; the notes are kept, and tried again with the next transaction.
        """
        old_notes = tuple(self.unrecorded)
        self.unrecorded += [step for step in steps if isinstance(step, Note)]
        sizes = [step.size for step in steps if isinstance(step, Append)]

        def work(
            connection: sqlite3.Connection, counters: Counters
        ) -> tuple[Counters, tuple[_Turn, list[AppendResult]]]:
            turn = _Turn(self, connection, counters, elsewhere or {}, may_hold=may_hold)
            turn.take_back(self._doubts)
            results = [turn.take(step) for step in (*old_notes, *steps)]
            if turn.rows or turn.dropped:
                self._doubts.append(_Doubt(turn.rows, turn.dropped))
            return turn.counters, (turn, [result for result in results if result is not None])

        turn, results = self.database.transact(self._synced(work), sum(sizes) if sizes else None)
        self._doubts.clear()
        self.unrecorded.clear()
        self._apply(turn)
        return results

    def _apply(self, turn: _Turn) -> None:
        self.held.update(turn.taken)
        for position in turn.released:
            self.held.pop(position, None)
        self._cursor = max(self._cursor, turn.cursor)
        self._purged.clear()
        self.dropped += turn.dropped_in_doubt

    def read(self, max_count: int, max_bytes: int) -> list[StoredMessage]:
        """Hold the next messages; none if there is none.

        Raises:
            SpoolUnavailable: they cannot be read.
        """
        if not self.unread and self._version == self.database.version:
            return []
        rows, attempts = self.database.read(
            self._synced(lambda connection, _: self._next_rows(connection, max_count, max_bytes))
        )
        for row in rows:
            self.held[row.position] = len(row.body)
            self._cursor = max(self._cursor, row.position)
        old = self._too_old(rows)
        if old:
            self.unrecorded.append(Note([row.position for row in old], _TOO_OLD))
            self.dropped += [DroppedMessage(row.message_id.decode(), row.body, "too_old") for row in old]
        return [
            StoredMessage(
                key_of(self.slot, row.position), row.message_id.decode(), row.body, attempts.get(row.position, 0)
            )
            for row in rows[len(old) :]
        ]

    def look(self) -> None:
        """Notice what other processes have changed."""
        with contextlib.suppress(SpoolUnavailable):
            self.database.read(self._synced(lambda *_: None))

    def visit(self, work: Any, *, writes: bool) -> Any:
        """Run an inspector's work."""
        result = self.database.transact(self._synced(work)) if writes else self.database.read(self._synced(work))
        if writes:
            # A change by this connection looks like none.
            self._version = (-1, -1)
            self.look()
        return result

    def forget(self, keys: Iterable[int]) -> None:
        """Remove messages that another shard has now, without an outcome."""
        positions = [position_of(key) for key in keys]

        def work(connection: sqlite3.Connection, counters: Counters) -> tuple[Counters, None]:
            count, size = tables.remove_messages(connection, positions)
            return counters.plus(accepted=-count, pending_bytes=-size), None

        self.database.transact(self._synced(work))
        for position in positions:
            self.held.pop(position, None)

    def _next_rows(
        self, connection: sqlite3.Connection, max_count: int, max_bytes: int
    ) -> tuple[list[Row], dict[int, int]]:
        if not self.unread:
            return [], {}
        heads: list[Head] = []
        size = 0
        for head in itertools.islice(self.unheld(connection, self.counters.position), max_count):
            size += head.size
            if heads and size > max_bytes:
                break
            heads.append(head)
        if not heads:
            # A page that is out of order may hide messages from a search for the next one.
            raise Damaged(f"{self.counters.pending} messages are pending, {len(self.held)} can be read")
        return tables.read_rows(connection, heads), tables.load_attempts(connection, [each.position for each in heads])

    def unheld(self, connection: sqlite3.Connection, end: int) -> Iterator[Head]:
        """The messages up to a position that this process does not hold, oldest first."""
        cursor = self._cursor
        while heads := tables.read_heads(connection, cursor):
            for head in heads:
                if head.position > end:
                    return
                if head.position not in self.held:
                    yield head
            cursor = heads[-1].position

    def _too_old(self, rows: Sequence[Row]) -> list[Row]:
        if self._options.max_age is None:
            return []
        oldest = self.database.clock.now() - self._options.max_age * 1000
        return list(itertools.takewhile(lambda row: row.accepted_at < oldest, rows))

    def release(self, keys: Iterable[int]) -> None:
        """Do not hold these any longer; they are read again."""
        for key in keys:
            position = position_of(key)
            if self.held.pop(position, None) is not None:
                self._cursor = min(self._cursor, position - 1)

    def find(self, message_ids: Sequence[bytes]) -> dict[bytes, int]:
        """The keys of those of the ids that are pending."""
        if not self.counters.pending:
            return {}
        found = self.database.read(self._synced(lambda connection, _: tables.find_ids(connection, message_ids)))
        return {message_id: key_of(self.slot, position) for message_id, position in found.items()}

    def counted(self) -> Counters:
        """The counters with what is not recorded yet."""
        counters = self.counters
        for note in self.unrecorded:
            if isinstance(note.what, BatchResult):
                sizes = [self.held[position] for position in note.keys if position in self.held]
                counters = counters.settled(len(sizes), sum(sizes), note.what)
        return counters

    # -- changes by others

    def _synced(self, work: Any) -> Any:
        """The work, after a look at what other processes or a salvage have changed."""

        def synced(connection: sqlite3.Connection, counters: Counters) -> Any:
            if self._version != self.database.version:
                self._sync(connection, counters)
            return work(connection, counters)

        return synced

    def _sync(self, connection: sqlite3.Connection, counters: Counters) -> None:
        is_first = self._version is None
        purged = {p: mid for p, mid in tables.read_purged(connection).items() if p not in self._purged}
        there = tables.find_positions(connection, list(self.held))
        gone = [position for position in self.held if position not in there]
        lost = counters.damaged - self._damaged - len([each for each in gone if each not in purged])
        if not is_first:
            # What is held is on its way, and its holder says how it ends.
            self.dropped += [
                DroppedMessage(mid.decode(), b"", "purged") for p, mid in purged.items() if p not in self.held
            ]
            self.dropped += itertools.repeat(_DAMAGED, max(0, lost))
        if is_first or self._version is None or self._version[0] != self.database.version[0]:
            self._cursor = 0
        for position in gone:
            del self.held[position]
        self._purged.update(purged)
        self._damaged = counters.damaged
        self._version = self.database.version

    @property
    def purged(self) -> Sequence[int]:
        """Positions of messages that another process erased, and that are reported."""
        return list(self._purged)


class _Turn:
    """One transaction of a shard; what it changes in memory is applied once it is committed.

    Attributes:
        rows: the messages stored.
        taken: those of them that are held at once, with their sizes. `released`: positions that are not held any more.
        dropped: messages that made room, by position. `dropped_in_doubt`: those of a transaction that was in doubt.
    """

    def __init__(
        self,
        shard: Shard,
        connection: sqlite3.Connection,
        counters: Counters,
        elsewhere: Mapping[bytes, int],
        *,
        may_hold: bool,
    ) -> None:
        self.counters = counters
        self.rows: list[Row] = []
        self.taken: dict[int, int] = {}
        self.released: set[int] = set()
        self.dropped: dict[int, DroppedMessage] = {}
        self.dropped_in_doubt: list[DroppedMessage] = []
        self.cursor = 0
        self._shard = shard
        self._connection = connection
        self._elsewhere = elsewhere
        self._may_hold = may_hold
        tables.remove_purged(connection, shard.purged)

    def take_back(self, doubts: Sequence[_Doubt]) -> None:
        """Remove messages that were refused because a commit failed, if they are there after all."""
        for rows, dropped in doubts:
            found = tables.find_ids(self._connection, [row.message_id for row in rows])
            positions = [row.position for row in rows if found.get(row.message_id) == row.position]
            count, size = tables.remove_messages(self._connection, positions)
            self.counters = self.counters.plus(accepted=-count, pending_bytes=-size)
            there = tables.find_positions(self._connection, list(dropped))
            self.dropped_in_doubt += [message for position, message in dropped.items() if position not in there]

    def take(self, step: Step) -> AppendResult | None:
        if isinstance(step, Append):
            return self._append(step)
        self._record(step)
        return None

    # -- appends

    def _append(self, step: Append) -> AppendResult:
        known = tables.find_ids(self._connection, [message_id for message_id, _ in step.messages])
        keys = {message_id: key_of(self._shard.slot, position) for message_id, position in known.items()}
        keys.update(self._elsewhere)
        max_bytes = self._shard.max_bytes
        fresh: dict[bytes, bytes] = {}
        for message_id, body in step.messages:
            if message_id not in keys and len(body) <= max_bytes:
                fresh.setdefault(message_id, body)
        before = len(self.dropped)
        room = self._room(sum(map(len, fresh.values())), make_room=step.make_room)
        rows: list[Row] = []
        base, now = self.counters.position, self._shard.database.clock.now()
        for message_id, body in fresh.items():
            if len(body) <= room:
                room -= len(body)
                rows.append(Row(base + 1 + len(rows), message_id, now, body))
        held = self._hold(rows, step.hold)
        tables.insert_messages(self._connection, rows)
        self.counters = self.counters.plus(
            position=len(rows), accepted=len(rows), pending_bytes=sum(len(row.body) for row in rows)
        )
        self.rows += rows
        answers = self._answers(step.messages, rows, held, keys)
        return AppendResult(answers, tuple(itertools.islice(self.dropped.values(), before, None)))

    def _answers(
        self, messages: Sequence[tuple[bytes, bytes]], rows: Sequence[Row], held: int, keys: dict[bytes, int]
    ) -> list[Appended]:
        slot = self._shard.slot
        stored = {row.message_id: (key_of(slot, row.position), index < held) for index, row in enumerate(rows)}
        answers: list[Appended] = []
        for message_id, _ in messages:
            # The first one with an id is the stored one; further ones are known.
            if (found := stored.pop(message_id, None)) is not None:
                keys[message_id] = found[0]
                answers.append(Appended("stored", *found))
            elif message_id in keys:
                answers.append(Appended("known", keys[message_id]))
            else:
                answers.append(_FULL)
        return answers

    def _hold(self, rows: Sequence[Row], wanted: int) -> int:
        """Hold the first of the new messages, unless an older one waits to be read; returns how many are held."""
        held = len(self._shard.held) + len(self.taken) - len(self.released)
        if not self._may_hold or self.counters.pending > held or not rows:
            return 0
        now_held = rows[:wanted]
        self.taken.update({row.position: len(row.body) for row in now_held})
        # Nothing before the new messages is unread, and nothing between those that are held.
        self.cursor = self.counters.position + len(now_held)
        return len(now_held)

    def _room(self, wanted: int, *, make_room: bool) -> int:
        """Bytes that may be stored; dead letters go first if they do not suffice, their outcome is known."""
        while (room := self._free()) < wanted and self.counters.dead:
            self._drop_dead_letters(wanted - room)
        if room < wanted and make_room:
            self._drop_oldest(wanted - room)
        return self._free()

    def _free(self) -> int:
        return self._shard.max_bytes - self.counters.pending_bytes - self.counters.dead_bytes

    def _drop_dead_letters(self, wanted: int) -> None:
        heads = _until(tables.read_heads(self._connection, 0, table="dead"), wanted)
        if not heads:
            raise Damaged("dead letters are counted that are not there")
        tables.remove_dead(self._connection, [head.position for head in heads])
        self.counters = self.counters.plus(dead=-len(heads), dead_bytes=-sum(head.size for head in heads))

    def _drop_oldest(self, wanted: int) -> None:
        unheld = self._shard.unheld(self._connection, self.counters.position)
        heads = _until((head for head in unheld if head.position not in self.taken), wanted)
        rows = tables.read_rows(self._connection, heads)
        count, size = tables.remove_messages(self._connection, [row.position for row in rows])
        self.counters = self.counters.settled(count, size, _MADE_ROOM)
        for row in rows:
            self.dropped[row.position] = DroppedMessage(row.message_id.decode(), row.body, "queue_full")

    # -- notes

    def _record(self, note: Note) -> None:
        if isinstance(note.what, int):
            tables.store_attempts(self._connection, note.keys, note.what)
            return
        failed = note.what.status is Status.FAILED
        if failed:
            now = self._shard.database.clock.now()
            tables.move_to_dead_letters(self._connection, note.keys, note.what, note.answer, now)
        count, size = tables.remove_messages(self._connection, note.keys)
        self.counters = self.counters.settled(count, size, note.what)
        if failed:
            self.counters = self.counters.plus(dead=count, dead_bytes=size)
        self.released.update(p for p in note.keys if p in self._shard.held or p in self.taken)


def _until(heads: Iterable[Head], wanted: int) -> list[Head]:
    """The first messages, until their sizes reach what is wanted."""
    taken: list[Head] = []
    for head in heads:
        taken.append(head)
        wanted -= head.size
        if wanted <= 0:
            break
    return taken


def key_of(slot: int, position: int) -> int:
    return slot << _POSITION_BITS | position


def slot_of(key: int) -> int:
    return key >> _POSITION_BITS


def position_of(key: int) -> int:
    return key & (1 << _POSITION_BITS) - 1


# -- all shards of a process


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What statistics are made of: taken after each turn, looked at rarely."""

    shards: tuple[Counters, ...] = ()
    recovered: int = 0
    disk_bytes: int = 0
    in_memory: int = 0
    unrecorded: int = 0
    damages: int = 0

    def statistics(self) -> SpoolStatistics:
        reasons: Counter[str] = Counter()
        for counters in self.shards:
            reasons.update(json.loads(counters.reasons))
        names = ("accepted", "delivered", "failed", "dropped", "pending", "pending_bytes", "dead", "dead_bytes")
        return SpoolStatistics(
            **{name: sum(getattr(counters, name) for counters in self.shards) for name in names},
            recovered=self.recovered,
            disk_bytes=self.disk_bytes,
            in_memory=self.in_memory,
            unrecorded=self.unrecorded,
            damages=self.damages,
            reasons=Counts(reasons),
        )


class Writer:
    """The shards of one spool that this process holds."""

    def __init__(self, base: Path, options: Options, opener: object) -> None:
        self._base = base
        self._options = options
        self._opener = opener
        self._own: Shard | None = None
        self._memory: Shard | None = None
        self._adopted: list[Shard] = []
        self._dropped: list[DroppedMessage] = []
        self._recovered = self._damages = 0
        # Stamps of shards that were found empty.
        self._empty: dict[int, object] = {}
        # Keys that messages had in memory before they were moved to the disk, by the key there, and the other way.
        self._old_keys: dict[int, int] = {}
        self._new_keys: dict[int, int] = {}
        self._is_in_trouble = False
        self._next_warning: dict[str, float] = {}

    # -- in

    def commit(self, steps: Sequence[Step]) -> list[AppendResult | SpoolUnavailable]:
        """Take the steps as far as the disk does; returns the answers to the appends."""
        appends = [step for step in steps if isinstance(step, Append)]
        refusal = self._open_own() if appends else None
        results: list[AppendResult | SpoolUnavailable] = [] if refusal is None else [refusal] * len(appends)
        for shard in self._all():
            some = list(self._steps_of(shard, steps))
            if some or shard.has_work:
                results += self._commit(shard, some)
        if appends:
            refusal = next((result for result in results if isinstance(result, SpoolUnavailable)), None)
            self._report_trouble(refusal)
            if refusal is not None and self._options.falls_back:
                return self._keep_in_memory(appends, refusal)
        return results

    def _steps_of(self, shard: Shard, steps: Sequence[Step]) -> Iterator[Step]:
        for step in steps:
            if isinstance(step, Note):
                keys = (self._new_keys.get(key, key) for key in step.keys) if self._new_keys else step.keys
                positions = [position_of(key) for key in keys if slot_of(key) == shard.slot]
                if positions:
                    yield step._replace(keys=positions)
            elif shard is self._own:
                yield step

    def _commit(self, shard: Shard, steps: Sequence[Step]) -> Sequence[AppendResult | SpoolUnavailable]:
        appends = [step for step in steps if isinstance(step, Append)]
        others = [other for other in self._all() if other is not shard and other.counters.pending]
        may_hold = not any(other.unread for other in others)
        try:
            elsewhere: dict[bytes, int] = {}
            for other in others if appends else ():
                for append in appends:
                    elsewhere.update(other.find([message_id for message_id, _ in append.messages]))
            return shard.commit(steps, may_hold=may_hold, elsewhere=elsewhere)
        except Exception as fault:
            if not isinstance(fault, SpoolUnavailable):
                _logger.exception("The spool failed, and refuses what it was asked for: %s", self._base)
            refusal = fault if isinstance(fault, SpoolUnavailable) else f"the spool failed: {type(fault).__name__}"
            if shard.unrecorded:
                self._warn(
                    "unrecorded",
                    f"The spool cannot record what was sent: {refusal}; it is tried again, and until then a restart "
                    "would send it once more",
                )
            return [SpoolUnavailable(str(refusal), maybe_stored=shard.is_in_doubt)] * len(appends)

    # -- memory, while the disk refuses

    def _keep_in_memory(
        self, appends: Sequence[Append], refusal: SpoolUnavailable
    ) -> list[AppendResult | SpoolUnavailable]:
        if self._memory is None:
            options = replace(self._options, max_bytes=_MEMORY_BYTES, fingerprint="")
            self._memory = Shard(_MEMORY_SLOT, MemoryDatabase(options), options)
        results: list[AppendResult | SpoolUnavailable] = []
        for answers, dropped in self._memory.commit(appends, may_hold=not self._unread_elsewhere(self._memory)):
            kept = [each._replace(status="memory") if each.status == "stored" else each for each in answers]
            is_taken = any(each.status != "full" for each in kept)
            results.append(AppendResult(kept, dropped) if is_taken else refusal)
        return results

    def _unread_elsewhere(self, shard: Shard) -> bool:
        return any(other.unread for other in self._all() if other is not shard)

    def _move_to_disk(self) -> None:
        """Bring what this process does not hold from memory to the disk, once it works again."""
        while self._memory is not None and (messages := self._memory.read(*_MOVED_AT_ONCE)):
            appends = [Append([(each.message_id.encode(), each.body) for each in messages])]
            refusal = self._open_own()
            result = refusal or self._commit_own(appends)
            if isinstance(result, SpoolUnavailable) or any(each.status == "full" for each in result.answers):
                self._memory.release(each.key for each in messages)
                return
            self._memory.forget([each.key for each in messages])
            for message, answer in zip(messages, result.answers, strict=True):
                if answer.key is not None:
                    self._old_keys[answer.key], self._new_keys[message.key] = message.key, answer.key
            self._report_trouble(None)

    def _commit_own(self, appends: Sequence[Append]) -> AppendResult | SpoolUnavailable:
        assert self._own is not None
        try:
            return self._own.commit(appends)[0]
        except SpoolUnavailable as refusal:
            return refusal

    def _report_trouble(self, refusal: SpoolUnavailable | None) -> None:
        if refusal is not None:
            instead = "kept in memory" if self._options.falls_back else "refused"
            self._warn("trouble", f"The spool cannot be written: {refusal}; new messages are {instead} until it can")
        elif self._is_in_trouble:
            self._warn("end of trouble", f"The spool can be written again: {self._base}")
        self._is_in_trouble = refusal is not None

    def _warn(self, kind: str, text: str) -> None:
        """At most once a minute of each kind."""
        now = time.monotonic()
        if now >= self._next_warning.get(kind, now):
            self._next_warning[kind] = now + _QUIET_SECONDS
            _logger.warning("%s", text)

    # -- out

    def read(self, max_count: int, max_bytes: int) -> Window | None:
        """The next messages, from the shard with the oldest; `None` if there is nothing to say.

        Raises:
            SpoolUnavailable: the disk cannot be read, and nothing is in memory.
        """
        refusal = self._open_own()
        messages: list[StoredMessage] = []
        for shard in self._all():
            try:
                messages = shard.read(max_count, max_bytes)
            except SpoolUnavailable as fault:
                refusal = refusal or fault
            self._dropped += shard.dropped
            shard.dropped.clear()
            if messages:
                break
        if not messages and not self._dropped:
            if refusal is not None and not self._options.falls_back:
                raise refusal
            return None
        if self._old_keys:
            messages = [each._replace(key=self._old_keys.get(each.key, each.key)) for each in messages]
        dropped, self._dropped = self._dropped, []
        return Window(messages, dropped)

    def release(self, window: Window) -> None:
        """Take back what a reader was given that is gone."""
        self._dropped += window.dropped
        keys = [self._new_keys.get(each.key, each.key) for each in window.messages]
        for shard in self._all():
            shard.release(key for key in keys if slot_of(key) == shard.slot)

    # -- which shards

    def look_after(self) -> bool:
        """What no caller asks for: a disk that works again, shards of dead processes, empty ones; whether it goes on."""
        self._move_to_disk()
        for shard in self._all():
            shard.look()
            if shard.has_work or shard.database.clock.was_set(shard.counters):
                self._commit(shard, ())
        has_more = sum(shard.database.maintain() for shard in self._all()) > 0
        for shard in [each for each in self._adopted if not each.counters.pending and not each.has_work]:
            self._adopted.remove(shard)
            self._close(shard)
        for slot in slots_on_disk(self._base):
            if all(shard.slot != slot for shard in self._all()):
                self._adopt(slot)
        return has_more

    def _all(self) -> list[Shard]:
        """The older messages first, as far as that is known."""
        return [*self._adopted, *(shard for shard in (self._memory, self._own) if shard is not None)]

    def _open_own(self) -> SpoolUnavailable | None:
        """Open the shard of this process, if it is not open; returns why it cannot be."""
        if self._own is not None:
            return None
        try:
            prepare_folder(self._base)
            foreign = foreign_shard(self._base, self._options)
            if foreign is not None:
                return SpoolUnavailable(other_owner(self._base))
            for slot in itertools.count():
                self._own = self._open(slot)
                if self._own is not None:
                    self._recovered += self._own.recovered
                    return None
        except SpoolUnavailable as refusal:
            return refusal
        except OSError as fault:
            return SpoolUnavailable(f"{self._base}: {fault}")
        raise AssertionError

    def _open(self, slot: int) -> Shard | None:
        """Open a shard; `None` if another process, or another spool of this one, has it."""
        place = Place(self._base, slot)
        with open_files.guard:
            if open_files.is_open(place.database) or open_files.is_inherited(place.database):
                return None
            with contextlib.suppress(Damaged):
                check_files(place)
            lock = Lock.acquire(place.lock)
        if lock is None:
            return None
        database = Database(place, lock, self._options, self._opener)
        try:
            return Shard(slot, database, self._options)
        except BaseException:
            database.close()
            raise

    def _adopt(self, slot: int) -> None:
        place = Place(self._base, slot)
        with contextlib.suppress(SpoolUnavailable, OSError):
            shard = None if self._empty.get(slot) == place.stamp() else self._open(slot)
            if shard is not None and shard.counters.pending:
                self._adopted.append(shard)
                self._recovered += shard.recovered
            elif shard is not None:
                self._close(shard)
                self._empty[slot] = place.stamp()

    def _close(self, shard: Shard) -> None:
        self._damages += shard.database.damages
        shard.database.close()

    # -- for an inspector in this process

    def visit(self, path: Path, work: Write[Any], *, writes: bool) -> Any:
        """Run an inspector's work on a shard that this process holds."""
        for shard in self._all():
            if shard.database.place.database == path:
                return shard.visit(work, writes=writes)
        raise SpoolUnavailable(f"{path} was closed meanwhile: try again")

    # -- books, and the end

    def snapshot(self) -> Snapshot:
        shards = self._all()
        return Snapshot(
            shards=tuple(shard.counted() if shard.unrecorded else shard.counters for shard in shards),
            recovered=self._recovered,
            disk_bytes=sum(shard.database.place.disk_size() for shard in shards if shard is not self._memory),
            in_memory=0 if self._memory is None else self._memory.counters.pending,
            unrecorded=sum(len(shard.unrecorded) for shard in shards),
            damages=self._damages + sum(shard.database.damages for shard in shards),
        )

    def record(self) -> None:
        """Write what is not recorded yet, as far as the disk takes it."""
        for shard in self._all():
            if shard.has_work:
                self._commit(shard, ())

    def close(self) -> Snapshot:
        """Close every shard; returns the last snapshot."""
        self._move_to_disk()
        self.record()
        snapshot = self.snapshot()
        if snapshot.in_memory or snapshot.unrecorded:
            _logger.warning(
                "The spool closes while the disk refuses: %s: %s in memory only, %s not recorded",
                self._base,
                _counted(snapshot.in_memory, "message is", "messages are"),
                _counted(snapshot.unrecorded, "outcome or attempt is", "outcomes or attempts are"),
            )
        for shard in self._all():
            self._close(shard)
        self._own = self._memory = None
        self._adopted.clear()
        return snapshot

    def abandon(self) -> None:
        """In a forked child: all of it is the parent's."""
        for shard in self._all():
            shard.database.abandon()


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"
