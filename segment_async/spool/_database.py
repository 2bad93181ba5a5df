"""One shard's database: opened late, written in transactions, reopened after errors, salvaged when it is damaged.

After a fault the connection is not trusted any more: it is closed, and what is in the file is checked when it is opened
again. Work is a function, and may run more than once: what it does to the database is rolled back before it runs again.

**Salvage** reads row by row what SQLite can still read, and each row's checksum decides. The sound rows go into a new
file, the old file is set aside, and what is lost is counted as dropped with the reason ``damaged``. The new file is
complete and synced before the old one is touched, so that an interrupted salvage is finished by the next process.

This file knows neither messages that are held nor who reads them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from segment_async._exceptions import SpoolUnavailable

from . import _tables as tables
from ._files import (
    APPLICATION_ID,
    FORMAT,
    FileId,
    Lock,
    Place,
    check_files,
    file_id,
    open_files,
    peek_watermark,
    prepare_folder,
    slots_on_disk,
    sync_file,
    user_version,
)
from ._tables import Counters, Damaged

_logger = logging.getLogger("segment_async")
_T = TypeVar("_T")

Read = Callable[[sqlite3.Connection, Counters], _T]
Write = Callable[[sqlite3.Connection, Counters], tuple[Counters, _T]]

CHECKPOINT_BYTES: Final = 4 * 2**20
"""Size of the log at which it is copied into the database; the log's file keeps this size and is written over."""
MAX_LOG_BYTES: Final = 32 * 2**20
"""Size of the log at which messages are refused, because another process reads an old state and holds the log."""
_NOTES_LOG_BYTES: Final = 40 * 2**20
_LITTLE_ROOM: Final = 64 * 2**20
# The disk has room for a group if it has it for the group's pages, twice: in the log, and in the database.
_OVERHEAD: Final = 128 * 1024
# Free pages are given back to the disk when there are many of them, in steps that hold up no caller.
_MANY_FREE: Final = 16 * 2**20
_SHRINK_PAGES: Final = 128
_SHRINK_SECONDS: Final = 0.02
_TRIES: Final = 3
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_YEAR_MS: Final = 366 * 86_400_000
_MINUTE_MS: Final = 60_000


@dataclass
class Options:
    """What all shards of a spool have in common; `wall` and `monotonic` are in seconds."""

    max_bytes: int = 2**30
    max_age: float | None = None
    power_safe: bool = True
    falls_back: bool = False
    check_interval: float = 5.0
    key_rotated: bool = False
    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    fingerprint: str = ""


class DiskFull(SpoolUnavailable):
    """There is no room."""


class _Removed(Exception):
    """The files are not where they were opened."""


_FAULTS: Final = (*tables.ERRORS, OSError, Damaged, _Removed)


class AgeClock:
    """The clock that messages age by, in milliseconds: the wall clock, as far as it can be believed.

    Within a process it runs with the monotonic clock, whatever happens to the wall clock. Between two processes the
    wall clock's difference counts, unless it is negative or above a year: then the wall clock was set, and no time
    counts. So a message may be kept for longer than `max_age`, and is not dropped because a clock was set.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._start: float | None = None

    def begin(self, counters: Counters) -> None:
        """Go on where the last process stopped; does nothing the second time."""
        if self._start is None:
            wall = self.wall()
            gap = wall - counters.wall
            clock = counters.clock + (gap if 0 <= gap <= _YEAR_MS else 0) if counters.clock else wall
            self._start = clock - self._options.monotonic() * 1000

    def now(self) -> int:
        return int(self._options.monotonic() * 1000 + (self._start or 0))

    def wall(self) -> int:
        return int(self._options.wall() * 1000)

    def was_set(self, counters: Counters) -> bool:
        """Whether the wall clock has been set since the last transaction, which the next process must know."""
        return abs((self.wall() - self.now()) - (counters.wall - counters.clock)) > _MINUTE_MS


class Database:
    """A shard's file, opened by one connection.

    Attributes:
        counters: as of the last transaction or look.
        version: changes when the file was reopened, or changed by another process.
        opener: the spool that uses the database.
        damages: how often damage was found.
    """

    def __init__(self, place: Place, lock: Lock | None, options: Options, opener: object) -> None:
        self.place = place
        self.counters = Counters()
        self.version = (0, 0)
        self.damages = 0
        self.clock = AgeClock(options)
        self._owned_lock = lock
        self._options = options
        self.opener = opener
        self._connection: sqlite3.Connection | None = None
        self._id: FileId = (0, 0)
        self._openings = 0
        self._had_fault = False
        self._was_written = False

    @property
    def _lock(self) -> Lock:
        assert self._owned_lock is not None
        return self._owned_lock

    # -- work

    def transact(self, work: Write[_T], size: int | None = None) -> _T:
        """Run the work in a transaction that ends with the counters that it returns; returns once that is safe.

        `size`: bytes of the messages that it appends; `None` if it appends none.

        Raises:
            DiskFull: nothing was changed.
            SpoolUnavailable: nothing was changed, or it is not known; then it may turn up later.
        """
        return self._survive(lambda: self._transact(work, size))

    def read(self, work: Read[_T]) -> _T:
        """Run work that only reads one state of the file.

        Raises:
            SpoolUnavailable: it cannot be read.
        """
        return self._survive(lambda: self._read(work))

    def _transact(self, work: Write[_T], size: int | None) -> _T:
        connection = self._opened()
        self._check_place()
        self._check_room(connection, size)
        connection.execute("BEGIN IMMEDIATE")
        try:
            before = self._look(connection)
            after, result = work(connection, before)
            after = after._replace(
                revision=max(after.revision, before.revision) + 1,
                clock=self.clock.now(),
                wall=self.clock.wall(),
                fingerprint=self._options.fingerprint or after.fingerprint,
            )
            tables.store_counters(connection, after)
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise
        self.counters = after
        self._was_written = True
        self._after_commit(connection, after)
        return result

    def _read(self, work: Read[_T]) -> _T:
        connection = self._opened()
        connection.execute("BEGIN")
        try:
            return work(connection, self._look(connection))
        finally:
            _roll_back(connection)

    def _look(self, connection: sqlite3.Connection) -> Counters:
        """Load the counters if another process has changed them. Within a transaction."""
        version = (self._openings, connection.execute("PRAGMA data_version").fetchone()[0])
        if version != self.version:
            self.counters = tables.load_counters(connection)
            self._check_owner(self.counters)
            self.clock.begin(self.counters)
            self.version = version
        return self.counters

    def _check_owner(self, counters: Counters) -> None:
        if is_foreign(self._options, counters.fingerprint):
            raise SpoolUnavailable(other_owner(self.place.database))

    # -- room for the log

    def _check_room(self, connection: sqlite3.Connection, size: int | None) -> None:
        """Refuse what would fill the disk so that the log could not be copied into the database any more.

        The log's own file is the room that outcomes are recorded in when the disk is full: it is written over once it
        has been copied, so it is copied before anything is refused.
        """
        log = self.place.log_size()
        if log > (MAX_LOG_BYTES if size is not None else _NOTES_LOG_BYTES) and not _checkpoint(connection):
            raise SpoolUnavailable(
                f"{self.place.log} has grown to {log // 2**20} MiB, because another process has been reading the "
                "spool for long: end that process"
            )
        if size is None:
            return
        disk = os.statvfs(self.place.database.parent)
        free = disk.f_bavail * disk.f_frsize
        if free < _LITTLE_ROOM + 2 * size and free < self._wanted_room(connection, size):
            is_copied = _checkpoint(connection)
            if free < self._wanted_room(connection, size, is_copied=is_copied):
                raise DiskFull(f"{self.place.database}: the disk is full")

    def _wanted_room(self, connection: sqlite3.Connection, size: int, *, is_copied: bool = False) -> int:
        pages = size + size // 4 + _OVERHEAD
        log = self.place.log_size()
        uncopied = pages if is_copied else pages + log
        return max(0, uncopied - _free_bytes(connection)) + max(0, max(CHECKPOINT_BYTES, pages) + _OVERHEAD - log)

    def _after_commit(self, connection: sqlite3.Connection, counters: Counters) -> None:
        with contextlib.suppress(OSError):
            self._lock.set_watermark(counters)
        if self.place.log_size() > CHECKPOINT_BYTES:
            _checkpoint(connection)

    def maintain(self) -> bool:
        """What is to be done when there is time; returns whether there is more of it."""
        connection = self._connection
        if connection is None:
            return False
        with contextlib.suppress(*_FAULTS):
            if not self._was_written and self.place.log_size():
                connection.execute("PRAGMA busy_timeout = 0")
                _checkpoint(connection, "TRUNCATE")
                connection.execute(_BUSY_TIMEOUT)
            self._was_written = False
            used = self.counters.pending_bytes + self.counters.dead_bytes
            return _free_bytes(connection) > max(_MANY_FREE, used) and shrink(connection, _SHRINK_SECONDS)
        return False

    # -- faults

    def _survive(self, action: Callable[[], _T]) -> _T:
        for tries_left in reversed(range(_TRIES)):
            try:
                return action()
            except _FAULTS as fault:
                if not tries_left or _is(fault, sqlite3.SQLITE_BUSY):
                    self._close_connection()
                    raise self._refusal(fault) from fault
                self._recover(fault, tries_left)
            except SpoolUnavailable:
                raise
            except BaseException:
                self._close_connection()
                raise
        raise AssertionError

    def _recover(self, fault: Exception, tries_left: int) -> None:
        if _is_no_room(fault):
            connection = self._connection
            if tries_left < _TRIES - 1 or connection is None or not _checkpoint(connection):
                raise self._refusal(fault) from fault
            return
        try:
            if isinstance(fault, _Removed):
                self._follow()
            elif isinstance(fault, (Damaged, UnicodeDecodeError)) or _is(fault, *_DAMAGE):
                self._salvage(fault)
            else:
                self._had_fault = True
                self._close_connection()
        except _FAULTS as another:
            raise self._refusal(another) from another

    def _refusal(self, fault: Exception) -> SpoolUnavailable:
        kind = DiskFull if _is_no_room(fault) else SpoolUnavailable
        name = getattr(fault, "sqlite_errorname", None)
        return kind(f"{self.place.database}: {fault}" + (f" ({name})" if name else ""))

    # -- opening and closing

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            with open_files.guard:
                self._open()
        assert self._connection is not None
        return self._connection

    def _open(self) -> None:
        place = self.place
        prepare_folder(place.database)
        if not self._lock.is_in_place():
            self._renew_lock()
        place.finish_salvage()
        if open_files.is_inherited(place.database):
            raise SpoolUnavailable(f"{place.database} was open in the process that this one was forked from")
        if not check_files(place):
            self._make_new()
        if place.database.stat().st_mode & 0o077:
            place.database.chmod(0o600)
        connection = connect(place.database, power_safe=self._options.power_safe)
        try:
            self._check(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._id = file_id(place.database)
        open_files.databases[self._id] = self
        self._openings += 1
        self._had_fault = False

    def _make_new(self) -> None:
        watermark = self._lock.watermark()
        if watermark is not None and watermark.pending:
            self._report("the file is gone")
        self._replace(None)

    def _check(self, connection: sqlite3.Connection) -> None:
        if self._had_fault:
            # Nothing may build on pages of the log whose sync failed.
            _checkpoint(connection, "TRUNCATE")
        tables.check_schema(connection)
        counters = tables.load_counters(connection)
        if counters.caught_up(self._lock.watermark()) is not counters:
            raise Damaged("the end of its log is missing")

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with open_files.guard:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
                open_files.databases.pop(self._id, None)

    def close(self) -> None:
        self._close_connection()
        self._lock.close()

    def abandon(self) -> None:
        """In a forked child: leave everything to the parent."""
        if self._connection is not None:
            leave_open(self._connection)

    # -- damage, and files that were removed

    def _salvage(self, damage: Exception) -> None:
        # SQLite's own text may quote pages of the file.
        self._report(str(damage) if isinstance(damage, Damaged) else getattr(damage, "sqlite_errorname", "damage"))
        self._close_connection()
        with contextlib.ExitStack() as stack:
            source = None
            with contextlib.suppress(*tables.ERRORS):
                source = connect(self.place.database, read_only=True)
                stack.callback(source.close)
            self._replace(source)

    def _replace(self, source: sqlite3.Connection | None) -> None:
        """Put a new file in place that has everything sound of the old one, and set the old one aside."""
        watermark, is_live = self._lock.watermark(), source is not None and source is self._connection
        _make_file(self.place, lambda target: _carry_over(source, target, watermark, is_live=is_live))
        self.place.new.rename(self.place.salvaged)
        if is_live:
            self._close_connection()
        self.place.finish_salvage()

    def _check_place(self) -> None:
        if file_id(self.place.database) != self._id or not self._lock.is_in_place():
            raise _Removed("the files were removed")

    def _follow(self) -> None:
        """The files were removed while they were open; the connection still has everything that was in them."""
        database = self.place.database
        if not database.parent.exists():
            raise SpoolUnavailable(f"{database.parent} was removed; its messages wait until it is back")
        if database.exists() and file_id(database) != self._id:
            raise SpoolUnavailable(f"another file has taken the place of {database}")
        prepare_folder(database)
        if not self._lock.is_in_place():
            self._renew_lock()
        if file_id(database) != self._id:
            self._replace(self._connection)

    def _renew_lock(self) -> None:
        self._lock.close()
        lock = Lock.acquire(self.place.lock)
        if lock is None:
            raise SpoolUnavailable(f"another process has taken {self.place.database}")
        self._owned_lock = lock

    def _report(self, what: str) -> None:
        self.damages += 1
        _logger.warning(
            "The spool is damaged: %s: %s; salvaging what is sound, counting what is lost", self.place.database, what
        )


class MemoryDatabase(Database):
    """A database in memory, for while the disk refuses."""

    def __init__(self, options: Options) -> None:
        super().__init__(Place(Path("memory")), None, options, None)

    def _open(self) -> None:
        connection = connect(None)
        tables.create(connection)
        self._connection = connection
        self._openings += 1

    def _close_connection(self) -> None:
        """After a fault: never, everything would be lost."""

    def close(self) -> None:
        super()._close_connection()

    def _check_place(self) -> None: ...

    def _check_room(self, connection: sqlite3.Connection, size: int | None) -> None: ...

    def _after_commit(self, connection: sqlite3.Connection, counters: Counters) -> None: ...

    def maintain(self) -> bool:
        return False


def is_foreign(options: Options, fingerprint: str) -> bool:
    return bool(options.fingerprint and fingerprint and options.fingerprint != fingerprint and not options.key_rotated)


def foreign_shard(base: Path, options: Options) -> Path | None:
    """A shard at this path that belongs to another write key or host, as far as that is known without opening it."""
    for slot in slots_on_disk(base):
        place = Place(base, slot)
        if is_foreign(options, _peek_fingerprint(place)):
            return place.database
    return None


def _peek_fingerprint(place: Place) -> str:
    with open_files.guard:
        opener = open_files.databases.get(file_id(place.database))
        if isinstance(opener, Database):
            return opener.counters.fingerprint
        watermark = peek_watermark(place)
        if watermark is not None or open_files.is_inherited(place.database):
            return "" if watermark is None else watermark.fingerprint
        # The lock file was lost: the file itself knows.
        with contextlib.suppress(SpoolUnavailable, OSError, Damaged, *tables.ERRORS):
            if check_files(place):
                with contextlib.closing(connect(place.database, read_only=True)) as connection:
                    return tables.load_counters(connection).fingerprint
        return ""


def other_owner(path: Path) -> str:
    return (
        f"the spool {path} belongs to another write key or host, whose messages must not be sent with this one: give "
        "this client another path, or, if the write key was rotated, say so once with SQLiteSpool(path, "
        f'key_rotated=True) or "segment-async spool rotate-key {path}"'
    )


# -- SQLite

_BUSY_TIMEOUT: Final = "PRAGMA busy_timeout = 5000"


def connect(database: Path | None, *, power_safe: bool = True, read_only: bool = False) -> sqlite3.Connection:
    """Open a database that exists; `None`: one in memory.

    Raises:
        SpoolUnavailable: it cannot be written as safely as it has to be.
    """
    if sqlite3.sqlite_version_info < (3, 24):
        raise SpoolUnavailable(f"the spool needs SQLite 3.24 or later; this is {sqlite3.sqlite_version}")
    uri = ":memory:" if database is None else f"file:{quote(str(database))}?mode={'ro' if read_only else 'rw'}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        _configure(connection, power_safe, read_only)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection, power_safe: bool, read_only: bool) -> None:
    # What is not UTF-8 any more becomes another text, which fits no checksum; Python by itself would raise.
    connection.text_factory = _text
    connection.execute(_BUSY_TIMEOUT)
    connection.execute("PRAGMA cache_size = -4000")
    if read_only:
        return
    # These two can be set only before the first table is created.
    connection.execute(f"PRAGMA page_size = {tables.PAGE_SIZE}")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode not in ("wal", "memory"):
        raise SpoolUnavailable("SQLite's write-ahead log does not work on this file system, as on many network ones")
    connection.execute(f"PRAGMA synchronous = {'FULL' if power_safe else 'NORMAL'}")
    # For systems where a plain sync stops at the disk's own cache; without effect elsewhere.
    connection.execute(f"PRAGMA fullfsync = {power_safe:d}")
    # The log is copied after a transaction and not within it.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES}")
    # On in some builds of SQLite; to erase messages it is switched on.
    connection.execute("PRAGMA secure_delete = 0")


def _text(content: bytes) -> str:
    return content.decode(errors="replace")


def _roll_back(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        connection.rollback()


def _checkpoint(connection: sqlite3.Connection, mode: str = "PASSIVE") -> bool:
    """Copy the log into the database; returns whether all of it was."""
    with contextlib.suppress(*_FAULTS):
        is_busy, pages, copied = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        return not is_busy and bool(pages == copied)
    return False


def _free_bytes(connection: sqlite3.Connection) -> int:
    pages: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return pages * tables.PAGE_SIZE


def shrink(connection: sqlite3.Connection, seconds: float) -> bool:
    """Give free pages back to the disk, for about so long; returns whether there are more."""
    end = time.monotonic() + seconds
    while _free_bytes(connection):
        if time.monotonic() >= end:
            return True
        connection.execute(f"PRAGMA incremental_vacuum({_SHRINK_PAGES})").fetchall()
    _checkpoint(connection)
    return False


def _is(fault: Exception, *codes: int) -> bool:
    return getattr(fault, "sqlite_errorcode", 0) & 0xFF in codes


def _is_no_room(fault: Exception) -> bool:
    if isinstance(fault, OSError):
        return fault.errno in _NO_ROOM
    return _is(fault, sqlite3.SQLITE_FULL)


# Connections that a forked child inherited. To close one could remove a log that others have written to since, and so
# could the interpreter at its exit: hence the extra reference.
_left_open: list[sqlite3.Connection] = []


def leave_open(connection: sqlite3.Connection) -> None:
    """Never close this connection, not even when the interpreter ends."""
    _left_open.append(connection)
    with contextlib.suppress(ImportError, AttributeError):
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


# -- salvage

_MESSAGES: Final = """
    SELECT position, message_id, accepted_at, body, checksum
    FROM messages NOT INDEXED WHERE position > ? AND position < ? ORDER BY position
"""
_DEAD: Final = "SELECT * FROM dead NOT INDEXED WHERE position > ? AND position < ? ORDER BY position "
# Positions to look ahead, past pages that cannot be read, before the rest is given up.
_FARTHEST: Final = 2**40
_LAST: Final = 2**63 - 1


def _make_file(place: Place, fill: Callable[[sqlite3.Connection], None]) -> None:
    """Make a complete database at the name ``.new``, safe on disk."""
    for leftover in (place.new, place.new.with_name(place.new.name + "-wal")):
        leftover.unlink(missing_ok=True)
    os.close(os.open(place.new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = connect(place.new, power_safe=False)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {user_version(FORMAT)}")
        connection.execute("BEGIN")
        tables.create(connection)
        fill(connection)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()
    sync_file(place.new)


def _carry_over(
    source: sqlite3.Connection | None, target: sqlite3.Connection, watermark: Counters | None, *, is_live: bool
) -> None:
    """Copy what is sound, and set the counters to what was found. `None`: not even the file could be opened.

    Of a damaged file, messages that may have been sent are not known any more: all of them are marked.
    """
    attempts = _sound_attempts(source)
    count = size = last = 0
    for row in _sound_messages(source):
        if tables.salvage_message(target, row):
            count, size, last = count + 1, size + len(row.body), row.position
            if number := max(attempts.get(row.position, 0), 0 if is_live else 1):
                tables.store_attempts(target, [row.position], number)
    dead = dead_bytes = 0
    for dead_row in _sound_dead_letters(source):
        tables.insert_dead(target, [dead_row])
        dead, dead_bytes = dead + 1, dead_bytes + len(dead_row.body)
    counters = _latest(source, watermark) or Counters(accepted=count + dead, failed=dead)
    tables.store_counters(
        target,
        counters.salvaged(count)._replace(
            position=max(counters.position, last), pending_bytes=size, dead=dead, dead_bytes=dead_bytes
        ),
    )


def _latest(source: sqlite3.Connection | None, watermark: Counters | None) -> Counters | None:
    try:
        own = None if source is None else tables.load_counters(source)
    except (*tables.ERRORS, Damaged):
        own = None
    return watermark if own is None else own.caught_up(watermark)


def _sound_messages(source: sqlite3.Connection | None) -> Iterator[tables.Row]:
    return (tables.Row(*row[:4]) for row in _readable(source, _MESSAGES, tables.is_sound_message))


def _sound_dead_letters(source: sqlite3.Connection | None) -> Iterator[tables.DeadRow]:
    rows = _readable(source, _DEAD, lambda row: tables.DeadRow(*row).is_sound)
    return (tables.DeadRow(*row) for row in rows)


def _sound_attempts(source: sqlite3.Connection | None) -> dict[int, int]:
    with contextlib.suppress(*tables.ERRORS, Damaged):
        return {} if source is None else tables.load_all_attempts(source)
    return {}


def _readable(
    source: sqlite3.Connection | None, query: str, is_sound: Callable[[tuple[Any, ...]], bool]
) -> Iterator[tuple[Any, ...]]:
    """The sound rows in the order of their positions, stepping over pages that cannot be read.

    The position of a row that is not sound may be what is damaged: it is not relied on.
    """
    last = step = 0
    while source is not None and step < _FARTHEST:
        try:
            for row in source.execute(query + "ASC", (last + step, _LAST)):
                if is_sound(row) and row[0] > last:
                    if step:
                        yield from _backwards(source, query, is_sound, last, row[0])
                    last, step = row[0], 0
                    yield row
            break
        except tables.ERRORS:
            # The page after the last row cannot be read: look beyond it, farther each time.
            step = step * 2 or 1


def _backwards(
    source: sqlite3.Connection, query: str, is_sound: Callable[[tuple[Any, ...]], bool], after: int, before: int
) -> list[tuple[Any, ...]]:
    """Rows between two positions, from the end back to the first that cannot be read."""
    rows: list[tuple[Any, ...]] = []
    with contextlib.suppress(*tables.ERRORS):
        for row in source.execute(query + "DESC", (after, before)):
            if is_sound(row) and after < row[0] < (rows[-1][0] if rows else before):
                rows.append(row)
    return rows[::-1]
