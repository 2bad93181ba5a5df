"""A real browser visits the FastAPI example: it keeps the cookie, and its client hints arrive."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed")

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from segment_async.asgi import SegmentMiddleware
from segment_async.fastapi import Segment, lifespan
from tests.devserver.browser import CHROMIUM, opened
from tests.support.asgi import Recorder, served

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="Playwright is not installed"),
]


def test_a_visit() -> None:
    recorder = Recorder()
    app = FastAPI(lifespan=lifespan("KEY", transport=recorder))
    # Headless Chromium says so in its User-Agent, and a maintained list of bots contains it.
    app.add_middleware(SegmentMiddleware, page_views=True, set_cookie=True, bots="include")

    @app.get("/", response_class=HTMLResponse)
    async def home(segment: Segment) -> str:
        await segment.track(event="Greeted")
        return "<title>Home</title><link rel=icon href=data:,><a href='/shoes/42?size=7'>Shoes</a>"

    @app.get("/shoes/{number}", response_class=HTMLResponse)
    async def shoes(number: int) -> str:
        return "<title>Shoes</title><link rel=icon href=data:,>"

    async def main() -> tuple[str, str, list[dict[str, Any]]]:
        async with served(app) as url:
            async with opened(f"{url}/?utm_source=mail&token=secret") as page:
                seen_by_scripts = await page.evaluate("document.cookie")
                (cookie,) = await page.context.cookies()
                assert (cookie["sameSite"], cookie["httpOnly"]) == ("Lax", False)
                await page.click("a")
                await page.wait_for_url("**/shoes/42*")
                agent = await page.evaluate("navigator.userAgent")
        return seen_by_scripts, agent, recorder.messages

    cookie, agent, messages = asyncio.run(main())
    event, home_view, shoes_view = messages
    assert [event["event"], home_view["name"], shoes_view["name"]] == ["Greeted", "/", "/shoes/{number}"]
    assert {f"ajs_anonymous_id={message['anonymousId']}" for message in messages} == {cookie}
    for message in messages:
        context = message["context"]
        assert (context["ip"], context["userAgent"], context["locale"]) == ("127.0.0.1", agent, "en-US")
        assert context["userAgentData"]["mobile"] is False
        assert "Chromium" in {brand["brand"] for brand in context["userAgentData"]["brands"]}
    assert home_view["context"]["campaign"] == {"source": "mail"}
    assert shoes_view["properties"]["search"] == "?size=7"
    assert shoes_view["properties"]["referrer"].endswith("/?utm_source=mail")
