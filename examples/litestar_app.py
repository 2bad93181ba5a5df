"""Litestar: its lifespans pass no state to requests, so the client is created at module level and given to both.

To run it:

    pip install "segment-async" litestar uvicorn
    SEGMENT_WRITE_KEY=... uvicorn litestar_app:app
"""

import os

from litestar import Litestar, MediaType, get, post
from litestar.middleware import DefineMiddleware

from segment_async import Client
from segment_async.asgi import SegmentMiddleware, lifespan

client = Client(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY"))


@get("/shoes/{number:int}", media_type=MediaType.HTML, sync_to_thread=False)
def shoes(number: int) -> str:
    return f"<title>Shoes no. {number}</title>Comfortable."


@post("/orders")
async def order() -> dict[str, str]:
    await client.track(event="Order Completed", properties={"total": 30.5})
    return {"status": "paid"}


app = Litestar(
    [shoes, order],
    lifespan=[lifespan(client)],
    middleware=[DefineMiddleware(SegmentMiddleware, client=client, page_views=True, set_cookie=True)],
)
