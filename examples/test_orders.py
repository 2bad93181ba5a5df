"""Testing a FastAPI application: the shop gets the recording client, and the test checks its events.

pip install segment-async pytest fastapi httpx2
pytest test_orders.py
"""

from fastapi import FastAPI
from fastapi.testclient import TestClient

from segment_async.fastapi import Segment, lifespan


def shop(write_key_or_client):
    app = FastAPI(lifespan=lifespan(write_key_or_client))

    @app.post("/orders")
    async def order(segment: Segment, total: float):
        await segment.track("user-1", "Order Completed", {"total": total, "currency": "EUR"})
        return {"status": "paid"}

    return app


def test_an_order_is_tracked(segment):
    with TestClient(shop(segment.client)) as http:
        http.post("/orders?total=30.5")
        segment.assert_tracked("Order Completed", user_id="user-1", properties={"total": 30.5})
        segment.assert_not_tracked("Order Refunded")
