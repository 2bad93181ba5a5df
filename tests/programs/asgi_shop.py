"""An ASGI application around which the middleware is put with a client at module level.

The environment says which: `INNER` is the application (`http_only`, `silent`, `starlette`), `DRAINS` calls
`drain_on_signals` at import.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from segment_async import Client
from segment_async.asgi import SegmentMiddleware

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Nothing is sent by itself before a test is over.
client = Client("KEY", flush_interval=60)
if os.environ.get("DRAINS"):
    client.drain_on_signals()


async def http_only(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """As Django's: another kind of connection is an error."""
    if scope["type"] != "http":
        raise ValueError(f"this application takes http, and not {scope['type']}")
    delivery = await client.track("user-1", "Visited", {"process": os.getpid()})
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": delivery.message_id.encode()})


async def silent(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """Another kind of connection is left without an answer."""
    if scope["type"] == "http":
        await http_only(scope, receive, send)


async def visited(request: Request) -> PlainTextResponse:
    delivery = await client.track("user-1", "Visited", {"process": os.getpid()})
    return PlainTextResponse(delivery.message_id)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    await client.track("user-1", "Stopped")


starlette = Starlette(routes=[Route("/", visited)], lifespan=lifespan)

app = SegmentMiddleware(globals()[os.environ.get("INNER", "http_only")], client)
