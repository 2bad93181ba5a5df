"""What one call costs its caller: flat out in bursts, or paced by datagrams from another process.

A burst is smaller than the default queue and is delivered before the next one starts, outside the measured time: with a
full queue some clients wait and others drop, and neither is the cost of a call. The loop runs every fifty calls, as it
does between requests.
"""

import asyncio
import time
from array import array
from typing import Any

from benchmarks.adapters import Adapter
from benchmarks.probes import Task, send, warm_up
from benchmarks.probes.arrivals import Arrivals
from benchmarks.report.figures import percentiles
from benchmarks.workload import Call

BURST, TURN = 5_000, 50


async def run(task: Task) -> dict[str, Any]:
    adapter = await task.start()
    await warm_up(adapter, task.make)
    durations = array("q")
    if task.rate:
        await paced(adapter, task, durations)
    else:
        await flat_out(adapter, task, durations)
    return {name: value / 1000 for name, value in percentiles(durations).items()}


async def flat_out(adapter: Adapter, task: Task, durations: "array[int]") -> None:
    for first in range(0, task.count, BURST):
        for i in range(first, min(first + BURST, task.count), TURN):
            await timed(adapter, [task.make(i + offset) for offset in range(TURN)], durations)
            await asyncio.sleep(0)
        await adapter.settle()


async def paced(adapter: Adapter, task: Task, durations: "array[int]") -> None:
    with Arrivals(task) as arrivals:
        await send(adapter, task.make, 0, 100)
        async for i in arrivals:
            await timed(adapter, [task.make(i)], durations)


async def timed(adapter: Adapter, calls: list[Call], durations: "array[int]") -> None:
    track, clock = adapter.track, time.perf_counter_ns
    if adapter.awaits:
        for user_id, event, properties, context in calls:
            start = clock()
            await track(user_id, event, properties, context=context)
            durations.append(clock() - start)
    else:
        for user_id, event, properties, context in calls:
            start = clock()
            track(user_id, event, properties, context=context)
            durations.append(clock() - start)
