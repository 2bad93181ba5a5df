"""SQLite's spool in a simulation: real files, the loop's time, no thread, and a disk that others fill and empty again.

A `SQLiteStore` is what `SpoolStore` is for the model: it knows, across processes, what is pending and how messages ended.
It learns that from what the processes are told, and `check_files` compares it with the files. A `SimulatedSQLiteSpool`
is the spool of one process. Its callers run the turns, so that the same seed takes the same steps.

This file knows no client.
"""

import asyncio
import os
import random
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from segment_async.spool import (
    AppendResult,
    BatchResult,
    DroppedMessage,
    NewMessage,
    SpoolInspector,
    SpoolStatistics,
    SpoolUnavailable,
    SQLiteSpool,
    Status,
    TryLater,
    Window,
    _database,
)
from segment_async.spool._sqlite import _Request
from segment_async.spool._writer import slot_of

# What has to be free beside a message: the room in which outcomes are recorded when the disk is full.
RESERVE = _database._CHECKPOINT_BYTES + _database._OVERHEAD
# Bytes beyond that, and beyond what the files use, that are enough for one message.
_JUST_ENOUGH = 96 * 1024
# Seconds between looks at what no call asks for; doubled each time up to the longest while there is no call.
_CHECK_SECONDS = 5.0
_LONGEST_CHECK_SECONDS = 5_000.0
# Seconds by which a turn comes late, so that it is due by then.
_MOMENT = 1e-5

# To give pages back takes no longer than so many real seconds at a time, and how many that are differs from run to run.
a_shrink_to_its_end = patch.object(_database, "_SHRINK_SECONDS", float("inf"))


class LoopTime:
    """Seconds of the running loop; between two loops no time passes."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        loop = asyncio._get_running_loop()
        if loop is not None:
            self._now = loop.time()
        return self._now


class SharedDisk:
    """The disk of a folder. Until `until`, or `calm`, others fill it up for a while, now and then.

    Attributes:
        works: what is in the spool can be read, and outcomes can be recorded: also while the disk is full.
        capacity: bytes for the folder's files, while others leave it all.
    """

    works = True

    def __init__(self, chance: random.Random, now: Callable[[], float], *, until: float) -> None:
        self.capacity = RESERVE + chance.choice((2**20, 2**22, 2**26, 2**31))
        self._now = now
        self._until = until
        self._fills = [self._make_up(chance) for _ in range(chance.choice((0, 1, 2, 4)))]

    def _make_up(self, chance: random.Random) -> tuple[float, float, int]:
        start = chance.choice((0.0, chance.uniform(0, self._until)))
        length = chance.choice((0.05, 1, 10, 100))
        left = chance.choice((0, 0, RESERVE, RESERVE + 200_000))
        return start, min(start + length, self._until), left

    @property
    def is_small(self) -> bool:
        """Whether what a simulation stores may fill it."""
        return self.capacity < RESERVE + 2**26

    def calm(self) -> None:
        self._until = 0.0

    def leave(self, size: int) -> None:
        """From now on others use all but this and the reserve."""
        self.capacity = RESERVE + size

    def free_bytes(self, folder: Path) -> int:
        now, room = self._now(), self.capacity
        for start, end, left in self._fills:
            if start <= now < end and now < self._until:
                room = min(room, left)
        return max(0, room - bytes_in(folder))


def bytes_in(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries)


class SQLiteStore:
    """Attributes:
    ended: how messages ended, by their ids: an id may have been stored several times.
    """

    def __init__(
        self,
        path: Path,
        disk: SharedDisk,
        now: Callable[[], float],
        seen: Callable[[str], None],
        *,
        max_bytes: int,
        on_failure: Literal["raise", "memory"],
    ) -> None:
        self.disk = disk
        self.now = now
        self.seen = seen
        self.ended: dict[str, list[BatchResult]] = {}
        self.attempts: dict[int, int] = {}
        self._path = path
        self._options: dict[str, Any] = {"max_bytes": max_bytes, "on_failure": on_failure}
        self._pending: dict[int, str] = {}
        self._process: SimulatedSQLiteSpool | None = None

    def open(self, *, shared: bool = False) -> "SimulatedSQLiteSpool":
        """The spool of a new process; the one before has closed its own."""
        self._process = self.open_beside()
        return self._process

    def open_beside(self) -> "SimulatedSQLiteSpool":
        """The spool of a process that runs at the same time, with a shard of its own."""
        return SimulatedSQLiteSpool(self, self._path, **self._options)

    @property
    def taken_over(self) -> frozenset[str]:
        """None: processes on one path share no messages."""
        return frozenset()

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def pending_ids(self) -> set[str]:
        return set(self._pending.values())

    @property
    def reasons(self) -> dict[str, int]:
        return dict(self.statistics().reasons)

    def statistics(self, recovered: int = 0) -> SpoolStatistics:
        assert self._process is not None
        return self._process.statistics()

    # -- what a process was told

    def note_stored(self, key: int, message_id: str) -> None:
        self._pending[key] = message_id

    def note_ended(self, keys: Collection[int], result: BatchResult) -> None:
        for key in keys:
            # The first outcome counts.
            message_id = self._pending.pop(key, None)
            if message_id is not None:
                self.ended.setdefault(message_id, []).append(result)

    def note_dropped(self, dropped: DroppedMessage) -> None:
        # The oldest one: the id may have been stored again since.
        key = min(key for key, message_id in self._pending.items() if message_id == dropped.message_id)
        tried = self.attempts.get(key, 0)
        self.note_ended(
            (key,), BatchResult(Status.DROPPED, dropped.reason, attempts=tried, possibly_delivered=tried > 0)
        )

    def check_files(self) -> None:
        """Hold what the processes were told against what is on disk."""
        is_used = any(self._path.parent.iterdir())
        there = sorted(message.message_id for message in SpoolInspector(self._path).pending()) if is_used else []
        told = sorted(self._pending.values())
        assert there == told, f"{len(there)} messages are pending on disk, {len(told)} by what was told"

    def leave_just_enough_room(self) -> None:
        """Let the disk be as full as it may be when one more message has to be stored."""
        assert self._process is not None
        free = self._process.free_pages_bytes()
        used = self._path.stat().st_size - free
        # To give free pages back, the used ones behind them are moved, and the log grows by these.
        enough = _JUST_ENOUGH + min(free, used)
        self.disk.leave(bytes_in(self._path.parent) - free + enough)
        if free > enough:
            self.seen("room that only free pages make")


class SimulatedSQLiteSpool(SQLiteSpool):
    """Without a thread: each caller runs the turn, and `take_turns` those that the thread would take by itself.

    Attributes:
        refused_at: when the disk was last too full for an append.
    """

    def __init__(self, store: SQLiteStore, path: Path, **options: Any) -> None:
        super().__init__(path, clock=store.now, monotonic=store.now, check_interval=_CHECK_SECONDS, **options)
        self._store = store
        self._options.free_bytes = store.disk.free_bytes
        self._engine()._has_threads = False
        self.refused_at: float | None = None
        self._next_turn: asyncio.TimerHandle | None = None

    # -- the turns that no caller asks for

    def take_turns(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look after what no call asks for, on this loop, until `end_turns`."""
        self.end_turns()
        if not self._is_closing:
            when = max(self._engine()._next_check, loop.time()) + _MOMENT
            self._next_turn = loop.call_at(when, self._take_turn, loop)

    def _take_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_closing:
            # Days without a call must not cost minutes.
            self._options.check_interval = min(2 * self._options.check_interval, _LONGEST_CHECK_SECONDS)
            # Not an append, even if an empty one: a log is emptied only when nothing is written.
            self._engine().submit(_Request(lambda _: None, lambda _: None))
        self.take_turns(loop)

    def _note_call(self) -> None:
        engine, soon = self._engine(), self._store.now() + _CHECK_SECONDS
        self._options.check_interval = _CHECK_SECONDS
        if engine._next_check > soon:
            engine._next_check = soon
            if self._next_turn is not None and not self._next_turn.cancelled():
                self.take_turns(asyncio.get_running_loop())

    def end_turns(self) -> None:
        if self._next_turn is not None:
            self._next_turn.cancel()

    def free_pages_bytes(self) -> int:
        own = self._engine()._writer._own
        assert own is not None
        return _database._free_bytes(own.database.file.opened())

    # -- what tests do with a `MemorySpool`

    def catch_up(self) -> None:
        """Nothing waits without a thread."""

    def crash(self) -> None:
        """Close the files, if a test has failed before it closed the spool."""
        engine = self._engine()
        if not engine._is_closed:
            engine.close()

    # -- the protocol, noted

    def append_nowait(
        self,
        messages: Sequence[NewMessage],
        done: Callable[[AppendResult | TryLater | SpoolUnavailable], None],
        *,
        hold: int = 0,
        make_room: bool = False,
    ) -> None:
        def note(result: AppendResult | TryLater | SpoolUnavailable) -> None:
            self._note_answer(messages, result)
            done(result)

        self._note_call()
        super().append_nowait(messages, note, hold=hold, make_room=make_room)

    def _note_answer(self, messages: Sequence[NewMessage], result: AppendResult | TryLater | SpoolUnavailable) -> None:
        store = self._store
        if not isinstance(result, AppendResult):
            if isinstance(result, TryLater) or "the disk is full" in str(result):
                self.refused_at = store.now()
                store.seen("the disk was full")
            if isinstance(result, TryLater):
                store.seen("messages waited in memory")
            return
        for message, answer in zip(messages, result.answers, strict=True):
            if answer.status == "stored":
                assert answer.key is not None
                store.note_stored(answer.key, message.message_id)
            elif answer.status == "full":
                store.seen("full by itself")
        # Last: one of a group may make room for the next one.
        for dropped in result.dropped:
            store.note_dropped(dropped)
        if self.refused_at is not None:
            store.seen("a message after the disk was full")

    async def read(self, max_count: int, max_bytes: int) -> Window:
        self._note_call()
        window = await super().read(max_count, max_bytes)
        for dropped in window.dropped:
            self._store.note_dropped(dropped)
        for message in window.messages:
            self._store.note_stored(message.key, message.message_id)
        own = self._engine()._writer._own
        if any(own is None or slot_of(message.key) != own.slot for message in window.messages):
            self._store.seen("messages of an adopted shard")
        return window

    async def sending(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        self._note_call()
        self._store.attempts.update(dict.fromkeys(keys, attempt))
        return await super().sending(keys, attempt)

    async def settle(self, keys: Sequence[int], result: BatchResult, answer: str = "") -> None:
        self._refuse_if_closing()
        self._note_call()
        # First: what is called takes effect, also if the call is cancelled.
        self._store.note_ended(keys, result)
        await super().settle(keys, result, answer)
