"""The spool's thread carries out what it was asked for, or says that it does not."""

import asyncio
import sys
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from segment_async._exceptions import SpoolUnavailable
from segment_async.relay import RedisSpool
from segment_async.relay._thread import LoopInThread

SOON = 20.0


def started() -> LoopInThread:
    thread = LoopInThread("test")
    thread.start()
    return thread


def test_what_is_called_before_the_end_is_carried_out() -> None:
    thread = started()
    done: list[str] = []

    async def task() -> None:
        done.append("task")

    def begin() -> None:
        thread.spawn(thread.stop())
        thread.call(lambda: thread.spawn(task()))
        thread.call(partial(done.append, "call"))

    thread.call(begin)
    thread._thread.join(SOON)
    assert sorted(done) == ["call", "task"]


def test_a_call_between_the_loops_last_turn_and_its_close_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio would take it, and never carry it out."""
    thread = started()
    has_stopped, may_close = threading.Event(), threading.Event()
    close = thread.loop.close

    def close_later() -> None:
        has_stopped.set()
        may_close.wait(SOON)
        close()

    monkeypatch.setattr(thread.loop, "close", close_later)
    thread.call(lambda: thread.spawn(thread.stop()))
    assert has_stopped.wait(SOON)
    try:
        with pytest.raises(RuntimeError, match="ending"):
            thread.call(lambda: None)
    finally:
        may_close.set()
        thread._thread.join(SOON)


def test_a_spool_whose_loop_has_stopped_can_be_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    spool = RedisSpool("redis://127.0.0.1:1/0")
    may_close = threading.Event()

    async def life() -> None:
        await spool.read(1, 1)
        engine = spool._engine
        assert engine is not None
        has_stopped = threading.Event()
        close = engine._thread.loop.close

        def close_later() -> None:
            has_stopped.set()
            may_close.wait(SOON)
            close()

        monkeypatch.setattr(engine._thread.loop, "close", close_later)
        await spool.aclose()
        assert await asyncio.to_thread(has_stopped.wait, SOON)
        try:
            async with asyncio.timeout(SOON):
                await spool.aclose()
        finally:
            may_close.set()
            await asyncio.to_thread(engine._thread._thread.join, SOON)

    asyncio.run(life())


def test_a_spool_is_closed_whatever_a_part_of_it_raises() -> None:
    """Its thread would go on, and keep from other relays what this process holds."""
    spool = RedisSpool("redis://127.0.0.1:1/0")

    async def life() -> None:
        await spool.read(1, 1)
        engine = spool._engine
        assert engine is not None

        async def fail() -> None:
            raise MemoryError

        engine.outlet.aclose = fail  # type: ignore[method-assign]
        with pytest.raises(MemoryError):
            await spool.aclose()
        await asyncio.to_thread(engine._thread._thread.join, SOON)
        assert not engine._thread._thread.is_alive()
        await spool.aclose()

    asyncio.run(life())


def test_a_task_that_is_cancelled_before_it_begins_answers() -> None:
    spool = RedisSpool("redis://127.0.0.1:1/0")

    async def life() -> None:
        await spool.read(1, 1)
        engine = spool._engine
        assert engine is not None

        async def never() -> None:
            raise AssertionError

        def cancel() -> None:
            before = set(engine._thread._tasks)
            engine._run(never, answer)
            [task] = engine._thread._tasks - before
            task.cancel()

        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        engine.call(cancel)
        async with asyncio.timeout(SOON):
            with pytest.raises(SpoolUnavailable, match="closed"):
                await answer
        await spool.aclose()

    asyncio.run(life())


def test_threads_that_make_the_first_calls_at_once_share_one_thread() -> None:
    """Each engine would have counters of its own, and only one would be closed."""
    spool = RedisSpool("redis://127.0.0.1:1/0")
    spool.claim("0" * 16)
    before = threading.enumerate()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        callers = [threading.Thread(target=spool.append_nowait, args=((), lambda _answer: None)) for _ in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(SOON)
    finally:
        sys.setswitchinterval(interval)
    assert len(set(threading.enumerate()).difference(before)) == 1
    asyncio.run(spool.aclose())


def test_threads_of_a_forked_child_share_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under uWSGI, where nothing is called in a child before its first calls."""
    has_asked = threading.Event()

    class Lock:
        """Says when the second thread asks for it."""

        def __init__(self) -> None:
            self._lock = threading.RLock()

        def __enter__(self) -> None:
            if threading.current_thread() is second:
                has_asked.set()
            self._lock.acquire()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    def leave(_redis: object) -> list[Any]:
        if threading.current_thread() is not second:
            second.start()
            assert has_asked.wait(SOON)
        return []

    monkeypatch.setattr("segment_async.relay._spool.reentrant_lock", Lock)
    monkeypatch.setattr("segment_async.relay._spool.leave_connections", leave)
    spool = RedisSpool("redis://127.0.0.1:1/0")
    spool.claim("0" * 16)
    append = partial(spool.append_nowait, (), lambda _answer: None)
    second = threading.Thread(target=append)
    append()
    parents, spool._pid = spool._engine, -1
    before = threading.enumerate()
    append()
    second.join(SOON)
    assert len(set(threading.enumerate()).difference(before)) == 1
    asyncio.run(spool.aclose())
    assert parents is not None
    asyncio.run(parents.answer(parents.aclose))


def test_a_forked_child_does_not_speak_for_its_parent_before_its_first_call() -> None:
    """As under uWSGI: what the parent has stored, and whether it reaches Redis, is not known there."""
    spool = RedisSpool("redis://127.0.0.1:1/0")
    up = asyncio.Event()
    up.set()
    parents: Any = SimpleNamespace(server=SimpleNamespace(up=up), counts=lambda: {"stored": 1})
    spool._engine = parents
    assert (spool.is_reachable(), spool.counts()) == (True, {"stored": 1})
    spool._pid = -1
    assert (spool.is_reachable(), spool.counts()) == (False, {})
