"""posthog: a thread that posts with requests. It gets the others' `flush_interval`; its own default is 5 seconds."""

import importlib
from typing import Any


class PostHog:
    awaits = False

    def __init__(self, client: Any) -> None:
        self._client = client

    def track(self, user_id: str, event: str, properties: dict[str, Any], context: dict[str, Any]) -> None:
        # PostHog has no separate context: its integrations put it into the properties.
        properties["context"] = context
        self._client.capture(event, distinct_id=user_id, properties=properties)

    async def settle(self) -> None:
        self._client.flush(timeout_seconds=None)

    async def close(self) -> None:
        self._client.shutdown()


async def start(url: str, queue_size: int | None) -> PostHog:
    client = importlib.import_module("posthog").Posthog
    return PostHog(client("benchmark", host=url, gzip=True, flush_interval=0.5, max_queue_size=queue_size or 10_000))
