"""The SQLite engine and event loops: nothing blocks one, and any kind will do."""

import asyncio
import sys

import pytest
from blockbuster import blockbuster_ctx

from segment_async.spool import SQLiteSpool

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
