"""The lag that the client adds to the application's loop: how late the loop reads what `arrivals` sends.

Flat out is one call in every iteration of the loop.
"""

import asyncio
import time
from array import array
from typing import Any

from benchmarks.adapters import Adapter
from benchmarks.probes import Task, send, warm_up
from benchmarks.probes.arrivals import Arrivals
from benchmarks.report.figures import percentiles


async def run(task: Task) -> dict[str, Any]:
    adapter = await task.start()
    await warm_up(adapter, task.make)
    calls, lags = await under_load(adapter, task)
    return {name: value / 1000 for name, value in percentiles(lags).items()} | {"calls_per_second": calls}


async def under_load(adapter: Adapter, task: Task) -> tuple[float, "array[int]"]:
    """Send at the task's rate; returns the calls a second and the lags in nanoseconds."""
    start = time.monotonic()
    with Arrivals(task) as arrivals:
        calls = await (follow if task.rate else flat_out)(adapter, task, arrivals)
        return calls / (time.monotonic() - start), arrivals.lags


async def follow(adapter: Adapter, task: Task, arrivals: Arrivals) -> int:
    calls = 0
    async for calls in arrivals:
        await send(adapter, task.make, calls, 1)
    return calls + 1


async def flat_out(adapter: Adapter, task: Task, arrivals: Arrivals) -> int:
    ended = asyncio.create_task(arrivals.wait_for_end())
    calls = 0
    while not ended.done():
        await send(adapter, task.make, calls, 1)
        calls += 1
        await asyncio.sleep(0)
    return calls
