"""`RedisSpool`: both roles of a spool on one stream of Redis or Valkey, in one object that any thread and any loop may call.

    append_nowait ─► Appends ─┐
    read, sending, settle ─► Outlet ─► Group ─┴─► Server ─► Redis
                                         (all on the loop of one thread, which the first call starts)

Nothing is reached at construction. A forked child starts a thread of its own, and the parent's is kept from it.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from sys import float_info
from threading import RLock
from typing import Any, Final, Literal, cast

try:
    from redis.asyncio import Redis, RedisCluster
except ImportError as _error:
    raise ImportError('segment_async.relay requires the extra "redis": pip install "segment-async[redis]"') from _error

from segment_async._exceptions import SpoolUnavailable
from segment_async._locks import reentrant_lock
from segment_async._outcome import BatchResult
from segment_async.spool._protocol import AppendResult, NewMessage, Spool, SpoolStatistics, TryLater, Window

from ._appends import Append
from ._engine import CLOSED, Engine, EngineOptions
from ._entries import keys_for
from ._server import check_redis, leave_connections

_MAX_ANSWER: Final = 1_000
# Before a client has claimed the spool.
_UNCLAIMED: Final = "0" * 16


def boot_clock() -> float:
    """Seconds of a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class RedisSpool:
    """A spool that many hosts share: a stream in Redis 6.2, Valkey 7.2, or later.

    Accepted means: Redis has the message, as safely as you set it up. After any failure a message may be sent again,
    with the same `messageId`.

    A client that hands over and delivers counts both in its statistics: a message is accepted and handed over, and once
    more accepted, as ``recovered``, when it is read from Redis.

    Args:
        redis: the server's URL; or a client of `redis.asyncio`, such as one of a `Sentinel` of its own. A client must
            be used for nothing else: its retries are switched off, and its connections belong to the spool's own thread.
        max_messages: that may wait in the stream; beyond it an append is ``full``.
        max_dead: dead letters that are kept, approximately; the oldest make room.
        confirm: an append returns once a ``"replica"`` has it, or once it is synced to the append-only file
            (``"aof"``, with Redis 7.2 or Valkey). `None`: once the server has answered.
        on_failure: when Redis cannot be used, ``"raise"`` `SpoolUnavailable`; keep messages in the client's
            ``"memory"``, within its bounds; or store them in a file, by its path (with a dot or a slash in it, so that no
            misspelt word is one) or as a `SQLiteSpool`, from which they are moved to Redis later.
        append_timeout: seconds that an append may take; then its message may be stored or not. Several messages that come at
            once are sent in parts of up to 1 MiB, each with so much time.
        rate: messages a second that all relays of a write key send together; `None`: as fast as they can. No more than
            one second's worth waits to be sent, so a client's `flush_interval` above a second makes it slower.
        lease: seconds after which another relay takes over what one has not renewed. The same for all relays.
        clock: seconds of a clock that is never set. `wall_clock`: seconds since the epoch.

    Raises:
        ValueError: an option is of another type or out of range, or `redis` is neither a URL nor a client that can be used.
        ImportError: the extra ``redis`` is not installed.
    """

    shared = True

    def __init__(
        self,
        redis: str | Redis | RedisCluster,
        *,
        max_messages: int = 1_000_000,
        max_dead: int = 100_000,
        confirm: Literal["replica", "aof"] | None = None,
        on_failure: str | os.PathLike[str] | Spool = "raise",
        append_timeout: float = 0.9,
        rate: float | None = None,
        lease: float = 60.0,
        clock: Callable[[], float] = boot_clock,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if confirm not in (None, "replica", "aof"):
            raise ValueError('confirm must be "replica", "aof" or None')
        _check_numbers(
            max_messages=max_messages, max_dead=max_dead, append_timeout=append_timeout, rate=rate, lease=lease
        )
        # Not a number is not above zero either.
        limits = (max_messages, max_dead, append_timeout, lease, 1 if rate is None else rate)
        if not all(limit > 0 for limit in limits):
            raise ValueError("max_messages, max_dead, append_timeout, rate and lease must be above zero")
        # Redis counts milliseconds, in 64 bits.
        if not 0.001 <= lease < 2**63 / 1000:
            raise ValueError("lease must be a finite number of seconds, 0.001 or more, and below 9e15")
        for name, limit in (("append_timeout", append_timeout), ("rate", rate)):
            if limit is not None and limit > float_info.max:
                raise ValueError(f"{name} must be finite")
        for name, function in (("clock", clock), ("wall_clock", wall_clock)):
            if not callable(function):
                raise ValueError(f"{name} must be a function")  # noqa: TRY004  # as all options
        check_redis(redis)
        self._file = _file_for(on_failure)
        self._options = EngineOptions(
            redis=redis,
            max_messages=max_messages,
            max_dead=max_dead,
            confirm=confirm,
            keeps_in_memory=on_failure == "memory",
            file=self._file,
            append_timeout=append_timeout,
            rate=rate,
            lease=lease,
            now=clock,
            wall_clock=wall_clock,
        )
        self._fingerprint: str | None = None
        # By process: in a child, the parent's lock may be held for ever, and several threads may make the first calls.
        self._starting: dict[int, RLock] = {}
        self._begin()
        _spools.add(self)

    def __repr__(self) -> str:
        return f"RedisSpool(<{self._fingerprint or 'unclaimed'}>)"

    def _begin(self) -> None:
        """The state of a process that has not called yet."""
        self._engine: Engine | None = None
        self._statistics = SpoolStatistics()
        self._is_closing = False
        # Reads that were begun, and the last one of which the window was received.
        self._reads = self._received = 0
        # Last: what another thread of this process finds is no longer the parent's.
        self._pid = os.getpid()

    # -- intake

    def claim(self, fingerprint: str) -> None:
        if self._fingerprint is not None:
            raise ValueError("the spool belongs to another client: make a RedisSpool for each client")
        self._fingerprint = fingerprint
        if self._file is not None:
            self._file.claim(fingerprint)

    def append_nowait(
        self,
        messages: Sequence[NewMessage],
        done: Callable[[AppendResult | TryLater | SpoolUnavailable], None],
        *,
        hold: int = 0,
        make_room: bool = False,
    ) -> None:
        """As the protocol says; the stream is shared, so nothing is held and no room is made."""
        engine = self._start()
        engine.call(engine.append, Append(messages, done))

    def statistics(self) -> SpoolStatistics:
        engine = self._own_engine()
        return self._statistics if engine is None else engine.statistics

    async def aclose(self) -> None:
        if self._pid != os.getpid():
            self._begin()
        self._is_closing = True
        engine = self._engine
        if engine is not None:
            # One that has closed its loop cannot be asked any more.
            with suppress(SpoolUnavailable):
                await engine.answer(engine.aclose)
            self._statistics = engine.statistics
        elif self._file is not None:
            await self._file.aclose()

    # -- outlet

    async def read(self, max_count: int, max_bytes: int) -> Window:
        engine = self._start()
        self._reads = number = self._reads + 1
        if number == 1:
            return Window(())
        window: Window = await engine.answer(partial(engine.outlet.read, number, max_count, max_bytes, self._received))
        self._received = number
        return window

    async def sending(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        engine = self._start()
        ended: Collection[int] = await engine.answer(partial(engine.outlet.sending, tuple(keys), attempt))
        return ended

    async def settle(self, keys: Sequence[int], result: BatchResult, answer: str = "") -> None:
        engine = self._start()
        await engine.answer(partial(engine.outlet.settle, tuple(keys), result, answer[:_MAX_ANSWER]))

    def _start(self) -> Engine:
        process = os.getpid()
        if self._pid != process:
            with self._starting.setdefault(process, reentrant_lock()):
                if self._pid != process:
                    # A fork without hooks, as uWSGI's.
                    self.begin_after_fork()
        if self._is_closing:
            raise SpoolUnavailable(CLOSED)
        if self._engine is None:
            with self._starting.setdefault(process, reentrant_lock()):
                if self._engine is None:
                    self._engine = self._started()
        return self._engine

    def _started(self) -> Engine:
        engine = Engine(self._options, keys_for(self._fingerprint or _UNCLAIMED))
        try:
            engine.start()
        except RuntimeError as error:
            raise SpoolUnavailable(f"no thread can be started for the spool: {error}") from None
        return engine

    def begin_after_fork(self) -> None:
        """In a forked child: the parent's connections are left to it."""
        if self._engine is not None:
            # Never freed: closing its loop would take the parent's wake-ups away.
            _of_parents.append((self._engine, leave_connections(self._options.redis)))
        self._begin()

    # -- by itself

    async def connect(self) -> None:
        """Reach Redis now rather than at the first call, so that what is set up wrongly is found at the start.

        Raises:
            ValueError: Redis must not be used as it is set up.
            SpoolUnavailable: it is out of reach; it is tried again by itself.
            RuntimeError: no client was made with the spool, so its write key is not known yet.
        """
        if self._fingerprint is None:
            raise RuntimeError("make the client before you connect its spool: Client(..., spool=spool)")
        engine = self._start()
        await engine.answer(engine.connect)

    def counts(self) -> dict[str, int]:
        """What this process did so far: ``stored``, ``full``, ``claimed`` (taken over from other relays), ``lost`` (holds
        that ended), ``unknown`` (messages left to a newer version), ``moved`` (from the file) and ``held`` now.
        """
        engine = self._own_engine()
        return {} if engine is None else engine.counts()

    def is_reachable(self) -> bool:
        """Whether Redis answered when it was last asked."""
        engine = self._own_engine()
        return engine is not None and engine.server.up.is_set()

    def _own_engine(self) -> Engine | None:
        """Not that of a parent under uWSGI, which works on there."""
        return self._engine if self._pid == os.getpid() else None


def _check_numbers(*, rate: float | None, append_timeout: float, lease: float, **counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int):
            raise ValueError(f"{name} must be an integer")  # noqa: TRY004  # as all options
    numbers = {"append_timeout": append_timeout, "rate": 1 if rate is None else rate, "lease": lease}
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ValueError(f"{name} must be a number")  # noqa: TRY004  # as all options


def _file_for(on_failure: str | os.PathLike[str] | Spool) -> Spool | None:
    if on_failure in ("raise", "memory"):
        return None
    if isinstance(on_failure, str) and not {".", os.sep} & {*on_failure}:
        raise ValueError(
            f'on_failure must be "raise", "memory", a path or a SQLiteSpool; if {on_failure!r} is a path, write '
            f'"./{on_failure}"'
        )
    if isinstance(on_failure, str) or hasattr(on_failure, "__fspath__"):
        from segment_async.spool._sqlite import SQLiteSpool

        path: Any = on_failure
        return SQLiteSpool(path)
    if not hasattr(on_failure, "append_nowait"):
        raise ValueError('on_failure must be "raise", "memory", a path or a SQLiteSpool')
    file: Any = on_failure
    return cast("Spool", file)


# In a forked child: the parent's engines, and their connections.
_of_parents: list[tuple[Engine, list[Any]]] = []
_spools: weakref.WeakSet[RedisSpool] = weakref.WeakSet()


def _after_fork() -> None:
    for spool in _spools:
        spool.begin_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
