"""The settings that SDKs for browsers and phones load, and Segment's own SDK in a browser.

The SDK is the file `index.js` of `@segment/analytics-next` (`dist/umd`), in `.venv-peers` or where `SEGMENT_PEERS` says.
"""

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from segment_async.devserver import Endpoint, serve
from tests.devserver.browser import CHROMIUM, opened
from tests.devserver.exchange import with_endpoint

PEERS = Path(os.environ.get("SEGMENT_PEERS") or Path(__file__).parents[2] / ".venv-peers")
SDK = PEERS / "node_modules" / "@segment" / "analytics-next" / "dist" / "umd"

PAGE = """<!doctype html>
<title>Shop</title>
<script src="/sdk/index.js"></script>
<script>
  const analytics = AnalyticsNext.AnalyticsBrowser.load({ writeKey: "any-key", cdnURL: "CDN" });
  analytics.page("Shop", "Home");
  analytics.identify("user-1", { plan: "pro" });
  analytics.track("Order Completed", { total: 30.5 });
</script>
"""


@pytest.mark.parametrize("origin", [None, "http://localhost:3000"])
def test_they_name_this_endpoint_and_no_destination(origin: str | None) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        headers = {} if origin is None else {"Origin": origin}
        async with session.get("/v1/projects/any-key/settings", headers=headers) as answer:
            assert answer.status == 200
            assert answer.headers.get("Access-Control-Allow-Origin") == origin
            assert "Cross-Origin-Resource-Policy" not in answer.headers
            settings = await answer.json()
        [(name, segment)] = settings["integrations"].items()
        assert (name, segment["apiKey"]) == ("Segment.io", "any-key")
        assert f"{segment['protocol']}://{segment['apiHost']}" == f"{endpoint.url}/v1"
        assert settings["metrics"] == {"sampleRate": 0}

    with_endpoint(case)


def test_pages_of_other_sites_get_none() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        headers = {"Origin": "https://shop.example"}
        async with session.get("/v1/projects/any-key/settings", headers=headers) as answer:
            assert answer.status == 403

    with_endpoint(case)


@pytest.mark.browser
@pytest.mark.peers
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.skipif(not SDK.exists(), reason="@segment/analytics-next is not in .venv-peers")
def test_segments_sdk_in_a_browser_needs_only_the_cdn_url() -> None:
    pytest.importorskip("playwright.async_api", reason="Playwright is not installed")

    async def main() -> None:
        async with serve() as endpoint, shop(endpoint.url) as server:
            asked: list[str] = []
            async with opened("about:blank") as page:
                page.on("request", lambda request: asked.append(request.url))
                await page.goto(str(server.make_url("/")))
                assert await endpoint.wait(3)
            assert [message["type"] for message in endpoint.messages] == ["page", "identify", "track"]
            assert {event.batch.source for event in endpoint.events} == {"any-key"}
            assert [
                verdict for event in endpoint.events for verdict in event.verdicts if verdict.severity != "style"
            ] == []
            assert {url for url in asked if not url.startswith(("http://127.0.0.1", "data:"))} == set()

    asyncio.run(main())


def shop(cdn: str) -> TestServer:
    """A site of its own, whose page uses the SDK."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE.replace("CDN", cdn), content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_static("/sdk", SDK)
    return TestServer(app)
