"""The page as it is served: one file, with its policy. Its behaviour is tested in a browser."""

import base64
import hashlib
import re
from importlib.resources import files

import aiohttp

from segment_async.devserver import Endpoint
from segment_async.devserver._page import policy
from tests.devserver.exchange import with_endpoint

HTML = (files("segment_async.devserver") / "page.html").read_text("utf-8")


def test_its_policy_allows_its_script_and_style_only() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        async with session.get("/") as answer:
            assert await answer.text() == HTML
            allowed = answer.headers["Content-Security-Policy"]
        assert allowed.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in allowed
        assert "*" not in allowed

    with_endpoint(case)


def test_the_policy_hashes_the_text_between_the_tags() -> None:
    digest = base64.b64encode(hashlib.sha256(b"\nlet a = 1\n").digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy("<style>a{}</style><script>\nlet a = 1\n</script>")


def test_it_loads_nothing_from_elsewhere_and_never_parses_text_as_markup() -> None:
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", HTML)) - {"http://www.w3.org/2000/svg"}
    assert addresses == set()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", HTML)
    assert not re.search(r"\son\w+=\"|\sstyle=\"", HTML)
    assert HTML.count("<script>") == HTML.count("<style>") == 1
