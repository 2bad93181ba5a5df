"""A database as a shard sees it, and one that is simply there.

Work is handed in as a function and may run more than once: what it does to the database is undone before it runs
again, what it does elsewhere it has to bear twice.

This file knows neither files nor messages.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from typing import Protocol, TypeVar

from segment_async._exceptions import SpoolUnavailable

from . import _tables as tables
from ._ledger import Ledger
from ._tables import Damaged

_T = TypeVar("_T")

Transaction = Callable[[sqlite3.Connection, Ledger], tuple[Ledger, _T]]


class DiskFull(SpoolUnavailable):
    """There is no room; what frees some may still be written, from the reserve."""


class Store(Protocol):
    """A database, as a shard sees it.

    Attributes:
        openings: how often it was opened; what was known of it before may have changed.
        damages: how often damage was found.
    """

    openings: int
    damages: int

    def transact(self, work: Transaction[_T]) -> tuple[Ledger, _T]:
        """Run the work in a transaction that ends with its ledger; returns once it is safe.

        Raises:
            DiskFull: nothing was changed, and there is no room.
            SpoolUnavailable: nothing was changed, or nobody knows; what the work did may turn up later.
        """
        ...

    def query(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run work that only reads.

        Raises:
            SpoolUnavailable: it cannot be read.
        """
        ...

    def keep_reserve(self) -> bool:
        """Have room kept for a full disk, if there is any."""
        ...

    def use_reserve(self) -> None:
        """Give the room up, so that outcomes can be recorded on a full disk."""

    def close(self) -> None: ...

    def abandon(self) -> None:
        """In a forked child: leave all to the parent."""


class PlainStore:
    """A connection that is not repaired when it fails: to memory, or as the guest of another process."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.openings = 0
        self.damages = 0
        self._connection = connection

    def transact(self, work: Transaction[_T]) -> tuple[Ledger, _T]:
        return self.query(lambda connection: commit(connection, work))

    def query(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            return work(self._connection)
        except (*tables.ERRORS, Damaged) as fault:
            raise SpoolUnavailable(str(fault)) from fault

    def keep_reserve(self) -> bool:
        return True

    def use_reserve(self) -> None:
        pass

    def close(self) -> None:
        self._connection.close()

    def abandon(self) -> None:
        pass


def commit(connection: sqlite3.Connection, work: Transaction[_T], known: Ledger | None = None) -> tuple[Ledger, _T]:
    """Run the work in one transaction; if anything at all goes wrong nothing is changed.

    `known`: the ledger of the last transaction, which need not be read if it is in place still.
    """
    if known is not None:
        with contextlib.suppress(_Changed):
            return _commit(connection, work, known)
    return _commit(connection, work, None)


class _Changed(Exception):
    """The ledger is not the known one: somebody else has written."""


def _commit(connection: sqlite3.Connection, work: Transaction[_T], known: Ledger | None) -> tuple[Ledger, _T]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        before = tables.load_ledger(connection) if known is None else known
        after, result = work(connection, before)
        after = after._replace(revision=max(after.revision, before.revision) + 1)
        if known is None:
            tables.store_ledger(connection, after)
        elif not tables.replace_ledger(connection, known, after):
            raise _Changed
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.rollback()
        raise
    return after, result
