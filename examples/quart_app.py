"""Quart: the client is created at module level, and open while the application serves.

To run it:

    pip install "segment-async" quart uvicorn
    SEGMENT_WRITE_KEY=... uvicorn quart_app:app
"""

import os
from collections.abc import AsyncIterator
from typing import Any

from quart import Quart, request

from segment_async import Client
from segment_async.asgi import SegmentMiddleware

client = Client(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY"))
app = Quart(__name__)


def page_name(scope: dict[str, Any]) -> str | None:
    return scope.get("shop.route")


app.asgi_app = SegmentMiddleware(  # type: ignore[method-assign]
    app.asgi_app, client, page_views=True, page_name=page_name, set_cookie=True
)


@app.before_request
async def note_route() -> None:
    """Quart does not put the route in the scope; this looks it up, so that the page is named by its route."""
    if request.url_rule is not None:
        request.scope["shop.route"] = request.url_rule.rule


@app.while_serving
async def segment() -> AsyncIterator[None]:
    async with client:
        yield


@app.get("/shoes/<int:number>")
async def shoes(number: int) -> str:
    return f"<title>Shoes no. {number}</title>Comfortable."


@app.post("/orders")
async def order() -> dict[str, str]:
    await client.track(event="Order Completed", properties={"total": 30.5})
    return {"status": "paid"}


@app.get("/prices")
def prices() -> dict[str, float]:
    # A `def` view runs in a thread and cannot await.
    client.nowait.track(event="Prices Seen")
    return {"shoes": 30.5}
