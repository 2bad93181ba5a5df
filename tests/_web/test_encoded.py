"""The context as JSON: always the same as the context as a dict, from pieces that are bounded in bytes."""

from __future__ import annotations

import asyncio
import tracemalloc
from ipaddress import ip_network
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment_async._hooks import HookRunner
from segment_async._web.bots import is_bot
from segment_async._web.encoded import Pieces, addresses, context_json, referrers, sites
from segment_async._web.options import reader_for
from segment_async._web.request import all_headers_of, context_of, headers_of, pieces_of
from tests.support.asgi import ANONYMOUS, request, visit

PROXIES = (ip_network("10.0.0.0/8"),)
CHROME = {
    "sec-ch-ua": '"Chromium";v="142", "Not A;Brand";v="99"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"mac\\"OS"',
}


def both(scope: dict[str, Any], trusted: Any = (), query: Any = "scrub") -> tuple[Any, Any]:
    pieces = pieces_of(scope)
    headers = all_headers_of(pieces)
    json = context_json(pieces, headers, trusted, query)
    assert context_json(pieces, headers, trusted, query) == json
    return orjson.loads(b"{%b}" % json), context_of(scope, headers_of(scope), trusted, query)


@pytest.mark.parametrize(
    "scope",
    [
        request(),
        visit("/shoes?utm_source=mail&utm_campaign=%22x%22&token=secret", {"accept-language": "de-CH,de;q=0.9"}),
        request("/a b/ü", CHROME | {"referer": "https://user:pw@else.example/?q=%C3%BC#x"}),
        request(raw_path=b"/caf%C3%A9?x=1", headers={"referer": "https://else.example/\xe9"}),
        request(raw_path=b'/"quoted"\\', root_path="/app"),
        request(root_path="/über", path="/über/x"),
        request(client=None),
        request(client=("2001:db8::1%eth0", 1)),
        request(client=("unix:/run/app.sock", 0)),
        request(client=(["odd"], 0)),
        request(client=("10.0.0.1", 1), headers={"x-forwarded-for": "1.2.3.4", "x-forwarded-proto": "https"}),
        request(scheme="wss", type="websocket"),
        request(scheme='we"ird\\'),
        request(headers={"host": "shop.example:bad"}),
        request(headers={"user-agent": "x" * 3_000, "referer": "https://a.example/" + "y" * 3_000}),
        request(headers={"user-agent": 'Odd "quotes" \\ and ü', "accept-language": "x" * 2_000}),
        {"type": "http", "headers": [], "method": "GET"},
        {"type": "http", "headers": [[b"host", b"a.example"], [b"host", b"b.example"], [b"cookie", b"a=1"]]},
        request("/" + "x" * 2_040 + "?" + "q" * 100),
    ],
    ids=range(19),
)
@pytest.mark.parametrize("trusted", [(), PROXIES], ids=["open", "proxied"])
@pytest.mark.parametrize("query", ["scrub", "all", "none", "utm"])
def test_it_is_the_context(scope: Any, trusted: Any, query: Any) -> None:
    encoded, expected = both(scope, trusted, query)
    assert encoded == expected


NAMES = (b"user-agent", b"accept-language", b"host", b"referer", b"sec-ch-ua", b"sec-ch-ua-mobile", b"x-forwarded-for")
ODD = st.sampled_from(
    [b"", b"shop.example", b"de", b'"a";v="1"', b"10.0.0.1", b"https://a.example/?q=1", b"\xff", b'"']
)
SCOPES = st.fixed_dictionaries(
    {"headers": st.lists(st.tuples(st.sampled_from(NAMES), ODD | st.binary(max_size=40)), max_size=9)},
    optional={
        "client": st.none() | st.tuples(st.sampled_from(["10.0.0.1", "192.0.2.1", "::1", "", "host"]), st.just(1)),
        "scheme": st.sampled_from(["http", "https", "ws", 'odd"']),
        "path": st.text(max_size=20).map(lambda text: "/" + text),
        "raw_path": st.none() | st.binary(max_size=20),
        "root_path": st.sampled_from(["", "/app", "/ü"]),
        "query_string": st.binary(max_size=40) | st.just(b"utm_source=a&token=b&c=%22"),
    },
)


@given(SCOPES, st.sampled_from([(), PROXIES]), st.sampled_from(["scrub", "all", "none", "utm"]))
def test_it_is_the_context_of_any_request(scope: Any, trusted: Any, query: Any) -> None:
    encoded, expected = both(scope, trusted, query)
    assert encoded == expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"no_identity": "mint"},
        {"trust_user_cookie": True},
        {"user_id": lambda scope: "user-7", "no_identity": "mint"},
        {"user_id": lambda scope: None, "trust_user_cookie": True},
        {"consent": lambda scope: {"Analytics": True, "odd \ud800": False}},
        {"consent": lambda scope: {}},
        {"consent": lambda scope: 1 / 0},
        {"gpc": {"Advertising": False}},
        {"gpc": "drop"},
    ],
    # Not `str`: a function's address is another one in each of pytest-xdist's processes.
    ids=lambda options: "+".join(options) or "nothing",
)
@pytest.mark.parametrize("cookie", [None, "ajs_anonymous_id=a-1", "x=1; ajs_anonymous_id=a-1; ajs_user_id=%22u-1%22"])
def test_a_request_says_the_same_whenever_it_is_read(options: Any, cookie: Any) -> None:
    scope = request("/shoes", {"sec-gpc": "1"} | ({} if cookie is None else {"cookie": cookie}))
    reader = reader_for(HookRunner(), **options)

    async def main() -> tuple[Any, Any]:
        first, later = (await reader.read(dict(scope))).encoded(), reader.later(dict(scope), await reader.ask(scope))()
        return first, later

    first, later = asyncio.run(main())
    if options.get("no_identity") == "mint" and first[1] is not None and not cookie:
        assert later[1] not in (None, first[1])
        first = (first[0], later[1], first[2])
    assert later[:2] == first[:2]
    assert orjson.loads(b"{%b}" % later[2]) == orjson.loads(b"{%b}" % first[2])


def test_any_iterable_of_headers_is_read() -> None:
    for headers in (tuple, iter, lambda sent: dict(sent).items()):
        scope = visit()
        scope["headers"] = headers(scope["headers"])
        read = reader_for(HookRunner()).later(scope)
        assert read()[1] == ANONYMOUS


def test_a_request_that_cannot_be_read_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    reader = reader_for(HookRunner())
    for scope in ({"type": "http"}, {"type": "http", "headers": 5}, request() | {"path": None, "raw_path": None}):
        assert reader.later(scope)() == (None, None, b"")
    assert [record.message.partition(";")[0] for record in caplog.records] == ["Error in reading a request: KeyError"]


def test_equal_requests_share_their_pieces() -> None:
    both(visit("/one", {"user-agent": "shared/1", "referer": "https://shared.example/"}))
    kept = len(sites.kept), len(addresses.kept), len(referrers.kept)
    both(visit("/two", {"user-agent": "shared/1", "referer": "https://shared.example/"}))
    assert (len(sites.kept), len(addresses.kept), len(referrers.kept)) == kept


def test_pieces_are_bounded_in_bytes() -> None:
    made: list[int] = []

    def make(key: int) -> tuple[bytes, int]:
        made.append(key)
        return b"%d" % key, 488

    pieces = Pieces(make, 10_000)
    for key in range(100):
        assert pieces.add(key) == b"%d" % key
        assert len(pieces.kept) <= 10
    assert made == list(range(100))
    assert 99 in pieces.kept
    for _ in range(100):
        pieces.add(99)
    assert 98 in pieces.kept


def test_a_large_piece_is_not_kept() -> None:
    pieces = Pieces(lambda key: (b"piece", key), 1 << 20)
    assert pieces.add(5_000) == b"piece"
    assert pieces.add(100) == b"piece"
    assert list(pieces.kept) == [100]


def test_headers_that_are_too_long_are_not_kept() -> None:
    names = ("user-agent", "accept-language", "host", "referer", "x-forwarded-for", "x-forwarded-proto", *CHROME)
    tracemalloc.start()
    try:
        for number in range(30):
            scope = visit(headers={name: f"{number}-{name}" + "x" * 50_000 for name in names}, client=("10.0.0.1", 1))
            both(scope)
            both(scope, trusted=PROXIES)
            assert is_bot(str(scope["headers"]))
            del scope
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


def test_what_visitors_send_is_bounded() -> None:
    before = sum(map(len, (sites.kept, addresses.kept, referrers.kept)))
    for number in range(20):
        long = f"{number}-" + "x" * 2_000
        both(
            visit(
                headers={"user-agent": long, "host": long, "referer": f"https://a.example/{long}"}, client=(long * 3, 1)
            )
        )
    assert sum(map(len, (sites.kept, addresses.kept, referrers.kept))) == before
