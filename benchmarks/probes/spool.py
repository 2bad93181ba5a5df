"""What it costs to be safe: messages accepted, and the time of a call, by callers that come together or at a rate.

On all cores, for a spool has a thread of its own. A slow disk is played by `slow_sync.c`, in place of the system's sync.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import Any

from benchmarks.adapters import Adapter
from benchmarks.probes import Task, send
from benchmarks.probes.arrivals import Arrivals
from benchmarks.probes.calls import timed
from benchmarks.report.figures import percentile, percentiles

SLOW_SYNC = Path(__file__).with_name("slow_sync.c")


async def run(task: Task) -> dict[str, Any]:
    if task.slow_disk and "LD_PRELOAD" not in os.environ:
        begin_again_with_slow_syncs()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with tempfile.TemporaryDirectory(prefix="segment-async-bench-") as folder:
        if "spool" in task.options:
            task.options["path"] = f"{folder}/analytics.db"
        adapter = await task.start()
        await send(adapter, task.make, 0, 500)
        if not task.rate:
            return await together(adapter, task) | {"sync_ms": sync_milliseconds(folder)}
        return await at_a_rate(adapter, task) | {"sync_ms": sync_milliseconds(folder)}


async def together(adapter: Adapter, task: Task) -> dict[str, Any]:
    """So many callers, each with one call after the other."""
    spent = array("q")
    each = task.count // task.callers

    async def caller(first: int) -> None:
        for i in range(first, first + each):
            await timed(adapter, [task.make(i)], spent)

    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller(number * each) for number in range(task.callers)))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return microseconds(spent) | {"accepted_per_second": len(spent) / seconds, "cpu_per_call": cpu / len(spent) * 1e6}


async def at_a_rate(adapter: Adapter, task: Task) -> dict[str, Any]:
    """Each call in a task of its own, as requests make them."""
    spent = array("q")
    calls: set[asyncio.Task[None]] = set()
    start = time.perf_counter()
    with Arrivals(task) as arrivals:
        async for i in arrivals:
            call = asyncio.create_task(timed(adapter, [task.make(i)], spent))
            calls.add(call)
            call.add_done_callback(calls.discard)
        await asyncio.gather(*calls)
    seconds = time.perf_counter() - start
    lags = sorted(arrivals.lags)
    return microseconds(spent) | {"accepted_per_second": len(spent) / seconds, "lag_p99": percentile(lags, 0.99) / 1000}


def microseconds(spent: "array[int]") -> dict[str, float]:
    return {name: value / 1000 for name, value in percentiles(spent).items()}


def sync_milliseconds(folder: str, times: int = 25) -> float:
    """What a sync of one page takes on this disk, in the median."""
    took = []
    with Path(folder, "sync").open("wb") as file:
        for _ in range(times):
            file.write(bytes(4096))
            file.flush()
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - start)
    return percentile(sorted(took), 0.5) * 1000


def begin_again_with_slow_syncs() -> None:
    """This program, from its start, with another sync."""
    library = Path(tempfile.mkdtemp(prefix="segment-async-bench-")) / "slow_sync.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(SLOW_SYNC)], check=True)
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "LD_PRELOAD": str(library)})
