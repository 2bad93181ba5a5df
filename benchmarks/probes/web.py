"""A FastAPI application with one endpoint that sends one event a request, served by uvicorn.

With `middleware` among the options it has the package's middleware, and the event is sent with the client that a
`dependency` gives the endpoint, with the one in the request's `state`, with a `module`'s, or with `none`: there is no
event. `loop` is uvicorn's option.
It prints its port when it is ready, and exits when its standard input closes.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from fastapi import BackgroundTasks, FastAPI, Request

from benchmarks.probes import Task

Answer = dict[str, Any]


async def run(task: Task) -> dict[str, Any]:
    middleware = task.options.pop("middleware", "")
    app = with_middleware(task, middleware) if middleware else await with_endpoint(task)
    config = uvicorn.Config(app, log_level="warning", access_log=False)

    asyncio.get_running_loop().add_reader(sys.stdin, os._exit, 0)
    # Without the protocol number asyncio does not turn off Nagle's algorithm, which delays every response by 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        # Connections made before the application has started wait in the backlog.
        listener.listen()
        print(listener.getsockname()[1], flush=True)
        await uvicorn.Server(config).serve(sockets=[listener])
    return {}


def with_middleware(task: Task, caller: str) -> FastAPI:
    """The middleware reads identity and context from the request, if there is a call."""
    from segment_async import Client
    from segment_async.asgi import SegmentMiddleware
    from segment_async.fastapi import Segment, lifespan

    client = Client("benchmark", host=task.url)
    app = FastAPI(lifespan=lifespan(client))
    app.add_middleware(SegmentMiddleware)

    async def injected(number: int, segment: Segment) -> Answer:
        _, event, properties, _ = task.make(number)
        await segment.track(event=event, properties=properties)
        return {"order": number, "status": "paid"}

    async def of_module(number: int) -> Answer:
        _, event, properties, _ = task.make(number)
        await client.track(event=event, properties=properties)
        return {"order": number, "status": "paid"}

    async def of_state(number: int, request: Request) -> Answer:
        _, event, properties, _ = task.make(number)
        await request.state.segment.track(event=event, properties=properties)
        return {"order": number, "status": "paid"}

    app.get("/orders/{number}")({"state": of_state, "dependency": injected, "module": of_module, "none": plain}[caller])
    return app


async def with_endpoint(task: Task) -> FastAPI:
    app = FastAPI()
    app.get("/orders/{number}")(await endpoint(task))
    return app


async def endpoint(task: Task) -> Callable[..., Awaitable[Answer]]:
    """The endpoint as an application would write it with this client."""
    in_background, makes = task.options.pop("background", False), task.options.pop("makes", False)
    if task.adapter == "nothing" and not makes:
        return plain
    adapter = await task.start()
    if in_background:
        return in_the_background(adapter.track, task)
    return awaited(adapter.track, task) if adapter.awaits else called(adapter.track, task)


async def plain(number: int) -> Answer:
    return {"order": number, "status": "paid"}


def awaited(track: Callable[..., Awaitable[Any]], task: Task) -> Callable[..., Awaitable[Answer]]:
    async def order(number: int) -> Answer:
        user_id, event, properties, context = task.make(number)
        await track(user_id, event, properties, context=context)
        return {"order": number, "status": "paid"}

    return order


def called(track: Callable[..., Any], task: Task) -> Callable[..., Awaitable[Answer]]:
    async def order(number: int) -> Answer:
        user_id, event, properties, context = task.make(number)
        track(user_id, event, properties, context=context)
        return {"order": number, "status": "paid"}

    return order


def in_the_background(track: Callable[..., Any], task: Task) -> Callable[..., Awaitable[Answer]]:
    async def order(number: int, background: BackgroundTasks) -> Answer:
        user_id, event, properties, context = task.make(number)
        background.add_task(track, user_id, event, properties, context=context)
        return {"order": number, "status": "paid"}

    return order
