"""The SQLite engine and event loops: nothing blocks one, and any kind will do."""

import asyncio
import sys

import pytest
from blockbuster import blockbuster_ctx

from segment_async.spool import SpoolUnavailable, SQLiteSpool

from .contract import DELIVERED, append, read


async def use(path):
    spool = SQLiteSpool(path)
    await asyncio.gather(append(spool, *"abc"), append(spool, *"def"))
    keys = [each.key for each in (await read(spool)).messages]
    await spool.sending(keys, 1)
    await spool.settle(keys, DELIVERED)
    spool.statistics()
    await spool.aclose()


def test_no_call_blocks_the_loop(tmp_path):
    with blockbuster_ctx():
        asyncio.run(use(tmp_path / "spool" / "analytics.db"))


def test_debug_mode_finds_nothing(tmp_path):
    asyncio.run(use(tmp_path / "analytics.db"), debug=True)


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not run there")
def test_uvloop_will_do(tmp_path):
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(use(tmp_path / "analytics.db"))


def test_a_fault_within_refuses_the_call_and_nothing_hangs(tmp_path, caplog):
    """A clock that raises stands for a bug of ours."""
    clock = iter([1.0, 2.0]).__next__
    path = tmp_path / "analytics.db"

    async def main():
        spool = SQLiteSpool(path, clock=clock)
        await append(spool, "a")
        waiting = asyncio.ensure_future(spool.read(0, 0))
        with pytest.raises(SpoolUnavailable, match="failed within: StopIteration"):
            await append(spool, "b")
        with pytest.raises(SpoolUnavailable):
            await append(spool, "c")
        waiting.cancel()
        await spool.aclose()
        again = SQLiteSpool(path)
        assert [each.message_id for each in (await read(again)).messages] == ["a"]
        assert again.statistics().accepted == 1
        await again.aclose()

    asyncio.run(main())
    assert "the spool failed within" in caplog.text


def test_a_function_that_raises_harms_nobody_else(tmp_path, caplog):
    async def main():
        spool = SQLiteSpool(tmp_path / "analytics.db")
        spool.append_nowait("a", b"{}", lambda _: 1 / 0)
        await append(spool, "b")
        assert spool.statistics().accepted == 2
        await spool.aclose()

    asyncio.run(main())
    assert "ZeroDivisionError" in caplog.text


def test_an_id_that_is_no_text_is_refused_at_the_call(tmp_path):
    async def main():
        spool = SQLiteSpool(tmp_path / "analytics.db")
        with pytest.raises(UnicodeEncodeError):
            await spool.append("\ud800", b"{}")
        with pytest.raises(TypeError):
            await spool.append("a", "text")
        await spool.aclose()

    asyncio.run(main())
