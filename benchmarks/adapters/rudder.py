"""rudder-sdk-python: a fork of the official SDK, with gzip by default."""

import importlib

from benchmarks.adapters.official import Official


async def start(url: str, queue_size: int | None) -> Official:
    client = importlib.import_module("rudderstack.analytics.client").Client
    return Official(client("benchmark", host=url, max_queue_size=queue_size or 10_000))
