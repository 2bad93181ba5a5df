"""A script without asyncio: calls queue messages, and leaving the block sends what is left."""

import os

from segment_async import bound
from segment_async.blocking import Client

with Client(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY")) as client, bound(user_id="user-1"):
    client.identify(traits={"plan": "pro"})
    for number in range(3):
        client.track(event="Row Imported", properties={"row": number})

counts = client.statistics()
print(f"{counts.delivered} delivered, {counts.failed + counts.dropped} not")
