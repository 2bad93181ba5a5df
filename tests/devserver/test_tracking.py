"""`/v1/*`: what is accepted, what is refused, what each answer says."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from segment_async.devserver import Answered, Endpoint, serve

Case = Callable[[Endpoint, aiohttp.ClientSession], Awaitable[None]]
KEY = {"Authorization": "Basic a2V5Og=="}  # key:


def with_endpoint(case: Case, **options: Any) -> None:
    async def main() -> None:
        async with serve(**options) as endpoint, aiohttp.ClientSession(endpoint.url) as session:
            await case(endpoint, session)

    asyncio.run(main())


def track(number: int = 1, **fields: object) -> dict[str, object]:
    return {"type": "track", "event": "Order Completed", "userId": "u1", "messageId": f"m{number}", **fields}


def body(*messages: object, **fields: object) -> bytes:
    return json.dumps({"batch": messages, "sentAt": "2026-11-21T19:20:03.047Z", **fields}).encode()


def test_a_gzipped_batch_is_kept_and_answered_with_success() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        headers = {**KEY, "Content-Encoding": "gzip", "X-Retry-Count": "2"}
        packed = gzip.compress(body(track(1), track(2, properties={"total": 30.5})))
        async with session.post("/v1/batch", data=packed, headers=headers) as answer:
            assert (answer.status, await answer.json()) == (200, {"success": True})
        assert endpoint.messages == [track(1), track(2, properties={"total": 30.5})]
        event = endpoint.events[1]
        assert (event.batch.source, event.batch.attempt, event.batch.sent_at) == ("key", 3, "2026-11-21T19:20:03.047Z")
        assert event.verdicts == ()

    with_endpoint(case)


def test_the_key_may_come_in_the_body_and_is_not_shown_whole() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        key = "abcdefghijklmnopqrstuvwxyz012345"
        await session.post("/v1/batch", data=body(track(writeKey=key), writeKey=key))
        [event] = endpoint.events
        assert event.batch.source == "abcd…2345"
        assert event.message == track()

    with_endpoint(case)


@pytest.mark.parametrize(
    ("sent", "headers", "reason"),
    [
        (b'{"batch": [', {}, "malformed JSON"),
        (b"[]", {}, "not a JSON object"),
        (b"{}", {}, "no list of messages"),
        (b"not gzip", {"Content-Encoding": "gzip"}, "not gzip"),
        (gzip.compress(body(track()))[:-9], {"Content-Encoding": "gzip"}, "ends too early"),
        (body(track()), {"Content-Encoding": "br"}, "'br' is not gzip"),
        (body(track(padding="x" * 32_768)), {}, "limit is 32,768"),
        (b" " * 500_001, {}, "larger than 500,000 bytes"),
        (gzip.compress(b" " * 500_001), {"Content-Encoding": "gzip"}, "larger than 500,000 bytes"),
        (b"x" * 900_000, {}, "larger than 500,000 bytes"),
    ],
)
def test_what_segment_refuses_is_a_400_that_keeps_nothing(sent: bytes, headers: dict[str, str], reason: str) -> None:
    reports: list[Answered] = []

    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        async with session.post("/v1/batch", data=sent, headers={**KEY, **headers}) as answer:
            assert answer.status == 400
            assert reason in (await answer.json())["message"]
        assert endpoint.events == []
        assert [report.status for report in reports] == [400]

    with_endpoint(case, report=reports.append)
