"""What the spool costs: messages accepted a second, and the time of a call, with concurrent callers or at a fixed rate.

It runs on all cores, since a spool has a thread of its own. `slow_sync.c` replaces the system's sync to simulate a slow
disk.
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
        restart_with_slow_syncs()
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
    """Concurrent callers, each making one call after another."""
    durations = array("q")
    each = task.count // task.callers

    async def caller(first: int) -> None:
        for i in range(first, first + each):
            await timed(adapter, [task.make(i)], durations)

    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller(number * each) for number in range(task.callers)))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return microseconds(durations) | {
        "accepted_per_second": len(durations) / seconds,
        "cpu_per_call": cpu / len(durations) * 1e6,
    }


async def at_a_rate(adapter: Adapter, task: Task) -> dict[str, Any]:
    """Each call in a task of its own, as in a web application."""
    durations = array("q")
    calls: set[asyncio.Task[None]] = set()
    start = time.perf_counter()
    with Arrivals(task) as arrivals:
        async for i in arrivals:
            call = asyncio.create_task(timed(adapter, [task.make(i)], durations))
            calls.add(call)
            call.add_done_callback(calls.discard)
        await asyncio.gather(*calls)
    seconds = time.perf_counter() - start
    lags = sorted(arrivals.lags)
    return microseconds(durations) | {
        "accepted_per_second": len(durations) / seconds,
        "lag_p99": percentile(lags, 0.99) / 1000,
    }


def microseconds(durations: "array[int]") -> dict[str, float]:
    return {name: value / 1000 for name, value in percentiles(durations).items()}


def sync_milliseconds(folder: str, times: int = 25) -> float:
    """The median duration of a sync of one page on this disk."""
    samples = []
    with Path(folder, "sync").open("wb") as file:
        for _ in range(times):
            file.write(bytes(4096))
            file.flush()
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            samples.append(time.perf_counter() - start)
    return percentile(sorted(samples), 0.5) * 1000


def restart_with_slow_syncs() -> None:
    """Replace this process with the same program, with slow syncs preloaded."""
    library = Path(tempfile.mkdtemp(prefix="segment-async-bench-")) / "slow_sync.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(SLOW_SYNC)], check=True)
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "LD_PRELOAD": str(library)})
