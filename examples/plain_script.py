"""A script without asyncio: messages are queued as they come, and sent before it ends."""

import asyncio
import os

from segment_async import Client, bound, messages

client = Client(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY"))

with bound(user_id="user-1"):
    client.enqueue_nowait(messages.identify(traits={"plan": "pro"}))
    for number in range(3):
        client.enqueue_nowait(messages.track(event="Row Imported", properties={"row": number}))

# In a script that runs for long, `asyncio.run(client.flush())` now and then sends what has come together.
asyncio.run(client.aclose())
counts = client.statistics()
print(f"{counts.delivered} delivered, {counts.failed + counts.dropped} not")
