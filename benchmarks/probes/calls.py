"""The cost of one call to its caller: flat out in bursts, or paced by datagrams from another process.

A burst stays below the default queue's size and is settled, untimed, before the next: a full queue makes some clients
wait and others drop, and neither is the cost of a call. The loop gets a turn every fifty calls, as requests give it.
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
    spent = array("q")
    if task.rate:
        await paced(adapter, task, spent)
    else:
        await flat_out(adapter, task, spent)
    return {name: value / 1000 for name, value in percentiles(spent).items()}


async def flat_out(adapter: Adapter, task: Task, spent: "array[int]") -> None:
    for first in range(0, task.count, BURST):
        for i in range(first, min(first + BURST, task.count), TURN):
            await timed(adapter, [task.make(i + offset) for offset in range(TURN)], spent)
            await asyncio.sleep(0)
        await adapter.settle()


async def paced(adapter: Adapter, task: Task, spent: "array[int]") -> None:
    with Arrivals(task) as arrivals:
        await send(adapter, task.make, 0, 100)
        async for i in arrivals:
            await timed(adapter, [task.make(i)], spent)


async def timed(adapter: Adapter, calls: list[Call], spent: "array[int]") -> None:
    track, clock = adapter.track, time.perf_counter_ns
    if adapter.awaits:
        for user_id, event, properties, context in calls:
            start = clock()
            await track(user_id, event, properties, context=context)
            spent.append(clock() - start)
    else:
        for user_id, event, properties, context in calls:
            start = clock()
            track(user_id, event, properties, context=context)
            spent.append(clock() - start)
