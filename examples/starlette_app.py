"""Starlette: pages and events, with the application's own lifespan inside Segment's.

To run it:

    pip install "segment-async" starlette uvicorn
    SEGMENT_WRITE_KEY=... uvicorn starlette_app:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from segment_async.asgi import SegmentMiddleware, lifespan


@asynccontextmanager
async def own(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    yield {"greeting": "Comfortable."}


async def shoes(request: Request) -> Response:
    number = request.path_params["number"]
    return HTMLResponse(f"<title>Shoes no. {number}</title>{request.state.greeting}")


async def order(request: Request) -> Response:
    segment = request.state.segment
    await segment.track(event="Order Completed", properties={"total": 30.5})
    return JSONResponse({"status": "paid"}, background=BackgroundTask(segment.track, event="Receipt Sent"))


app = Starlette(
    routes=[Mount("/shop", routes=[Route("/shoes/{number:int}", shoes)]), Route("/orders", order, methods=["POST"])],
    middleware=[Middleware(SegmentMiddleware, page_views=True, set_cookie=True)],
    lifespan=lifespan(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY"), wrap=own),
)
