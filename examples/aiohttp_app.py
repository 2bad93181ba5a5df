"""aiohttp.web does not support ASGI: this middleware passes requests on as ASGI scopes, so that the same rules apply.

To run it:

    pip install "segment-async"
    SEGMENT_WRITE_KEY=... python aiohttp_app.py
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

from segment_async import Client
from segment_async.asgi import SegmentMiddleware

SEGMENT = web.AppKey("segment", Client)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def opened(app: web.Application) -> AsyncIterator[None]:
    async with Client(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY")) as client:
        app[SEGMENT] = client
        yield


@web.middleware
async def segment(request: web.Request, handler: Handler) -> web.StreamResponse:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        scope["response"] = await handler(request)

    scope = scope_of(request)
    await SegmentMiddleware(application)(scope, nothing_comes, nothing_goes)
    response: web.StreamResponse = scope["response"]
    return response


def scope_of(request: web.Request) -> dict[str, Any]:
    return {
        "type": "http",
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": request.raw_path.encode(),
        "query_string": request.url.raw_query_string.encode(),
        "client": request.transport.get_extra_info("peername") if request.transport else None,
        "headers": [(name.lower(), value) for name, value in request.raw_headers],
    }


async def nothing_comes() -> Any:
    raise NotImplementedError("aiohttp reads the body itself")


async def nothing_goes(message: Any) -> None:
    raise NotImplementedError("aiohttp sends the response itself")


async def order(request: web.Request) -> web.Response:
    await request.app[SEGMENT].track(event="Order Completed", properties={"total": 30.5})
    return web.json_response({"status": "paid"})


app = web.Application(middlewares=[segment])
app.cleanup_ctx.append(opened)
app.router.add_post("/orders", order)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
