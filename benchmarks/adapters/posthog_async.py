"""posthog's asyncio client: `capture` is a plain function, and a task posts with httpx."""

import importlib

from benchmarks.adapters.posthog_threads import PostHog


class AsyncPostHog(PostHog):
    async def settle(self) -> None:
        await self._client.flush(timeout_seconds=None)

    async def close(self) -> None:
        await self._client.shutdown()


async def start(url: str, queue_size: int | None) -> AsyncPostHog:
    client = importlib.import_module("posthog").AsyncPosthog
    return AsyncPostHog(
        client("benchmark", host=url, gzip=True, flush_interval=0.5, max_queue_size=queue_size or 10_000)
    )
