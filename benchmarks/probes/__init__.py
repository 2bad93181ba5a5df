"""The measurements inside a contestant's process: one module for each, with one coroutine `run(task)`.

`python -m benchmarks.probes TASK`, with the task as JSON, runs one in this interpreter and prints its figures as one
line of JSON. The probes that run for every contestant use only the standard library, like `workload`.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from benchmarks.adapters import Adapter
from benchmarks.workload import MAKERS, Call


@dataclass(frozen=True)
class Task:
    """One measurement of one contestant. A part ignores the fields it does not need."""

    part: str
    adapter: str
    url: str
    size: str = "medium"
    count: int = 0
    rate: int = 0
    """Messages a second; 0 is flat out."""
    seconds: float = 0
    queue_size: int | None = None
    """Messages that the queue must hold without dropping any; `None` is the client's default."""
    callers: int = 1
    """Concurrent callers."""
    slow_disk: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    loop: str = "asyncio"
    """Whose event loop: `asyncio` or `uvloop`."""
    other_core: int | None = None
    """The core for processes that belong to the measurement and not to the contestant."""

    @property
    def make(self) -> Callable[[int], Call]:
        return MAKERS[self.size]

    async def start(self) -> Adapter:
        module = importlib.import_module(f"benchmarks.adapters.{self.adapter}")
        return cast("Adapter", await module.start(self.url, self.queue_size, **self.options))


async def warm_up(adapter: Adapter, make: Callable[[int], Call], count: int = 500) -> None:
    """Open the connections and fill the caches."""
    await send(adapter, make, 0, count)
    await adapter.settle()


async def send(adapter: Adapter, make: Callable[[int], Call], first: int, count: int) -> None:
    """Make the calls one after another, as a single caller does."""
    track = adapter.track
    if adapter.awaits:
        for i in range(first, first + count):
            user_id, event, properties, context = make(i)
            await track(user_id, event, properties, context=context)
    else:
        for i in range(first, first + count):
            user_id, event, properties, context = make(i)
            track(user_id, event, properties, context=context)
