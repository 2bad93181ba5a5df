"""The entry point of a contestant's process: reads one task as JSON, prints its figures as JSON."""

import asyncio
import importlib
import json
import os
import sys
from functools import partial
from typing import Any

from benchmarks.probes import Task


async def main(task: Task) -> dict[str, Any]:
    figures: dict[str, Any] = await importlib.import_module(f"benchmarks.probes.{task.part}").run(task)
    return figures


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = importlib.import_module(name).new_event_loop()
    return loop


if __name__ == "__main__":
    task = Task(**json.loads(sys.argv[1]))
    with asyncio.Runner(loop_factory=partial(new_loop, task.loop)) as runner:
        print(json.dumps(runner.run(main(task))), flush=True)
    # Closing the client and draining what it holds is not part of a measurement.
    os._exit(0)
