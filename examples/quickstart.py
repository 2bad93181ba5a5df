"""Identify, track, await one outcome, flush. Set `SEGMENT_HOST` to send to another host than Segment's."""

import asyncio
import os

from segment_async import Client


async def main() -> None:
    async with Client(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY")) as client:
        await client.identify("user-1", {"name": "Ada", "plan": "pro"})
        delivery = await client.track("user-1", "Order Completed", {"order_id": "A-1001", "total": 30.5})
        outcome = await delivery  # accepted before; this waits for the outcome
        print(outcome.status, outcome.message_id)
        await client.track("user-1", "Order Refunded", {"order_id": "A-1001", "total": 30.5})
        left = await client.flush(timeout=5)
        print(f"{client.statistics().delivered} delivered, {left} left")


asyncio.run(main())
