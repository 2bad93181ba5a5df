"""The SQLite engine and event loops: nothing blocks one, and any kind will do."""

import asyncio
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from segment_async.spool import NewMessage, SpoolUnavailable, SQLiteSpool

from .contract import DELIVERED, SOON, append, append_one, first_read, read, read_ids

ROOT = Path(__file__).parents[2]


async def use(spool):
    await asyncio.gather(append(spool, *"abc"), append(spool, *"def"))
    keys = [each.key for each in (await read(spool)).messages]
    await spool.sending(keys, 1)
    await spool.settle(keys, DELIVERED)
    spool.statistics()
    await spool.aclose()


def test_no_call_blocks_the_loop(tmp_path):
    # Construction looks at the path, once and for good; the calls do not.
    spool = SQLiteSpool(tmp_path / "spool" / "analytics.db")
    with blockbuster_ctx():
        asyncio.run(use(spool))


def test_debug_mode_finds_nothing(tmp_path):
    asyncio.run(use(SQLiteSpool(tmp_path / "analytics.db")), debug=True)


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not run there")
def test_uvloop_will_do(tmp_path):
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(use(SQLiteSpool(tmp_path / "analytics.db")))


def test_a_fault_within_refuses_the_call_and_nothing_hangs(tmp_path, caplog):
    """A clock that raises stands for a bug of ours, or for memory that runs out in the middle of a transaction."""
    faults = []

    def clock():
        if faults:
            raise faults.pop()
        return 1_000_000.0

    async def main():
        spool = SQLiteSpool(tmp_path / "analytics.db", clock=clock)
        await append(spool, "a")
        [held] = (await read(spool)).messages
        for number, fault in enumerate((MemoryError(), KeyError("x"), StopIteration(), RecursionError())):
            faults.append(fault)
            with pytest.raises(SpoolUnavailable, match=f"the spool failed: {type(fault).__name__}"):
                await append(spool, "b")
            # What is settled in a turn that fails is settled all the same, with the next one.
            faults.append(fault)
            await spool.settle([held.key], DELIVERED)
            assert spool.statistics().unrecorded == 1
            await append(spool, f"c{number}")
            assert spool.statistics().unrecorded == 0
            [held] = (await read(spool)).messages
            assert held.message_id == f"c{number}"
        counts = spool.statistics()
        assert (counts.accepted, counts.delivered, counts.pending) == (5, 4, 1)
        await spool.aclose()

    asyncio.run(main())
    assert "The spool failed, and refuses what it was asked for" in caplog.text


def test_a_thread_that_dies_is_started_again(tmp_path, caplog):
    faults = []

    def clock():
        if faults:
            raise faults.pop()
        return 1_000_000.0

    async def main():
        spool = SQLiteSpool(tmp_path / "analytics.db", clock=clock)
        await append(spool, "a")
        faults.append(SystemExit())
        with pytest.raises(SpoolUnavailable, match="the spool failed: SystemExit"):
            await append(spool, "b")
        await append(spool, "c")
        assert [each.message_id for each in (await read(spool)).messages] == ["a", "c"]
        await spool.aclose()

    asyncio.run(main())
    assert "The spool's thread stopped, and is started again" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_logging_handler_that_ends_the_thread_takes_no_answer_with_it(tmp_path):
    faults, ended = [], set()

    def clock():
        if faults:
            raise faults.pop()
        return 1_000_000.0

    class Handler(logging.Handler):
        def emit(self, _):
            ended.add(threading.current_thread())
            raise SystemExit

    async def main():
        spool = SQLiteSpool(tmp_path / "analytics.db", clock=clock)
        await append(spool, "a")
        faults.append(KeyError())
        async with asyncio.timeout(SOON):
            with pytest.raises(SpoolUnavailable, match="the spool failed: KeyError"):
                await append(spool, "b")
            await append(spool, "c")
        assert [each.message_id for each in (await read(spool)).messages] == ["a", "c"]
        await spool.aclose()

    handler = Handler()
    logging.getLogger("segment_async").addHandler(handler)
    try:
        asyncio.run(main())
    finally:
        logging.getLogger("segment_async").removeHandler(handler)
    for thread in ended:
        thread.join(SOON)


def test_a_logging_handler_that_calls_the_spool_meets_no_lock(tmp_path):
    """Not even where no thread can be started, and the caller runs the turn."""
    program = """
import asyncio, atexit, logging, sys
from segment_async.spool import NewMessage, SpoolUnavailable, SQLiteSpool
from tests.spool.contract import call_append
spool = SQLiteSpool(sys.argv[1], on_failure="memory")
seen = []
class Handler(logging.Handler):
    def emit(self, record):
        # Raises once the spool is closed.
        spool.append_nowait([NewMessage(f"log-{len(seen)}", b"{}")], seen.append)
logging.getLogger("segment_async").addHandler(Handler())
async def ask():
    await call_append(spool, [("a", b"{}")])
def at_exit():
    import pathlib
    pathlib.Path(sys.argv[1]).parent.write_bytes(b"no folder")
    asyncio.run(ask())
    asyncio.run(spool.aclose())
    assert seen
atexit.register(at_exit)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "spool" / "a.db")],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_whose_loop_is_gone_holds_nothing(tmp_path):
    spool = SQLiteSpool(tmp_path / "analytics.db")
    asyncio.run(first_read(spool))
    loop = asyncio.new_event_loop()
    reading = loop.create_task(spool.read(10, 1000))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    asyncio.run(append(spool, "a"))

    async def later():
        assert [each.message_id for each in (await read(spool)).messages] == ["a"]
        await spool.aclose()

    asyncio.run(later())
    reading._log_destroy_pending = False


@pytest.mark.parametrize("has_window", [False, True], ids=["it waits", "it was given a window"])
def test_a_reader_whose_loop_stands_still_is_replaced_by_the_next_one(tmp_path, has_window):
    spool = SQLiteSpool(tmp_path / "analytics.db")
    asyncio.run(first_read(spool))
    still = asyncio.new_event_loop()
    reading = still.create_task(spool.read(10, 1000))
    still.run_until_complete(asyncio.sleep(0))

    async def on_another_loop():
        if has_window:
            await append(spool, "a")
        again = asyncio.ensure_future(read_ids(spool))
        await asyncio.sleep(0)
        if not has_window:
            await append(spool, "a")
        assert await again == ["a"]

    asyncio.run(on_another_loop())
    with pytest.raises(SpoolUnavailable, match="another read has begun"):
        still.run_until_complete(reading)
    still.close()
    asyncio.run(spool.aclose())


def test_a_window_that_was_taken_back_is_not_taken_from_the_next_reader(tmp_path):
    spool = SQLiteSpool(tmp_path / "analytics.db")
    asyncio.run(first_read(spool))
    loop = asyncio.new_event_loop()
    reading = loop.create_task(spool.read(10, 1000))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def later():
        await append(spool, "a")
        assert await read_ids(spool) == ["a"]
        # As the garbage collector does, some time after.
        reading.get_coro().close()
        await append(spool, "b")
        assert await read_ids(spool) == ["b"]
        await spool.aclose()

    asyncio.run(later())
    reading._log_destroy_pending = False


def test_after_a_first_read_that_was_cancelled_the_next_one_returns_at_once(tmp_path):
    """As at the end of `asyncio.run`: a flush on the next loop waits for this answer."""

    async def main():
        spool = SQLiteSpool(tmp_path / "analytics.db")
        reading = asyncio.ensure_future(spool.read(10, 1000))
        await asyncio.sleep(0)
        # The loop stands still meanwhile, so that the reader has its answer and has not taken it.
        for _ in range(2):
            turn_is_over = threading.Event()
            spool.append_nowait([], lambda _, event=turn_is_over: event.set())
            assert turn_is_over.wait(SOON)
        reading.cancel()
        assert await first_read(spool) == []
        await spool.aclose()

    asyncio.run(main())


def test_nothing_new_is_held_in_the_turn_that_takes_a_window_back(tmp_path):
    async def main():
        spool = SQLiteSpool(tmp_path / "analytics.db")
        await first_read(spool)
        reading = asyncio.ensure_future(spool.read(10, 1000))
        await asyncio.sleep(0)
        is_stored = threading.Event()
        spool.append_nowait([NewMessage("older", b"{}")], lambda _: is_stored.set())
        # The loop stands still meanwhile, so that the reader has a window that it has not taken.
        assert is_stored.wait(SOON)
        answers = []
        engine = spool._engine()
        with engine.turn:
            # The thread has a turn to take and waits: what comes now is of this turn, or all of it of the next.
            spool.append_nowait([], lambda _: None)
            while not engine._requests.empty():
                pass
            reading.cancel()
            again = asyncio.ensure_future(spool.read(10, 1000))
            await asyncio.sleep(0)
            spool.append_nowait([NewMessage("newer", b"{}")], answers.append, hold=1)
        assert [each.message_id for each in (await again).messages] == ["older", "newer"]
        [result] = answers
        assert not result.answers[0].held
        await spool.aclose()

    asyncio.run(main())


def test_a_function_that_raises_harms_no_other_caller(tmp_path, caplog):
    async def main():
        spool = SQLiteSpool(tmp_path / "analytics.db")
        spool.append_nowait([NewMessage("a", b"{}")], lambda _: 1 / 0)
        await append(spool, "b")
        assert spool.statistics().accepted == 2
        await spool.aclose()

    asyncio.run(main())
    assert "ZeroDivisionError" in caplog.text


def test_an_id_that_is_no_text_is_refused_at_the_call(tmp_path):
    async def main():
        spool = SQLiteSpool(tmp_path / "analytics.db")
        with pytest.raises(UnicodeEncodeError):
            await append_one(spool, "\ud800", b"{}")
        with pytest.raises(TypeError):
            await append_one(spool, "a", "text")
        await spool.aclose()

    asyncio.run(main())
