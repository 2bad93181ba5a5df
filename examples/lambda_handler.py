"""AWS Lambda: one client for all invocations of a process, flushed after each of them within its remaining time.

`handler` is a plain handler; `web` is an ASGI application behind Mangum (`pip install "segment-async" fastapi mangum`).
"""

import os
from typing import Any

from fastapi import FastAPI
from mangum import Mangum

from segment_async import Client
from segment_async.asgi import SegmentMiddleware
from segment_async.aws_lambda import flush_after

client = Client(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY"))


@flush_after(client)
async def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    await client.track(event["user_id"], "Order Completed", {"total": event["total"]})
    return {"status": "paid"}


app = FastAPI()
app.add_middleware(SegmentMiddleware, client=client, page_views=True)


@app.post("/orders")
async def order() -> dict[str, str]:
    await client.track(event="Order Completed", properties={"total": 30.5})
    return {"status": "paid"}


# No lifespan: Mangum would run it for each invocation, and close the client after the first one.
web = flush_after(client)(Mangum(app, lifespan="off"))
