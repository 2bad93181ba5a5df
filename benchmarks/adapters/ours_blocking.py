"""segment_async for code without an event loop, with its defaults: it sends from a thread of its own."""

import asyncio
from typing import Any

from segment_async.blocking import Client


class OursBlocking:
    awaits = False

    def __init__(self, client: Client) -> None:
        self._client = client
        self.track = client.track

    async def settle(self) -> None:
        await asyncio.to_thread(self._client.flush)

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)


async def start(url: str, queue_size: int | None) -> OursBlocking:
    options: dict[str, Any] = {}
    if queue_size is not None:
        options = {"max_queue_size": queue_size, "max_queue_bytes": 1 << 30}
    return OursBlocking(Client("benchmark", host=url, **options))
