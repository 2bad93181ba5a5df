"""`/_dev/events`, `/_dev/summary`, `/_dev/wait`: what tests and scripts rely on."""

import asyncio

import aiohttp
import pytest

from segment_async.devserver import Endpoint
from tests.devserver.exchange import get, send, track, with_endpoint


def test_an_event_is_shown_in_full() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        message = track(event="order_completed")
        await send(session, message, **{"X-Retry-Count": "1"})
        told = await get(session, "/_dev/events")
        [event] = told["events"]
        received_at = event.pop("received_at")
        assert len(received_at) == len("2026-11-21T19:20:03.047Z")
        assert received_at.endswith("Z")
        assert told["total"] == 1
        assert event == {
            "source": "key",
            "route": "/v1/batch",
            "batch": 1,
            "attempt": 2,
            "message": message,
            "verdicts": [
                {
                    "severity": "style",
                    "rule": "event-name",
                    "path": "event",
                    "text": "Should be Object Action, such as “Order Completed” or “Signed Up”.",
                }
            ],
        }

    with_endpoint(case)


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("", [1, 2, 3, 4]),
        ("type=track", [1, 2, 4]),
        ("event=Order Completed", [1, 4]),
        ("user=u2", [2, 3]),
        ("user=a1", [3]),
        ("verdict=dropped", [4]),
        ("verdict=style", [2]),
        ("verdict=event-name", [2]),
        ("verdict=none", [1, 3]),
        ("type=track&user=u1", [1]),
        ("type=nothing", []),
    ],
)
def test_filters(query: str, numbers: list[int]) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        page = {"type": "page", "userId": "u2", "anonymousId": "a1", "messageId": "m3"}
        await send(session, track(1), track(2, event="checkout", userId="u2"), page, track(4, userId=None))
        told = await get(session, f"/_dev/events?{query}")
        assert [event["message"]["messageId"] for event in told["events"]] == [f"m{number}" for number in numbers]
        assert told["total"] == len(numbers)

    with_endpoint(case)


def test_limit_takes_the_newest_and_total_counts_all() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1), track(2), track(3))
        told = await get(session, "/_dev/events?limit=2")
        assert [event["message"]["messageId"] for event in told["events"]] == ["m2", "m3"]
        assert told["total"] == 3
        assert (await get(session, "/_dev/events?limit=0"))["events"] == []

    with_endpoint(case)


@pytest.mark.parametrize("query", ["events?limit=-1", "events?limit=many", "wait?count=x", "wait?timeout=nan"])
def test_an_invalid_number_is_refused(query: str) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        async with session.get(f"/_dev/{query}") as answer:
            assert answer.status == 400

    with_endpoint(case)


def test_the_ring_has_the_newest_and_the_counts_include_all() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, *(track(number) for number in range(8)))
        await send(session, {"type": "identify", "messageId": "i"})
        assert [message["messageId"] for message in endpoint.messages] == ["m6", "m7", "i"]
        assert await get(session, "/_dev/summary") == {
            "total": 9,
            "type": {"track": 8, "identify": 1},
            "event": {"Order Completed": 8},
            "verdict": {"dropped": 1},
            "rule": {"id-missing": 1},
            "refused": {},
        }

    with_endpoint(case, keep=3)


def test_the_number_of_counted_names_is_limited() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, *({"type": "track", "event": f"e{number}"} for number in range(1_500)))
        events = endpoint.summary()["event"]
        assert len(events) == 1_001
        assert events["(others)"] == 500

    with_endpoint(case)


def test_waiting_ends_once_enough_events_have_arrived() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        async def wait() -> tuple[int, int]:
            async with session.get("/_dev/wait?count=3&timeout=20") as answer:
                return answer.status, (await answer.json())["count"]

        waiting = asyncio.create_task(wait())
        await send(session, track(1), track(2))
        assert not waiting.done()
        await send(session, track(3), track(4))
        assert await waiting == (200, 4)

    with_endpoint(case)


def test_waiting_ends_with_408_and_the_count() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1))
        async with session.get("/_dev/wait?count=2&timeout=0.01") as answer:
            assert (answer.status, await answer.json()) == (408, {"count": 1})
        async with session.get("/_dev/wait?count=1&timeout=0") as answer:
            assert (answer.status, await answer.json()) == (200, {"count": 1})

    with_endpoint(case)


def test_clearing_deletes_everything() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1))
        await send(session, track(padding="x" * 40_000))
        async with session.delete("/_dev/events") as answer:
            assert answer.status == 204
        assert (await get(session, "/_dev/events")) == {"total": 0, "events": []}
        summary = await get(session, "/_dev/summary")
        assert summary == {"total": 0, "type": {}, "event": {}, "verdict": {}, "rule": {}, "refused": {}}
        async with session.get("/_dev/wait?count=1&timeout=0") as answer:
            assert answer.status == 408

    with_endpoint(case)


def test_returned_objects_are_copies() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1, properties={"tags": ["a"]}))
        endpoint.messages[0]["properties"]["tags"].append("b")
        assert endpoint.messages[0]["properties"] == {"tags": ["a"]}
        assert await endpoint.wait(1)
        assert not await endpoint.wait(2, timeout=0)

    with_endpoint(case)
