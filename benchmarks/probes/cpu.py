"""CPU time of a message from its call to its response, without the application's own: the smallest of several bursts.

Other work on the machine only adds to CPU time, so the smallest burst is the steadiest figure.
"""

import time
from typing import Any

from benchmarks.adapters.nothing import Nothing
from benchmarks.probes import Task, send, warm_up

BURST = 5_000


async def run(task: Task) -> dict[str, Any]:
    """Microseconds a message; `count` is a multiple of a burst, and the warm-up's messages come on top."""
    adapter, alone = await task.start(), Nothing()
    await warm_up(adapter, task.make)
    with_client, without = [], []
    for first in range(0, task.count, BURST):
        start = time.process_time()
        await send(adapter, task.make, first, BURST)
        await adapter.settle()
        sent = time.process_time()
        await send(alone, task.make, first, BURST)
        with_client.append(sent - start)
        without.append(time.process_time() - sent)
    return {"cpu_per_message": (min(with_client) - min(without)) / BURST * 1e6}
