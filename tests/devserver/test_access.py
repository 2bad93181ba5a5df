"""Access control: host names, origins, the token, and the headers for browsers."""

import re
import subprocess
import sys

import aiohttp
import pytest

from segment_async.devserver import Endpoint, serve
from segment_async.devserver._access import AccessControl
from tests.devserver.exchange import KEY, body, raw, track, with_endpoint

INSIDE = ["/", "/_dev/events", "/_dev/summary", "/_dev/wait?count=0", "/_dev/chaos", "/_dev/stream"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "127.0.0.1:8765.evil.example",
        "",
        "[::1",
    ],
)
def test_a_foreign_host_is_refused_everywhere(host: str) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        for path in INSIDE:
            async with session.get(path, headers={"Host": host}) as answer:
                assert answer.status in (400, 403)
        async with session.post("/v1/batch", data=body(track()), headers={**KEY, "Host": host}) as answer:
            assert answer.status in (400, 403)
        assert endpoint.messages == []

    with_endpoint(case)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "shop.localhost:8765", "127.0.0.1:80", "127.9.9.9", "[::1]:8765"]
)
def test_names_of_this_machine_are_accepted(host: str) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        async with session.get("/_dev/summary", headers={"Host": host}) as answer:
            assert answer.status == 200

    with_endpoint(case)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://localhost.evil.example", "null", "http://localhost:3000"]
)
def test_other_pages_cannot_read(origin: str) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        for path in INSIDE:
            async with session.get(path, headers={"Origin": origin}) as answer:
                assert answer.status == 403
        async with session.delete("/_dev/events", headers={"Origin": origin}) as answer:
            assert answer.status == 403
        async with session.put("/_dev/chaos", data="500:100%", headers={"Origin": origin}) as answer:
            assert answer.status == 403

    with_endpoint(case)


def test_its_own_page_can_read() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        headers = {"Origin": endpoint.url, "Sec-Fetch-Site": "same-origin"}
        async with session.get("/_dev/summary", headers=headers) as answer:
            assert answer.status == 200
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"

    with_endpoint(case)


def test_requests_for_another_site_without_an_origin_are_refused_but_links_work() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        crossing = {"Sec-Fetch-Site": "cross-site"}
        for path, mode, expected in [
            ("/_dev/events", "no-cors", 403),
            ("/_dev/events", "navigate", 403),
            ("/", "no-cors", 403),
            ("/", "navigate", 200),
        ]:
            async with session.get(path, headers={**crossing, "Sec-Fetch-Mode": mode}) as answer:
                assert answer.status == expected

    with_endpoint(case)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:3000", 200),
        ("https://127.0.0.1", 200),
        ("http://[::1]:5173", 200),
        ("https://shop.example", 200),
        ("https://SHOP.example", 200),
        ("http://shop.example", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("file://localhost", 403),
        ("http://localhost@evil.example", 403),
        ("http://127.0.0.1:8765.evil.example", 403),
    ],
)
def test_local_pages_and_allowed_origins_may_post(origin: str, expected: int) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        headers = {**KEY, "Origin": origin, "Content-Type": "text/plain"}
        async with session.post("/v1/batch", data=body(track()), headers=headers) as answer:
            assert answer.status == expected
            assert answer.headers.get("Access-Control-Allow-Origin") == (origin if expected == 200 else None)
        assert len(endpoint.messages) == (expected == 200)
        asking = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        async with session.options("/v1/t", headers=asking) as answer:
            assert answer.status == (204 if expected == 200 else 403)
            assert ("Access-Control-Allow-Headers" in answer.headers) == (expected == 200)

    with_endpoint(case, allow_origins=("https://shop.example/",))


WRONG_ORIGINS = (
    "", "*", "shop.test", "shop.test:8080", "//shop.test", "https://", "https://shop.test/cart", "https://shop.test?a=1",
    "https://shop.test#a", "https://user@shop.test", "https://*.shop.test", "https://shop.test:http", "https://shop test",
)  # fmt: skip


@pytest.mark.parametrize("origin", WRONG_ORIGINS)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match=r"is not an origin, such as https://shop\.test"):
        AccessControl((origin,))


def test_a_single_origin_is_no_list_of_origins() -> None:
    text = "allow_origins must be a list of origins, such as ['https://shop.test']"
    with pytest.raises(ValueError, match=re.escape(text)):
        AccessControl("https://shop.test")  # type: ignore[arg-type]


@pytest.mark.parametrize("module", ["segment_async", "segment_async.devserver"])
def test_on_the_command_line_it_is_wrong_usage(module: str) -> None:
    command = [sys.executable, "-m", module, *(["dev"] if module == "segment_async" else [])]
    done = subprocess.run(
        [*command, "--port", "0", "--allow-origin", "shop.test"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "'shop.test' is not an origin" in done.stderr


@pytest.mark.parametrize(
    ("allowed", "sent"),
    [
        ("https://shop.test:443", "https://shop.test"),
        ("http://shop.test:80/", "http://shop.test"),
        ("https://shop.test:8443", "https://shop.test:8443"),
        ("HTTPS://Shop.test", "https://shop.test"),
        ("http://[2001:db8::1]:3000", "http://[2001:db8::1]:3000"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("null", "null"),
    ],
)
def test_an_allowed_origin_is_compared_as_browsers_send_it(allowed: str, sent: str) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        headers = {**KEY, "Origin": sent, "Content-Type": "text/plain"}
        async with session.post("/v1/batch", data=body(track()), headers=headers) as answer:
            assert answer.status == 200

    with_endpoint(case, allow_origins=(allowed,))


def test_beyond_loopback_a_token_is_required() -> None:
    async def case() -> None:
        async with serve("0.0.0.0"):
            raise AssertionError("it listens")

    with pytest.raises(ValueError, match="token"):
        case().send(None)


def test_a_token_is_required_everywhere() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        for path in INSIDE:
            for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "segment-dev-token=wrong"}):
                async with session.get(path, headers=wrong) as answer:
                    assert answer.status == 401
        async with session.get("/_dev/summary", headers={"Authorization": "Bearer sesame"}) as answer:
            assert answer.status == 200
        async with session.get("/_dev/summary?token=sesame") as answer:
            assert answer.status == 200
        async with session.post("/v1/batch", data=body(track()), headers=KEY) as answer:
            assert answer.status == 401
        async with session.post("/v1/batch", data=body(track(), writeKey="sesame")) as answer:
            assert answer.status == 200

    with_endpoint(case, host="0.0.0.0", token="sesame")


def test_the_token_moves_from_the_url_into_a_cookie() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        async with session.get("/?token=sesame", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            cookie = answer.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
        async with session.get("/", headers={"Cookie": cookie.partition(";")[0]}) as answer:
            assert answer.status == 200

    with_endpoint(case, host="0.0.0.0", token="sesame")


def test_a_token_of_any_bytes_is_a_wrong_one() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        for header in (b"Authorization: Bearer \xff", b"Cookie: segment-dev-token=\xff"):
            assert await raw(endpoint, b"GET /_dev/summary HTTP/1.1\r\n" + header) == 401

    with_endpoint(case, host="0.0.0.0", token="sesame")
