"""The thread with an event loop for code that has none: when none can be started, and when it ends."""

import asyncio
import concurrent.futures
import errno
import sys
import threading
from types import FrameType
from typing import Any

import pytest

from segment_async._lifecycle.loop_thread import LoopThread


@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), OSError(errno.EMFILE, "Too many open files")]
)
def test_none_can_be_started(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first call says so; the others try again from time to time."""
    attempts: list[object] = []

    def refuse(*args: object) -> None:
        attempts.append(args)
        raise error

    where: tuple[object, str] = (
        (threading.Thread, "start") if isinstance(error, RuntimeError) else (asyncio, "new_event_loop")
    )
    monkeypatch.setattr(*where, refuse)
    thread = LoopThread(0)
    assert [thread.start() for _ in range(10)] == [False] * 10
    assert len(attempts) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"No thread can be started to send messages: {error}. They wait until one can, or for the exit."
    ]


def test_a_start_that_is_interrupted_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl+C: what relied on it would wait for a thread that never runs. The next call starts another one, as it
    may be the last.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    thread = LoopThread(0)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(threading.Thread, "start", interrupt)
        thread.start()
    assert not thread.is_started()
    thread.loop.close()
    assert thread.start()
    thread.stop()


def test_what_waits_when_it_is_stopped_waits_no_longer() -> None:
    thread = LoopThread(0)
    assert thread.start()
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(thread.run, wait, 30)
        begun.wait(10)
        thread.stop()
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.result(10)


@pytest.mark.untraced
def test_an_exception_at_any_step_of_a_wait_leaves_the_thread_working() -> None:
    """As a signal handler raises it: between any two steps of Python code, asyncio's own among them."""

    class Alarm(Exception):
        pass

    async def nothing() -> int:
        return 1

    steps_left = 0

    def step(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps_left
        if frame.f_code.co_name == "_remove":
            # Of a weak set; what a finalizer raises reaches nothing.
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps_left -= 1
            if not steps_left:
                raise Alarm
        return step

    thread = LoopThread(0)
    assert thread.start()
    before = sys.gettrace()
    interrupted = 0
    try:
        # In Python 3.12, `settrace` asks for these events only if a frame wanted them before.
        sys._getframe().f_trace_opcodes = True
        for number in range(1, 10_000):
            steps_left = number
            sys.settrace(step)
            try:
                thread.run(nothing, 10)
            except Alarm:
                interrupted += 1
            finally:
                sys.settrace(before)
            assert thread.run(nothing, 10) == 1, number
            if steps_left > 0:
                break
    finally:
        thread.stop()
    assert interrupted > 50
