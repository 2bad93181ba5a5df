"""A visitor to a spool: looks at what is there and changes it, whether or not a process is using it.

A shard that nobody uses is opened as its next owner would open it, with its lock. Into one that is in use the visitor
comes as a guest: in short transactions, between those of the owner, who finds out from the file itself. What the
owner has read already is out of reach.

This file knows no loops and no clients.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult, Status

from . import _tables as tables
from ._file_store import FileStore
from ._files import Place, base_path, inspect, shard_path, slots_on_disk
from ._ledger import Ledger
from ._lock import Lock
from ._protocol import SpoolStatistics
from ._shards import Snapshot
from ._store import PlainStore, Store

_Row = TypeVar("_Row", bound=tuple[Any, ...])

_PURGED: Final = BatchResult(Status.DROPPED, "purged")
_PAGE: Final = 256
_IDENTITIES: Final = ("userId", "anonymousId", "previousId")


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
    """`attempts` counts those of processes that are gone."""

    message_id: str
    body: bytes
    accepted_at: float
    attempts: int


class DeadLetter(NamedTuple):
    message_id: str
    body: bytes
    accepted_at: float
    failed_at: float
    reason: str
    status_code: int | None
    attempts: int
    possibly_delivered: bool


class SpoolVisitor:
    """What is on disk at a spool's path, of all processes together.

    Every call raises `SpoolUnavailable` where there is no spool, or it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._base = base_path(path)
        if not slots_on_disk(self._base):
            raise SpoolUnavailable(f"there is no spool at {self._base}")

    def status(self) -> list[ShardStatus]:
        return [self._status(place) for place in self._places()]

    def set_aside(self) -> list[Path]:
        """Files that were damaged, and are kept; they may hold messages."""
        return [path for place in self._places() for path in place.corrupt_files()]

    def pending(self) -> Iterator[PendingMessage]:
        for place in self._places():
            with _reading(place) as store:
                noted = store.query(tables.load_attempts)
                for position, message_id, accepted_at, body in _rows(store, tables.read_messages):
                    attempts = max((each.number for each in noted if each.first <= position <= each.last), default=0)
                    yield PendingMessage(message_id.decode(), body, accepted_at / 1000, attempts)

    def dead(self) -> Iterator[DeadLetter]:
        for place in self._places():
            with _reading(place) as store:
                yield from map(_dead_letter, _rows(store, tables.read_dead))

    def retry(self, is_wanted: Callable[[DeadLetter], bool]) -> int:
        """Put dead letters back in line, behind what is pending; returns how many.

        One whose id is pending again already stays where it is.
        """
        return sum(
            _changed(store, functools.partial(_revive, rows))
            for store in self._writing()
            for rows in _pages(store, tables.read_dead, lambda row: is_wanted(_dead_letter(row)))
        )

    def purge(self, identity: str) -> int:
        """Erase all messages of a user, pending ones and dead letters; returns how many.

        Those whose `userId`, `anonymousId` or `previousId` it is. What a running process has read already, 10,000
        messages or so, may still be sent; what was set aside as damaged is not looked into.
        """
        count = 0
        for store in self._writing():
            for rows in _pages(store, tables.read_messages, lambda row: _is_of(row[3], identity)):
                count += _changed(store, functools.partial(_erase, rows))
            for dead_rows in _pages(store, tables.read_dead, lambda row: _is_of(row[3], identity)):
                count += _changed(store, functools.partial(_erase_dead, dead_rows))
            # What was delivered long ago may linger in pages that are free.
            store.query(tables.shrink)
        return count

    def _places(self) -> list[Place]:
        places = [Place(shard_path(self._base, slot)) for slot in slots_on_disk(self._base)]
        return [place for place in places if inspect(place)]

    def _status(self, place: Place) -> ShardStatus:
        lock = Lock.acquire(place.lock)
        if lock is not None:
            lock.close()
        with _reading(place) as store:
            statistics = Snapshot((store.query(tables.load_ledger),)).statistics()
            oldest = store.query(lambda connection: tables.read_messages(connection, 0, 1))
        return ShardStatus(place.database, lock is None, statistics, oldest[0][2] / 1000 if oldest else None)

    def _writing(self) -> Iterator[Store]:
        for place in self._places():
            lock = Lock.acquire(place.lock)
            store = _guest(place) if lock is None else FileStore(place, lock, _now, power_safe=True)
            with contextlib.closing(store):
                yield store


@contextlib.contextmanager
def _reading(place: Place) -> Iterator[Store]:
    with contextlib.closing(_guest(place, read_only=True)) as store:
        yield store


def _guest(place: Place, *, read_only: bool = False) -> Store:
    try:
        return PlainStore(tables.connect(place.database, power_safe=True, read_only=read_only))
    except tables.ERRORS as fault:
        raise SpoolUnavailable(f"{place.database}: {fault}") from fault


# -- rows, page by page, so that memory stays flat and transactions short

_Reader = Callable[[sqlite3.Connection, int, int], list[_Row]]


def _pages(store: Store, read: _Reader[_Row], is_wanted: Callable[[_Row], bool]) -> Iterator[list[_Row]]:
    last = 0
    while rows := store.query(functools.partial(_read_page, read, last)):
        last = rows[-1][0]
        if wanted := [row for row in rows if is_wanted(row)]:
            yield wanted


def _read_page(read: _Reader[_Row], after: int, connection: sqlite3.Connection) -> list[_Row]:
    return read(connection, after, _PAGE)


def _rows(store: Store, read: _Reader[_Row]) -> Iterator[_Row]:
    for page in _pages(store, read, lambda _: True):
        yield from page


def _dead_letter(row: tables.DeadRow) -> DeadLetter:
    _, message_id, accepted_at, body, reason, status_code, attempts, possibly_delivered, failed_at = row
    return DeadLetter(
        message_id,
        body,
        accepted_at / 1000,
        failed_at / 1000,
        reason,
        status_code,
        attempts,
        bool(possibly_delivered),
    )


def _is_of(body: bytes, identity: str) -> bool:
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(message, dict) and any(message.get(name) == identity for name in _IDENTITIES)


# -- changes

_Change = Callable[[sqlite3.Connection, Ledger], tuple[Ledger, int]]


def _changed(store: Store, change: _Change) -> int:
    return store.transact(change)[1]


def _revive(rows: list[tables.DeadRow], connection: sqlite3.Connection, ledger: Ledger) -> tuple[Ledger, int]:
    count = 0
    for position, message_id, _, body, reason, _, attempts, possibly_delivered, _ in rows:
        new = ledger.position + 1
        if tables.insert_messages(connection, [(new, message_id.encode(), _now(), body)]):
            if possibly_delivered:
                tables.store_attempts(connection, (new, new), attempts, _now())
            gone, size = tables.remove_dead(connection, position)
            ledger = ledger.after(position=1, dead=-gone, dead_bytes=-size).revived(gone, size, reason)
            count += gone
    return ledger, count


def _erase(rows: list[tables.Row], connection: sqlite3.Connection, ledger: Ledger) -> tuple[Ledger, int]:
    before = ledger.dropped
    for position, message_id, _, _ in rows:
        count, size = tables.remove_messages(connection, (position, position))
        ledger = ledger.ended(count, size, _PURGED)
        if count:
            tables.add_purged(connection, message_id)
    return ledger, ledger.dropped - before


def _erase_dead(rows: list[tables.DeadRow], connection: sqlite3.Connection, ledger: Ledger) -> tuple[Ledger, int]:
    before = ledger.dead
    for position, *_ in rows:
        count, size = tables.remove_dead(connection, position)
        ledger = ledger.after(dead=-count, dead_bytes=-size)
    return ledger, before - ledger.dead


def _now() -> int:
    return int(time.time() * 1000)
