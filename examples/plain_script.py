"""A script without asyncio: it queues messages, and sends them before it ends."""

import asyncio
import os

from segment_async import Client, bound, messages

client = Client(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY"))

with bound(user_id="user-1"):
    client.enqueue_nowait(messages.identify(traits={"plan": "pro"}))
    for number in range(3):
        client.enqueue_nowait(messages.track(event="Row Imported", properties={"row": number}))

# In a long-running script, call `asyncio.run(client.flush())` from time to time to send what is queued.
asyncio.run(client.aclose())
counts = client.statistics()
print(f"{counts.delivered} delivered, {counts.failed + counts.dropped} not")
