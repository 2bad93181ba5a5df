"""`python -m benchmarks.anatomy`: the CPU time of the parts of a call, of a request with a call, of a message on disk.

Run it on a machine that does nothing else. For each part of a call it gives the CPU time with warm caches (the smallest
of many rounds) and the time after the loop has slept for half a millisecond (the median), as in a service between two
requests. The parts do not add up exactly, since each part evicts from the caches what the next one needs.

The parts that have no public name come from `internals`.
"""

import asyncio
import cProfile
import os
import pstats
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from timeit import repeat
from typing import Any

import orjson
from fastapi import FastAPI

from benchmarks import internals
from benchmarks.probes.requests import cpu_microseconds
from benchmarks.report.tables import table
from benchmarks.transports import AcceptingTransport
from benchmarks.workload import medium, on_the_wire
from segment_async import Client

CALLS, ROUNDS, PAUSE, SAMPLES = 500, 200, 0.0005, 1_000
CALLERS, MESSAGES_ON_DISK = 100, 20_000


# -- a call


def parts() -> dict[str, Callable[[], object]]:
    call, message, lock = medium(7), on_the_wire(medium(7)), threading.RLock()

    def locked() -> None:
        lock.acquire()
        lock.release()

    return {
        "a coroutine, called and awaited": empty_coroutine,
        "`orjson.dumps` of the message": lambda: orjson.dumps(message),
        "`time.time()`": time.time,
        "a lock, acquired and released": locked,
        "the message's dict, checked": lambda: internals.checked(call),
        "the same, encoded": lambda: internals.encoded(call),
    }


def empty_coroutine() -> None:
    async def call() -> None: ...

    try:
        call().send(None)
    except StopIteration:
        pass


def warm(part: Callable[[], object]) -> float:
    return min(repeat(part, number=CALLS, repeat=ROUNDS, timer=time.process_time)) / CALLS * 1e6


async def cold(part: Callable[[], Awaitable[object]]) -> float:
    durations = []
    for _ in range(SAMPLES):
        await asyncio.sleep(PAUSE)
        start = time.perf_counter_ns()
        await part()
        durations.append(time.perf_counter_ns() - start)
    return statistics.median(durations) / 1e3


def awaited(part: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def call() -> None:
        part()

    return call


async def whole(client: Client) -> tuple[float, float]:
    """Microseconds of CPU: a call alone, and a call with everything that follows, up to the request's body."""
    calls = [medium(i) for i in range(CALLS)]
    alone, complete = [], []
    for _ in range(ROUNDS):
        start = time.process_time_ns()
        for user_id, event, properties, context in calls:
            await client.track(user_id, event, properties, context=context)
        alone.append(time.process_time_ns() - start)
        await client.flush()
        complete.append(time.process_time_ns() - start)
    return min(alone) / CALLS / 1e3, min(complete) / CALLS / 1e3


async def of_a_call() -> str:
    user_id, event, properties, context = medium(7)
    rows = [(name, f"{warm(part):.2f}", f"{await cold(awaited(part)):.2f}") for name, part in parts().items()]
    async with Client("benchmark", transport=AcceptingTransport()) as client:
        alone, complete = await whole(client)
        after_a_pause = await cold(lambda: client.track(user_id, event, properties, context=context))
        rows.append(("a whole call of `track`", f"{alone:.2f}", f"{after_a_pause:.2f}"))
        rows.append(("the same, sealed and compressed", f"{complete:.2f}", "–"))
    return table(("a call", "warm, CPU µs", "after a pause, µs"), rows)


# -- a request


async def of_a_request() -> str:
    async with Client("benchmark", transport=AcceptingTransport()) as client:

        async def nothing(number: int) -> None: ...

        async def built(number: int) -> None:
            medium(number)

        async def encoded(number: int) -> None:
            internals.encoded(medium(number))

        async def tracked(number: int) -> None:
            user_id, event, properties, context = medium(number)
            await client.track(user_id, event, properties, context=context)

        endpoints = {
            "an endpoint alone": nothing,
            "that builds its message": built,
            "that has it checked and encoded": encoded,
            "that tracks it, delivery included": tracked,
        }
        applications = [application(each) for each in endpoints.values()]
        samples: list[list[float]] = [[] for _ in endpoints]
        for _ in range(ROUNDS // 8):
            for values, app in zip(samples, applications, strict=True):
                values.append(await cpu_microseconds(app, client, app=app))
    rows = [(name, f"{statistics.median(values):.0f}") for name, values in zip(endpoints, samples, strict=True)]
    return table(("a request of FastAPI, without its server", "CPU µs"), rows)


def application(work: Callable[[int], Awaitable[None]]) -> FastAPI:
    app = FastAPI()

    @app.get("/orders/{number}")
    async def order(number: int) -> dict[str, Any]:
        await work(number)
        return {"order": number, "status": "paid"}

    return app


# -- a message on disk


@contextmanager
def profiled_threads() -> Iterator[list[cProfile.Profile]]:
    """Fills with the profile of each thread that starts within the block."""
    profiles: list[cProfile.Profile] = []

    def start(*_: object) -> None:
        # The thread's first event: from here on cProfile takes this function's place.
        # Of the thread's CPU time: by the clock, waiting for the disk and for the other thread would count as work.
        profiles.append(cProfile.Profile(time.thread_time))
        profiles[-1].enable()

    threading.setprofile(start)
    try:
        yield profiles
    finally:
        threading.setprofile(None)


async def on_disk() -> str:
    with tempfile.TemporaryDirectory(prefix="segment-async-bench-") as folder, profiled_threads() as profiles:
        path = Path(folder, "analytics.db")
        async with Client("benchmark", transport=AcceptingTransport(), spool=path) as client:

            async def caller(first: int) -> None:
                for i in range(first, first + MESSAGES_ON_DISK // CALLERS):
                    user_id, event, properties, context = medium(i)
                    await client.track(user_id, event, properties, context=context)

            await asyncio.gather(*(caller(number * MESSAGES_ON_DISK) for number in range(CALLERS)))
    seconds: Counter[str] = Counter()
    for profile in profiles:
        for name, line in pstats.Stats(profile).get_stats_profile().func_profiles.items():
            seconds[name] += line.tottime
    rows = [(f"`{name}`", f"{each / MESSAGES_ON_DISK * 1e6:.1f}") for name, each in seconds.most_common(10)]
    rows.append(("all of it", f"{seconds.total() / MESSAGES_ON_DISK * 1e6:.1f}"))
    return table((f"the spool's thread, {CALLERS} callers", "CPU µs a message, profiled"), rows)


async def main() -> None:
    os.sched_setaffinity(0, {0})
    print(await of_a_call(), await of_a_request(), sep="\n\n")
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    if sys.version_info >= (3, 12):
        print(
            "\nNo profile of the spool's thread: from Python 3.12 on, cProfile watches all threads at once. Use 3.11."
        )
    else:
        print("", await on_disk(), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
