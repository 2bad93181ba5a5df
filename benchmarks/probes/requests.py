"""CPU time of one request inside the application: ASGI calls in the loop, without a server or a socket.

Each request runs in a task of its own, as servers run them, and carries a browser's headers.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.probes import Task
from benchmarks.workload import BROWSER_HEADERS

Application = Callable[[Any, Any, Any], Awaitable[None]]
REQUESTS, REPEATS = 200, 50


async def run(task: Task) -> dict[str, float]:
    """Microseconds of CPU a request: the bare application, with the middleware, and with one call as well."""
    from benchmarks.transports import AcceptingTransport
    from segment_async import Client
    from segment_async.asgi import SegmentMiddleware

    async with Client("benchmark", transport=AcceptingTransport()) as client:

        async def tracking(scope: Any, receive: Any, send: Any) -> None:
            _, event, properties, _ = task.make(scope["number"])
            await client.track(event=event, properties=properties)
            await plain(scope, receive, send)

        applications: dict[str, Application] = {
            "plain": plain,
            "middleware": SegmentMiddleware(plain, client),
            "middleware_and_call": SegmentMiddleware(tracking, client),
        }
        samples: dict[str, list[float]] = {name: [] for name in applications}
        for _ in range(REPEATS):
            for name, application in applications.items():
                samples[name].append(await cpu_microseconds(application, client))
    # Other work on the machine only adds to CPU time: the smallest sample has the least of it.
    return {name: min(values) for name, values in samples.items()}


async def cpu_microseconds(application: Application, client: Any, **scope: Any) -> float:
    """CPU time of one request, the delivery of what it tracked included."""
    start = time.process_time()
    for number in range(REQUESTS):
        await asyncio.create_task(application(request_scope(number, **scope), receive, send))
    await client.flush()
    return (time.process_time() - start) / REQUESTS * 1e6


async def plain(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b'{"status":"paid"}'})


def request_scope(number: int, **more: Any) -> dict[str, Any]:
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
        "headers": [(name.lower().encode(), value.encode()) for name, value in BROWSER_HEADERS],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "number": number,
        **more,
    }


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(_: Any) -> None: ...
