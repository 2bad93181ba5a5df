"""`/_dev/stream`: the updates for an open page, and their cost if it does not read them."""

import asyncio
import json
import random
import tracemalloc
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from segment_async.devserver import Endpoint, serve
from segment_async.devserver._arrivals import Arrivals, ReceivedBatch
from segment_async.devserver._faults import Chaos, Faults
from segment_async.devserver._stream import Stream
from tests.devserver.exchange import send, track, with_endpoint


async def next_news(answer: aiohttp.ClientResponse) -> tuple[str, dict[str, Any]]:
    """The id and the data of the next server-sent event."""
    async with asyncio.timeout(10):
        lines = [(await answer.content.readuntil(b"\n")).decode() for _ in range(3)]
    assert lines[2] == "\n"
    return lines[0].removeprefix("id: ").strip(), json.loads(lines[1].removeprefix("data: "))


def numbers(news: dict[str, Any]) -> list[int]:
    return [event["number"] for event in news["events"]]


def test_a_page_receives_the_stored_events_and_then_new_ones() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1, properties={"total": 12345678901234567890}))
        async with session.get("/_dev/stream") as answer:
            assert answer.content_type == "text/event-stream"
            _, news = await next_news(answer)
            assert numbers(news) == [1]
            assert [sum(types.values()) for _, types, _ in news["seconds"]] == [1]
            assert '"total":12345678901234567890' in news["events"][0]["json"]
            assert news["batches"]["1"]["headers"]["Authorization"] == "Basic …"
            await send(session, track(2), track(3, event=None))
            await send(session, track(padding="x" * 40_000))
            seen: list[int] = []
            refused: list[int] = []
            while not refused:
                _, news = await next_news(answer)
                seen += numbers(news)
                refused += [refusal["status"] for refusal in news["refusals"]]
            assert (seen, refused, news["summary"]["total"]) == ([2, 3], [400], 3)

    with_endpoint(case)


def test_a_second_has_one_count_although_some_requests_take_longer() -> None:
    arrivals = Arrivals(keep=10)
    for number, arrived in enumerate((10.9, 12.0, 10.9, 12.9, 13.0), 1):
        batch = ReceivedBatch(number, arrived, "/v1/batch", "key", 1, 1, 10, 10, None, {})
        arrivals.add(batch, [({"type": "track"}, b"{}", [])])
    assert [(second.at, second.types) for second in arrivals.seconds()] == [
        (10, {"track": 1}),
        (12, {"track": 3}),
        (13, {"track": 1}),
    ]


def test_seconds_begin_again_if_the_clock_was_set_back() -> None:
    arrivals = Arrivals(keep=10)
    for number, arrived in enumerate((5_000.0, 10.0), 1):
        batch = ReceivedBatch(number, arrived, "/v1/batch", "key", 1, 1, 10, 10, None, {})
        arrivals.add(batch, [({"type": "track"}, b"{}", [])])
    assert [second.at for second in arrivals.seconds()] == [5_000, 10]


def test_a_page_that_reconnects_continues() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1))
        async with session.get("/_dev/stream") as answer:
            last_id, first = await next_news(answer)
        await send(session, track(2))
        async with session.get("/_dev/stream", headers={"Last-Event-ID": last_id}) as answer:
            _, news = await next_news(answer)
            assert (numbers(news), news["run"]) == ([2], first["run"])
        endpoint.clear()
        await send(session, track(3))
        async with session.get("/_dev/stream", headers={"Last-Event-ID": last_id}) as answer:
            _, news = await next_news(answer)
            assert numbers(news) == [3]
            assert news["run"] != first["run"]
        for foreign in ("another.2.9.9.9", "", "nonsense", last_id + ".x", last_id + "9" * 5_000):
            async with session.get("/_dev/stream", headers={"Last-Event-ID": foreign}) as answer:
                assert numbers((await next_news(answer))[1]) == [3]

    with_endpoint(case)


def test_events_dropped_from_the_ring_count_as_missed() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        async with session.get("/_dev/stream") as answer:
            await next_news(answer)
            await send(session, *(track(number) for number in range(30)))
            _, news = await next_news(answer)
            assert (news["missed"], numbers(news), news["summary"]["total"]) == (20, list(range(21, 31)), 30)

    with_endpoint(case, keep=10)


def test_a_full_ring_is_sent_in_chunks() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, *(track(number) for number in range(1_200)))
        async with session.get("/_dev/stream") as answer:
            told = [numbers((await next_news(answer))[1]) for _ in range(3)]
        assert [len(piece) for piece in told] == [500, 500, 200]
        assert [number for piece in told for number in piece] == list(range(1, 1_201))

    with_endpoint(case)


def test_clearing_is_sent() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        await send(session, track(1))
        async with session.get("/_dev/stream") as answer:
            _, before = await next_news(answer)
            endpoint.clear()
            _, after = await next_news(answer)
            assert (after["events"], after["summary"]["total"]) == ([], 0)
            assert after["run"] != before["run"]

    with_endpoint(case)


def test_an_open_page_does_not_delay_the_end_of_the_endpoint() -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(5), serve() as endpoint:
                answer = await session.get(endpoint.url + "/_dev/stream")
                await next_news(answer)
            assert await answer.content.read() == b""

    asyncio.run(main())


def test_an_update_has_a_megabyte_of_events_at_most() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        for start in range(0, 90, 15):
            await send(session, *(track(start + number, padding="x" * 30_000) for number in range(15)))
        seen: list[int] = []
        async with session.get("/_dev/stream", read_bufsize=8_000_000) as answer:
            while len(seen) < 90:
                _, news = await next_news(answer)
                assert len(json.dumps(news)) < 1_200_000
                seen += numbers(news)
        assert seen == list(range(1, 91))

    with_endpoint(case)


def test_names_that_a_sender_made_up_do_not_make_updates_longer() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        for start in range(0, 200, 10):
            made_up = (track(n, type=f"{n}" + "t" * 30_000, event=f"{n}" + "e" * 10) for n in range(start, start + 10))
            await send(session, *made_up)
        async with session.get("/_dev/summary") as answer:
            assert len(await answer.read()) < 200 * 250
        async with session.get("/_dev/stream", headers={"Last-Event-ID": ""}) as answer:
            _, news = await next_news(answer)
            assert news["summary"]["type"] == {}
            assert max(len(event["type"]) for event in news["events"]) == 200

    with_endpoint(case, keep=1)


async def stream_of(arrivals: Arrivals, ended: asyncio.Event, **options: Any) -> TestServer:
    """A server of the stream alone, which sets `ended` when a page's request has ended."""

    @web.middleware
    async def note_end(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        finally:
            ended.set()

    app = web.Application(middlewares=[note_end])
    app.add_routes(Stream(arrivals, Faults(None, Chaos(), random.Random()), {}, **options).routes())
    server = TestServer(app)
    await server.start_server()
    return server


def fill(arrivals: Arrivals, count: int) -> None:
    batch = ReceivedBatch(arrivals.next_batch(), 0.0, "/v1/batch", "key", 1, count, 0, 0, None, {})
    arrivals.add(batch, [({"type": "track"}, b"x" * 30_000, []) for _ in range(count)])


async def open_without_reading(server: TestServer) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection(server.host, server.port, limit=1)
    writer.write(b"GET /_dev/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return writer


def test_a_page_that_stops_reading_holds_the_memory_of_one_update() -> None:
    async def main() -> None:
        arrivals = Arrivals(keep=1_000)
        fill(arrivals, 1_000)
        server = await stream_of(arrivals, asyncio.Event())
        tracemalloc.start()
        try:
            writer = await open_without_reading(server)
            for _ in range(40):
                await asyncio.sleep(0)
                fill(arrivals, 50)  # the ring turns over while the page does not read
            await asyncio.sleep(0)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        writer.transport.abort()
        await server.close()
        assert held < 1_000 * 30_000 + 12_000_000

    asyncio.run(main())


def test_a_page_that_stops_reading_is_disconnected() -> None:
    async def main() -> None:
        arrivals, ended = Arrivals(keep=1_000), asyncio.Event()
        fill(arrivals, 1_000)
        server = await stream_of(arrivals, ended, stalled=0.05)
        writer = await open_without_reading(server)
        async with asyncio.timeout(10):
            await ended.wait()
        writer.transport.abort()
        await server.close()

    asyncio.run(main())
