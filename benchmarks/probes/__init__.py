"""What is measured inside a contestant's process: one module a measurement, each with one coroutine `run(task)`.

`python -m benchmarks.probes PART ADAPTER URL …` runs one in this interpreter, pinned to its core, and prints its figures
as one line of JSON. Of the standard library alone, like `workload`.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from benchmarks.adapters import Adapter
from benchmarks.workload import MAKERS, Call


@dataclass(frozen=True)
class Task:
    """One measurement of one contestant. What a part does not need is left alone."""

    part: str
    adapter: str
    url: str
    size: str = "medium"
    count: int = 0
    rate: int = 0
    """Messages a second; 0 is flat out."""
    seconds: float = 0
    queue_size: int | None = None
    """What the queue must take without dropping; `None` is the client's default."""
    callers: int = 1
    """How many there are at once."""
    slow_disk: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    other_core: int | None = None
    """Where processes that belong to the measurement, not to the contestant, run."""

    @property
    def make(self) -> Callable[[int], Call]:
        return MAKERS[self.size]

    async def start(self) -> Adapter:
        module = importlib.import_module(f"benchmarks.adapters.{self.adapter}")
        return cast("Adapter", await module.start(self.url, self.queue_size, **self.options))


async def warm_up(adapter: Adapter, make: Callable[[int], Call], count: int = 500) -> None:
    """Open the connections, fill the caches."""
    await send(adapter, make, 0, count)
    await adapter.settle()


async def send(adapter: Adapter, make: Callable[[int], Call], first: int, count: int) -> None:
    """Make calls one after the other, as one caller does."""
    track = adapter.track
    if adapter.awaits:
        for i in range(first, first + count):
            user_id, event, properties, context = make(i)
            await track(user_id, event, properties, context=context)
    else:
        for i in range(first, first + count):
            user_id, event, properties, context = make(i)
            track(user_id, event, properties, context=context)
