"""FastAPI: a shop with page views and order events.

    pip install "segment-async" fastapi "uvicorn[standard]"
    SEGMENT_WRITE_KEY=... uvicorn fastapi_app:app

Set `SEGMENT_HOST` to send to another host, such as the local endpoint.
"""

import os
from typing import Any

from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import HTMLResponse

from segment_async import bind
from segment_async.asgi import SegmentMiddleware
from segment_async.fastapi import Segment, lifespan

app = FastAPI(lifespan=lifespan(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY")))
app.add_middleware(SegmentMiddleware, page_views=True, set_cookie=True)


@app.get("/shoes/{number}", response_class=HTMLResponse)
async def shoes(number: int) -> str:
    return f"<html><head><title>Shoes no. {number}</title></head><body>Comfortable.</body></html>"


@app.post("/orders")
async def order(segment: Segment, background: BackgroundTasks) -> dict[str, str]:
    # The middleware binds the visitor and the context; the call needs only the event.
    await segment.track(event="Order Completed", properties={"total": 30.5})
    # A background task belongs to the same request. The call itself can be the task.
    background.add_task(segment.track, event="Receipt Sent")
    return {"status": "paid"}


@app.post("/login/{user_id}")
async def log_in(user_id: str, segment: Segment) -> dict[str, str]:
    bind(user_id=user_id)  # for all later calls in this request
    await segment.identify(traits={"plan": "pro"})
    return {"hello": user_id}


@app.get("/prices")
def prices(segment: Segment) -> dict[str, Any]:
    # A `def` endpoint runs in a thread and cannot await.
    segment.nowait.track(event="Prices Seen")
    return {"shoes": 30.5}


@app.websocket("/live")
async def live(socket: WebSocket, segment: Segment) -> None:
    await socket.accept()
    await segment.track(event="Live View Opened")
    await socket.send_text("hello")
    await socket.close()
