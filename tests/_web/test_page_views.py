"""Page views and the cookie: which visits count, what a page call contains, which visitors get an id."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from segment_async import Client, bind
from segment_async._web.bots import is_bot
from segment_async._web.page_views import EXCLUDED, TitleParser, exclusion
from segment_async.asgi import SegmentMiddleware
from tests.support.asgi import ANONYMOUS, Answer, answering, ask, recording, request, visit
from tests.support.user_agents import BOTS, BROWSERS

Message = dict[str, Any]


def seen(scope: dict[str, Any], app: Any = None, **options: Any) -> tuple[list[Message], Answer, dict[str, int]]:
    client, arrived = recording()

    async def main() -> Answer:
        async with client:
            return await ask(SegmentMiddleware(app or answering(), client, **{"page_views": True, **options}), scope)

    answer = asyncio.run(main())
    return arrived, answer, dict(client.statistics().reasons)


def pages(scope: dict[str, Any], app: Any = None, **options: Any) -> list[Message]:
    return [message for message in seen(scope, app, **options)[0] if message["type"] == "page"]


# -- the page call


def test_a_page_view_in_full() -> None:
    scope = visit("/shoes/42?utm_source=mail&token=secret", {"referer": "https://a.example/?token=secret&x=1"})
    scope["route"] = SimpleNamespace(path="/shoes/{number}")
    (page,) = pages(scope)
    assert page["name"] == "/shoes/{number}"
    assert page["anonymousId"] == ANONYMOUS
    assert page["properties"] == {
        "url": "https://shop.example/shoes/42?utm_source=mail",
        "path": "/shoes/42",
        "host": "shop.example",
        "title": "Home",
        "search": "?utm_source=mail",
        "referrer": "https://a.example/?x=1",
    }
    assert page["context"]["page"]["search"] == "?utm_source=mail"
    assert page["context"]["campaign"] == {"source": "mail"}
    assert "secret" not in str(page)
    age = datetime.now(UTC) - datetime.fromisoformat(page["timestamp"])
    assert abs(age) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("query", "expected"),
    [("scrub", "?utm_source=s&q=1"), ("utm", "?utm_source=s"), ("none", None), ("all", "?utm_source=s&q=1&token=t")],
)
def test_the_query_modes(query: Any, expected: str | None) -> None:
    (page,) = pages(visit("/?utm_source=s&q=1&token=t"), query=query)
    assert page["properties"].get("search") == page["context"]["page"].get("search") == expected
    assert ("campaign" in page["context"]) is (query != "none")


async def named(scope: Any) -> str:
    return f"Page {scope['path']}"


@pytest.mark.parametrize("page_name", [lambda scope: f"Page {scope['path']}", named])
def test_the_name_of_the_application(page_name: Any) -> None:
    (page,) = pages(visit("/a"), page_name=page_name)
    assert page["name"] == "Page /a"


def test_a_path_is_not_a_name() -> None:
    (page,) = pages(visit("/users/1234567"))
    assert "name" not in page


def test_the_route_below_a_mount_and_litestars_template() -> None:
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        scope["root_path"] += "/shop"
        scope["route"] = SimpleNamespace(path="/shoes/{number}")
        await answering()(scope, receive, send)

    assert pages(visit("/api/shop/shoes/1", root_path="/api"), mounted)[0]["name"] == "/shop/shoes/{number}"
    assert pages(visit("/a/1", path_template="/a/{b}"))[0]["name"] == "/a/{b}"


def test_a_mount_is_not_a_route() -> None:
    async def files(scope: Any, receive: Any, send: Any) -> None:
        scope["root_path"] += "/files"
        scope["route"] = SimpleNamespace(path="/files", routes=[])
        await answering()(scope, receive, send)

    (page,) = pages(visit("/files/about.html"), files)
    assert "name" not in page


def test_a_login_within_the_request_identifies_the_page_view() -> None:
    async def log_in() -> None:
        bind(user_id="user-1")

    (page,) = pages(visit(), answering(doing=log_in))
    assert (page["userId"], page["anonymousId"]) == ("user-1", ANONYMOUS)


# -- titles


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        (b"<title>Fish &amp; Chips\n  \xc3\xa9</title>", "Fish & Chips é"),
        (b"<HEAD><TITLE lang='en'>Loud</TITLE>", "Loud"),
        (b"<title></title>", None),
        (b"<title>never closed", None),
        (b"<title", None),
        (b"no title", None),
        (b"<title>" + b"x" * 600 + b"</title>", "x" * 512),
        (b" " * 40_000 + b"<title>Too far down</title>", None),
    ],
)
def test_the_title(html: bytes, expected: str | None) -> None:
    for step in (1_000, len(html)):
        reader = TitleParser([(b"content-type", b"text/html")])
        for begin in range(0, len(html), step):
            reader.feed(html[begin : begin + step])
        assert reader.title() == expected


def test_the_title_in_other_encodings() -> None:
    for content_type, body, expected in (
        (b"text/html; charset=iso-8859-1", b"<title>\xe9</title>", "é"),
        (b"text/html; charset=no-such", b"<title>\xc3\xa9</title>", "é"),
        (b"text/html; charset=\xff", b"<title>a</title>", "a"),
        (b"text/html; charset=hex", b"<title>a</title>", "a"),
        (b"text/html; charset=undefined", b"<title>a</title>", "a"),
    ):
        reader = TitleParser([(b"Content-Type", content_type)])
        reader.feed(body)
        assert reader.title() == expected
    zipped = TitleParser([(b"content-encoding", b"gzip")])
    zipped.feed(b"<title>not really</title>")
    assert zipped.title() is None


# -- responses that are no page view


@pytest.mark.parametrize(
    "options",
    [
        {"status": 404},
        {"status": 302},
        {"status": 500},
        {"content_type": "application/json"},
        {"content_type": "text/plain"},
    ],
)
def test_only_html_with_a_2xx(options: Any) -> None:
    assert pages(visit(), answering(**options)) == []


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "OPTIONS"])
def test_only_get(method: str) -> None:
    assert pages(visit(method=method)) == []


def test_page_views_are_off_by_default() -> None:
    assert pages(visit(), page_views=False) == []


@pytest.mark.parametrize("headers", [{"sec-purpose": "prefetch"}, {"purpose": "prefetch"}, {"x-moz": "prefetch"}])
def test_not_for_prefetches(headers: Any) -> None:
    assert pages(visit(headers=headers)) == []


def test_a_page_view_without_an_id_is_dropped_and_counted() -> None:
    for no_identity in ("skip", "raise"):
        arrived, answer, reasons = seen(request(), no_identity=no_identity)
        assert (arrived, answer.status, reasons) == ([], 200, {"no_identity": 1})


def test_not_if_the_response_is_never_complete() -> None:
    async def cut(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        raise ConnectionError

    with pytest.raises(ConnectionError):
        pages(visit(), cut)


@pytest.mark.parametrize(
    "path", ["/health", "/healthz", "/static/a.html", "/docs", "/docs/oauth2-redirect", "/openapi.json"]
)
def test_default_exclusions(path: str) -> None:
    assert pages(visit(path)) == []
    assert len(pages(visit(path), exclude=())) == 1
    assert pages(visit("/api" + path, root_path="/api")) == []


@pytest.mark.parametrize(
    ("paths", "excluded", "included"),
    [
        (["/admin"], ["/admin", "/admin/", "/admin/users"], ["/administration", "/", "/x/admin"]),
        (["/admin/"], ["/admin", "/admin/users"], ["/administration"]),
        (["/a*/private"], ["/abc/private", "/a/private/x"], ["/abc"]),
        (["/"], ["/"], ["/a"]),
        ([], [], ["/"]),
        (EXCLUDED, ["/redoc", "/assets/app.js", "/livez"], ["/", "/documents", "/healthy-food", "/doc"]),
    ],
)
def test_exclusion_patterns(paths: list[str], excluded: list[str], included: list[str]) -> None:
    pattern: re.Pattern[str] = exclusion(paths)
    assert [path for path in excluded + included if pattern.match(path)] == excluded


# -- bots and browsers


def test_a_hundred_browsers_are_counted() -> None:
    assert len(set(BROWSERS)) >= 100
    assert [agent for agent in BROWSERS if is_bot(agent)] == []
    assert all(pages(visit(headers={"user-agent": agent})) for agent in BROWSERS[::10])


def test_bots_are_not_counted() -> None:
    assert len(set(BOTS)) >= 20
    assert [agent for agent in BOTS if not is_bot(agent)] == []
    assert not any(pages(visit(headers={"user-agent": agent})) for agent in [*BOTS, ""])
    assert len(pages(visit(headers={"user-agent": BOTS[0]}), bots="include")) == 1


def test_the_maintained_list_is_used_if_installed() -> None:
    crawlers = pytest.importorskip("crawleruseragents", reason="the extra bots is not installed")
    only_there = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/142.0.0.0 Safari/537.36"
    assert crawlers.is_crawler(only_there)
    assert is_bot(only_there)


# -- consent and privacy control

OBJECTING = {"sec-gpc": "1"}


@pytest.mark.parametrize(
    ("options", "headers", "is_counted"),
    [
        ({"consent": lambda scope: {"Analytics": False, "Ads": False}}, {}, False),
        ({"consent": lambda scope: {}}, {}, False),
        ({"consent": lambda scope: {"Analytics": "true"}}, {}, False),
        ({"consent": lambda scope: {"Analytics": True, "Ads": False}}, {}, True),
        ({"consent": lambda scope: None}, {}, True),
        ({"consent": lambda scope: 1 / 0}, {}, False),
        ({"gpc": "drop"}, OBJECTING, False),
        ({"gpc": "drop"}, {"sec-gpc": "0"}, True),
        ({"gpc": "ignore"}, OBJECTING, True),
        ({"gpc": {"Ads": False}}, OBJECTING, True),
        ({"gpc": {"Ads": False}, "consent": lambda scope: {"Ads": True}}, OBJECTING, False),
        ({"gpc": {"Ads": False}, "consent": lambda scope: {"Ads": True}}, {}, True),
        ({"gpc": {"Ads": False, "Forms": True}, "consent": lambda scope: {}}, OBJECTING, False),
        ({"gpc": {"Ads": False, "Forms": True}, "consent": lambda scope: {"Forms": False}}, OBJECTING, False),
        ({"gpc": {"Ads": False, "Forms": True}, "consent": lambda scope: 1 / 0}, OBJECTING, False),
        ({"gpc": {"Ads": False, "Forms": True}, "consent": lambda scope: {"Ads": True}}, OBJECTING, True),
    ],
)
def test_denied_consent_and_privacy_control(options: Any, headers: Any, is_counted: bool) -> None:
    assert bool(pages(visit(headers=headers), **options)) is is_counted


# -- the cookie


def test_a_visitor_gets_an_id_and_the_page_view_has_it() -> None:
    (page,), answer, _ = seen(request(), set_cookie=True)
    (cookie,) = answer.cookies
    assert cookie == f"ajs_anonymous_id={page['anonymousId']}; Max-Age=31536000; Path=/; SameSite=Lax"


@pytest.mark.parametrize("accept", ["text/html,*/*", "*/*"])
def test_calls_before_the_response_have_it_in_requests_for_html(accept: str) -> None:
    client, arrived = recording()

    async def main() -> None:
        async with client:
            app = answering(doing=lambda: client.track(event="Seen"))
            await ask(
                SegmentMiddleware(app, client, page_views=True, set_cookie=True), request("/", {"accept": accept})
            )

    asyncio.run(main())
    assert [message["type"] for message in arrived] == (["track", "page"] if "html" in accept else ["page"])
    assert len({message["anonymousId"] for message in arrived}) == 1


@pytest.mark.parametrize(
    ("scope", "app", "options"),
    [
        (visit(), answering(), {}),  # has a cookie
        (request(), answering(content_type="application/json"), {}),
        (request(method="POST"), answering(), {}),
        (request(headers={"user-agent": BOTS[0]}), answering(), {}),
        (request("/health"), answering(), {}),
        (request(headers={"sec-purpose": "prefetch"}), answering(), {}),
        (request(), answering(headers={"cache-control": "public, max-age=60"}), {}),
        (request(), answering(headers={"cache-control": "s-maxage=60"}), {}),
        (request(), answering(headers={"cache-control": "max-age=60", "Cache-Control": "public"}), {}),
        (request(), answering(), {"set_cookie": False}),
        (request(), answering(), {"consent": lambda scope: {"Analytics": False}}),
        (request(), answering(), {"consent": lambda scope: None}),  # consent not known yet
        (request(headers=OBJECTING), answering(), {"gpc": "drop"}),
    ],
)
def test_visitors_without_a_cookie(scope: Any, app: Any, options: Any) -> None:
    assert seen(dict(scope), app, **{"set_cookie": True, **options})[1].cookies == []


def test_an_id_set_by_the_application_is_kept() -> None:
    app = answering(headers={"set-cookie": "ajs_anonymous_id=own; Path=/"})
    assert seen(request(), app, set_cookie=True)[1].cookies == ["ajs_anonymous_id=own; Path=/"]


def test_given_consent_allows_it() -> None:
    granted = {"consent": lambda scope: {"Analytics": True}}
    assert len(seen(request(), set_cookie=True, **granted)[1].cookies) == 1


def test_a_redirect_sets_the_cookie() -> None:
    _, answer, _ = seen(request(), answering(status=303, content_type="text/plain"), set_cookie=True)
    assert len(answer.cookies) == 1


def test_a_minted_id_becomes_the_cookie() -> None:
    (page,), answer, _ = seen(request(), set_cookie=True, no_identity="mint")
    assert page["anonymousId"] in answer.cookies[0]


# -- errors


def test_a_page_view_that_cannot_be_sent_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    for middleware in (
        SegmentMiddleware(answering(), page_views=True),  # without a client
        SegmentMiddleware(answering(), closed_client(), page_views=True),
        SegmentMiddleware(answering(), recording()[0], page_views=True, page_name=lambda scope: 1 / 0),
    ):
        caplog.clear()
        for _ in range(2):
            assert asyncio.run(ask(middleware, visit())).body.endswith(b"</html>")
        assert [record.name for record in caplog.records] == ["segment_async"]


def closed_client() -> Client:
    client, _ = recording()
    asyncio.run(client.aclose())
    return client


def test_headers_from_a_generator() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        pairs = ((name, value) for name, value in [(b"content-type", b"text/html"), (b"x-own", b"1")])
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await send({"type": "http.response.body", "body": b""})

    (_, answer, _) = seen(visit(), app)
    assert answer.headers == [(b"content-type", b"text/html"), (b"x-own", b"1")]
