"""Resident memory of a pending message: the sink does not respond, and the queue has room for every message.

It is the growth between two fill levels, so that pools, connections and the first batches in flight do not count.
"""

import asyncio
import gc
import resource
from pathlib import Path
from typing import Any

from benchmarks.probes import Task, send
from benchmarks.probes.delivery import TURN

FIRST = 5_000


async def run(task: Task) -> dict[str, Any]:
    adapter = await task.start()
    await fill(adapter, task, 0, FIRST)
    before = resident_bytes()
    await fill(adapter, task, FIRST, task.count)
    return {"bytes_per_message": (resident_bytes() - before) / task.count}


async def fill(adapter: Any, task: Task, first: int, count: int) -> None:
    """Enqueue messages, and give the client some time to process them."""
    for start in range(first, first + count, TURN):
        await send(adapter, task.make, start, TURN)
        await asyncio.sleep(0)
    await asyncio.sleep(task.seconds)
    gc.collect()


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
