"""The embedded spool: SQLite in a file, one thread that writes, one commit for all who wait.

    append, sending, settle, read ─► requests ─► the writing thread, turn by turn:
                                                   notes and new messages ─► one transaction a shard
                                                   what nobody holds ─► the reader who waits
                                     answers ◄──── one wake-up a loop and turn

While one turn waits for the disk the requests of the next one gather, so that a hundred callers share one sync.
Where no thread can be started, at the end of the interpreter or after a fork that Python was not told of, whoever asks
runs the turn.

This file knows requests, threads and loops; it knows no shards and no tables.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult

from ._intake import NewMessage
from ._ledger import by_slot
from ._lock import forget_locks
from ._protocol import Appended, SpoolStatistics, Window
from ._requests import Answers, Append, Close, Done, Future, GiveBack, Read, Record, Request, give, refusals
from ._shard import Limits, Note
from ._shards import Shards

_logger = logging.getLogger("segment_async")

# What one transaction takes at most. The reserve for a full disk is made for it.
_GROUP: Final = 512
_GROUP_BYTES: Final = 2**20


class SQLiteSpool:
    """A spool in a file: SQLite's write-ahead log, synced before a call returns.

    Nothing is opened before the first call. Processes on one path do not meet: each has a file of its own beside it,
    and goes on with the files of processes that died.

    Args:
        path: of the database; a missing folder is made, for its owner alone. Refused, and left as they are: files
            that are no spool, or of a newer version; symbolic links; folders that everybody may write to.
        max_bytes: of JSON that one process's file may keep, dead letters included; beyond it an append is ``full``.
        max_age: seconds after which a message is given up instead of being read; `None`: never.
        durability: ``"full"``: what was accepted survives a power loss. ``"process"``: it survives the process; the
            last moments before a power loss may be missing, which is noticed and counted.
        on_failure: when the disk refuses, ``"raise"`` `SpoolUnavailable`, or keep messages in ``"memory"``, 32 MiB at
            most, until it takes them.
        check_interval: seconds between looks at what nobody asks for: files of processes that died, changes made
            from outside, a disk that works again.
        clock: seconds of the wall clock; what is kept across restarts cannot use another one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 2**30,
        max_age: float | None = None,
        durability: Literal["full", "process"] = "full",
        on_failure: Literal["raise", "memory"] = "raise",
        check_interval: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if durability not in ("full", "process") or on_failure not in ("raise", "memory"):
            raise ValueError('durability is "full" or "process", on_failure is "raise" or "memory"')
        if max_bytes <= 0 or (max_age is not None and max_age <= 0) or check_interval <= 0:
            raise ValueError("max_bytes, max_age and check_interval must be above zero")
        limits = Limits(max_bytes, None if max_age is None else int(max_age * 1000), lambda: int(clock() * 1000))
        # A module's spool stays where it was meant, wherever the program goes before its first call. Where a loop runs
        # that call is near, and asking for the working folder counts as blocking.
        path = os.fspath(path) if asyncio._get_running_loop() else os.path.abspath(path)
        self._make_shards = functools.partial(
            Shards, path, limits, power_safe=durability == "full", falls_back=on_failure == "memory"
        )
        self._check_interval = check_interval
        self._is_closing = False
        self._begin()
        _spools.add(self)

    def _begin(self, *, has_threads: bool = True) -> None:
        """The state of a process that has asked for nothing yet."""
        self._pid = os.getpid()
        self._has_threads = has_threads
        self._shards = self._make_shards()
        self._snapshot = self._shards.snapshot()
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._readers: deque[Read] = deque()
        self._is_closed = False
        self._next_check = time.monotonic() + self._check_interval
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        # Held for a turn, so that no fork happens in the midst of one.
        self.turn = threading.Lock()

    # -- the protocol

    async def append(self, message_id: str, body: bytes, *, make_room: bool = False) -> Appended:
        done = self._new_future()
        self._submit(Append(NewMessage(message_id.encode(), bytes(body), make_room), done))
        result: Appended = _raised(await done)
        return result

    def append_nowait(self, message_id: str, body: bytes, done: Done, *, make_room: bool = False) -> None:
        self._refuse_if_closing()
        self._submit(Append(NewMessage(message_id.encode(), bytes(body), make_room), done))

    async def read(self, max_count: int, max_bytes: int) -> Window:
        read = Read(max_count, max_bytes, self._new_future())
        self._submit(read)
        try:
            window: Window = _raised(await read.done)
        except BaseException:
            if (late := read.leave()) is not None:
                self._submit(GiveBack(late))
            raise
        return window

    async def sending(self, keys: Sequence[int], attempt: int) -> None:
        await self._record(keys, attempt)

    async def settle(self, keys: Sequence[int], fate: BatchResult) -> None:
        await self._record(keys, fate)

    async def _record(self, keys: Sequence[int], what: int | BatchResult) -> None:
        done = self._new_future()
        self._submit(Record(keys, what, done))
        _raised(await done)

    def statistics(self) -> SpoolStatistics:
        return self._snapshot.statistics()

    async def aclose(self) -> None:
        self._is_closing = True
        done = asyncio.get_running_loop().create_future()
        self._submit(Close(done))
        await done

    def _refuse_if_closing(self) -> None:
        if self._is_closing:
            raise SpoolUnavailable("the spool is closed")

    def _new_future(self) -> Future:
        self._refuse_if_closing()
        return asyncio.get_running_loop().create_future()

    # -- the thread

    def _submit(self, request: Request) -> None:
        if self._pid != os.getpid():
            # A fork that ran no hooks, as uWSGI's. Python itself was not told either: a thread might never begin to run.
            forget_locks()
            self.start_anew(has_threads=False)
        self._requests.put(request)
        if not self._has_thread():
            while not self._requests.empty():
                self._take_turn(self._waiting_requests())

    def _has_thread(self) -> bool:
        if self._thread is not None and self._thread.is_alive():
            return True
        if not self._has_threads:
            return False
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._work, name="segment_async spool", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return False
                self._thread = thread
        return True

    def _work(self) -> None:
        while not (self._is_closed and self._requests.empty()):
            self._take_turn(self._await_requests())

    def _await_requests(self) -> list[Request]:
        try:
            first = self._requests.get(timeout=max(0.0, self._next_check - time.monotonic()))
        except queue.Empty:
            return []
        return [first, *self._waiting_requests()]

    def _waiting_requests(self) -> list[Request]:
        """Those that are there already, as many as make one group."""
        requests: list[Request] = []
        size = 0
        while len(requests) < _GROUP and size < _GROUP_BYTES:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                break
            size += len(request.message.body) if isinstance(request, Append) else 0
            requests.append(request)
        return requests

    # -- one turn

    def _take_turn(self, requests: list[Request]) -> None:
        answers: Answers = []
        with self.turn:
            try:
                if self._is_closed:
                    answers += refusals(requests, "the spool is closed")
                else:
                    self._serve(requests, answers)
            except Exception as fault:
                _logger.exception("the spool failed within")
                answers += self._refuse_the_rest(requests, answers, fault)
            self._snapshot = self._shards.snapshot()
        give(answers)

    def _refuse_the_rest(self, requests: list[Request], answers: Answers, fault: Exception) -> Answers:
        readers, self._readers = self._readers, deque()
        answered = {id(asked) for asked, _ in answers}
        rest = [each for each in (*readers, *requests) if id(each) not in answered]
        return refusals({id(each): each for each in rest}.values(), f"the spool failed within: {fault!r}")

    def _serve(self, requests: list[Request], answers: Answers) -> None:
        records = [each for each in requests if isinstance(each, Record)]
        appends = [each for each in requests if isinstance(each, Append)]
        for record in records:
            for slot, where in by_slot(record.keys).items():
                self._shards.note(slot, Note(where, record.what))
        results = self._shards.commit([each.message for each in appends])
        answers += [(each, None) for each in records]
        answers += zip(appends, results, strict=True)
        for each in requests:
            if isinstance(each, GiveBack):
                self._shards.give_back(each.window)
            elif isinstance(each, Read):
                self._readers.append(each)
        if any(isinstance(each, Close) for each in requests):
            answers += self._close(requests)
        else:
            self._check_if_due()
            answers += self._serve_readers()

    def _serve_readers(self) -> Iterator[tuple[Read, Window]]:
        while self._readers:
            reader = self._readers[0]
            if not reader.is_gone:
                window = self._shards.read(reader.max_count, reader.max_bytes)
                if window is None:
                    break
                if reader.fill(window):
                    yield reader, window
                else:
                    self._shards.give_back(window)
            self._readers.popleft()
        # What was too old to be read is settled by that.
        self._shards.commit()

    def _check_if_due(self) -> None:
        if (now := time.monotonic()) >= self._next_check:
            self._next_check = now + self._check_interval
            self._shards.look_after()

    def _close(self, requests: list[Request]) -> Answers:
        self._is_closed = True
        self._shards.close()
        readers, self._readers = self._readers, deque()
        return refusals([*readers, *(each for each in requests if isinstance(each, Close))], "the spool is closed")

    # -- fork

    def start_anew(self, *, has_threads: bool = True) -> None:
        """In a forked child."""
        self._shards.abandon()
        self._begin(has_threads=has_threads)


def _raised(result: Any) -> Any:
    """An exception that several may get is raised to each of them anew."""
    if isinstance(result, SpoolUnavailable):
        raise type(result)(*result.args) from result
    return result


# -- fork: no turn is in progress meanwhile, so that the child inherits no lock that nobody gives back

_spools: weakref.WeakSet[SQLiteSpool] = weakref.WeakSet()
_stopped: list[SQLiteSpool] = []
# A disk may take long; better a child that has to be lucky than a parent that hangs.
_PATIENCE: Final = 5.0


def _before_fork() -> None:
    _stopped.extend(spool for spool in _spools if spool.turn.acquire(timeout=_PATIENCE))


def _after_fork_in_parent() -> None:
    for spool in _stopped:
        spool.turn.release()
    _stopped.clear()


def _after_fork_in_child() -> None:
    _stopped.clear()
    forget_locks()
    for spool in _spools:
        spool.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
