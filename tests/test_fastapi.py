"""FastAPI behind uvicorn: every kind of endpoint has its request's fields, and an outage affects no request."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from importlib import reload
from typing import Annotated, Any

import aiohttp
import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed")

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Response, WebSocket
from fastapi.responses import HTMLResponse, StreamingResponse

import segment_async.fastapi
from segment_async import Client, Statistics, bind, bound, messages
from segment_async.asgi import SegmentMiddleware
from segment_async.fastapi import Segment, lifespan
from tests.support.asgi import ANONYMOUS, FIREFOX, Recorder, answering, ask, served, visit
from tests.support.fault_server import FaultServer
from tests.support.faults import Step, answer, garbage, never_read, rst_on_accept, silence

BROWSER = {"User-Agent": FIREFOX, "Cookie": f"ajs_anonymous_id={ANONYMOUS}"}


def shop(**options: Any) -> tuple[FastAPI, list[dict[str, Any]]]:
    recorder = Recorder()
    app = FastAPI(lifespan=lifespan("KEY", transport=recorder))
    app.add_middleware(SegmentMiddleware, **options)
    return app, recorder.messages


@asynccontextmanager
async def browsing(app: FastAPI, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with served(app, **options) as url, aiohttp.ClientSession(url, headers=BROWSER) as session:
        yield session


async def get(session: aiohttp.ClientSession, path: str, **options: Any) -> int:
    async with session.get(path, **options) as response:
        await response.read()
        return response.status


async def signed_in(segment: Segment) -> AsyncIterator[str]:
    bind(user_id="user-1")
    await segment.track(event="Dependency")
    yield "user-1"
    await segment.track(event="After the Endpoint")


def test_every_kind_of_endpoint_has_the_fields_of_its_request() -> None:  # noqa: C901  # many kinds, each of them simple
    app, arrived = shop()

    @app.get("/async")
    async def in_the_loop(segment: Segment, user: Annotated[str, Depends(signed_in)]) -> None:
        await segment.track(event="Async")

    @app.get("/sync")
    def in_a_thread(segment: Segment) -> None:
        segment.enqueue_nowait(messages.track(event="Sync"))

    @app.get("/background")
    async def in_the_background(segment: Segment, background: BackgroundTasks) -> None:
        background.add_task(segment.track, event="Background")
        background.add_task(segment.enqueue_nowait, messages.track(event="Background Thread"))

    @app.get("/stream")
    async def in_a_stream(segment: Segment) -> Response:
        async def pieces() -> AsyncIterator[str]:
            yield "one"
            await segment.track(event="Async Stream")

        return StreamingResponse(pieces())

    @app.get("/stream-in-thread")
    def in_a_stream_of_a_thread(segment: Segment) -> Response:
        def pieces() -> Iterator[str]:
            yield "one"
            segment.enqueue_nowait(messages.track(event="Sync Stream"))

        return StreamingResponse(pieces())

    @app.websocket("/live")
    async def in_a_web_socket(socket: WebSocket, segment: Segment) -> None:
        await socket.accept()
        await segment.track(event="Web Socket")
        await socket.close()

    async def main() -> None:
        async with browsing(app) as session:
            for path in ("/async", "/sync", "/background", "/stream", "/stream-in-thread"):
                assert await get(session, path) == 200
            async with session.ws_connect("/live") as socket:
                await socket.receive()

    asyncio.run(main())
    assert {message["event"]: message["context"]["page"]["path"] for message in arrived} == {
        "Dependency": "/async",
        "Async": "/async",
        "After the Endpoint": "/async",
        "Sync": "/sync",
        "Background": "/background",
        "Background Thread": "/background",
        "Async Stream": "/stream",
        "Sync Stream": "/stream-in-thread",
        "Web Socket": "/live",
    }
    assert {message["anonymousId"] for message in arrived} == {ANONYMOUS}
    assert [message["event"] for message in arrived if message.get("userId")] == [
        *("Dependency", "Async", "After the Endpoint"),
    ]


def test_what_dependencies_bind() -> None:  # noqa: C901  # many kinds, each of them simple
    app, arrived = shop()

    async def asynchronous() -> AsyncIterator[None]:
        with bound(context={"from": "async"}):
            yield

    def plain() -> Iterator[None]:
        with bound(context={"from": "def"}):
            yield

    def identified() -> None:
        bind(user_id="user-1")

    def in_thread(client: Client, name: str) -> None:
        client.enqueue_nowait(messages.track(event=name))

    @app.get("/async", dependencies=[Depends(asynchronous)])
    async def in_async(segment: Segment) -> None:
        await segment.track(event="async")
        await asyncio.to_thread(in_thread, segment, "to_thread")
        run = copy_context().run
        await asyncio.get_running_loop().run_in_executor(None, run, in_thread, segment, "run_in_executor")

    @app.get("/async/def", dependencies=[Depends(asynchronous)])
    def in_def(segment: Segment) -> None:
        segment.enqueue_nowait(messages.track(event="def"))

    @app.get("/plain", dependencies=[Depends(plain)])
    async def in_plain(segment: Segment) -> None:
        await segment.track(event="plain")

    @app.get("/bind", dependencies=[Depends(identified)])
    async def in_bind(segment: Segment) -> None:
        await segment.track(event="bind")

    @app.get("/after")
    async def after(segment: Segment) -> None:
        await segment.track(event="after")

    async def main() -> None:
        async with browsing(app) as session:
            for path in ("/async", "/async/def", "/plain", "/bind", "/after"):
                assert await get(session, path) == 200

    asyncio.run(main())
    found = {message["event"]: (message["context"].get("from"), message.get("userId")) for message in arrived}
    assert found == {
        **dict.fromkeys(("async", "to_thread", "run_in_executor", "def"), ("async", None)),
        # Its parts run in copies of the context. It binds nothing, and changes nothing.
        "plain": (None, None),
        "bind": (None, "user-1"),
        "after": (None, None),
    }


def test_function_middlewares_around_and_within() -> None:
    app, arrived = shop(page_views=True)
    app.middleware("http")(passing_on)
    app.add_middleware(SegmentMiddleware, page_views=True)
    app.middleware("http")(passing_on)

    @app.get("/", response_class=HTMLResponse)
    async def home(segment: Segment) -> str:
        bind(user_id="user-1")
        await segment.track(event="Seen")
        return "<title>Home</title>"

    async def main() -> None:
        async with browsing(app) as session:
            assert await get(session, "/") == 200

    asyncio.run(main())
    assert [(message["type"], message["userId"]) for message in arrived] == [("track", "user-1"), ("page", "user-1")]
    assert arrived[1]["properties"]["title"] == "Home"


async def passing_on(request: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
    return await call_next(request)


def test_page_views_are_named_by_their_routes() -> None:
    app, arrived = shop(page_views=True)
    mounted = FastAPI()
    router = APIRouter(prefix="/shoes", default_response_class=HTMLResponse)

    @router.get("/{number}")
    async def shoes(number: int) -> str:
        return ""

    boots = APIRouter()
    boots.include_router(router, prefix="/boots")
    app.include_router(router)
    app.include_router(boots, prefix="/v1")
    mounted.include_router(router, prefix="/v2")
    app.mount("/outlet", mounted)

    async def main() -> None:
        async with browsing(app) as session:
            for path in ("/shoes/1", "/v1/boots/shoes/1", "/outlet/v2/shoes/1"):
                assert await get(session, path) == 200
            assert await get(session, "/nowhere") == 404

    asyncio.run(main())
    assert [message["name"] for message in arrived] == [
        "/shoes/{number}",
        "/v1/boots/shoes/{number}",
        "/outlet/v2/shoes/{number}",
    ]


def test_without_the_lifespan_the_error_explains_it() -> None:
    app = FastAPI()

    @app.get("/")
    async def home(segment: Segment) -> None: ...

    with pytest.raises(RuntimeError, match="lifespan did not run"):
        asyncio.run(ask(app, visit()))


def test_without_fastapi_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "fastapi", None)
        with pytest.raises(ImportError, match="pip install fastapi"):
            reload(segment_async.fastapi)
    reload(segment_async.fastapi)


def test_forged_headers_are_ignored() -> None:
    app, arrived = shop()

    @app.get("/")
    async def home(segment: Segment) -> None:
        await segment.track(event="Seen")

    forged = {
        "X-Forwarded-For": "6.6.6.6",
        "Accept-Language": ";q=,*/" * 100,
        "Referer": "https://a.example/%zz?x=%ff",
        "Sec-CH-UA": '"\\' * 900,
        "Cookie": f"{'x=' * 2_000}; ajs_anonymous_id={ANONYMOUS}",
    }

    async def main() -> None:
        async with browsing(app, proxy_headers=False) as session:
            assert await get(session, "/?utm_source=%ff&x=%zz&" + "y" * 1_000, headers=forged) == 200

    asyncio.run(main())
    (message,) = arrived
    assert message["anonymousId"] == ANONYMOUS
    assert message["context"]["ip"] == "127.0.0.1"
    assert message["context"]["campaign"] == {"source": "%FF"}  # as the test's client encodes it
    assert "locale" not in message["context"]
    assert "userAgentData" not in message["context"]


FORGED = "6.6.6.6, 198.51.100.7"


@pytest.mark.parametrize(
    ("uvicorns", "ours", "expected"),
    [
        ({}, (), "198.51.100.7"),  # it trusts connections from the same machine
        ({"proxy_headers": False}, (), "127.0.0.1"),
        ({"proxy_headers": False}, ("127.0.0.0/8",), "198.51.100.7"),
        ({"forwarded_allow_ips": "*"}, (), "6.6.6.6"),  # the leftmost, which the visitor sent
        ({"forwarded_allow_ips": "10.0.0.0/8"}, (), "127.0.0.1"),
    ],
)
def test_uvicorns_own_handling_of_a_proxys_header(uvicorns: Any, ours: Any, expected: str) -> None:
    app, arrived = shop(trusted_proxies=ours)

    @app.get("/")
    async def home(segment: Segment) -> None:
        await segment.track(event="Seen")

    async def main() -> None:
        async with browsing(app, **uvicorns) as session:
            assert await get(session, "/", headers={"X-Forwarded-For": FORGED}) == 200

    asyncio.run(main())
    assert [message["context"]["ip"] for message in arrived] == [expected]


# -- outages

TROUBLES: dict[str, Callable[[], Step]] = {
    "resets": rst_on_accept,
    "is deaf": never_read,
    "is silent": silence,
    "talks nonsense": garbage,
    "is broken": lambda: answer(503),
    "asks for patience": lambda: answer(429, {"Retry-After": "300"}),
    "refuses the key": lambda: answer(401),
    "refuses the message": lambda: answer(400),
}


async def orders(client: Client, count: int, *, page_views: bool = False) -> tuple[list[int], Statistics]:
    """The responses to so many concurrent requests, each with an event and a page view, during an outage."""
    app = FastAPI(lifespan=lifespan(client))
    app.add_middleware(SegmentMiddleware, page_views=page_views)

    @app.get("/orders", response_class=HTMLResponse)
    async def order(segment: Segment) -> str:
        await segment.track(event="Order Completed")
        return "<title>Thank you</title>"

    async with browsing(app) as session:
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*(get(session, "/orders") for _ in range(count)))
        statistics = client.statistics()
    return list(answers), statistics


@pytest.mark.parametrize("trouble", TROUBLES)
def test_no_request_is_affected_when_segment(trouble: str) -> None:
    async def main() -> None:
        async with FaultServer([TROUBLES[trouble]() for _ in range(50)]) as server:
            client = Client("KEY", host=server.url, flush_at=1, close_timeout=0.1)
            answers, statistics = await orders(client, 20, page_views=True)
            assert answers == [200] * 20
            assert statistics.accepted == 40

    asyncio.run(main())


def test_no_request_is_affected_when_segment_is_down() -> None:
    async def main() -> None:
        async with FaultServer(up=False) as server:
            client = Client("KEY", host=server.url, flush_at=1, close_timeout=0.1)
            answers, statistics = await orders(client, 20, page_views=True)
            assert (answers, statistics.delivered) == ([200] * 20, 0)

    asyncio.run(main())


def test_a_full_queue_delays_requests_for_the_overflow_timeout_only() -> None:
    async def main() -> None:
        async with FaultServer([silence() for _ in range(50)]) as server:
            client = Client("KEY", host=server.url, max_queue_size=5, overflow_timeout=0.2, close_timeout=0.1)
            answers, statistics = await orders(client, 40, page_views=True)
            assert answers == [200] * 40
            assert statistics.reasons == {"queue_full": 75}

    asyncio.run(main())


# -- flush_on_response


def test_flush_on_response_delays_the_last_byte_until_everything_is_sent() -> None:
    recorder = Recorder()
    client = Client("KEY", transport=recorder, flush_interval=3_600)
    sent_with: list[tuple[bool, int]] = []

    async def main() -> None:
        app = SegmentMiddleware(
            answering(doing=lambda: client.track(event="Seen")), client, page_views=True, flush_on_response=5
        )

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                sent_with.append((message.get("more_body", False), len(recorder.messages)))

        async with client:
            await app(visit(), None, send)  # type: ignore[arg-type]  # nothing is received

    asyncio.run(main())
    assert sent_with == [(True, 0), (False, 2)]


def test_flush_on_response_ends_in_time_and_also_after_an_error() -> None:
    async def main() -> None:
        async with FaultServer([silence() for _ in range(5)]) as server:
            client = Client("KEY", host=server.url, close_timeout=0.1)
            app = SegmentMiddleware(answering(doing=lambda: client.track(event="Seen")), client, flush_on_response=0.05)
            async with client, asyncio.timeout(5):
                assert (await ask(app, visit())).status == 200
                assert client.statistics().in_flight == 1

    asyncio.run(main())

    recorder = Recorder()
    client = Client("KEY", transport=recorder, flush_interval=3_600)

    async def broken() -> None:
        await client.track(event="Seen")
        raise KeyError

    async def fault() -> None:
        async with client:
            with pytest.raises(KeyError):
                await ask(SegmentMiddleware(answering(doing=broken), client, flush_on_response=5), visit())
            assert len(recorder.messages) == 1

    asyncio.run(fault())
