"""What one call is made of: CPU time of its parts, each taken alone, the least of many rounds.

`python -m benchmarks.anatomy`. The parts that are a library's or the interpreter's own say how far down a call can get on
this machine; they do not add up exactly, for a part taken alone finds its caches warm.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from timeit import repeat

import orjson

from benchmarks.report import table
from benchmarks.workload import medium, on_the_wire
from segment_async import Client, Response

CALLS, ROUNDS = 500, 200


class Obliging:
    """A transport that answers at once."""

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        return Response(200, {}, b"")

    async def aclose(self) -> None: ...


def microseconds(part: Callable[[], object]) -> float:
    return min(repeat(part, number=CALLS, repeat=ROUNDS, timer=time.process_time)) / CALLS * 1e6


def empty_coroutine() -> None:
    async def call() -> None: ...

    try:
        call().send(None)
    except StopIteration:
        pass


def parts() -> dict[str, Callable[[], object]]:
    message, lock = on_the_wire(medium(7)), threading.RLock()

    def locked() -> None:
        lock.acquire()
        lock.release()

    return {
        "a coroutine, called and awaited": empty_coroutine,
        "`orjson.dumps` of the message": lambda: orjson.dumps(message),
        "`time.time()`": time.time,
        "80 random bits from the system": lambda: os.urandom(10),
        "a lock, taken and given back": locked,
        "`os.getpid()`, which Python 3.11 asks for the running loop": os.getpid,
    }


async def whole() -> tuple[float, float]:
    """A call alone, and with all that follows from it up to the bodies, in microseconds of CPU."""
    calls = [medium(i) for i in range(CALLS)]
    alone, complete = [], []
    async with Client("benchmark", transport=Obliging()) as client:
        for _ in range(ROUNDS):
            start = time.process_time_ns()
            for user_id, event, properties, context in calls:
                await client.track(user_id, event, properties, context=context)
            alone.append(time.process_time_ns() - start)
            await client.flush()
            complete.append(time.process_time_ns() - start)
    return min(alone) / CALLS / 1e3, min(complete) / CALLS / 1e3


def main() -> None:
    rows = [(name, f"{microseconds(part):.2f}") for name, part in parts().items()]
    alone, complete = asyncio.run(whole())
    rows += [("a whole call of `track`", f"{alone:.2f}"), ("the same, sealed and compressed", f"{complete:.2f}")]
    print(table(("", "CPU µs"), rows))


if __name__ == "__main__":
    main()
