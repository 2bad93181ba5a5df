"""segment-analytics-python: a thread that posts with requests. It rejects messages when its queue is full."""

import importlib
from typing import Any


class Official:
    awaits = False

    def __init__(self, client: Any) -> None:
        self._client = client
        self.track = client.track

    async def settle(self) -> None:
        self._client.flush()

    async def close(self) -> None:
        self._client.join()


async def start(url: str, queue_size: int | None, gzip: bool = True) -> Official:
    client = importlib.import_module("segment.analytics.client").Client
    return Official(client("benchmark", host=url, gzip=gzip, max_queue_size=queue_size or 10_000))
