"""The middleware without a framework: what is bound, for how long, and that its errors never reach the application."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import pytest

from segment_async import (
    Client,
    ClientClosed,
    MessageError,
    Response,
    bind,
    blocking,
    bound,
    compat,
    messages,
)
from segment_async.asgi import SegmentMiddleware, lifespan
from tests.support.asgi import ANONYMOUS, App, Recorder, answering, ask, recording, request, served, visit
from tests.support.virtual_clock import run, running_clock

Message = dict[str, Any]

ORDERLY = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


class Hanging(Recorder):
    """Takes requests and never answers."""

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


def sent(
    scope: dict[str, Any], doing: Callable[[Client], Awaitable[Any]] | None = None, **options: Any
) -> list[Message]:
    """The messages that a call in a handler sends, with the middleware around it."""
    client, arrived = recording()

    async def handler() -> None:
        await (doing or track)(client)

    async def main() -> None:
        async with client:
            await ask(SegmentMiddleware(answering(doing=handler), client, **options), scope)

    asyncio.run(main())
    return arrived


async def track(client: Client) -> None:
    await client.track(event="Seen")


def dropped(scope: dict[str, Any], **options: Any) -> dict[str, int]:
    client, _ = recording()

    async def main() -> None:
        async with client:
            app = SegmentMiddleware(answering(doing=lambda: track(client)), client, **options)
            assert (await ask(app, scope)).status == 200

    asyncio.run(main())
    return dict(client.statistics().reasons)


# -- visitor and context


def test_a_call_has_the_visitor_and_the_context() -> None:
    (message,) = sent(visit("/shoes?utm_source=mail", {"accept-language": "de"}))
    assert message["anonymousId"] == ANONYMOUS
    assert "userId" not in message
    context = message["context"]
    assert (context["ip"], context["locale"], context["channel"]) == ("203.0.113.9", "de", "server")
    assert context["page"]["url"] == "https://shop.example/shoes?utm_source=mail"
    assert context["campaign"] == {"source": "mail"}


def test_a_calls_own_fields_take_precedence() -> None:
    async def own(client: Client) -> None:
        await client.track("user-7", "Seen", anonymous_id="other", context={"ip": "0.0.0.0"})

    (message,) = sent(visit(), own)
    assert (message["userId"], message["anonymousId"], message["context"]["ip"]) == ("user-7", "other", "0.0.0.0")
    assert message["context"]["channel"] == "server"


def test_nothing_is_bound_outside_of_the_request() -> None:
    async def main() -> None:
        client, _ = recording()
        async with client:
            await ask(SegmentMiddleware(answering(), client), visit())
            with pytest.raises(MessageError):
                await client.track(event="Seen")
            with pytest.raises(RuntimeError):
                bind(user_id="user-1")

    asyncio.run(main())


def test_threads_and_tasks_of_the_request() -> None:
    async def elsewhere(client: Client) -> None:
        await asyncio.to_thread(client.enqueue_nowait, messages.track(event="Thread"))
        await asyncio.create_task(client.track(event="Task"))

    assert [message["anonymousId"] for message in sent(visit(), elsewhere)] == [ANONYMOUS] * 2


def test_concurrent_requests_do_not_mix() -> None:
    client, arrived = recording()
    barrier = asyncio.Barrier(20)

    async def handler() -> None:
        await barrier.wait()
        await client.track(event="Seen")

    async def main() -> None:
        async with client:
            app = SegmentMiddleware(answering(doing=handler), client)
            scopes = [request(f"/{n}", {"cookie": f"ajs_anonymous_id=visitor-{n}"}) for n in range(20)]
            await asyncio.gather(*(ask(app, scope) for scope in scopes))

    asyncio.run(main())
    assert {(message["anonymousId"], message["context"]["page"]["path"]) for message in arrived} == {
        (f"visitor-{n}", f"/{n}") for n in range(20)
    }


def test_web_sockets() -> None:
    client, arrived = recording()

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await client.track(event="Connected")

    async def main() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            pass

        async with client:
            app = SegmentMiddleware(echo, client, page_views=True, set_cookie=True, flush_on_response=1)
            await app(visit("/live", type="websocket", scheme="wss"), receive, send)

    asyncio.run(main())
    assert [(message["anonymousId"], message["context"]["ip"]) for message in arrived] == [(ANONYMOUS, "203.0.113.9")]


def test_lifespan_events_pass_unchanged() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    asyncio.run(SegmentMiddleware(app)({"type": "lifespan"}, "receive", "send"))  # type: ignore[arg-type]
    assert seen == [({"type": "lifespan"}, "receive", "send")]


async def stop(app: Any) -> list[str]:
    """What a server hears from an application that it starts and stops."""
    events, heard = iter(("lifespan.startup", "lifespan.shutdown")), []

    async def receive() -> Message:
        return {"type": next(events)}

    async def send(message: Any) -> None:
        heard.append(message["type"])

    await app({"type": "lifespan", "state": {}}, receive, send)
    return heard


async def http_only(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError(scope["type"])


@pytest.mark.parametrize("has_events", [True, False])
def test_calls_without_await_from_other_threads_are_sent_while_the_server_runs(*, has_events: bool) -> None:
    """As a `def` endpoint makes them, where nothing is ever awaited."""

    class Arrived(Recorder):
        async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
            response = await super().send(body, headers)
            arrived.set()
            return response

    arrived = asyncio.Event()
    client = Client("KEY", transport=Arrived(), flush_interval=0.01)

    async def handler() -> None:
        await asyncio.to_thread(client.nowait.track, "user-1", "Seen")

    async def main() -> None:
        app = SegmentMiddleware(answering(doing=handler), client)
        if has_events:
            await stop(app)
        await ask(app, request())
        async with asyncio.timeout(30):
            await arrived.wait()
        await client.aclose()

    asyncio.run(main())


def test_a_client_of_its_own_is_flushed_when_the_server_stops_and_stays_open() -> None:
    client, arrived = recording()

    async def main() -> None:
        await client.track("user-1", "Seen")
        assert await stop(SegmentMiddleware(http_only, client)) == ORDERLY
        assert len(arrived) == 1
        await client.track("user-1", "Seen again")
        await client.aclose()
        assert await stop(SegmentMiddleware(http_only, client)) == ORDERLY

    asyncio.run(main())
    assert len(arrived) == 2


def test_the_flush_at_the_stop_takes_close_timeout_and_says_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        client = Client("KEY", transport=Hanging(), close_timeout=3.0)
        for _ in range(2):
            await client.track("user-1", "Seen")
        began = running_clock().time()
        assert await stop(SegmentMiddleware(http_only, client)) == ORDERLY
        assert running_clock().time() - began == pytest.approx(3.0, abs=0.01)
        await client.aclose()

    run(main())
    assert "The server stops with 2 messages unsent after 3 s (close_timeout)." in caplog.text


def test_an_error_of_the_flush_does_not_reach_the_server(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Client):
        async def flush(self, *, timeout: float | None = None) -> int:
            raise OSError(timeout)

    assert asyncio.run(stop(SegmentMiddleware(http_only, Broken("KEY", transport=Recorder())))) == ORDERLY
    assert "Error in the flush at shutdown: OSError" in caplog.text


@pytest.mark.parametrize("has_started", [True, False])
def test_a_server_that_goes_on_after_an_exception_in_the_lifespan_is_warned_of(
    caplog: pytest.LogCaptureFixture, *, has_started: bool
) -> None:
    client, arrived = recording()
    has_failed = asyncio.Event()

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await answering()(scope, receive, send)
            return
        await receive()
        if has_started:
            await client.track("user-1", "Started")
            await send({"type": "lifespan.startup.complete"})
        raise OSError("its own")

    app = SegmentMiddleware(failing, client)

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except OSError:
            has_failed.set()
            raise

    async def main() -> None:
        async with served(watched) as url, aiohttp.ClientSession() as session:
            await has_failed.wait()
            assert len(arrived) == has_started
            for _ in range(2):
                async with session.get(url) as response:
                    assert response.status == 200
        await client.aclose()

    asyncio.run(main())
    said = "The application raised an exception in its lifespan, and uvicorn goes on without its events, so messages "
    assert caplog.text.count(said) == 1


# -- a request is read at its first call


class Headers(list[tuple[bytes, bytes]]):
    """Counts how often it is read."""

    times = 0

    def __iter__(self) -> Any:
        type(self).times += 1
        return super().__iter__()

    def copy(self) -> Any:
        return self


class WatchedScope(dict[str, Any]):
    """One that can be referred to weakly."""


def test_nothing_is_read_without_a_call() -> None:
    headers = Headers(visit()["headers"])
    for options, times in (({}, 0), ({"user_id": lambda scope: "user-1"}, 0), ({"page_views": True}, 1)):
        Headers.times = 0
        app = SegmentMiddleware(answering(content_type="text/plain"), recording()[0], **options)
        assert asyncio.run(ask(app, visit() | {"headers": headers})).status == 200
        assert Headers.times == times


def test_what_counts_is_what_the_request_said_when_it_came() -> None:
    scope = visit("/shoes", {"referer": "https://search.example/"}, root_path="/shop", method="POST")

    async def change(client: Client) -> None:
        scope["headers"].append((b"cookie", b"ajs_anonymous_id=other"))
        scope["headers"][0] = (b"host", b"other.example")
        scope["headers"] = []
        scope.update(path="/other", raw_path=b"/other", root_path="/other", query_string=b"q=1", client=None)
        await client.track(event="Seen")

    (message,) = sent(scope, change)
    assert message["anonymousId"] == ANONYMOUS
    assert message["context"]["ip"] == "203.0.113.9"
    assert message["context"]["page"] == {
        "path": "/shop/shoes",
        "url": "https://shop.example/shop/shoes",
        "referrer": "https://search.example/",
    }


@pytest.mark.parametrize("options", [{}, {"page_views": True, "set_cookie": True}, {"flush_on_response": 1}], ids=str)
def test_a_task_that_outlives_its_request_and_calls_only_then(options: Any) -> None:
    client, arrived = recording()
    tasks: list[asyncio.Task[Any]] = []
    answered = asyncio.Event()

    async def late() -> None:
        await answered.wait()
        await client.track(event="Late")
        bind(user_id="user-1")
        await client.track(event="Later")

    async def handler() -> None:
        tasks.append(asyncio.create_task(late()))

    async def main() -> None:
        async with client:
            app = SegmentMiddleware(answering(doing=handler, content_type="text/plain"), client, **options)
            scope = WatchedScope(visit("/shoes"))
            watched = weakref.ref(scope)
            await ask(app, scope)
            del scope
            gc.collect()
            assert watched() is None, "the task keeps the scope in memory"
            answered.set()
            await asyncio.gather(*tasks)

    asyncio.run(main())
    assert [(message["event"], message["anonymousId"], message.get("userId")) for message in arrived] == [
        ("Late", ANONYMOUS, None),
        ("Later", ANONYMOUS, "user-1"),
    ]
    assert {message["context"]["page"]["path"] for message in arrived} == {"/shoes"}


def test_a_late_identity_needs_no_reading() -> None:
    headers = Headers(visit()["headers"])
    client, arrived = recording()

    async def handler() -> None:
        bind(user_id="user-1")
        assert Headers.times == 0
        await client.track(event="Seen")

    async def main() -> None:
        Headers.times = 0
        async with client:
            await ask(SegmentMiddleware(answering(doing=handler), client), visit() | {"headers": headers})

    asyncio.run(main())
    assert (arrived[0]["userId"], arrived[0]["anonymousId"]) == ("user-1", ANONYMOUS)


def test_a_minted_id_stays_although_the_user_is_learnt_before_the_first_call() -> None:
    async def log_in(client: Client) -> None:
        bind(user_id="user-1")
        await client.track(event="One")
        await client.track(event="Two")

    messages = sent(request(), log_in, no_identity="mint")
    assert {message["userId"] for message in messages} == {"user-1"}
    assert len({message["anonymousId"] for message in messages}) == 1


def test_a_response_that_streams_and_calls_meanwhile() -> None:
    client, arrived = recording()

    async def streaming(scope: Any, receive: Any, send: Any) -> None:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(3):
                with bound(context={"app": {"name": f"part {number}"}}):
                    await client.track(event="Part")
                    yield b"part"

        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for part in parts():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        await client.track(event="Done")

    async def main() -> None:
        async with client:
            assert (await ask(SegmentMiddleware(streaming, client), visit())).body == b"part" * 3

    asyncio.run(main())
    assert [message["context"].get("app", {}).get("name") for message in arrived] == [
        "part 0",
        "part 1",
        "part 2",
        None,
    ]
    assert {message["anonymousId"] for message in arrived} == {ANONYMOUS}


def test_a_generator_that_is_collected_during_another_request() -> None:
    client, arrived = recording()
    left: list[Any] = []

    def rows() -> Iterator[None]:
        with bound(user_id="row"):
            yield

    async def leaving(_: Client) -> None:
        left.append(rows())
        next(left[0])

    async def collecting(client: Client) -> None:
        left.clear()
        gc.collect()
        await client.track(event="Seen")

    async def main() -> None:
        async with client:
            for doing in (leaving, collecting):
                app = SegmentMiddleware(answering(doing=partial(doing, client)), client)
                await asyncio.create_task(ask(app, visit()))

    asyncio.run(main())
    assert [(message.get("userId"), message["anonymousId"]) for message in arrived] == [(None, ANONYMOUS)]


def test_consent_is_asked_at_once_and_sent_with_each_call() -> None:
    asked: list[str] = []

    def consent(scope: Any) -> dict[str, bool]:
        asked.append(scope["path"])
        return {"Analytics": True, "odd \ud800": False}

    async def twice(client: Client) -> None:
        assert asked == ["/"]
        await client.track(event="One")
        await client.track(event="Two", context={"locale": "de"})

    one, two = sent(visit(), twice, consent=consent)
    assert asked == ["/"]
    for message in (one, two):
        assert message["context"]["consent"] == {"categoryPreferences": {"Analytics": True, "odd \ufffd": False}}
    assert two["context"]["locale"] == "de"


def test_within_a_block_of_the_server() -> None:
    client, arrived = recording()

    async def main() -> None:
        async with client:
            app = SegmentMiddleware(answering(doing=lambda: track(client)), client)
            with bound(user_id="outer", context={"app": {"name": "shop"}}):
                await ask(app, visit())

    asyncio.run(main())
    assert (arrived[0]["userId"], arrived[0]["anonymousId"]) == ("outer", ANONYMOUS)
    assert arrived[0]["context"]["app"] == {"name": "shop"}
    assert arrived[0]["context"]["ip"] == "203.0.113.9"


# -- the user


async def known_later(scope: Any) -> str:
    await asyncio.sleep(0)
    return "user-1"


@pytest.mark.parametrize("user_id", [lambda scope: "user-1", known_later])
def test_the_application_names_the_user(user_id: Any) -> None:
    (message,) = sent(request(), user_id=user_id)
    assert message["userId"] == "user-1"


def test_the_users_cookie_is_trusted_only_on_request() -> None:
    scope = visit(headers={"cookie": f"ajs_user_id=%22user-1%22; ajs_anonymous_id={ANONYMOUS}"})
    assert "userId" not in sent(dict(scope))[0]
    assert sent(dict(scope), trust_user_cookie=True)[0]["userId"] == "user-1"
    assert sent(dict(scope), trust_user_cookie=True, user_id=lambda scope: "user-2")[0]["userId"] == "user-2"


def test_a_late_identity_applies_to_later_calls() -> None:
    async def log_in(client: Client) -> None:
        await client.track(event="Before")
        bind(user_id="user-1")
        await client.track(event="After")

    assert [message.get("userId") for message in sent(visit(), log_in)] == [None, "user-1"]


# -- no identity


def test_without_identity_a_call_is_skipped_and_counted() -> None:
    assert dropped(request()) == {"no_identity": 1}


def test_a_minted_id_is_used_for_one_request() -> None:
    async def twice(client: Client) -> None:
        await client.track(event="One")
        await client.track(event="Two")

    first, second = (sent(request(), twice, no_identity="mint") for _ in range(2))
    assert len({message["anonymousId"] for message in first}) == 1
    assert first[0]["anonymousId"] != second[0]["anonymousId"]


def test_no_minted_id_for_a_known_user() -> None:
    (message,) = sent(request(), no_identity="mint", user_id=lambda scope: "user-1")
    assert "anonymousId" not in message


def test_no_identity_may_raise() -> None:
    with pytest.raises(MessageError, match="userId"):
        sent(request(), no_identity="raise")


# -- consent


def consent_of(scope: dict[str, Any], **options: Any) -> Any:
    return sent(scope, **options)[0]["context"].get("consent")


def test_consent_is_sent_as_preferences() -> None:
    async def asked(scope: Any) -> dict[str, bool]:
        return {"Advertising": False, "Analytics": True}

    assert consent_of(visit(), consent=asked) == {"categoryPreferences": {"Advertising": False, "Analytics": True}}
    assert consent_of(visit(), consent=lambda scope: None) is None
    assert consent_of(visit(), consent=lambda scope: {}) is None


def test_privacy_control_overrides_consent() -> None:
    given = {"Advertising": True, "Analytics": True}
    objecting = {"sec-gpc": "1"}
    merged = consent_of(visit(headers=objecting), consent=lambda scope: given, gpc={"Advertising": False})
    assert merged == {"categoryPreferences": {"Advertising": False, "Analytics": True}}
    assert consent_of(visit(headers=objecting), gpc={"Sale": False}) == {"categoryPreferences": {"Sale": False}}
    assert consent_of(visit(), gpc={"Sale": False}) is None
    assert consent_of(visit(headers=objecting), gpc="drop") is None


# -- errors


def boom(scope: Any) -> Any:
    raise LookupError(scope["headers"])


async def meeting_something_cancelled(scope: Any) -> Any:
    other = asyncio.get_running_loop().create_future()
    other.cancel()
    await other


class Awkward(dict[str, bool]):
    """Raises wherever it is used."""

    def items(self) -> Any:
        raise LookupError

    def __eq__(self, other: object) -> bool:
        raise LookupError

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise LookupError


NO_ID = (1.5, True, b"user-1", ["user-1"], "x" * 1_025, 10**5_000, Awkward())
NO_CONSENT = ("yes", True, ["Analytics"], {str(n): True for n in range(65)}, {"x" * 3_000: True}, Awkward(a=True))
NO_NAME = (5, b"Home", "x" * 1_025, Awkward())
FAULTY: list[dict[str, Any]] = [
    *(
        {option: fault}
        for option in ("user_id", "consent", "page_name")
        for fault in (boom, meeting_something_cancelled)
    ),
    *({"user_id": lambda scope, answer=answer: answer} for answer in NO_ID),
    *({"consent": lambda scope, answer=answer: answer} for answer in NO_CONSENT),
    *({"page_name": lambda scope, answer=answer: answer} for answer in NO_NAME),
]


@pytest.mark.parametrize("option", FAULTY)
def test_an_error_in_a_hook_is_logged_once(option: Any, caplog: pytest.LogCaptureFixture) -> None:
    client, arrived = recording()

    async def main() -> None:
        async with client:
            app = SegmentMiddleware(answering(doing=lambda: track(client)), client, page_views=True, **option)
            for _ in range(3):
                assert (await ask(app, visit(path_template="/"))).status == 200

    asyncio.run(main())
    # If consent is not known, no page view is counted.
    kinds = ["track"] if "consent" in option else ["track", "page"]
    assert [(message["type"], message["anonymousId"]) for message in arrived] == [
        (kind, ANONYMOUS) for kind in kinds * 3
    ]
    assert all(message["name"] == "/" for message in arrived if message["type"] == "page")
    (record,) = caplog.records
    assert record.name == "segment_async"
    assert record.levelno == logging.WARNING
    assert ANONYMOUS not in caplog.text


@pytest.mark.parametrize(
    ("option", "returned", "said"),
    [
        ("user_id", 1.5, "must return a str, an int, a UUID or None, not float"),
        ("user_id", "x" * 1_025, "returned more than 1,024 characters"),
        ("consent", True, 'must return a mapping such as {"Advertising": False}, or None, not bool'),
        ("consent", dict.fromkeys(range(65), True), "returned more than 64 categories, or 2,048 characters"),
        ("page_name", 7, "must return a str or None, not int"),
        ("page_name", "x" * 1_025, "returned more than 1,024 characters"),
    ],
)
def test_a_wrong_result_of_a_hook_is_explained(
    option: str, returned: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        client, _ = recording()
        async with client:
            options: Any = {option: lambda scope: returned}
            app = SegmentMiddleware(
                answering(doing=lambda: track(client)), client, page_views=True, no_identity="mint", **options
            )
            assert (await ask(app, visit())).status == 200

    asyncio.run(main())
    assert caplog.messages == [f"Error in {option}: it {said}; continuing without it (logged once)."]


async def hanging(scope: Any) -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("option", ["user_id", "consent", "page_name"])
def test_a_hook_that_hangs_has_one_second(option: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> float:
        client, _ = recording()
        async with client:
            options: Any = {option: hanging}
            app = SegmentMiddleware(answering(doing=lambda: track(client)), client, page_views=True, **options)
            begin = running_clock().time()
            assert (await ask(app, visit())).status == 200
            return running_clock().time() - begin

    assert run(main()) == pytest.approx(1, abs=0.01)
    assert f"Error in {option}: TimeoutError" in caplog.text


def test_a_slow_hook_is_awaited() -> None:
    async def main() -> list[dict[str, Any]]:
        async def slow(scope: Any) -> str:
            await asyncio.sleep(0.9)
            return "user-1"

        client, arrived = recording()
        async with client:
            await ask(SegmentMiddleware(answering(doing=lambda: track(client)), client, user_id=slow), visit())
        return arrived

    assert [message["userId"] for message in run(main())] == ["user-1"]


def test_a_request_that_is_cancelled_is_cancelled() -> None:
    reached: list[str] = []

    async def main() -> None:
        async def handler() -> None:
            reached.append("the application")

        client, _ = recording()
        async with client:
            asking = asyncio.create_task(
                ask(SegmentMiddleware(answering(doing=handler), client, user_id=hanging), visit())
            )
            await asyncio.sleep(0.1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    run(main())
    assert reached == []


def test_a_malformed_scope_reaches_the_application(caplog: pytest.LogCaptureFixture) -> None:
    app = SegmentMiddleware(answering(), page_views=True)
    assert asyncio.run(ask(app, {"type": "http", "path": None})).status == 200
    assert "Error in reading a request: KeyError" in caplog.text


def test_the_applications_own_errors_pass_through() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("its own")

    for options in ({}, {"page_views": True}, {"flush_on_response": 1}):
        with pytest.raises(KeyError, match="its own"):
            asyncio.run(ask(SegmentMiddleware(broken, recording()[0], **options), visit()))


def test_installed_twice_the_inner_one_does_nothing() -> None:
    client, arrived = recording()

    async def main() -> None:
        async with client:
            inner = SegmentMiddleware(answering(doing=lambda: track(client)), client, page_views=True, query="none")
            outer = SegmentMiddleware(inner, client, page_views=True, user_id=lambda scope: "user-1")
            await ask(outer, visit("/?q=1"))

    asyncio.run(main())
    assert [(message["type"], message["userId"]) for message in arrived] == [("track", "user-1"), ("page", "user-1")]
    assert arrived[0]["context"]["page"]["search"] == "?q=1"


@pytest.mark.parametrize(
    "option",
    [
        {"no_identity": "ignore"},
        {"bots": "yes"},
        {"query": "some"},
        {"gpc": "obey"},
        {"gpc": True},
        {"trusted_proxies": "10.0.0.0/8"},
        {"trusted_proxies": ["somewhere"]},
        {"trusted_proxies": None},
        {"exclude": "/admin"},
        {"exclude": None},
        {"exclude": [re.compile("/admin")]},
        {"user_id": 5},
        {"consent": "x"},
        {"page_name": "Home"},
        {"gpc": {"Advertising": "no"}},
        {"gpc": {1: False}},
        {"page_views": "no"},
        {"set_cookie": "no"},
        {"trust_user_cookie": "no"},
        {"flush_on_response": -1},
        {"flush_on_response": float("nan")},
        {"flush_on_response": True},
        {"flush_on_response": "1"},
    ],
)
def test_invalid_options(option: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|does not appear"):
        SegmentMiddleware(answering(), **option)


@pytest.mark.parametrize("gpc", ["obey", True, {"Advertising": "no"}])
def test_the_error_about_gpc_names_every_value_that_it_takes(gpc: Any) -> None:
    with pytest.raises(ValueError, match=r'^gpc must be "ignore", "drop", or True or False for each category'):
        SegmentMiddleware(answering(), gpc=gpc)


# -- lifespan


def test_lifespan_opens_and_closes_around_the_applications_own() -> None:
    recorder = Recorder()
    seen: list[str] = []

    @asynccontextmanager
    async def own(app: Any) -> Any:
        seen.append(f"started {app}")
        yield {"pool": 1}
        seen.append(f"stopped with {len(recorder.messages)} sent")

    async def main() -> Client:
        async with lifespan("KEY", wrap=own, transport=recorder)("app") as state:
            assert state["pool"] == 1
            client: Client = state["segment"]
            await client.track("user-1", "Seen")
        return client

    client = asyncio.run(main())
    assert seen == ["started app", "stopped with 0 sent"]  # the client is open for longer, and is flushed after it
    assert len(recorder.messages) == 1
    with pytest.raises(ClientClosed):
        asyncio.run(client.track("user-1", "Late"))


@asynccontextmanager
async def failing_to_start(app: Any) -> Any:
    raise OSError("its own")
    yield  # makes it a generator


@asynccontextmanager
async def failing_to_stop(app: Any) -> Any:
    yield {}
    raise OSError("its own")


@pytest.mark.parametrize("own", [failing_to_start, failing_to_stop])
def test_the_client_is_closed_after_an_error_in_the_applications_lifespan(own: Any) -> None:
    client, arrived = recording()

    async def main() -> None:
        client.enqueue_nowait(messages.track("user-1", "Seen"))
        with pytest.raises(OSError, match="its own"):
            async with lifespan(client, wrap=own)(None):
                pass
        with pytest.raises(ClientClosed):
            await client.track("user-1", "Late")

    asyncio.run(main())
    assert len(arrived) == 1


def test_an_existing_client_is_used() -> None:
    client, _ = recording()

    async def main() -> None:
        async with lifespan(client)(None) as state:
            assert state == {"segment": client}

    asyncio.run(main())
    with pytest.raises(ValueError, match="flush_at"):
        lifespan(client, flush_at=1)


def test_a_lifespan_that_was_not_called_says_so() -> None:
    with pytest.raises(TypeError, match=r'^call lifespan: .*\(lifespan=lifespan\("WRITE_KEY"\)\)'):
        lifespan(answering())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [blocking.Client, compat.Client])
def test_a_client_of_another_kind_is_refused(kind: Any) -> None:
    client = kind("KEY", send=False)
    with pytest.raises(TypeError, match=r"lifespan needs .*: from segment_async import Client$"):
        lifespan(client)
    with pytest.raises(TypeError, match=r"SegmentMiddleware needs .*: from segment_async import Client$"):
        SegmentMiddleware(answering(), client)


def test_each_start_has_a_new_client() -> None:
    starts = lifespan("KEY", transport=Recorder())

    async def main() -> Client:
        async with starts(None) as state:
            client: Client = state["segment"]
            await client.track("user-1", "Seen")
            return client

    assert asyncio.run(main()) is not asyncio.run(main())


def test_the_middleware_finds_the_lifespans_client() -> None:
    recorder = Recorder()

    async def main() -> None:
        async with lifespan("KEY", transport=recorder)(None) as state:
            app: App = SegmentMiddleware(answering(), page_views=True)
            await ask(app, visit(state=state))

    asyncio.run(main())
    assert [message["type"] for message in recorder.messages] == ["page"]
