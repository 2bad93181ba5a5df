"""What works for one process: the parts of the engine, wired, on the loop of a thread of their own.

    Appends, Endings ─────────┐
    Outlet ─► Group ──────────┴─► Server ─► Redis

A forked child makes a new one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from segment_async._exceptions import SpoolUnavailable, stack_of
from segment_async._lifecycle.waiting import settle_from_thread
from segment_async._outcome import Counts, Status
from segment_async.spool._protocol import Spool, SpoolStatistics

from ._appends import Append, Appends, Confirm
from ._endings import EndedEntries, Endings
from ._entries import Keys
from ._fallback import Fallback
from ._group import Group, GroupSetup
from ._outlet import Outlet
from ._pace import Pace
from ._server import Server, Unreachable, Unsuitable, code_of, info_lines
from ._thread import LoopInThread

_log = logging.getLogger("segment_async")

CLOSED: Final = "the spool is closed, as it is with its client: make a new one for each client"
# Seconds that a close waits at least for what was appended.
_CLOSE_SECONDS: Final = 2.0
# Seconds until a task that failed is started again.
_RESTART_DELAY: Final = 1.0
# Seconds that a server has for the first answer; and a cluster, all of whose nodes are asked first.
_INFO_SECONDS: Final = 2.0
_CLUSTER_SECONDS: Final = 10.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """The options of a `RedisSpool`, checked; `file` stands in while Redis cannot be used."""

    redis: Any = field(repr=False)
    max_messages: int
    max_dead: int
    confirm: Confirm | None
    keeps_in_memory: bool
    file: Spool | None
    append_timeout: float
    rate: float | None
    lease: float
    now: Callable[[], float]
    wall_clock: Callable[[], float]


class Engine:
    """What works for one process; everything but `call` and `statistics` belongs to the thread's loop."""

    def __init__(self, options: EngineOptions, keys: Keys) -> None:
        self.statistics = SpoolStatistics()
        self._thread = LoopInThread("segment_async relay")
        self.server = Server(options.redis, keys.messages, self._prepare, options.now)
        self._fallback = None if options.file is None else Fallback(options.file, self.call)
        self._appends = Appends(
            self.server,
            keys,
            max_messages=options.max_messages,
            confirm=options.confirm,
            seconds=options.append_timeout,
            keeps_in_memory=options.keeps_in_memory,
            fallback=None if self._fallback is None else self._fallback.store,
            changed=self._count,
        )
        consumer = f"{socket.gethostname()}-{os.getpid()}-{random.getrandbits(32):08x}".encode()
        setup = GroupSetup(self.server, keys)
        group = Group(self.server, setup, keys.messages, consumer, options.lease)
        ended = EndedEntries(self.server, keys, options.max_dead)
        endings = Endings(self.server, ended, wall_clock=options.wall_clock, changed=self._count)
        self.outlet = Outlet(
            self.server,
            group,
            setup,
            lease=options.lease,
            endings=endings,
            pace=None if options.rate is None else Pace(self.server, keys.pace, options.rate, options.now),
            now=options.now,
            changed=self._count,
        )
        self._endless: list[asyncio.Task[None]] = []
        self._info_seconds = _CLUSTER_SECONDS if isinstance(options.redis, RedisCluster) else _INFO_SECONDS
        # For what was appended: the group under way, and the one behind it.
        self._close_seconds = max(_CLOSE_SECONDS, 2 * options.append_timeout)
        self._closing: asyncio.Task[None] | None = None
        self._is_closed = False

    def start(self) -> None:
        self._thread.start()
        self.call(self._begin)

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """From any thread, in the order of the calls."""
        try:
            self._thread.call(function, *arguments)
        except RuntimeError:
            raise SpoolUnavailable(CLOSED) from None

    def _begin(self) -> None:
        self.server.lose("it was not reached yet")
        endless = [self._appends.run, self.outlet.renewals.keep_holds, self.outlet.endings.keep_recording]
        if self._fallback is not None:
            endless.append(partial(self._fallback.keep_moving, self._appends))
        self._endless = [self._thread.spawn(_supervised(each)) for each in endless]

    async def _prepare(self) -> None:
        """What is done before the server is used, each time that it was reached."""
        self.server.run = await self._check()
        if self.outlet.is_used:
            await self.outlet.connected()

    async def _check(self) -> str | None:
        try:
            return _checked(info_lines(await self.server.ask("INFO", seconds=self._info_seconds)))
        except ResponseError as refusal:
            # A user who may not ask for it: it is a safeguard, nothing more.
            if code_of(refusal) == "NOPERM":
                return None
            raise

    async def connect(self) -> None:
        if not await self.server.reach(2 * self._info_seconds):
            kind = ValueError if self.server.is_unsuitable else SpoolUnavailable
            raise kind(f"Redis cannot be used: {self.server.why}")

    # -- calls

    async def answer(self, ask: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine on the engine's loop, and wait for its result on the caller's.

        Cancelled, it goes on there.
        """
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self.call(self._run, ask, answer)
        return await answer

    def _run(self, ask: Callable[[], Coroutine[Any, Any, _T]], answer: asyncio.Future[_T]) -> None:
        # Not within the task: one that is cancelled before it begins would not answer.
        self._thread.spawn(ask()).add_done_callback(partial(_hand_over, answer))

    def append(self, append: Append) -> None:
        if self._is_closed:
            append.done(SpoolUnavailable(CLOSED))
        else:
            self._appends.add(append)

    async def aclose(self) -> None:
        if self._closing is None:
            self._closing = self._thread.spawn(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._close_seconds):
                await self._appends.idle.wait()
        self._is_closed = True
        self._appends.refuse_all(SpoolUnavailable(CLOSED))
        # Each part is closed whatever another one raises.
        async with AsyncExitStack() as stack:
            stack.callback(lambda: self._thread.spawn(self._thread.stop()))
            stack.callback(self._count)
            stack.push_async_callback(self.server.aclose)
            if self._fallback is not None:
                stack.push_async_callback(self._fallback.aclose)
            stack.push_async_callback(self._end_tasks)
            await self.outlet.aclose()

    async def _end_tasks(self) -> None:
        for task in self._endless:
            task.cancel()
        await asyncio.wait(self._endless)

    # -- counters

    def _count(self) -> None:
        """Make a new look at what is there, for any thread."""
        outlet, stored = self.outlet, self._appends.stored
        by_status = dict.fromkeys(Status, 0)
        reasons: dict[str, int] = {}
        for result, count in outlet.endings.counts.items():
            by_status[result.status] += count
            if result.reason is not None:
                reasons[result.reason] = reasons.get(result.reason, 0) + count
        pending = len(outlet.holds)
        ended = sum(by_status.values())
        self.statistics = SpoolStatistics(
            accepted=stored + outlet.fetcher.taken,
            delivered=by_status[Status.DELIVERED],
            failed=by_status[Status.FAILED],
            dropped=by_status[Status.DROPPED],
            pending=pending,
            dead=by_status[Status.FAILED],
            unrecorded=len(outlet.endings.unrecorded()),
            reasons=Counts(reasons),
            handed_over=stored + outlet.fetcher.taken - ended - pending,
        )

    def counts(self) -> dict[str, int]:
        appends, outlet = self._appends, self.outlet
        return {
            "stored": appends.stored,
            "full": appends.full,
            "claimed": outlet.fetcher.claimed,
            "lost": outlet.renewals.lost,
            "unknown": outlet.fetcher.unknown,
            "moved": 0 if self._fallback is None else self._fallback.moved,
            "held": len(outlet.holds),
        }


def _checked(info: dict[str, str]) -> str | None:
    """The name of the server's run.

    Raises:
        Unsuitable: messages would be lost there, or commands are missing.
        Unreachable: it takes no messages for now.
    """
    policy = info.get("maxmemory_policy", "")
    if policy.startswith("allkeys-"):
        raise Unsuitable(
            f"maxmemory-policy is {policy}, which may evict the stream with all its messages: set noeviction, or a "
            "volatile one"
        )
    if info.get("role") == "slave":
        # For now: it may be promoted, or the name may lead to another server.
        raise Unreachable("the server is a replica, which takes no writes", maybe_done=False)
    if info.get("loading") == "1":
        raise Unreachable("the server is loading its data", maybe_done=False)
    version = info.get("redis_version", "")
    if version and tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < (6, 2):
        raise Unsuitable(f"the server's version is {version}; Redis 6.2 or Valkey 7.2 is needed")
    return info.get("run_id")


async def _supervised(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it again if it fails."""
    while True:
        try:
            await run()
        except Exception as error:
            _log.error("A task of the relay's spool failed and is started again.\n%s", stack_of(error))
            await asyncio.sleep(_RESTART_DELAY)
        else:
            return


def _hand_over(answer: asyncio.Future[_T], task: asyncio.Task[_T]) -> None:
    if task.cancelled():
        settle_from_thread(answer, error=SpoolUnavailable(CLOSED))
    elif fault := task.exception():
        settle_from_thread(answer, error=fault)
    else:
        settle_from_thread(answer, task.result())
