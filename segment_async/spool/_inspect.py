"""What is on disk at a spool's path, shown and changed with or without processes that use it.

A shard that no process uses is locked, so that none begins to. One that another process uses is opened beside it, which
SQLite allows. One that this process uses is never opened once more (see `_files`): its own connection does the work.

Rows are read and changed page by page, so that memory stays flat and transactions short.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, ParamSpec, TypeVar, cast

import orjson

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult, Status

from . import _tables as tables
from ._database import Database, Options, as_text, empty_log, rewrite, shrink
from ._files import Lock, Place, base_path, check_files, file_id, open_files, slots_on_disk
from ._protocol import SpoolStatistics, without_body
from ._tables import Counters, Damaged, Row
from ._writer import statistics_of

_T = TypeVar("_T")
_P = ParamSpec("_P")
# Each reads the next rows of its table after a position, so many at most.
_READ: Final = {"messages": tables.read_messages, "dead": tables.read_dead}
_Change = Callable[[sqlite3.Connection, Counters, Sequence[Row]], tuple[Counters, int]]
"""Changes these rows; returns the counters after that, and how many were changed."""
_PURGED: Final = BatchResult(Status.DROPPED, "purged")
_ROWS: Final = 256
_IDENTITIES: Final = ("userId", "anonymousId", "previousId")
# Between two changes, so that a process beside gets its turn.
_PAUSE_SECONDS: Final = 0.002
# To empty the log while others use it.
_TRIES: Final = 200


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One file of a spool.

    Attributes:
        in_use: a process holds it; so does an inspector that is still giving messages out.
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
        return without_body(self)


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
        self._slots()

    def status(self) -> list[ShardStatus]:
        """The state of each process's part of the spool."""
        return [self._status(place) for place in self._places()]

    def set_aside(self) -> list[Path]:
        """Damaged files that were kept; they may hold messages."""
        return [path for place in self._places() for path in place.corrupt_files()]

    def pending(self) -> Iterator[PendingMessage]:
        """Messages without an outcome, part by part, in the order of sending."""
        for place in self._places():
            with _opened(place, writes=False) as (database, _):
                for rows in _pages(database, "messages"):
                    attempts = _act(database.read, tables.load_attempts, [row.position for row in rows])
                    for row in rows:
                        at = _wall_seconds(database.counters, row.accepted_at)
                        yield PendingMessage(as_text(row.message_id), row.body, at, attempts.get(row.position, 0))

    def dead(self) -> Iterator[DeadLetter]:
        """Messages that failed for good, part by part."""
        for place in self._places():
            with _opened(place, writes=False) as (database, _):
                for rows in _pages(database, "dead"):
                    yield from (_dead_letter(database.counters, row) for row in rows)

    def retry(self, is_wanted: Callable[[DeadLetter], bool]) -> int:
        """Put dead letters back behind what is pending; returns how many.

        One whose id is pending again already stays where it is.
        """
        count = 0
        for place in self._places():
            with _opened(place, writes=True) as (database, _):
                count += _change(database, "dead", lambda known, row: is_wanted(_dead_letter(known, row)), _revive)
        return count

    def count_of_user(self, identity: str) -> int:
        """How many messages `purge` would erase.

        Raises:
            ValueError: as `purge`.
        """
        check_identity(identity)
        return sum(_is_of(each.body, identity) for messages in (self.pending(), self.dead()) for each in messages)

    def purge(self, identity: str) -> int:
        """Erase all messages of a user, pending ones and dead letters; returns how many.

        Those whose `userId`, `anonymousId` or `previousId` it is. They are overwritten in the file, and its log is
        emptied; so are free pages, which may have what was delivered earlier. A file of up to 16 MiB is also rewritten
        as a whole. In a larger one, or one that another process is reading for long, parts of what was erased may remain
        until they are written over. What a running process holds already, up to 10,000 messages, may still be sent. Files
        that were set aside as damaged are not looked into.

        Raises:
            ValueError: `identity` is not text; all ids are sent as text.
        """
        check_identity(identity)
        count = 0
        for place in self._places():
            with _opened(place, writes=True) as (database, _):
                for table, erase in (("messages", _erase), ("dead", _erase_dead)):
                    count += _change(database, table, lambda _, row: _is_of(row.body, identity), erase)
                while _act(database.run, shrink):
                    time.sleep(_PAUSE_SECONDS)
                if _has_emptied_log(database):
                    _act(database.run, rewrite)
                    _has_emptied_log(database)
        return count

    def rotate_key(self) -> None:
        """Forget which write key and host the spool belongs to; the next client on the path claims it.

        Raises:
            SpoolUnavailable: a process uses the spool; stop it first.
        """
        for place in self._places():
            with _guarded():
                lock = Lock.acquire(place.lock)
            if lock is None:
                raise SpoolUnavailable(f"a process uses {place.database}: stop it before the key is rotated")
            lock.close()
        for place in self._places():
            with _opened(place, writes=True) as (database, _):
                _act(database.transact, lambda _, counters: (counters._replace(fingerprint=""), None))

    def _slots(self) -> list[int]:
        slots = slots_on_disk(self._base)
        if not slots:
            raise SpoolUnavailable(f"there is no spool at {self._base}")
        return slots

    def _places(self) -> list[Place]:
        places = [Place(self._base, slot) for slot in self._slots()]
        return [place for place in places if _is_spool(place)]

    def _status(self, place: Place) -> ShardStatus:
        with _opened(place, writes=False) as (database, in_use):
            oldest = _act(database.read, tables.read_heads, 0, 1)
            statistics = statistics_of([database.counters], disk_bytes=place.disk_bytes())
            at = _wall_seconds(database.counters, oldest[0].accepted_at) if oldest else None
            return ShardStatus(place.database, in_use, statistics, at)


@contextlib.contextmanager
def _opened(place: Place, *, writes: bool) -> Generator[tuple[Database, bool], None, None]:
    """The database of a shard, and whether a process uses it."""
    with _guarded():
        own = open_files.databases.get(file_id(place.database))
        lock = None if own is not None else Lock.acquire(place.lock)
    if isinstance(own, Database):
        yield own, True
        return
    options = Options()
    with contextlib.ExitStack() as stack:
        stack.callback(options.write_logs)
        if lock is not None and not writes:
            stack.callback(lock.close)
        database = Database(place, lock if writes else None, options, read_only=not writes)
        stack.callback(_act, database.close)
        yield database, lock is None


def _act(action: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """One step with a database. A fork waits for it."""
    with open_files.inspecting:
        return action(*args, **kwargs)


def _has_emptied_log(database: Database) -> bool:
    for _ in range(_TRIES):
        if _act(database.run, empty_log):
            return True
        time.sleep(_PAUSE_SECONDS)
    return False


@contextlib.contextmanager
def _guarded() -> Generator[None, None, None]:
    """Look for files, with the guard of `open_files` held."""
    try:
        with open_files.guard:
            yield
    except OSError as fault:
        raise SpoolUnavailable(f"the spool cannot be read: {fault}") from fault


def _is_spool(place: Place) -> bool:
    with _guarded(), contextlib.suppress(Damaged):
        if not check_files(place) and place.salvaged.exists() and (lock := Lock.acquire(place.lock)) is not None:
            # What a process that died has left to do.
            with contextlib.closing(lock):
                place.finish_salvage()
        return check_files(place)
    return True


# -- rows, page by page


def _pages(database: Database, table: str) -> Iterator[list[Row]]:
    last = 0
    while rows := _act(database.read, _READ[table], last, _ROWS):
        yield rows
        last = rows[-1].position


def _change(database: Database, table: str, is_wanted: Callable[[Counters, Row], bool], change: _Change) -> int:
    """Change the rows that are wanted, and still there; returns how many were."""

    def work(wanted: list[Row], connection: sqlite3.Connection, counters: Counters) -> tuple[Counters, int]:
        there = tables.find_positions(connection, [row.position for row in wanted], table)
        return change(connection, counters, [row for row in wanted if row.position in there])

    count = 0
    # What comes meanwhile, such as a dead letter that was put back and has failed again, stays.
    end = _act(database.read, tables.load_counters).position
    for rows in _pages(database, table):
        if wanted := [row for row in rows if row.position <= end and is_wanted(database.counters, row)]:
            count += _act(database.transact, partial(work, wanted))
            time.sleep(_PAUSE_SECONDS)
    return count


def _dead_letter(counters: Counters, row: Row) -> DeadLetter:
    reason, status_code, attempts, possibly_delivered, failed_at, answer = row.failure
    accepted, failed = _wall_seconds(counters, row.accepted_at), _wall_seconds(counters, failed_at)
    return DeadLetter(
        as_text(row.message_id), row.body, accepted, failed, reason, status_code, attempts, possibly_delivered, answer
    )


def _wall_seconds(counters: Counters, at: int) -> float:
    """The clock that messages age by runs beside the wall clock, unless that was set."""
    return (at + counters.wall - counters.clock) / 1000


def check_identity(identity: object) -> None:
    """Raises:
    ValueError: it is not text. No message has a number there, and `None` would match each one that lacks one of the ids.
    """
    if not isinstance(identity, str):
        raise ValueError("identity must be text, as ids are sent: str(user_id)")  # noqa: TRY004  # as of options


def _is_of(body: bytes, identity: str) -> bool:
    message: object
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    fields = cast("dict[str, object]", message) if isinstance(message, dict) else {}
    return any(fields.get(name) == identity for name in _IDENTITIES)


# -- changes


def _revive(connection: sqlite3.Connection, counters: Counters, rows: Sequence[Row]) -> tuple[Counters, int]:
    pending = tables.find_ids(connection, [row.message_id for row in rows])
    revived = {row.message_id: row for row in reversed(rows) if row.message_id not in pending}
    letters = sorted(revived.values())
    messages = [(row.message_id, row.body) for row in letters]
    tables.insert_messages(connection, counters.position + 1, counters.clock, messages)
    tables.remove(connection, "dead", [row.position for row in letters])
    for row in letters:
        failure = row.failure
        counters = counters.plus(position=1, failed=-1, pending_bytes=row.size, dead=-1, dead_bytes=-row.size)
        counters = counters.with_reason(failure.reason, -1)
        if failure.possibly_delivered:
            tables.store_attempts(connection, [counters.position], failure.attempts)
    return counters, len(letters)


def _erase(connection: sqlite3.Connection, counters: Counters, rows: Sequence[Row]) -> tuple[Counters, int]:
    tables.insert(connection, "purged", [row[:2] for row in rows])
    count, size = tables.remove_messages(connection, [row.position for row in rows])
    return counters.settled(count, size, _PURGED), count


def _erase_dead(connection: sqlite3.Connection, counters: Counters, rows: Sequence[Row]) -> tuple[Counters, int]:
    tables.remove(connection, "dead", [row.position for row in rows])
    return counters.plus(dead=-len(rows), dead_bytes=-sum(row.size for row in rows)), len(rows)
