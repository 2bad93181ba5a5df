"""A file that comes back: opened late, reopened after errors, mended when damaged, carried along when removed.

After a fault the connection is never trusted again. It is closed, the log is emptied into the file, so that nothing
builds on pages whose sync failed, and what is there is checked.

This file knows neither messages nor who reads them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Callable
from typing import Final, TypeVar

from segment_async._exceptions import SpoolUnavailable

from . import _salvage as salvage
from . import _tables as tables
from ._files import Place, inspect, is_scratched, make_private, prepare_folder
from ._ledger import Ledger
from ._lock import Lock
from ._log import reforge
from ._store import DiskFull, Transaction, commit
from ._tables import Damaged

_logger = logging.getLogger("segment_async")
_T = TypeVar("_T")

_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
# A file that can be checked throughout in well under a second.
_SMALL: Final = 2**24
_TRIES: Final = 3


class Removed(Exception):
    """The files are not any more where they were opened."""


_FAULTS: Final = (*tables.ERRORS, OSError, Damaged, Removed)


class FileStore:
    def __init__(self, place: Place, lock: Lock, now: Callable[[], int], *, power_safe: bool) -> None:
        self.openings = 0
        self.damages = 0
        self._place = place
        self._lock = lock
        self._now = now
        self._power_safe = power_safe
        self._connection: sqlite3.Connection | None = None
        # As of the last transaction of this connection.
        self._ledger: Ledger | None = None
        self._inode = 0
        self._had_fault = False

    def transact(self, work: Transaction[_T]) -> tuple[Ledger, _T]:
        def once() -> tuple[Ledger, _T]:
            connection = self._opened()
            self._check_place()
            self._ledger, result = commit(connection, work, self._ledger)
            self._set_watermark(self._ledger)
            return self._ledger, result

        return self._survive(once)

    def query(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        return self._survive(lambda: work(self._opened()))

    def keep_reserve(self) -> bool:
        return self._lock.keep_reserve()

    def use_reserve(self) -> None:
        self._lock.release_reserve()
        # Into the file with what is in the log: from then on the log's own space is used again.
        with contextlib.suppress(*_FAULTS):
            self._opened().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        # SQLite removes the log with the last connection, but not where another file has taken its own one's place.
        self._close_connection()
        self._lock.close()

    def abandon(self) -> None:
        if self._connection is not None:
            leave_open(self._connection)

    # -- faults

    def _survive(self, work: Callable[[], _T]) -> _T:
        for tries_left in reversed(range(_TRIES)):
            try:
                return work()
            except _FAULTS as fault:
                if not tries_left:
                    self._close_connection()
                    raise self._refusal(fault) from fault
                self._recover_from(fault)
        raise AssertionError

    def _recover_from(self, fault: Exception) -> None:
        if _is_no_room(fault):
            raise self._refusal(fault) from fault
        try:
            if isinstance(fault, Removed):
                self._follow()
            elif _is_damage(fault):
                self._mend(fault)
            else:
                self._had_fault = True
                self._close_connection()
        except _FAULTS as another:
            raise self._refusal(another) from another

    def _refusal(self, fault: Exception) -> SpoolUnavailable:
        kind = DiskFull if _is_no_room(fault) else SpoolUnavailable
        name = getattr(fault, "sqlite_errorname", None)
        return kind(f"{self._place.database}: {fault}" + (f" ({name})" if name else ""))

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # -- opening

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            prepare_folder(self._place.database.parent)
            if not self._lock.is_in_place():
                self._renew_lock()
            self._place.finish_mending()
            self._place.use_kept_log()
            if not inspect(self._place):
                self._make_anew()
            make_private(self._place.database)
            if is_scratched(self._place.database):
                raise Damaged("its header is scratched")
            # SQLite itself would cut off what it cannot read of it, and say nothing.
            log = self._place.log.read_bytes() if self._place.log.exists() else b""
            connection = tables.connect(self._place.database, power_safe=self._power_safe)
            try:
                self._check(connection, log)
            except BaseException:
                connection.close()
                raise
            self._inode = os.stat(self._place.database).st_ino
            self._had_fault = False
            self._connection, self._ledger = connection, None
            self.openings += 1
        return self._connection

    def _make_anew(self) -> None:
        watermark = self._lock.watermark()
        if watermark is not None and watermark.pending:
            self._report("it is gone")
        self._exchange(None)

    def _check(self, connection: sqlite3.Connection, log: bytes) -> None:
        if self._had_fault:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if os.path.getsize(self._place.database) < _SMALL:
                tables.check_pages(connection)
        tables.check_schema(connection)
        ledger = tables.load_ledger(connection)
        if ledger.caught_up(self._lock.watermark()) is not ledger:
            self._place.keep_log(reforge(log))
            raise Damaged("the end of its log is missing")

    # -- damage, and files that were removed

    def _mend(self, damage: Exception) -> None:
        # SQLite's own text may quote pages of the file.
        self._report(str(damage) if isinstance(damage, Damaged) else getattr(damage, "sqlite_errorname", "damage"))
        self._close_connection()
        self._place.use_kept_log()
        salvage.make_file(self._place, lambda _: None)
        if salvage.mend_first_page(self._place.database, model=self._place.new):
            return
        with contextlib.ExitStack() as stack:
            source = None
            with contextlib.suppress(*tables.ERRORS):
                source = tables.connect(self._place.database, power_safe=False, read_only=True)
                stack.callback(source.close)
            self._exchange(source)

    def _exchange(self, source: sqlite3.Connection | None) -> None:
        """Put a new file in place that has all that is sound in the old one; the old one is set aside."""
        watermark = self._lock.watermark()
        salvage.make_file(self._place, lambda target: salvage.carry_over(source, target, watermark, self._now()))
        self._place.new.rename(self._place.mended)
        if source is self._connection:
            self._close_connection()
        self._place.finish_mending()

    def _follow(self) -> None:
        """Somebody removed the files under the open connection, which still has all that was in them."""
        if not self._place.database.parent.exists():
            raise SpoolUnavailable(f"{self._place.database.parent} was removed; its messages wait for it to be back")
        if self._place.database.exists() and not self._has_database():
            raise SpoolUnavailable(f"another file has taken the place of {self._place.database}")
        prepare_folder(self._place.database.parent)
        if not self._lock.is_in_place():
            self._renew_lock()
        if not self._has_database():
            self._exchange(self._connection)

    def _renew_lock(self) -> None:
        lock = self._lock.renew()
        if lock is None:
            raise SpoolUnavailable(f"another process has taken {self._place.database}")
        self._lock = lock

    def _check_place(self) -> None:
        if not self._is_in_place():
            raise Removed("the files were removed")

    def _is_in_place(self) -> bool:
        return self._has_database() and self._lock.is_in_place()

    def _has_database(self) -> bool:
        try:
            return os.stat(self._place.database).st_ino == self._inode
        except OSError:
            return False

    def _set_watermark(self, ledger: Ledger) -> None:
        with contextlib.suppress(OSError):
            self._lock.mark(ledger)

    def _report(self, what: str) -> None:
        self.damages += 1
        _logger.warning("the spool %s: %s; what can be saved is, what is lost is counted", self._place.database, what)


def _is_no_room(fault: Exception) -> bool:
    if isinstance(fault, OSError):
        return fault.errno in _NO_ROOM
    return getattr(fault, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def _is_damage(fault: Exception) -> bool:
    return isinstance(fault, (Damaged, UnicodeDecodeError)) or getattr(fault, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


# Connections that a forked child inherited. Closing one could remove a log that others have written since, and so
# could the interpreter's own tidying up at exit: hence the extra reference.
_left_open: list[sqlite3.Connection] = []


def leave_open(connection: sqlite3.Connection) -> None:
    """Never close this connection, not even when the interpreter ends."""
    _left_open.append(connection)
    with contextlib.suppress(ImportError, AttributeError):
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
