"""What a call, a request with a call, and a message on disk are made of: the profiles behind `docs/performance.md`.

`python -m benchmarks.anatomy`, on one core of a machine that does nothing else. Of a call's parts, taken alone, it says
the CPU time with warm caches, the least of many rounds, and the time after the loop has slept for half a millisecond,
the median, as a service between two requests finds it. They do not add up exactly: each part cools what the next one needs.
"""

import asyncio
import cProfile
import os
import pstats
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from timeit import repeat
from typing import Any

import orjson
from fastapi import FastAPI

from benchmarks.report.tables import table
from benchmarks.workload import medium, on_the_wire
from segment_async import Client, Response
from segment_async._message import build as _build
from segment_async.spool._sqlite import SQLiteSpool

CALLS, ROUNDS, PAUSE, SAMPLES = 500, 200, 0.0005, 1_000
REQUESTS, CALLERS, ON_DISK = 200, 100, 20_000


class Obliging:
    """A transport that answers at once."""

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        return Response(200, {}, b"")

    async def aclose(self) -> None: ...


# -- a call


def parts(client: Client) -> dict[str, Callable[[], object]]:
    message, lock = on_the_wire(medium(7)), threading.RLock()
    user_id, event, properties, context = medium(7)

    def locked() -> None:
        lock.acquire()
        lock.release()

    return {
        "a coroutine, called and awaited": empty_coroutine,
        "`orjson.dumps` of the message": lambda: orjson.dumps(message),
        "`time.time()`": time.time,
        "a lock, taken and given back": locked,
        "the message's dict, checked": lambda: _build.track(user_id, event, properties, context=context),
        "the same, filled in and encoded": lambda: client._delivery(
            _build.track(user_id, event, properties, context=context)
        ),
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
    took = []
    for _ in range(SAMPLES):
        await asyncio.sleep(PAUSE)
        start = time.perf_counter_ns()
        await part()
        took.append(time.perf_counter_ns() - start)
    return statistics.median(took) / 1e3


def awaited(part: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def call() -> None:
        part()

    return call


async def whole(client: Client) -> tuple[float, float]:
    """A call alone, and with all that follows from it up to the bodies, in microseconds of CPU."""
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
    async with Client("benchmark", transport=Obliging()) as client:
        user_id, event, properties, context = medium(7)
        rows = [(name, f"{warm(part):.2f}", f"{await cold(awaited(part)):.2f}") for name, part in parts(client).items()]
        alone, complete = await whole(client)
        cooled = await cold(lambda: client.track(user_id, event, properties, context=context))
        rows.append(("a whole call of `track`", f"{alone:.2f}", f"{cooled:.2f}"))
        rows.append(("the same, sealed and compressed", f"{complete:.2f}", "–"))
    return table(("a call", "warm, CPU µs", "after a pause, µs"), rows)


# -- a request


async def of_a_request() -> str:
    async with Client("benchmark", transport=Obliging()) as client:

        async def nothing(number: int) -> None: ...

        async def made(number: int) -> None:
            medium(number)

        async def encoded(number: int) -> None:
            user_id, event, properties, context = medium(number)
            client._delivery(_build.track(user_id, event, properties, context=context))

        async def tracked(number: int) -> None:
            user_id, event, properties, context = medium(number)
            await client.track(user_id, event, properties, context=context)

        endpoints = {
            "an endpoint alone": nothing,
            "that makes its message": made,
            "that has it checked and encoded": encoded,
            "that tracks it, all that follows included": tracked,
        }
        applications = [application(each) for each in endpoints.values()]
        took: list[list[float]] = [[] for _ in endpoints]
        for _ in range(ROUNDS // 8):
            for seconds, app in zip(took, applications, strict=True):
                seconds.append(await requests(app))
    rows = [(name, f"{statistics.median(each):.0f}") for name, each in zip(endpoints, took, strict=True)]
    return table(("a request of FastAPI, without its server", "CPU µs"), rows)


def application(work: Callable[[int], Awaitable[None]]) -> FastAPI:
    app = FastAPI()

    @app.get("/orders/{number}")
    async def order(number: int) -> dict[str, Any]:
        await work(number)
        return {"order": number, "status": "paid"}

    return app


async def requests(app: FastAPI) -> float:
    """Microseconds of CPU for one request, each in a task of its own."""
    start = time.process_time()
    for number in range(REQUESTS):
        await asyncio.create_task(app(scope(app, number), receive, send))
    return (time.process_time() - start) / REQUESTS * 1e6


def scope(app: FastAPI, number: int) -> dict[str, Any]:
    path = f"/orders/{number}"
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"shop.example")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "app": app,
    }


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(_: Any) -> None: ...


# -- a message on disk


class Profiled(SQLiteSpool):
    """Its thread is watched."""

    profile: cProfile.Profile

    def _work(self) -> None:
        self.profile = cProfile.Profile()
        self.profile.runcall(super()._work)


async def on_disk() -> str:
    with tempfile.TemporaryDirectory(prefix="segment-async-bench-") as folder:
        spool = Profiled(Path(folder, "analytics.db"))
        async with Client("benchmark", transport=Obliging(), spool=spool) as client:

            async def caller(first: int) -> None:
                for i in range(first, first + ON_DISK // CALLERS):
                    user_id, event, properties, context = medium(i)
                    await client.track(user_id, event, properties, context=context)

            await asyncio.gather(*(caller(number * ON_DISK) for number in range(CALLERS)))
    lines = pstats.Stats(spool.profile).get_stats_profile().func_profiles.items()
    longest = sorted(lines, key=lambda line: -line[1].tottime)[:10]
    rows = [(f"`{name}`", f"{each.tottime / ON_DISK * 1e6:.1f}") for name, each in longest]
    return table((f"the spool's thread, {CALLERS} callers", "µs a message, watched"), rows)


async def main() -> None:
    os.sched_setaffinity(0, {0})
    print(await of_a_call(), await of_a_request(), sep="\n\n")
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    print("", await on_disk(), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
