"""Throughput: from the first call until everything is sent, and the CPU time of this process meanwhile.

The sink reports when the last message arrived, on the clock that all processes share.
"""

import asyncio
import http.client
import time
from typing import Any
from urllib.parse import urlsplit

from benchmarks.adapters import Adapter
from benchmarks.adapters.nothing import Nothing
from benchmarks.probes import Task, send, warm_up

TURN = 100
"""Calls between two iterations of the loop, for clients whose calls are not awaited."""


async def run(task: Task) -> dict[str, Any]:
    adapter = await task.start()
    await warm_up(adapter, task.make)
    application = await application_cpu(task)
    reset_sink(task.url)
    start, cpu = time.monotonic_ns(), time.process_time_ns()
    await send_all(adapter, task)
    await adapter.settle()
    return {"start_ns": start, "cpu_ns": time.process_time_ns() - cpu, "application_cpu_ns": application}


async def application_cpu(task: Task) -> int:
    """CPU time for building the same messages, with a client that does nothing."""
    cpu = time.process_time_ns()
    await send(Nothing(), task.make, 0, task.count)
    return time.process_time_ns() - cpu


async def send_all(adapter: Adapter, task: Task) -> None:
    if adapter.awaits:
        await send(adapter, task.make, 0, task.count)
        return
    for first in range(0, task.count, TURN):
        await send(adapter, task.make, first, min(TURN, task.count - first))
        await asyncio.sleep(0)


def reset_sink(url: str) -> None:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    connection.request("GET", "/_sink/reset")
    connection.getresponse().read()
    connection.close()
