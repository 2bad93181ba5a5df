"""The SQLite engine: both roles in one object that any thread and any loop may call, and one thread that writes.

    append_nowait, read, sending, settle ─► requests ─► the writer's thread, turn by turn:
                                                          everything that waits ─► one transaction a shard
                                                          what no process holds ─► the waiting reader
                                            answers ◄──── after the turn

While one turn waits for the disk the requests of the next gather, so that all of them share one sync. If no thread can
be started, at the end of the interpreter or after a fork that Python does not know of, the caller runs the turn.

The way of one message: `append_nowait` here, `Writer.commit` and `_Change` in `_writer`, `Database.transact` in
`_database`, the statements in `_tables`; `_files` says which files may be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, Final, Literal, NamedTuple, cast

from segment_async._exceptions import SpoolUnavailable
from segment_async._lifecycle.waiting import settle_from_thread
from segment_async._locks import is_held_here, reentrant_lock
from segment_async._outcome import BatchResult

from ._database import Options, is_others, other_owner
from ._files import check_path, open_files
from ._protocol import AppendResult, NewMessage, SpoolStatistics, TryLater, Window
from ._writer import Append, Note, Writer

# What one transaction takes at most, so that a turn stays short.
_TURN_BYTES: Final = 4 * 2**20
_TURN_REQUESTS: Final = 5_000
# Seconds until work that is done when there is time goes on.
_SOON: Final = 0.05
_MAX_ANSWER: Final = 1_000
_MAX_FINGERPRINT: Final = 128
_CLOSED: Final = "the spool is closed, as it is with its client: make a new one for each client"
_REPLACED: Final = "another read has begun"


class SQLiteSpool:
    """A spool in a file: SQLite's write-ahead log, synced before an append is answered.

    The path is checked at construction, and opened at the first call. Processes on one path share nothing: each has a
    file of its own beside it, and adopts the files of processes that died.

    Refused, and left as they are: files that are no spool, or of another version; symbolic links; folders that other
    users may write to. The group may write to the folder if it is the process's own primary group.

    While another process reads the spool without end, the write-ahead log cannot be emptied: at 32 MiB messages are
    refused until that process is gone.

    Args:
        path: of the file, with `~` expanded. A missing folder is made, for its owner alone, if its parent exists.
        max_bytes: of JSON that one process's file may keep, dead letters included; beyond it an append is ``full``.
        max_age: seconds after which a message is given up instead of being read; `None`: never. Messages age by the
            monotonic clock while a process runs, and by the wall clock from one process to the next; a wall clock that
            went back, or forward by more than a year, makes no message older.
        durability: ``"full"``: what was accepted survives a power loss. ``"process"``: it survives the process; the
            last moments before a power loss may be missing, which is noticed and counted.
        on_failure: when the disk refuses, ``"raise"`` `SpoolUnavailable`, or keep messages in the client's ``"memory"``,
            within its bounds: they are stored, and then sent, once the disk takes them.
        check_interval: seconds between looks at what no call asks for: files of processes that died, changes made by
            other processes, a disk that works again.
        key_rotated: the spool's messages are to be sent with this client's write key, though another one stored them.
            For one start after the key was rotated; without it another key is refused.
        clock: seconds of the wall clock. `monotonic`: seconds of a clock that is never set.

    Raises:
        ValueError: an option is out of range, or no spool can be at the path.
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
        key_rotated: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if durability not in ("full", "process") or on_failure not in ("raise", "memory"):
            raise ValueError('durability must be "full" or "process", and on_failure "raise" or "memory"')
        if not all(map(_is_above_zero, (max_bytes, check_interval, 1 if max_age is None else max_age))):
            raise ValueError("max_bytes, max_age and check_interval must be numbers above zero: bytes, and seconds")
        if not isinstance(key_rotated, bool):
            # Text such as "no" would count as `True`, and another source would get the messages.
            raise ValueError("key_rotated must be True or False")  # noqa: TRY004  # as the other options
        self._base = check_path(path)
        self._options = Options(
            max_bytes=max_bytes,
            max_age=max_age,
            power_safe=durability == "full",
            callers_keep=on_failure == "memory",
            # No thread waits for longer, and longer than that is never.
            check_interval=min(check_interval, threading.TIMEOUT_MAX),
            key_rotated=key_rotated,
            wall_clock=clock,
            monotonic=monotonic,
        )
        self._is_closing = False
        # By process: several threads of a forked child may make its first calls at once.
        self._engines: dict[tuple[int, int], _Engine] = {}

    def __repr__(self) -> str:
        return f"SQLiteSpool({str(self._base)!r})"

    # -- intake

    def claim(self, fingerprint: str) -> None:
        if not 0 < len(fingerprint) <= _MAX_FINGERPRINT:
            raise ValueError(f"a fingerprint has 1 to {_MAX_FINGERPRINT} characters")
        claimed, self._options.fingerprint = self._options.fingerprint, fingerprint
        if self._options.is_foreign(claimed) or is_others(self._base, self._options):
            self._options.fingerprint = claimed
            raise ValueError(other_owner(self._base))

    def append_nowait(
        self,
        messages: Sequence[NewMessage],
        done: Callable[[AppendResult | TryLater | SpoolUnavailable], None],
        *,
        hold: int = 0,
        make_room: bool = False,
    ) -> None:
        self._refuse_if_closing()
        stored = [(message_id.encode(), bytes(body)) for message_id, body in messages]
        self._engine().submit(_Request(Append(stored, hold, make_room), done))

    def statistics(self) -> SpoolStatistics:
        return self._engine().look()

    async def aclose(self) -> None:
        self._is_closing = True
        with contextlib.suppress(SpoolUnavailable):
            await self._served(_Engine.close)

    # -- outlet

    async def read(self, max_count: int, max_bytes: int) -> Window:
        self._refuse_if_closing()
        future = asyncio.get_running_loop().create_future()
        request = _Request(_Read(max_count, max_bytes), partial(_resolve, future))
        engine = self._engine()
        engine.submit(request)
        try:
            await future
            # Without a call, at which a signal handler may raise.
            window = request.window[0]
            del request.window[0]
        except IndexError:
            raise SpoolUnavailable(_REPLACED) from None
        except BaseException:
            engine.take_back(request)
            raise
        return window

    async def sending(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        self._refuse_if_closing()
        await self._served(Note(tuple(keys), attempt))
        return ()

    async def settle(self, keys: Sequence[int], result: BatchResult, answer: str = "") -> None:
        self._refuse_if_closing()
        answer = answer[:_MAX_ANSWER].encode(errors="replace").decode()
        await self._served(Note(tuple(keys), result, answer))

    async def _served(self, work: _Work) -> None:
        future = asyncio.get_running_loop().create_future()
        self._engine().submit(_Request(work, partial(_resolve, future)))
        await future

    def _refuse_if_closing(self) -> None:
        if self._is_closing:
            raise SpoolUnavailable(_CLOSED)

    def _engine(self) -> _Engine:
        """This process's."""
        process = os.getpid(), _forks
        engine = self._engines.get(process)
        if engine is None:
            open_files.forget()
            for other in [each for each in self._engines.copy() if each != process]:
                # A parent's: what it has open is left to the parent by now.
                self._engines.pop(other, None)
            # A signal handler, or another thread, may have been here meanwhile.
            engine = self._engines.setdefault(process, _Engine(self._base, self._options))
        return engine


class _Engine:
    """The spool in one process: what it is asked for, and the turns in which that is done.

    Attributes:
        look: what makes the statistics of now.
        turn: held for a turn, so that no fork happens in the middle of one.
    """

    def __init__(self, base: Path, options: Options) -> None:
        self._base = base
        self._options = options
        # Python does not know of a fork without hooks, as uWSGI's: a new thread might never run.
        self._has_threads = os.getpid() == _pid
        self._writer = Writer(base, options)
        self.look = self._writer.look()
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        # The read that came last: it waits, or was given a window that it may not have taken.
        self._reader: _Request | None = None
        # Whether a reader was told what all earlier processes left, if only that it is nothing.
        self._has_told = False
        self._is_closed = False
        self._next_check = options.monotonic() + options.check_interval
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.turn = reentrant_lock()
        open_files.turns[id(self.turn)] = self.turn
        self._of_thread = threading.local()

    # -- the thread

    def submit(self, request: _Request) -> None:
        self._requests.put(request)
        if self._is_closed or not self._ensure_thread():
            self._serve_here()

    def _serve_here(self) -> None:
        """Take turns in this thread. Amid one, in an answer, a signal handler or a finalizer, the next turn serves all."""
        try:
            while (not self._requests.empty() or self._goes_on) and not is_held_here(self._in_turn):
                with self._in_turn:
                    self._take_turn(self._next_requests(0))
        except BaseException:
            # What its answers asked for is waited for as well.
            self._serve_here()
            raise

    @property
    def _goes_on(self) -> bool:
        """A reader waits, and not all that it may be given was looked for: the next turn is due."""
        reader = self._reader
        return reader is not None and reader.result is None and self._writer.is_looking and not self._is_closed

    @property
    def _in_turn(self) -> RLock:
        """A lock of the calling thread's own, which it holds for a turn and its answers. No other thread waits for it."""
        lock: RLock = self._of_thread.__dict__.setdefault("in_turn", reentrant_lock())
        return lock

    def _ensure_thread(self) -> bool:
        if self._thread is not None and self._thread.is_alive():
            return True
        if not self._has_threads:
            return False
        try:
            threading.Thread(target=self._run, name="segment_async spool", daemon=True).start()
        except RuntimeError:
            return False
        return True

    def _run(self) -> None:
        # Several may be started at once, by several callers or by a signal handler amid a start: one of them works.
        with self._starting:
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread = threading.current_thread()
        in_turn = self._in_turn
        try:
            while not (self._is_closed and self._requests.empty()):
                pause = 0.0 if self._goes_on else self._next_check - self._options.monotonic()
                requests = self._next_requests(max(0.0, pause))
                with in_turn:
                    self._take_turn(requests)
        except BaseException as fault:
            self._options.log("The spool's thread stopped, and is started again: %s", self._base, fault=fault)
            try:
                self._options.write_logs()
            finally:
                self._thread = None
                self._ensure_thread()

    def _next_requests(self, timeout: float) -> list[_Request]:
        """Everything that waits, as much as makes one turn; waits for the first one."""
        requests: list[_Request] = []
        size = 0
        with contextlib.suppress(queue.Empty):
            while len(requests) < _TURN_REQUESTS and size < _TURN_BYTES:
                request = self._requests.get(timeout=0 if requests else timeout)
                requests.append(request)
                size += request.work.size if isinstance(request.work, Append) else 0
        return requests

    # -- one turn

    def _take_turn(self, requests: list[_Request]) -> None:
        why_not = _CLOSED
        try:
            with self.turn:
                if not self._is_closed:
                    self._serve(requests)
        except BaseException as fault:
            self._options.log("The spool failed, and refuses what it was asked for: %s", self._base, fault=fault)
            why_not = f"the spool failed: {type(fault).__name__}"
            if not isinstance(fault, Exception):
                raise
        finally:
            # What is said of a turn is said before its answers. They are given whatever a logging handler raises.
            try:
                self._options.write_logs()
            finally:
                self._answer(requests, why_not)

    def _answer(self, requests: list[_Request], why_not: str) -> None:
        for request in requests:
            try:
                if request.done(request.result or SpoolUnavailable(why_not)) is False:
                    self.take_back(request)
            except Exception as fault:
                self._options.log("A function that the spool called raised", fault=fault)
        self._options.write_logs()

    def _serve(self, requests: list[_Request]) -> None:
        """Give the requests their results. A reader stays behind until there is something for it."""
        try:
            self._begin_read(requests)
            steps = [request.work for request in requests if isinstance(request.work, (Append, Note))]
            results = iter(self._writer.commit(steps) if steps else ())
            for request in requests:
                if isinstance(request.work, Append):
                    request.result = next(results)
                elif isinstance(request.work, Note):
                    request.result = True
            for request in requests:
                if callable(request.work):
                    request.work(self)
                    request.result = True
            now = self._options.monotonic()
            if now >= self._next_check and not self._is_closed:
                self._next_check = now + self._options.check_interval
                if self._writer.look_after():
                    self._next_check = now + _SOON
            reader = self._reader
            if reader is not None and reader.result is None and (self._is_closed or self._has_read(reader)):
                # Last: a message is stored before it is read.
                requests.append(reader)
        finally:
            self.look = self._writer.look()

    def _begin_read(self, requests: list[_Request]) -> None:
        """Have the last of the reads wait, one at a time: an earlier reader is gone, or its loop stands still."""
        for request in [each for each in requests if isinstance(each.work, _Read)]:
            requests.remove(request)
            if (earlier := self._reader) is not None:
                self._release(earlier)
                if earlier.result is None:
                    earlier.result = SpoolUnavailable(_REPLACED)
                    requests.append(earlier)
            self._reader = request
            self._writer.may_hold = True

    def _has_read(self, reader: _Request) -> bool:
        """Whether there is something for the reader, if only the news that there is nothing."""
        try:
            window = self._writer.read(*cast("_Read", reader.work))
        except SpoolUnavailable as refusal:
            reader.result = refusal
            return True
        if window is None:
            if self._has_told or self._writer.is_looking:
                return False
            window = Window(())
        self._has_told = window.knows_all
        reader.window.append(window)
        reader.result = True
        # What is appended until the next read must not be sent before what this one was given.
        self._writer.may_hold = not window.messages
        return True

    def take_back(self, reader: _Request) -> None:
        """The reader is gone: what it was given is read again."""
        self._requests.put(_Request(lambda engine: engine._release(reader), _ignore))

    def _release(self, reader: _Request) -> None:
        if reader is self._reader:
            self._reader = None
            with contextlib.suppress(IndexError):
                window = reader.window.pop()
                # The news that there is nothing is given again, too.
                self._has_told = False
                self._writer.release(window)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._writer.close()


# -- requests


class _Read(NamedTuple):
    max_count: int
    max_bytes: int


_Work = Append | Note | _Read | Callable[[_Engine], object]


class _Request:
    """What the thread is asked to do: a step for the writer, a read, or something after the steps.

    `done` is called after the turn, with the result, or with `SpoolUnavailable` if the request was not served. `False`
    from it says that the caller is gone.
    """

    def __init__(self, work: _Work, done: Callable[[Any], object]) -> None:
        self.work = work
        self.done = done
        # `True`: served, without a result of its own.
        self.result: AppendResult | TryLater | SpoolUnavailable | bool | None = None
        # What a read was given, until the reader takes it or the writer takes it back.
        self.window: list[Window] = []


def _resolve(future: asyncio.Future[Any], result: object) -> bool:
    """Resolve a future of another thread's loop; returns whether that loop is there."""
    if isinstance(result, SpoolUnavailable):
        return settle_from_thread(future, error=result)
    return settle_from_thread(future, result)


def _ignore(_: object) -> None: ...


def _is_above_zero(number: object) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and number > 0


# -- forks

# This process, as far as Python knows, and how often it or a parent was forked: ids of processes are used again.
_pid = os.getpid()
_forks = 0


def _after_fork_in_child() -> None:
    global _pid, _forks
    _pid, _forks = os.getpid(), _forks + 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
