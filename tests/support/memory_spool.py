"""A spool without a disk: a model of the protocol that runs on the loop's clock, with faults on demand.

A `SpoolStore` is what is stored: it outlives processes, and its counters go on across restarts. A `MemorySpool` is the
view of one process on it; `crash` ends that process without a word. A `Disk` says how long an operation takes and how
it fails: the one here works at once, `ScriptedDisk` fails as a test asks, and `simulated_disk` fails by a seed.

Operations take effect in the order of the calls, in groups, as with an engine that commits once for all that waited.
They are answered by a timer of the running loop, or at once when no loop runs. One thread only.

`append_nowait` takes one message (`message_id`, `body`, `done`) or a group (`messages`, `done`), by the type of its
first argument. This file knows no client.
"""

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, Literal, NamedTuple

from segment_async.spool import (
    BatchResult,
    DroppedMessage,
    SpoolStatistics,
    SpoolUnavailable,
    Status,
    StoredMessage,
    TryLater,
    Window,
)

from .interruptions import unwatched

POLL_SECONDS = 0.5
"""Seconds between two looks at a disk that stands still."""

CLOSED = "the spool is closed"


def _protocol_of_groups() -> Any:
    """The module that has the answers to groups: a client looks at their types."""
    for name in ("segment_async.spool", "segment_async.spool._protocol", "segment_async.spool._protocol_next"):
        with suppress(ModuleNotFoundError):
            module = import_module(name)
            if hasattr(module, "AppendResult"):
                return module
    raise ModuleNotFoundError("no protocol of a spool knows groups")


GROUPS: Any = _protocol_of_groups()


class Answer(NamedTuple):
    """The answer to one message, and what was dropped to make room for it."""

    status: Literal["stored", "known", "full"]
    key: int | None = None
    held: bool = False
    dropped: Sequence[DroppedMessage] = ()

    def in_a_group(self) -> Any:
        return GROUPS.Appended(self.status, self.key, self.held)


Done = Callable[[Any], None]


class Disk:
    """A disk that works, at once."""

    def delay(self) -> float | None:
        """Seconds that the next group takes; `None`: the disk stands still for now."""
        return 0.0

    def append_fault(self) -> Any:
        """What an append meets: `None`, ``"full"``, or what `done` is to be called with."""
        return None

    def read_fault(self) -> Exception | None:
        """What a `read` raises."""
        return None

    def ended_holds(self, keys: Sequence[int]) -> Collection[int]:
        """The keys whose hold turns out to have ended when they are about to be sent."""
        return ()


@dataclass
class ScriptedDisk(Disk):
    """A disk that fails as its attributes say, until they are changed."""

    seconds: float = 0.0
    stands_still: bool = False
    is_full: bool = False
    refuses: bool = False
    read_faults: deque[Exception] = field(default_factory=deque)
    ending_holds: set[int] = field(default_factory=set)
    asks_to_wait: float | None = None

    def delay(self) -> float | None:
        return None if self.stands_still else self.seconds

    def append_fault(self) -> Any:
        if self.asks_to_wait is not None:
            return TryLater(self.asks_to_wait)
        if self.refuses:
            return SpoolUnavailable("the disk refuses")
        return "full" if self.is_full else None

    def read_fault(self) -> Exception | None:
        return self.read_faults.popleft() if self.read_faults else None

    def ended_holds(self, keys: Sequence[int]) -> Collection[int]:
        return self.ending_holds.intersection(keys)


@dataclass
class Row:
    """One stored message; `holder` is the process that holds it, if any."""

    key: int
    message_id: str
    body: bytes
    attempts: int = 0
    holder: object = None


class SpoolStore:
    """What is stored, across processes.

    Attributes:
        rows: the pending messages by their keys, in the order of acceptance.
        ended: how messages ended, by their ids: an id may have been stored several times.
        taken_over: ids whose hold ended and that another process has now, or has delivered.
    """

    def __init__(self, disk: Disk | None = None, *, max_messages: int | None = None) -> None:
        self.disk = disk or Disk()
        self.rows: dict[int, Row] = {}
        self.ended: dict[str, list[BatchResult]] = {}
        self.taken_over: set[str] = set()
        self.accepted = 0
        self.counts: Counter[Status] = Counter()
        self.reasons: Counter[str] = Counter()
        self._pending_bytes = 0
        self._max_messages = max_messages
        self._keys: dict[str, int] = {}
        # Keys that may have no holder, the oldest first; some are gone or held by now.
        self._ready: list[int] = []
        self._owner: str | None = None
        self._processes: list[MemorySpool] = []

    def open(self, *, shared: bool = False) -> "MemorySpool":
        """The spool of a new process. `shared`: other processes deliver what this one appends."""
        spool = MemorySpool(self, shared=shared)
        self._processes.append(spool)
        return spool

    @property
    def pending(self) -> int:
        return len(self.rows)

    @property
    def pending_ids(self) -> set[str]:
        return set(self._keys)

    # -- what a process does to it

    def claim(self, fingerprint: str) -> None:
        if self._owner not in (None, fingerprint):
            raise ValueError("the spool belongs to another write key or host")
        self._owner = fingerprint

    def append(self, message_id: str, body: bytes, holder: object, *, make_room: bool) -> Answer:
        """Store one message, held by `holder` if there is one."""
        if message_id in self._keys:
            return Answer("known", self._keys[message_id])
        dropped: list[DroppedMessage] = []
        while self._is_full():
            oldest = self.oldest() if make_room else None
            if oldest is None:
                return Answer("full", dropped=dropped)
            tried = oldest.attempts
            made_room = BatchResult(Status.DROPPED, "queue_full", attempts=tried, possibly_delivered=tried > 0)
            self.settle((oldest.key,), made_room)
            dropped.append(DroppedMessage(oldest.message_id, oldest.body, "queue_full", oldest.key))
        self.accepted += 1
        row = Row(self.accepted, message_id, bytes(body), holder=holder)
        self.rows[row.key] = row
        self._pending_bytes += len(body)
        self._keys[message_id] = row.key
        if holder is None:
            heapq.heappush(self._ready, row.key)
        return Answer("stored", row.key, holder is not None, dropped)

    def _is_full(self) -> bool:
        return self._max_messages is not None and len(self.rows) >= self._max_messages

    def oldest(self) -> Row | None:
        """The oldest message that no process holds."""
        while self._ready:
            row = self.rows.get(self._ready[0])
            if row is not None and row.holder is None:
                return row
            heapq.heappop(self._ready)
        return None

    def settle(self, keys: Iterable[int], result: BatchResult) -> None:
        for key in keys:
            row = self.rows.pop(key, None)
            if row is not None:
                del self._keys[row.message_id]
                self._pending_bytes -= len(row.body)
                self.counts[result.status] += 1
                if result.reason is not None:
                    self.reasons[result.reason] += 1
                self.ended.setdefault(row.message_id, []).append(result)

    def end_hold(self, key: int) -> None:
        """Another process has the message from now on."""
        row = self.rows[key]
        row.holder = self
        self.taken_over.add(row.message_id)

    def deliver_elsewhere(self) -> None:
        """The other process delivers everything that it took over."""
        taken = [row.key for row in self.rows.values() if row.holder is self]
        self.settle(taken, BatchResult(Status.DELIVERED, attempts=1))

    def release_elsewhere(self) -> None:
        """The other process ends: what it took over can be read again."""
        taken = [row for row in self.rows.values() if row.holder is self]
        self.taken_over.difference_update(row.message_id for row in taken)
        self.release(taken)

    def release(self, rows: Iterable[Row]) -> None:
        for row in rows:
            row.holder = None
            heapq.heappush(self._ready, row.key)
        self.serve_readers()

    def serve_readers(self) -> None:
        for process in self._processes:
            process.serve_readers()

    def forget(self, process: "MemorySpool") -> None:
        self._processes.remove(process)
        self.release([row for row in self.rows.values() if row.holder is process])

    def statistics(self, recovered: int) -> SpoolStatistics:
        return SpoolStatistics(
            accepted=self.accepted,
            delivered=self.counts[Status.DELIVERED],
            failed=self.counts[Status.FAILED],
            dropped=self.counts[Status.DROPPED],
            pending=len(self.rows),
            pending_bytes=self._pending_bytes,
            recovered=recovered,
            reasons=dict(self.reasons),
        )


@dataclass
class _Reader:
    max_count: int
    max_bytes: int
    answer: asyncio.Future[Any]

    @property
    def is_gone(self) -> bool:
        return self.answer.done() or self.answer.get_loop().is_closed()


class MemorySpool:
    """One process's way to a `SpoolStore`: what `Client(spool=...)` takes.

    Attributes:
        recovered: messages that other processes had left when this one made its first call.
    """

    def __init__(self, store: SpoolStore, *, shared: bool = False) -> None:
        self.shared = shared
        self.recovered = 0
        self._store = store
        self._is_open = False
        self._is_closed = False
        self._was_read = False
        # What was called and has no effect yet.
        self._line: list[Callable[[], None]] = []
        # Answers to appends that are under way.
        self._late: list[tuple[Done, Any]] = []
        self._readers: deque[_Reader] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- the protocol

    def claim(self, fingerprint: str) -> None:
        self._store.claim(fingerprint)

    def append_nowait(self, *arguments: Any, hold: int = 0, make_room: bool = False) -> None:
        if isinstance(arguments[0], str):
            message_id, body, done = arguments
            self._submit(partial(self._append_one, message_id, body, done, make_room))
        else:
            messages, done = arguments
            self._submit(partial(self._append_group, tuple(messages), done, hold, make_room))

    async def read(self, max_count: int, max_bytes: int) -> Window:
        reader = _Reader(max_count, max_bytes, asyncio.get_running_loop().create_future())
        self._submit(partial(self._begin_read, reader))
        try:
            window: Window = await reader.answer
        except BaseException:
            self._give_back(reader)
            raise
        return window

    async def sending(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        answer: asyncio.Future[Collection[int]] = asyncio.get_running_loop().create_future()
        self._submit(partial(self._note_attempt, tuple(keys), attempt, answer))
        return await answer

    async def settle(self, keys: Sequence[int], result: BatchResult, answer: str = "") -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submit(partial(self._settle, tuple(keys), result, done))
        await done

    def statistics(self) -> SpoolStatistics:
        return self._store.statistics(self.recovered)

    async def aclose(self) -> None:
        if self._is_closed:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submit(partial(self._close, done))
        await done

    # -- what only tests do

    def crash(self) -> None:
        """The process is gone: what it called and was not answered never happened, and nothing is held any more."""
        self._line.clear()
        self._late.clear()
        self._end()

    def catch_up(self) -> None:
        """Answer everything that waits, on a disk that does not stand still; for when a loop has ended."""
        while self._line and self._store.disk.delay() is not None:
            self._take_turn()
        self._tell_late()

    # -- turns: what waited takes effect together

    def _submit(self, effect: Callable[[], None]) -> None:
        if self._is_closed:
            raise SpoolUnavailable(CLOSED)
        self._line.append(effect)
        loop = asyncio._get_running_loop()
        if loop is None:
            self.catch_up()
        elif self._timer is None or self._loop is not loop:
            self._arm(loop)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop = loop
        seconds = self._store.disk.delay()
        self._timer = loop.call_later(POLL_SECONDS if seconds is None else seconds, self._look, loop, seconds is None)

    def _look(self, loop: asyncio.AbstractEventLoop, stood_still: bool) -> None:
        self._timer = None
        if not stood_still:
            self._take_turn()
        if self._line:
            self._arm(loop)

    def _take_turn(self) -> None:
        self._open()
        line, self._line = self._line, []
        for effect in line:
            effect()
        self.serve_readers()

    def _open(self) -> None:
        if not self._is_open:
            self._is_open = True
            if self.shared:
                # What it will read of these is not known.
                return
            self.recovered += sum(row.holder is None for row in self._store.rows.values())

    # -- effects

    def _append_one(self, message_id: str, body: bytes, done: Done, make_room: bool) -> None:
        fault = self._store.disk.append_fault()
        if isinstance(fault, SpoolUnavailable):
            _tell(done, fault)
        elif fault == "full":
            _tell(done, Answer("full"))
        else:
            _tell(done, self._store.append(message_id, body, None, make_room=make_room))

    def _append_group(self, messages: Sequence[Any], done: Done, hold: int, make_room: bool) -> None:
        fault = self._store.disk.append_fault()
        if isinstance(fault, (SpoolUnavailable, TryLater)):
            _tell(done, fault)
            return
        answers: list[Answer] = []
        dropped: list[DroppedMessage] = []
        for message_id, body in messages:
            if fault == "full":
                answers.append(Answer("full"))
                continue
            holder = self if hold > 0 and not self.shared and self._store.oldest() is None else None
            answer = self._store.append(message_id, body, holder, make_room=make_room)
            hold -= answer.held
            dropped += answer.dropped
            answers.append(answer)
        self._late.append((done, GROUPS.AppendResult([answer.in_a_group() for answer in answers], dropped)))
        if self.shared:
            # What was appended may be read before the answer is there.
            self._store.serve_readers()
            loop = asyncio._get_running_loop()
            delay = self._store.disk.delay()
            if loop is not None and delay:
                loop.call_later(delay, self._tell_late)
                return
        self._tell_late()

    def _tell_late(self) -> None:
        while self._late:
            _tell(*self._late.pop(0))

    def _begin_read(self, reader: _Reader) -> None:
        if reader.is_gone:
            return
        fault = self._store.disk.read_fault()
        if fault is not None:
            _give(reader.answer, fault)
        elif self._was_read:
            self._readers.append(reader)
        else:
            self._was_read = True
            _give(reader.answer, self._hold(reader))

    def serve_readers(self) -> None:
        while self._readers and (self._readers[0].is_gone or self._store.oldest() is not None):
            reader = self._readers.popleft()
            if not reader.is_gone:
                _give(reader.answer, self._hold(reader))

    def _hold(self, reader: _Reader) -> Window:
        messages: list[StoredMessage] = []
        room = reader.max_bytes
        while len(messages) < reader.max_count and (row := self._store.oldest()) is not None:
            if messages and len(row.body) > room:
                break
            room -= len(row.body)
            row.holder = self
            messages.append(StoredMessage(row.key, row.message_id, row.body, row.attempts))
        return Window(messages, [])

    def _give_back(self, reader: _Reader) -> None:
        """A `read` that was cancelled holds nothing."""
        answer = reader.answer
        if not self._is_closed and answer.done() and not answer.cancelled() and answer.exception() is None:
            rows = [self._store.rows.get(message.key) for message in answer.result().messages]
            self._store.release(row for row in rows if row is not None and row.holder is self)

    def _note_attempt(self, keys: Sequence[int], attempt: int, answer: asyncio.Future[Collection[int]]) -> None:
        rows = self._store.rows
        lost = {key for key in keys if key in rows and rows[key].holder is not self}
        # The holds of an engine that is not shared last as long as the process.
        if self.shared:
            for key in self._store.disk.ended_holds([key for key in keys if key in rows and key not in lost]):
                self._store.end_hold(key)
                lost.add(key)
        for key in keys:
            if key in rows and key not in lost:
                rows[key].attempts = attempt
        _give(answer, lost)

    def _settle(self, keys: Sequence[int], result: BatchResult, done: asyncio.Future[None]) -> None:
        self._store.settle(keys, result)
        _give(done, None)

    def _close(self, done: asyncio.Future[None]) -> None:
        self._tell_late()
        self._end()
        _give(done, None)

    def _end(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        readers, self._readers = self._readers, deque()
        for reader in readers:
            _give(reader.answer, SpoolUnavailable(CLOSED))
        self._store.forget(self)


def _tell(done: Done, result: Any) -> None:
    # An engine does this on a thread of its own, where no signal handler runs.
    with unwatched():
        done(result)


def _give(answer: asyncio.Future[Any], result: Any) -> None:
    """Resolve a future of a loop that runs here, runs elsewhere, or is closed."""
    loop = answer.get_loop()
    if asyncio._get_running_loop() is loop:
        _resolve(answer, result)
    elif not loop.is_closed():
        loop.call_soon_threadsafe(_resolve, answer, result)


def _resolve(answer: asyncio.Future[Any], result: Any) -> None:
    if answer.done():
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
