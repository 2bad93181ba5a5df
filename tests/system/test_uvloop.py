"""uvloop counts its timers in milliseconds: one for less has no due time, and is called at once."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest
import uvloop

from segment_async import Client, Response, RetryPolicy
from tests.support.simulated_segment import Arrival


class Stumbling:
    """Answers 503 to every second request, from the first on."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self._requests = 0

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        self._requests += 1
        await asyncio.sleep(0)
        if self._requests % 2:
            return Response(503, {}, b"")
        self.taken += Arrival.read(body, headers).ids
        return Response(200, {"Content-Type": "application/json"}, b'{"success":true}')

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize(
    "options",
    [
        {"flush_interval": 0.0004, "retry": RetryPolicy(backoff=0.01, max_backoff=0.05)},
        {"flush_interval": 0.002, "retry": RetryPolicy(backoff=0.0004, max_backoff=0.0004)},
        {"flush_interval": 0.01, "retry": RetryPolicy(backoff=0.001, max_backoff=0.01), "max_in_flight": 1},
    ],
    ids=["a short interval", "a short back-off", "one at a time"],
)
def test_times_that_have_come_are_no_trouble(caplog: pytest.LogCaptureFixture, options: dict[str, Any]) -> None:
    async def main() -> None:
        transport = Stumbling()
        async with Client("key", transport=transport, flush_at=3, close_timeout=0, **options) as client:
            for number in range(300):
                await client.track("u", "E", {"n": number})
                await asyncio.sleep(0.0005 * (number % 3 == 0))
            assert await client.flush(timeout=20) == 0
            assert client.statistics().delivered == 300
        assert len(set(transport.taken)) == 300

    uvloop.run(main())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
