"""What is on disk at a spool's path, shown and changed with or without processes that use it.

A shard that no process uses is locked, so that none begins to. One that another process uses is opened beside it, which
SQLite allows. One that this process uses is never opened once more (see `_files`): its own writer does the work.

Rows are read page by page, so that memory stays flat and transactions short.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast

import orjson

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult, Status

from . import _tables as tables
from ._database import Database, Options, PlainDatabase, Read, Write, shrink
from ._files import Lock, Place, base_path, check_files, file_id, open_files, slots_on_disk
from ._protocol import SpoolStatistics, without_body
from ._sqlite import SQLiteSpool
from ._tables import Counters, Damaged, DeadRow, Row
from ._writer import disk_bytes_of, statistics_of

_T = TypeVar("_T")
_PURGED: Final = BatchResult(Status.DROPPED, "purged")
_ROWS: Final = 256
_IDENTITIES: Final = ("userId", "anonymousId", "previousId")
# Between two changes, so that a process beside gets its turn.
_PAUSE_SECONDS: Final = 0.002


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One file of a spool.

    Attributes:
        in_use: a process holds it.
        oldest: wall-clock seconds of the acceptance of the oldest pending message; `None` without any.
    """

    path: Path
    in_use: bool
    statistics: SpoolStatistics
    oldest: float | None


class PendingMessage(NamedTuple):
    """`attempts`: requests noted so far."""

    message_id: str
    body: bytes
    accepted_at: float
    attempts: int

    def __repr__(self) -> str:
        return (
            f"PendingMessage(message_id={self.message_id!r}, body=<{len(self.body)} bytes>, attempts={self.attempts})"
        )


class DeadLetter(NamedTuple):
    """A message that failed; `answer` is the beginning of the server's answer text."""

    message_id: str
    body: bytes
    accepted_at: float
    failed_at: float
    reason: str
    status_code: int | None
    attempts: int
    possibly_delivered: bool
    answer: str = ""

    def __repr__(self) -> str:
        return without_body(self)


class SpoolInspector:
    """What is on disk at a spool's path, of all processes together.

    Every call raises `SpoolUnavailable` if there is no spool, or it cannot be read. Calls block; in a coroutine run
    them with `asyncio.to_thread`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._base = base_path(path)
        if not slots_on_disk(self._base):
            raise SpoolUnavailable(f"there is no spool at {self._base}")

    def status(self) -> list[ShardStatus]:
        return [self._status(place) for place in self._places()]

    def set_aside(self) -> list[Path]:
        """Damaged files that were kept; they may hold messages."""
        return [path for place in self._places() for path in place.corrupt_files()]

    def pending(self) -> Iterator[PendingMessage]:
        for place in self._places():
            with _opened(place, writes=False) as shard:
                for rows in _pages(shard, _read_messages):
                    attempts = shard.read(functools.partial(_load_attempts, rows))
                    for row in rows:
                        at = _wall_seconds(shard.counters, row.accepted_at)
                        yield PendingMessage(_text(row.message_id), row.body, at, attempts.get(row.position, 0))

    def dead(self) -> Iterator[DeadLetter]:
        for place in self._places():
            with _opened(place, writes=False) as shard:
                for rows in _pages(shard, _read_dead):
                    yield from (_dead_letter(shard.counters, row) for row in rows)

    def retry(self, is_wanted: Callable[[DeadLetter], bool]) -> int:
        """Put dead letters back behind what is pending; returns how many.

        One whose id is pending again already stays where it is.
        """
        count = 0
        for place in self._places():
            with _opened(place, writes=True) as shard:
                for rows in _pages(shard, _read_dead):
                    wanted = [row for row in rows if is_wanted(_dead_letter(shard.counters, row))]
                    count += _changed(shard, _revive, wanted)
        return count

    def count_of_user(self, identity: str) -> int:
        """How many messages `purge` would erase."""
        return sum(_is_of(each.body, identity) for messages in (self.pending(), self.dead()) for each in messages)

    def purge(self, identity: str) -> int:
        """Erase all messages of a user, pending ones and dead letters; returns how many.

        Those whose `userId`, `anonymousId` or `previousId` it is. They are overwritten in the file, and its log is
        emptied; so are free pages, which may have what was delivered earlier. What a running process holds already, up
        to 10,000 messages, may still be sent. Files that were set aside as damaged are not looked into.
        """
        count = 0
        for place in self._places():
            with _opened(place, writes=True) as shard:
                for rows in _pages(shard, _read_messages):
                    count += _changed(shard, _erase, [row for row in rows if _is_of(row.body, identity)])
                for dead_rows in _pages(shard, _read_dead):
                    count += _changed(shard, _erase_dead, [row for row in dead_rows if _is_of(row.body, identity)])
                _scrub(shard)
        return count

    def rotate_key(self) -> None:
        """Forget which write key and host the spool belongs to; the next client on the path claims it.

        Raises:
            SpoolUnavailable: a process uses the spool; stop it first.
        """
        for place in self._places():
            lock = Lock.acquire(place.lock)
            if lock is None:
                raise SpoolUnavailable(f"a process uses {place.database}: stop it before the key is rotated")
            lock.close()
        for place in self._places():
            with _opened(place, writes=True) as shard:
                shard.write(lambda _, counters: (counters._replace(fingerprint=""), None))

    def _places(self) -> list[Place]:
        places = [Place(self._base, slot) for slot in slots_on_disk(self._base)]
        return [place for place in places if _is_spool(place)]

    def _status(self, place: Place) -> ShardStatus:
        with _opened(place, writes=False) as shard:
            oldest = shard.read(lambda connection, _: tables.read_heads(connection, 0, 1))
            statistics = statistics_of([shard.counters], disk_bytes=disk_bytes_of(place.database))
            at = _wall_seconds(shard.counters, oldest[0].accepted_at) if oldest else None
            return ShardStatus(place.database, shard.in_use, statistics, at)


# -- ways to a shard


class _Shard:
    """One shard, opened for an inspector."""

    def __init__(self, database: PlainDatabase, *, in_use: bool) -> None:
        self.in_use = in_use
        self._database = database
        self._spool = database.owner if in_use and isinstance(database, Database) else None

    @property
    def counters(self) -> Counters:
        return self._database.counters

    def read(self, work: Read[_T]) -> _T:
        return self._database.read(work) if self._spool is None else self._visit(work, writes=False)

    def write(self, work: Write[_T]) -> _T:
        result: _T = self._database.transact(work) if self._spool is None else self._visit(work, writes=True)
        time.sleep(_PAUSE_SECONDS)
        return result

    def _visit(self, work: Any, *, writes: bool) -> Any:
        if not isinstance(self._spool, SQLiteSpool):
            raise SpoolUnavailable(f"{self._database.path} is in use by another inspector of this process")
        path = self._database.path
        return self._spool.visit(lambda writer: writer.visit(path, work, writes=writes))


@contextlib.contextmanager
def _opened(place: Place, *, writes: bool) -> Generator[_Shard, None, None]:
    with open_files.guard:
        own = open_files.databases.get(file_id(place.database))
        lock = None if own is not None else Lock.acquire(place.lock)
    if isinstance(own, Database):
        yield _Shard(own, in_use=True)
        return
    options = Options()
    with contextlib.ExitStack() as stack:
        if lock is not None and writes:
            database: PlainDatabase = Database(place, lock, options, None)
        else:
            database = PlainDatabase(place.database, options, read_only=not writes)
            if lock is not None:
                stack.callback(lock.close)
        stack.callback(options.write_logs)
        stack.callback(database.close)
        yield _Shard(database, in_use=lock is None)


def _is_spool(place: Place) -> bool:
    with open_files.guard, contextlib.suppress(Damaged):
        return check_files(place)
    return True


# -- rows, page by page


def _pages(shard: _Shard, read: Callable[[int, sqlite3.Connection, Counters], list[Any]]) -> Iterator[list[Any]]:
    last = 0
    while rows := shard.read(functools.partial(read, last)):
        last = rows[-1].position
        yield rows


def _read_messages(after: int, connection: sqlite3.Connection, _: Counters) -> list[Row]:
    return tables.read_rows(connection, tables.read_heads(connection, after, _ROWS))


def _read_dead(after: int, connection: sqlite3.Connection, _: Counters) -> list[DeadRow]:
    return tables.read_dead(connection, after, _ROWS)


def _load_attempts(rows: list[Row], connection: sqlite3.Connection, _: Counters) -> dict[int, int]:
    return tables.load_attempts(connection, [row.position for row in rows])


def _dead_letter(counters: Counters, row: DeadRow) -> DeadLetter:
    reason, status_code, attempts, possibly_delivered, failed_at, answer = row.failure
    accepted, failed = _wall_seconds(counters, row.accepted_at), _wall_seconds(counters, failed_at)
    return DeadLetter(
        _text(row.message_id), row.body, accepted, failed, reason, status_code, attempts, possibly_delivered, answer
    )


def _wall_seconds(counters: Counters, at: int) -> float:
    """The clock that messages age by runs beside the wall clock, unless that was set."""
    return (at + counters.wall - counters.clock) / 1000


def _text(message_id: bytes) -> str:
    return message_id.decode(errors="replace")


def _is_of(body: bytes, identity: str) -> bool:
    message: object
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    fields = cast("dict[str, object]", message) if isinstance(message, dict) else {}
    return any(fields.get(name) == identity for name in _IDENTITIES)


# -- changes


def _changed(shard: _Shard, change: Callable[..., tuple[Counters, int]], rows: list[Any]) -> int:
    return shard.write(functools.partial(change, rows)) if rows else 0


def _revive(rows: list[DeadRow], connection: sqlite3.Connection, counters: Counters) -> tuple[Counters, int]:
    pending = tables.find_ids(connection, [row.message_id for row in rows])
    revived: dict[bytes, DeadRow] = {}
    for row in rows:
        if row.message_id not in pending:
            revived.setdefault(row.message_id, row)
    messages = [(row.message_id, row.body) for row in revived.values()]
    tables.insert_messages(connection, counters.position + 1, counters.clock, messages)
    tables.remove(connection, "dead", [row.position for row in revived.values()])
    for row in revived.values():
        size, failure = len(row.body), row.failure
        counters = counters.plus(position=1, failed=-1, pending_bytes=size, dead=-1, dead_bytes=-size)
        counters = counters.with_reason(failure.reason, -1)
        if failure.possibly_delivered:
            tables.store_attempts(connection, [counters.position], failure.attempts)
    return counters, len(revived)


def _erase(rows: list[Row], connection: sqlite3.Connection, counters: Counters) -> tuple[Counters, int]:
    with _overwriting(connection):
        there = tables.find_positions(connection, [row.position for row in rows])
        tables.insert(connection, "purged", [row[:2] for row in rows if row.position in there])
        count, size = tables.remove_messages(connection, [row.position for row in rows])
    return counters.settled(count, size, _PURGED), count


def _erase_dead(rows: list[DeadRow], connection: sqlite3.Connection, counters: Counters) -> tuple[Counters, int]:
    with _overwriting(connection):
        there = [row for row in tables.read_dead(connection, rows[0].position - 1, _ROWS) if row in rows]
        tables.remove(connection, "dead", [row.position for row in there])
    return counters.plus(dead=-len(there), dead_bytes=-sum(len(row.body) for row in there)), len(there)


@contextlib.contextmanager
def _overwriting(connection: sqlite3.Connection) -> Generator[None, None, None]:
    """What is removed is overwritten with zeros."""
    connection.execute("PRAGMA secure_delete = ON")
    try:
        yield
    finally:
        connection.execute("PRAGMA secure_delete = FAST")


def _scrub(shard: _Shard) -> None:
    """Take free pages off the file, step by step, and empty the log."""
    while shard.read(lambda connection, _: _shrunk(connection)):
        time.sleep(_PAUSE_SECONDS)


def _shrunk(connection: sqlite3.Connection) -> bool:
    connection.rollback()
    has_more = shrink(connection)
    if not has_more:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return has_more
