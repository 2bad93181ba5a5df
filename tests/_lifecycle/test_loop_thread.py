"""The thread with an event loop for code that has none: when none can be started, and when it ends."""

import asyncio
import concurrent.futures
import errno
import threading

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


def test_what_waits_when_it_is_stopped_waits_no_longer() -> None:
    thread = LoopThread(0)
    assert thread.start()
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(thread.run, wait(), 30)
        begun.wait(10)
        thread.stop()
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.result(10)
