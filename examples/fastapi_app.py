"""FastAPI: a shop whose pages are counted, and whose orders are events.

    pip install "segment-async" fastapi "uvicorn[standard]"
    SEGMENT_WRITE_KEY=... uvicorn fastapi_app:app

`SEGMENT_HOST` may name another host than Segment's, such as the local endpoint's.
"""

import os
from typing import Any

from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import HTMLResponse

from segment_async import bind, messages
from segment_async.asgi import SegmentMiddleware
from segment_async.fastapi import Segment, lifespan

app = FastAPI(lifespan=lifespan(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY")))
app.add_middleware(SegmentMiddleware, page_views=True, set_cookie=True)


@app.get("/shoes/{number}", response_class=HTMLResponse)
async def shoes(number: int) -> str:
    return f"<html><head><title>Shoes no. {number}</title></head><body>Comfortable.</body></html>"


@app.post("/orders")
async def order(segment: Segment, background: BackgroundTasks) -> dict[str, str]:
    # Who and where stand around the request: the event's name is all that is missing.
    await segment.track(event="Order Completed", properties={"total": 30.5})
    # A background task is of the same request; the call itself is one.
    background.add_task(segment.track, event="Receipt Sent")
    return {"status": "paid"}


@app.post("/login/{user_id}")
async def log_in(user_id: str, segment: Segment) -> dict[str, str]:
    bind(user_id=user_id)  # for all that follows in this request
    await segment.identify(traits={"plan": "pro"})
    return {"hello": user_id}


@app.get("/prices")
def prices(segment: Segment) -> dict[str, Any]:
    # A `def` endpoint runs in a thread, where nothing can be awaited.
    segment.enqueue_nowait(messages.track(event="Prices Seen"))
    return {"shoes": 30.5}


@app.websocket("/live")
async def live(socket: WebSocket, segment: Segment) -> None:
    await socket.accept()
    await segment.track(event="Live View Opened")
    await socket.send_text("hello")
    await socket.close()
