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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar
from urllib.parse import quote

from segment_async._exceptions import SpoolUnavailable
from segment_async._locks import reentrant_lock
from segment_async._outcome import BatchResult, Status

from . import _files as files
from . import _tables as tables
from ._files import Lock, Place, open_files
from ._tables import Counters, Damaged, Row

_logger = logging.getLogger("segment_async")
_T = TypeVar("_T")
_P = ParamSpec("_P")

Write = Callable[[sqlite3.Connection, Counters], tuple[Counters, _T]]

# Size of the log at which it is copied into the database; the log's file keeps this size and is written over.
_CHECKPOINT_BYTES: Final = 4 * 2**20
# Sizes of the log at which messages, and later outcomes, are refused: another process reads an old state and holds it.
_MAX_LOG_BYTES: Final = 32 * 2**20
_MAX_LOG_BYTES_FOR_NOTES: Final = 40 * 2**20
_OVERHEAD: Final = 128 * 1024
# Room that is not used up within the seconds until the next look, whatever is written.
_PLENTY: Final = 2**30
_LOOK_SECONDS: Final = 1.0
# Free pages are given back to the disk when there are many of them, in steps that hold up no caller.
_MANY_FREE: Final = 16 * 2**20
_SHRINK_SECONDS: Final = 0.02
_SHRINK_PAGES: Final = 128
# Largest file that is rewritten as a whole: callers wait for that, and it goes through the log.
_REWRITE_BYTES: Final = 16 * 2**20
_BUSY_TIMEOUT: Final = "PRAGMA busy_timeout = 5000"
_TRIES: Final = 3
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)
_YEAR_MS: Final = 366 * 86_400_000
_MINUTE_MS: Final = 60_000


def _free_bytes_of_disk(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


LogLine = tuple[str, tuple[object, ...], BaseException | None]


@dataclass
class Options:
    """What all shards of a spool have in common; the clocks are in seconds, and `free_bytes` is of a folder's disk."""

    max_bytes: int = 2**30
    max_age: float | None = None
    power_safe: bool = True
    callers_keep: bool = False
    check_interval: float = 5.0
    key_rotated: bool = False
    wall_clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    free_bytes: Callable[[Path], int] = _free_bytes_of_disk
    fingerprint: str = ""
    # What is to be logged once no lock is held: a logging handler has a lock of its own, and may call the spool.
    logs: list[LogLine] = field(default_factory=list[LogLine])

    def log(self, text: str, *args: object, fault: BaseException | None = None) -> None:
        self.logs.append((text, args, fault))

    def write_logs(self) -> None:
        while self.logs:
            text, args, fault = self.logs.pop(0)
            # A handler that raises is the application's, and stops nothing here.
            with contextlib.suppress(Exception):
                _logger.log(logging.WARNING if fault is None else logging.ERROR, text, *args, exc_info=fault)

    def is_foreign(self, fingerprint: str) -> bool:
        return "" not in (self.fingerprint, fingerprint) and self.fingerprint != fingerprint and not self.key_rotated


_FAULTS: Final = (*tables.ERRORS, OSError, Damaged)


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
            gap = self.wall() - counters.wall
            clock = counters.clock + (gap if 0 <= gap <= _YEAR_MS else 0) if counters.clock else self.wall()
            self._start = clock - self._options.monotonic() * 1000

    def now(self) -> int:
        return int(self._options.monotonic() * 1000 + (self._start or 0))

    def wall(self) -> int:
        return int(self._options.wall_clock() * 1000)

    def was_set(self, counters: Counters) -> bool:
        """Whether the wall clock has been set since the last transaction, which the next process must know."""
        return abs((self.wall() - self.now()) - (counters.wall - counters.clock)) > _MINUTE_MS


class _File:
    """The file of one database: opened late, made again if it was removed, salvaged if it is damaged.

    Attributes:
        connection: `None` before it is opened, and from a fault on.
        lock: `None`: another process holds the shard.
        damages: how often damage was found; `lost`: messages that it cost.
        disk_bytes: size of the files at the last look.
    """

    def __init__(self, place: Place, lock: Lock | None, options: Options, holder: Database, *, read_only: bool) -> None:
        self.connection: sqlite3.Connection | None = None
        self.lock = lock
        self.damages: int = 0
        self.lost: int = 0
        self.disk_bytes = 0
        self._place = place
        self._options = options
        # What is registered as the user of the file.
        self._holder = holder
        self._read_only = read_only
        self._id = (0, 0)
        # When the lock's file and the room are looked at again.
        self._next_look = 0.0

    def opened(self) -> sqlite3.Connection:
        if self.connection is None:
            with open_files.guard:
                self.connection = self._open()
        return self.connection

    def _open(self) -> sqlite3.Connection:
        path = self._place.database
        if self.lock is not None:
            if self.lock.is_closed:
                raise SpoolUnavailable(f"{path} was closed meanwhile")
            self._prepare_place()
            self._place.finish_salvage()
        if files.file_id(path) in open_files.inherited:
            raise SpoolUnavailable(f"{path} was open in the process that this one was forked from")
        if self.lock is None:
            connection = connect(path, read_only=self._read_only)
            self._id = open_files.visitors[self._holder] = files.file_id(path)
            return connection
        watermark = self.lock.watermark()
        if not files.check_files(self._place):
            if watermark is not None and watermark.pending:
                self._report("the file is gone")
            self._replace(None)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        connection = connect(path, power_safe=self._options.power_safe)
        try:
            # Nothing may build on pages of the log whose sync has failed.
            _checkpoint(connection)
            tables.check_schema(connection)
            tables.prepare_append(connection)
            if watermark is not None and watermark.revision > tables.load_counters(connection).revision:
                raise Damaged("the end of its log is missing")
            self._id = files.file_id(path)
            open_files.databases[self._id] = self._holder
            self.disk_bytes = self._place.disk_bytes()
        except BaseException:
            # Left to the garbage collector, it would drop the process's locks on the file at any time.
            connection.close()
            open_files.databases.pop(self._id, None)
            raise
        return connection

    def reopen_later(self) -> None:
        """Do not go on with a connection that failed, unless its file was removed: nothing else has what was in it."""
        if files.file_id(self._place.database) == self._id:
            self.give_up_connection()

    def give_up_connection(self) -> None:
        connection, self.connection = self.connection, None
        if connection is None:
            return
        with open_files.guard:
            if self._id in open_files.inherited:
                leave_open(connection)
                return
            with contextlib.suppress(sqlite3.Error):
                connection.close()
            if open_files.visitors.pop(self._holder, None) is None:
                open_files.databases.pop(self._id, None)

    def _prepare_place(self) -> None:
        """Make the folder if it is missing, and take the lock again if its file was removed."""
        files.prepare_folder(self._place.database)
        if self.lock is not None and not self.lock.is_in_place():
            lock = Lock.acquire(self._place.lock)
            if lock is None:
                raise SpoolUnavailable(f"another process has taken {self._place.database}")
            self.lock.close()
            self.lock = lock

    # -- room for the log

    def prepared(self, size: int | None) -> sqlite3.Connection:
        """The connection, if the files are in their place and the disk has room for what is to be written.

        The log is the room that outcomes are recorded in when the disk is full: it is written over once it has been
        copied into the database. So messages are refused before the disk has no room for that copy.
        """
        connection = self.opened()
        if self.lock is None:
            return connection
        status = files.status_of(self._place.database)
        is_time = self._options.monotonic() >= self._next_look
        if status is None or files.id_of(status) != self._id or (is_time and not self.lock.is_in_place()):
            self._restore()
            connection, status = self.opened(), self._place.database.stat()
        log = files.size_of(self._place.log)
        self.disk_bytes = log + status.st_size
        limit = _MAX_LOG_BYTES_FOR_NOTES if size is None else _MAX_LOG_BYTES
        if log > _CHECKPOINT_BYTES and not _checkpoint(connection) and log > limit:
            raise SpoolUnavailable(
                f"{self._place.log} has grown to {log // 2**20} MiB, because another process has been reading the spool "
                "for long: end that process; or because the disk refuses the copy: make room"
            )
        if size is not None and is_time:
            self._check_room(connection, log, 3 * size + _OVERHEAD)
        return connection

    def _check_room(self, connection: sqlite3.Connection, log: int, size: int) -> None:
        folder = self._place.database.parent
        room = self._options.free_bytes(folder) - max(log, _CHECKPOINT_BYTES)
        if room > _PLENTY:
            self._next_look = self._options.monotonic() + _LOOK_SECONDS
        elif room < size:
            if _checkpoint(connection):
                shrink(connection)
            is_copied, log = _checkpoint(connection), files.size_of(self._place.log)
            room = (
                self._options.free_bytes(folder)
                + _free_bytes(connection)
                - max(0 if is_copied else log, _CHECKPOINT_BYTES)
            )
            # Pages that are given back go through the log, which grows by them.
            if room < size and not (is_copied and room + log >= size and empty_log(connection)):
                raise SpoolUnavailable(f"{self._place.database}: the disk is full")

    # -- damage, and files that were removed

    def salvage(self, damage: Exception) -> None:
        is_removed = self.connection is not None and files.file_id(self._place.database) != self._id
        if is_removed:
            # Nothing else has what was in it.
            self._restore()
        # SQLite's own text may quote pages of the file.
        self._report(str(damage) if isinstance(damage, Damaged) else getattr(damage, "sqlite_errorname", "damage"))
        if is_removed:
            return
        self.give_up_connection()
        with contextlib.ExitStack() as stack:
            source = None
            with contextlib.suppress(*tables.ERRORS):
                source = stack.enter_context(contextlib.closing(connect(self._place.database, read_only=True)))
            self._replace(source)

    def _restore(self) -> None:
        """The files were removed while they were open: make them again from the connection, which still has everything."""
        path = self._place.database
        if not path.parent.exists():
            raise SpoolUnavailable(f"{path.parent} was removed; its messages wait until it is back")
        if path.exists() and files.file_id(path) != self._id:
            raise SpoolUnavailable(f"another file has taken the place of {path}")
        self._prepare_place()
        if files.file_id(path) != self._id:
            self._replace(self.connection)

    def _replace(self, source: sqlite3.Connection | None) -> None:
        """Put a new file in place that has everything sound of the old one, and set the old one aside."""
        lost = make_file(self._place.new, source, None if self.lock is None else self.lock.watermark())
        self._place.new.rename(self._place.salvaged)
        # Before the old one is moved: after a power loss one of them is there under a name that is looked for.
        files.sync(self._place.database.parent)
        self.lost += lost
        if lost:
            self._options.log("Messages lost by the damage: %d: %s", lost, self._place.database)
        self.give_up_connection()
        self._place.finish_salvage()

    def _report(self, what: str) -> None:
        self.damages += 1
        text = "The spool is damaged: %s: %s; salvaging what is sound, counting what is lost"
        self._options.log(text, self._place.database, what)


class Database:
    """The file of a shard: one that this process holds by its lock, or one of another process, beside that process.

    Only a file that is held is looked after and repaired. Any thread may use the database, one at a time. What cannot be
    done raises `SpoolUnavailable`.

    Attributes:
        counters: as of the last transaction or look.
    """

    def __init__(self, place: Place, lock: Lock | None, options: Options, *, read_only: bool = False) -> None:
        self.counters = Counters()
        self.clock = AgeClock(options)
        self._place = place
        self._options = options
        self.file = _File(place, lock, options, self, read_only=read_only)
        # Held while the connection is used. Taken before `open_files.guard`, if both are.
        self._busy = reentrant_lock()
        self._idle_revision = 0
        self._shrinks = False

    def transact(self, work: Write[_T], size: int | None = None) -> _T:
        """Run the work in a transaction that ends with the counters that it returns; returns once that is safe.

        `size`: bytes of the messages that it appends; `None` if it appends none. If it raises `SpoolUnavailable`, nothing
        was changed, or it is not known; then it may turn up later.
        """

        def action() -> _T:
            connection = self.file.prepared(size)
            connection.execute("BEGIN IMMEDIATE")
            try:
                before = self._load(connection)
                after, result = work(connection, before)
                after = self._stamped(after._replace(revision=before.revision + 1))
                tables.store_counters(connection, after)
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
            self._committed(after)
            return result

        return self._survive(action)

    def append(
        self,
        messages: Sequence[tuple[bytes, bytes]],
        before: Counters,
        after: Counters,
        size: int,
        doubts: list[_T],
        change: _T,
    ) -> bool:
        """As `transact`, for a few messages and nothing else, in one statement.

        `after`: the counters then, if the ones `before` are still those in the file. `doubts` has the `change` from when
        it is not known whether it was committed; the caller removes it.

        Returns `False`, and changes nothing, if an id is pending, or the counters are others.
        """

        def action() -> bool:
            connection = self.file.prepared(size)
            stamped = self._stamped(after._replace(revision=before.revision + 1))
            doubts.append(change)
            try:
                is_stored = tables.append(connection, self.clock.now(), messages, before, stamped)
            except sqlite3.Error as fault:
                if _is(fault, sqlite3.SQLITE_BUSY):
                    # It was not even begun.
                    doubts.pop()
                raise
            if is_stored:
                self._committed(stamped)
            else:
                doubts.pop()
            return is_stored

        return self._survive(action)

    def _committed(self, counters: Counters) -> None:
        self.counters = counters
        if self.file.lock is not None:
            with contextlib.suppress(OSError):
                self.file.lock.set_watermark(counters)

    def read(self, work: Callable[Concatenate[sqlite3.Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run work that only reads one state of the file, the one that `counters` are of."""

        def action() -> _T:
            connection = self.file.opened()
            connection.execute("BEGIN")
            try:
                self._load(connection)
                return work(connection, *args, **kwargs)
            finally:
                _roll_back(connection)

        return self._survive(action)

    def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run work that is no transaction: `shrink` or `empty_log`."""
        return self._survive(lambda: work(self.file.opened()))

    def maintain(self) -> bool:
        """Do what can wait until there is time; returns whether there is more of it."""
        with self._busy, contextlib.suppress(*_FAULTS):
            if self.file.connection is None:
                return False
            if self._idle_revision == self.counters.revision and files.size_of(self._place.log):
                empty_log(self.file.connection)
            self._idle_revision = self.counters.revision
            used = self.counters.pending_bytes + self.counters.dead_bytes
            has_much = self._shrinks or _free_bytes(self.file.connection) > max(_MANY_FREE, used)
            # Pages that are moved while the log cannot be copied would make it grow.
            self._shrinks = has_much and _checkpoint(self.file.connection) and shrink(self.file.connection)
            self.file.disk_bytes = self._place.disk_bytes()
            return self._shrinks
        return False

    def close(self) -> None:
        with self._busy:
            self.file.give_up_connection()
            if self.file.lock is not None:
                self.file.lock.close()

    def abandon(self) -> None:
        """In a forked child: leave everything to the parent. May be called again."""
        if self.file.connection is not None:
            leave_open(self.file.connection)

    # -- one action

    def _survive(self, action: Callable[[], _T]) -> _T:
        """Run the action, and again once what was wrong is mended."""
        with self._busy:
            try:
                for _ in range(_TRIES - 1):
                    try:
                        return action()
                    except _FAULTS as fault:
                        self._mend(fault)
                return action()
            except SpoolUnavailable:
                raise
            except _FAULTS as fault:
                if not _is_no_room(fault):
                    self.file.reopen_later()
                name = getattr(fault, "sqlite_errorname", None)
                raise SpoolUnavailable(f"{self._place.database}: {fault}" + (f" ({name})" if name else "")) from fault
            except BaseException:
                self.file.give_up_connection()
                raise

    def _mend(self, fault: Exception) -> None:
        """Do what lets the action be tried again; raises if nothing does."""
        if self.file.lock is None or _is(fault, sqlite3.SQLITE_BUSY):
            raise fault
        if isinstance(fault, (Damaged, UnicodeDecodeError)) or _is(fault, *_DAMAGE):
            self.file.salvage(fault)
        elif not _is_no_room(fault):
            self.file.reopen_later()
        elif self.file.connection is None or not _checkpoint(self.file.connection):
            raise fault

    def _load(self, connection: sqlite3.Connection) -> Counters:
        self.counters = tables.load_counters(connection)
        if self._options.is_foreign(self.counters.fingerprint):
            raise SpoolUnavailable(other_owner(self._place.database))
        self.clock.begin(self.counters)
        return self.counters

    def _stamped(self, counters: Counters) -> Counters:
        if self.file.lock is None:
            return counters
        fingerprint = self._options.fingerprint or counters.fingerprint
        return counters._replace(clock=self.clock.now(), wall=self.clock.wall(), fingerprint=fingerprint)


# -- whose messages they are


def is_others(base: Path, options: Options) -> bool:
    """Whether a shard at this path belongs to another write key or host, as far as that is known without opening it."""
    return any(options.is_foreign(_peek_fingerprint(Place(base, slot))) for slot in files.slots_on_disk(base))


def _peek_fingerprint(place: Place) -> str:
    with open_files.guard:
        own = open_files.databases.get(files.file_id(place.database))
        if isinstance(own, Database):
            return own.counters.fingerprint
        if (watermark := files.peek_watermark(place)) is not None:
            return watermark.fingerprint
        # The lock file was lost: the file itself knows.
        with contextlib.suppress(SpoolUnavailable, OSError, Damaged):
            if files.check_files(place):
                with contextlib.closing(Database(place, None, Options(), read_only=True)) as database:
                    return database.read(tables.load_counters).fingerprint
    return ""


def other_owner(path: Path) -> str:
    return (
        f"the spool {path} belongs to another write key or host, whose messages must not be sent with this one: give "
        "this client another path, or, if the write key was rotated, say so for one start with SQLiteSpool(path, "
        f'key_rotated=True) or run "segment-async spool rotate-key {path}"'
    )


# -- SQLite


def connect(database: Path, *, power_safe: bool = True, read_only: bool = False) -> sqlite3.Connection:
    """Open a database that exists.

    Raises:
        SpoolUnavailable: it cannot be written as safely as it has to be.
    """
    if sqlite3.sqlite_version_info < (3, 24):
        raise SpoolUnavailable(f"the spool needs SQLite 3.24 or later; this is {sqlite3.sqlite_version}")
    uri = f"file:{quote(os.fsencode(database))}?mode={'ro' if read_only else 'rw'}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        # What is not UTF-8 any more becomes another text, which fits no checksum; Python by itself would raise.
        connection.text_factory = as_text
        connection.execute(_BUSY_TIMEOUT)
        connection.execute("PRAGMA cache_size = -4000")
        # A process opens no further files for a spool: what is rewritten has messages, which belong nowhere else.
        connection.execute("PRAGMA temp_store = MEMORY")
        if not read_only:
            if not files.size_of(database):
                # These can be set only before the first table is created, and the second one is written every time.
                connection.execute(f"PRAGMA page_size = {tables.PAGE_SIZE}")
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            _configure(connection, power_safe)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection, power_safe: bool) -> None:
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise SpoolUnavailable("SQLite's write-ahead log does not work on this file system, as on many network ones")
    connection.execute(f"PRAGMA synchronous = {'FULL' if power_safe else 'NORMAL'}")
    # For systems where a plain sync stops at the disk's own cache; without effect elsewhere.
    connection.execute(f"PRAGMA fullfsync = {power_safe:d}")
    # The log is copied after a transaction and not within it.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT_BYTES}")
    # What is deleted is overwritten within its page; free pages are erased by giving them back.
    connection.execute("PRAGMA secure_delete = FAST")


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


def empty_log(connection: sqlite3.Connection) -> bool:
    """Copy the log into the database and cut it to nothing; returns whether nothing stood in the way."""
    # Without waiting for readers: others could not write meanwhile.
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        return _checkpoint(connection, "TRUNCATE")
    finally:
        connection.execute(_BUSY_TIMEOUT)


def shrink(connection: sqlite3.Connection) -> bool:
    """Give free pages back to the disk, for a moment; returns whether there are more."""
    end = time.monotonic() + _SHRINK_SECONDS
    while (has_more := _free_bytes(connection) > 0) and time.monotonic() < end:
        # Its rows have no columns: `execute` would stop after the first page.
        connection.executescript(f"PRAGMA incremental_vacuum({_SHRINK_PAGES})")
    _checkpoint(connection)
    return has_more


def rewrite(connection: sqlite3.Connection) -> None:
    """Rewrite a file that is not large: rows that SQLite moved within a page may have left copies there."""
    with contextlib.suppress(*_FAULTS):
        if connection.execute("PRAGMA page_count").fetchone()[0] * tables.PAGE_SIZE <= _REWRITE_BYTES:
            connection.execute("VACUUM")


def _is(fault: Exception, *codes: int) -> bool:
    return getattr(fault, "sqlite_errorcode", 0) & 0xFF in codes


def is_busy(fault: BaseException | None) -> bool:
    """Whether others were writing, for as long as a transaction waits for that."""
    return isinstance(fault, sqlite3.Error) and _is(fault, sqlite3.SQLITE_BUSY)


def _is_no_room(fault: Exception) -> bool:
    return _is(fault, sqlite3.SQLITE_FULL) or getattr(fault, "errno", 0) in (errno.ENOSPC, errno.EDQUOT)


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

_MESSAGES: Final = "SELECT position, message_id, accepted_at, body, checksum FROM messages NOT INDEXED"
_DEAD: Final = "SELECT * FROM dead NOT INDEXED"
_DAMAGED: Final = BatchResult(Status.DROPPED, "damaged")
# Positions to look ahead, past pages that cannot be read, before the rest is given up.
_FARTHEST: Final = 2**40


def make_file(path: Path, source: sqlite3.Connection | None, watermark: Counters | None) -> int:
    """Make a complete database with everything sound of another one, safe on disk. `None`: not even that can be opened.

    Returns how many messages are lost, as far as that is known.
    """
    for leftover in (path, path.with_name(path.name + "-wal")):
        leftover.unlink(missing_ok=True)
    os.close(files.made_beside(path))
    with contextlib.closing(connect(path, power_safe=False)) as target:
        target.execute("PRAGMA synchronous = OFF")
        target.execute(f"PRAGMA application_id = {files.APPLICATION_ID}")
        target.execute(f"PRAGMA user_version = {files.user_version(files.FORMAT)}")
        target.execute("BEGIN")
        tables.create(target)
        lost = _carry_over(source, target, watermark)
        target.execute("COMMIT")
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    files.sync(path)
    return lost


def _carry_over(source: sqlite3.Connection | None, target: sqlite3.Connection, watermark: Counters | None) -> int:
    """Copy what is sound, and set the counters to what was found. Returns how many messages are lost.

    Which of the messages may have been sent is not relied on any more: all of them are marked.
    """
    own = None
    found = size = last = dead = dead_bytes = 0
    if source is not None:
        with contextlib.suppress(*tables.ERRORS, Damaged):
            own = tables.load_counters(source)
        for row in _readable(source, _MESSAGES):
            tables.insert_messages(target, row.position, row.accepted_at, [(row.message_id, row.body)])
            tables.store_attempts(target, [row.position], 1)
            found, size, last = found + 1, size + row.size, row.position
        for letter in _readable(source, _DEAD):
            tables.insert(target, "dead", [letter])
            dead, dead_bytes, last = dead + 1, dead_bytes + letter.size, max(last, letter.position)
    counters = _after_salvage(own, watermark, found, dead)
    position, revision = max(counters.position, last), counters.revision + 1
    counters = counters._replace(position=position, revision=revision)
    tables.store_counters(target, counters._replace(pending_bytes=size, dead=dead, dead_bytes=dead_bytes))
    before = own or watermark or Counters()
    return counters.reasons.get("damaged", 0) - before.reasons.get("damaged", 0)


def _readable(source: sqlite3.Connection, query: str) -> Iterator[Row]:
    """The sound rows in the order of their positions, stepping over pages that cannot be read.

    The position of a row that is not sound may be what is damaged: it is not relied on.
    """
    last = step = 0
    while step < _FARTHEST:
        try:
            for values in source.execute(query + " WHERE position > ? ORDER BY position", (last + step,)):
                row = tables.sound_row(values)
                if row is not None and row.position > last:
                    last, step = row.position, 0
                    yield row
            break
        except tables.ERRORS:
            # The page after the last row cannot be read: look beyond it, a little farther each time.
            step += 1 + step // 64


def _after_salvage(own: Counters | None, watermark: Counters | None, found: int, dead: int) -> Counters:
    """The counters after so many pending messages and dead letters were found in a damaged file."""
    counters = own or watermark or Counters(accepted=found + dead, failed=dead)
    if own is not None and watermark is not None and watermark.revision > own.revision:
        # Which of the lost transactions were appends and which were outcomes is not known: what was appended is lost,
        # what was settled is pending again.
        lost = max(0, watermark.accepted - own.accepted)
        counters = own.plus(accepted=lost).settled(lost, 0, _DAMAGED)
        counters = counters._replace(revision=watermark.revision, position=max(counters.position, watermark.position))
    lost = counters.pending - found
    return counters.settled(lost, 0, _DAMAGED) if lost > 0 else counters.plus(accepted=-lost)


def as_text(content: bytes) -> str:
    return content.decode(errors="replace")
