"""A FastAPI shop whose events are typed: `plan.json` is the tracking plan, `plan.py` is generated from it.

    pip install "segment-async[cli,plans]" fastapi "uvicorn[standard]"
    segment-async plan generate plan.json -o plan.py
    segment-async dev --plan plan.json -- uvicorn shop:app

Your editor completes the properties, and a misspelt one is an error before the program runs.
"""

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from plan import OrderCompleted, OrderCompletedProduct, ProductViewed, UserTraits

from segment_async import Client
from segment_async.asgi import SegmentMiddleware
from segment_async.fastapi import Segment, lifespan

PLAN = Path(__file__).with_name("plan.json")


def shop(write_key_or_client: str | Client, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan(write_key_or_client, **options))
    app.add_middleware(SegmentMiddleware)

    @app.get("/articles/{sku}")
    async def article(sku: str, segment: Segment) -> dict[str, str]:
        await segment.track(event=ProductViewed(sku=sku, source="search"))
        return {"sku": sku}

    @app.post("/orders/{number}")
    async def order(number: str, segment: Segment) -> dict[str, str]:
        shoes = OrderCompletedProduct(sku="shoe-42", price=30.5, quantity=1)
        await segment.track(event=OrderCompleted(order_id=number, total=30.5, products=[shoes]))
        return {"status": "paid"}

    @app.post("/upgrade")
    async def upgrade(segment: Segment) -> dict[str, str]:
        await segment.identify(traits=UserTraits(plan="pro"))
        return {"plan": "pro"}

    return app


app = shop(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY"), plan=PLAN)
