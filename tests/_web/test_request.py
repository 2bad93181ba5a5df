"""For any request, each field of the context is correct or absent, and nothing raises."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment_async._web.request import (
    client_ip,
    context_of,
    has_gpc_signal,
    headers_of,
    is_prefetch,
    locale,
    path_within,
    referrer,
    user_agent_data,
)
from tests.support.asgi import FIREFOX, request

PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "fd00::/8", "127.0.0.1/32")))


def context(path: str = "/", headers: dict[str, Any] | None = None, **scope: Any) -> dict[str, Any]:
    asked = request(path, headers, **scope)
    return context_of(asked, headers_of(asked), (), "scrub")


def test_a_browsers_request_in_full() -> None:
    assert context(
        "/sale/shoes?utm_source=mail&utm_campaign=spring%20sale&size=42",
        {
            "accept-language": "de-CH,de;q=0.9,en;q=0.8",
            "referer": "https://mail.example/inbox?folder=1",
            "sec-ch-ua": '"Chromium";v="142", "Not A;Brand";v="99"',
            "sec-ch-ua-mobile": "?0",
            "sec-ch-ua-platform": '"macOS"',
        },
    ) == {
        "channel": "server",
        "ip": "203.0.113.9",
        "userAgent": FIREFOX,
        "userAgentData": {
            "brands": [{"brand": "Chromium", "version": "142"}, {"brand": "Not A;Brand", "version": "99"}],
            "mobile": False,
            "platform": "macOS",
        },
        "locale": "de-CH",
        "campaign": {"source": "mail", "name": "spring sale"},
        "page": {
            "path": "/sale/shoes",
            "url": "https://shop.example/sale/shoes?utm_source=mail&utm_campaign=spring%20sale&size=42",
            "search": "?utm_source=mail&utm_campaign=spring%20sale&size=42",
            "referrer": "https://mail.example/inbox?folder=1",
        },
    }


def test_an_empty_request() -> None:
    bare: dict[str, Any] = {"type": "http", "path": "", "headers": [], "query_string": b"", "client": None}
    assert context_of(bare, headers_of(bare), PRIVATE, "all") == {"channel": "server"}


# -- addresses


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "expected"),
    [
        ("203.0.113.9", "6.6.6.6", (), "203.0.113.9"),  # no trusted proxies: the header may be forged
        ("203.0.113.9", "6.6.6.6", PRIVATE, "203.0.113.9"),  # not from a trusted proxy: forged
        ("10.0.0.1", "198.51.100.7", PRIVATE, "198.51.100.7"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.7", PRIVATE, "198.51.100.7"),  # our proxy found the left one in the header
        ("10.0.0.1", "6.6.6.6, 198.51.100.7, 10.0.0.2 , ", PRIVATE, "198.51.100.7"),
        ("10.0.0.1", "10.1.1.1, 10.0.0.2", PRIVATE, "10.1.1.1"),  # all trusted: a call from the own network
        ("10.0.0.1", "", PRIVATE, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7:4711", PRIVATE, "198.51.100.7"),
        ("10.0.0.1", "[2001:db8::7]:4711", PRIVATE, "2001:db8::7"),
        ("10.0.0.1", "198.51.100.7, unknown", PRIVATE, None),  # the address that our proxy saw is unreadable
        ("10.0.0.1", "198.51.100.7, _hidden", PRIVATE, None),
        ("10.0.0.1", "x" * 60_000 + ", 198.51.100.7", PRIVATE, "198.51.100.7"),
        ("10.0.0.1", "6.6.6.6, 1" + ", 10.0.0.2" * 102 + ", 10.0.0.234", PRIVATE, "10.0.0.2"),  # too many proxies
        ("10.0.0.1", "198.51.100.7%eth0", PRIVATE, None),  # only IPv6 has zones
        ("10.0.0.1", "[fe80::7%25]:443", PRIVATE, "fe80::7"),
        ("10.0.0.1", "fe80::7%%", PRIVATE, None),
        ("10.0.0.1", "010.0.0.7", PRIVATE, None),  # some read it as octal
        ("10.0.0.1", "::ffff:198.51.100.7", PRIVATE, "198.51.100.7"),
        ("fd00::1", "2001:DB8:0::7", PRIVATE, "2001:db8::7"),
        ("::ffff:10.0.0.1", "198.51.100.7", PRIVATE, "198.51.100.7"),
        ("fe80::1%eth0", "", (), "fe80::1"),
        ("testclient", "6.6.6.6", PRIVATE, None),
    ],
)
def test_the_client_is_the_first_untrusted_address(
    peer: str, forwarded: str, trusted: Any, expected: str | None
) -> None:
    assert client_ip({"client": (peer, 1)}, {b"x-forwarded-for": forwarded.encode()}, trusted) == expected


def is_plain(address: IPv4Address | IPv6Address) -> bool:
    return getattr(address, "ipv4_mapped", None) is None


ADDRESSES = st.one_of(
    st.ip_addresses(network="10.0.0.0/8"), st.ip_addresses(network="fd00::/8"), st.ip_addresses().filter(is_plain)
)


def spelled(address: IPv4Address | IPv6Address) -> st.SearchStrategy[tuple[Any, str]]:
    if address.version == 4:
        ways = [f"{address}", f"{address}:8080", f"::ffff:{address}", f"[::ffff:{address}]:1", f" {address} "]
    else:
        ways = [f"{address}", f"[{address}]", f"[{address}]:443", f"{address}%eth0", address.exploded.upper()]
    return st.sampled_from([(address, way) for way in ways])


GARBAGE = [
    "unknown",
    "_x",
    "999.1.1.1",
    "1.2.3",
    "[::1",
    "::1]",
    "1.2.3.4:x",
    "%",
    "0x7f.1",
    "1.2.3.4 5",
    "\u0661.2.3.4",
]


@given(
    peer=ADDRESSES,
    chain=st.lists(
        st.one_of(ADDRESSES.flatmap(spelled), st.sampled_from([(None, text) for text in GARBAGE])), max_size=9
    ),
)
def test_any_chain_of_proxies_in_any_notation(peer: Any, chain: list[tuple[Any, str]]) -> None:
    expected = peer
    for address, _ in reversed(chain):
        if expected is None or not any(expected in network for network in PRIVATE):
            break
        expected = address
    forwarded = ", ".join(text for _, text in chain).encode()
    found = client_ip({"client": (str(peer), 1)}, {b"x-forwarded-for": forwarded}, PRIVATE)
    assert found == (None if expected is None else str(expected))


@pytest.mark.parametrize("client", [None, (None, 0), ("", 0), ()])
def test_a_connection_without_an_address(client: Any) -> None:
    assert client_ip({"client": client}, {}, PRIVATE) is None


@pytest.mark.parametrize(
    ("scheme", "forwarded", "expected"),
    [
        *(("http", "https", "https"), ("https", "http", "http"), ("http", "wss", "http"), ("http", "", "http")),
        *(("ws", "https", "wss"), ("ws", "wss", "wss"), ("wss", "http", "ws"), ("ws", "gopher", "ws")),
        ("odd", "https", "odd"),
    ],
)
def test_the_forwarded_scheme(scheme: str, forwarded: str, expected: str) -> None:
    asked = request(headers={"x-forwarded-proto": forwarded}, scheme=scheme, client=("10.0.0.1", 1))
    assert context_of(asked, headers_of(asked), PRIVATE, "all")["page"]["url"] == f"{expected}://shop.example/"


def test_the_forwarded_scheme_is_taken_from_trusted_proxies_only() -> None:
    asked = request(headers={"x-forwarded-proto": "https"}, scheme="http", client=("10.0.0.1", 1))
    headers = headers_of(asked)
    assert context_of(asked, headers, PRIVATE, "all")["page"]["url"] == "https://shop.example/"
    assert context_of(asked, headers, (), "all")["page"]["url"] == "http://shop.example/"


# -- languages and hints


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("en-US,en;q=0.5", "en-US"),
        ("fr;q=0.3, de;q=0.9, it;q=0.5", "de"),
        ("*", None),
        ("*;q=0.9, zh-Hant-TW;q=0.1", "zh-Hant-TW"),
        ("en;q=0", None),
        ("en;q=abc, sv;q=0.1", "sv"),
        ("en;q=99, sv", "sv"),
        (";;;,,,q=1", None),
        ("<script>", None),
        ("en_US", None),
        ("e" * 5_000, None),
        ("", None),
    ],
)
def test_the_preferred_language(accepted: str, expected: str | None) -> None:
    assert locale(accepted.encode()) == expected


def test_malformed_hints_are_left_out() -> None:
    assert user_agent_data({b"sec-ch-ua": b"nonsense", b"sec-ch-ua-mobile": b"?7"}) is None
    assert user_agent_data({b"sec-ch-ua-model": b'"Pixel 9"', b"sec-ch-ua-arch": b'""'}) == {"model": "Pixel 9"}
    assert user_agent_data({b"sec-ch-ua": b'"A";v="1"' * 20_000}) is None


# -- pages


@pytest.mark.parametrize("host", ["", "a b", "shop.example/evil", "user@shop.example", "x" * 300, "[::1", "a\x00b"])
def test_an_invalid_host_makes_no_url(host: str) -> None:
    assert context("/a", {"host": host})["page"] == {"path": "/a"}


def test_the_path_is_encoded_as_in_a_browser() -> None:
    assert context("/", raw_path=b"/caf%C3%A9/a%2Fb")["page"]["path"] == "/caf%C3%A9/a%2Fb"
    assert context("/café")["page"]["path"] == "/caf%C3%A9"
    assert context("/", raw_path=b"/%zz?x=1")["page"]["path"] == "/%zz"
    assert "page" not in context("/" + "x" * 5_000)


def test_too_long_a_query_is_left_out() -> None:
    assert context("/a?" + "x" * 5_000)["page"] == {"path": "/a", "url": "https://shop.example/a"}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("https://a.example/x?q=1&token=2#part", "https://a.example/x?q=1"),
        ("https://user:password@a.example/", "https://a.example/"),
        ("javascript:alert(1)", None),
        ("about:blank", None),
        ("", None),
        ("https://a.example/" + "x" * 5_000, None),
    ],
)
def test_the_referrer(sent: str, expected: str | None) -> None:
    assert referrer(sent.encode(), "scrub") == expected


# -- the kind of request


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (b"sec-purpose", b"prefetch", True),
        (b"sec-purpose", b"prefetch;prerender", True),
        (b"purpose", b"Prefetch", True),
        (b"x-moz", b"prefetch", True),
        (b"x-purpose", b"preview", True),
        (b"sec-purpose", b"", False),
    ],
)
def test_prefetches(name: bytes, value: bytes, expected: bool) -> None:
    assert is_prefetch({name: value}) is expected


def test_the_gpc_signal_is_1() -> None:
    assert [has_gpc_signal({b"sec-gpc": value}) for value in (b"1", b" 1 ", b"0", b"true")] == [
        True,
        True,
        False,
        False,
    ]


# -- any request

NAMES = (
    *(b"host", b"referer", b"user-agent", b"accept-language", b"x-forwarded-for", b"x-forwarded-proto", b"sec-gpc"),
    *(b"sec-ch-ua", b"sec-ch-ua-mobile", b"sec-ch-ua-platform", b"sec-ch-ua-full-version-list", b"sec-purpose"),
    *(b"cookie", b"accept"),
)
TEXTS = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([b"x" * 70_000, b'"\\' * 500, b"\x01" * 1_000, b"\xff" * 900, b"%00" * 600, b"1.2.3.4," * 5_000]),
    st.text(alphabet='abc=;,%"/?&#:@[].\\ 0129é', max_size=200).map(str.encode),
)


@given(
    headers=st.lists(st.tuples(st.sampled_from(NAMES), TEXTS), max_size=20),
    query=TEXTS,
    path=st.text(max_size=300),
    mode=st.sampled_from(["scrub", "utm", "none", "all"]),
)
def test_no_request_raises_or_fills_a_message(
    headers: list[tuple[bytes, bytes]], query: bytes, path: str, mode: Any
) -> None:
    asked = {**request(), "headers": headers, "query_string": query, "path": path, "client": ("10.0.0.1", 1)}
    found = headers_of(asked)
    is_prefetch(found)
    assert len(json.dumps(context_of(asked, found, PRIVATE, mode))) < 16_384


@pytest.mark.parametrize(
    ("path", "root_path", "sent"),
    [
        ("/items", "", "/items"),
        ("/items", "/api", "/api/items"),
        ("/items", "/api/", "/api/items"),
        ("/api/items", "/api", "/api/items"),
        ("/api", "/api", "/api"),
        ("/apiary", "/api", "/api/apiary"),
        ("/", "/api", "/api/"),
        ("/items", "/käse", "/k%C3%A4se/items"),
    ],
)
def test_the_page_is_the_one_that_the_browser_sees(path: str, root_path: str, sent: str) -> None:
    raw = path.encode()
    for raw_path in ({}, {"raw_path": raw}):
        page = context(path, root_path=root_path, **raw_path)["page"]
        assert (page["path"], page["url"]) == (sent, f"https://shop.example{sent}")


@pytest.mark.parametrize(
    "sent", ["/what%3Fis", "/100%25", "/a%2541", "/a%23b", "/caf%C3%A9", "/a%20b", "/a;b=c&d", "/"]
)
@pytest.mark.parametrize("root", ["", "/api", "/is%3Fit"])
def test_a_path_that_the_server_has_decoded_is_encoded_again(root: str, sent: str) -> None:
    scope = {**request(), "path": unquote(sent), "root_path": unquote(root)}
    page = context_of(scope, headers_of(scope), (), "scrub")["page"]
    assert page == {"path": root + sent, "url": f"https://shop.example{root}{sent}"}


@pytest.mark.parametrize(
    ("path", "root_path", "within"),
    [
        ("/health", "", "/health"),
        ("/health", "/api", "/health"),
        ("/api/health", "/api", "/health"),
        ("/api", "/api", "/"),
        ("/apihealth", "/api", "/apihealth"),
    ],
)
def test_the_path_within_the_application(path: str, root_path: str, within: str) -> None:
    assert path_within(request(path, root_path=root_path)) == within
