"""How long single steps of the loop take: CPU time of each callback under the load of `lag`, longest first, by name.

It is a measurement of its own, since reading the clock costs time. The harness's own steps are left out: they stand for
the application. On uvloop nothing is measured: its callbacks do not run through asyncio's `Handle`.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.probes import Task, warm_up
from benchmarks.probes.lag import under_load

HARNESS, PROBES = "benchmarks", str(Path(__file__).parent)


async def run(task: Task) -> dict[str, Any]:
    adapter = await task.start()
    await warm_up(adapter, task.make)
    with measured_steps() as longest:
        await under_load(adapter, task)
    ranked = sorted(longest.items(), key=lambda step: -step[1])
    figures: dict[str, Any] = {"longest": {name: ns / 1000 for name, ns in ranked[:5]}}
    return figures | ({"max": ranked[0][1] / 1000} if ranked else {})


@contextmanager
def measured_steps() -> Iterator[dict[str, int]]:
    """Fills with the longest CPU time of each kind of callback, in nanoseconds, while the block runs."""
    longest: dict[str, int] = {}
    original = asyncio.events.Handle._run  # every callback runs through this method

    def measured(handle: Any) -> None:
        start = time.thread_time_ns()
        original(handle)
        spent = time.thread_time_ns() - start
        name = name_of(handle._callback)
        if spent > longest.get(name, 0):
            longest[name] = spent

    handles: Any = asyncio.events.Handle
    handles._run = measured
    try:
        yield longest
    finally:
        handles._run = original
        longest.pop(HARNESS, None)


def name_of(callback: Any) -> str:
    """The callback's module and name; for a task's step, its coroutine's; one name for all of the harness's own."""
    while isinstance(callback, partial):
        callback = callback.func
    owner = getattr(callback, "__self__", None)
    if not isinstance(owner, asyncio.Task):
        # Not `repr`: it may run an object's own code, and aiohttp's objects cache what it returns.
        named = callback if hasattr(callback, "__qualname__") else type(callback)
        name = f"{getattr(named, '__module__', '')}.{named.__qualname__}"
        return HARNESS if name.startswith("benchmarks.") else name
    coroutine: Any = owner.get_coro()
    code = coroutine.cr_code
    return f"{Path(code.co_filename).stem}.{code.co_qualname}" if PROBES not in code.co_filename else HARNESS
