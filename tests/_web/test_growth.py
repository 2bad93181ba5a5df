"""The work for a request grows with its length and no faster, whatever a visitor sends.

Steps are counted, not seconds: the lines that Python executes. What one line of C code does is not seen by that. So the
patterns are looked at as well: none repeats without a limit before its end, where a search could begin again and again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from re import _constants, _parser  # type: ignore[attr-defined]
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segment_async._web import bots, consent, cookies, encoded, page_views, query, request, visitor
from segment_async._web.page_views import TitleParser
from segment_async._web.request import context_of, headers_of

MODULES = (bots, consent, cookies, encoded, page_views, query, request, visitor)
PATTERNS = [
    pytest.param(pattern, id=f"{module.__name__.rpartition('.')[2]}.{name}")
    for module in MODULES
    for name, pattern in vars(module).items()
    if isinstance(pattern, re.Pattern)
]
# More repetitions than this count as without a limit.
LIMIT = 300
REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)
PROXIES = (ip_network("0.0.0.0/0"),)


def endless_repeats(items: Any, *, is_last: bool = True) -> Iterator[Any]:
    """The repetitions without a limit in a pattern that are followed by something."""
    items = list(items)
    for index, (operation, argument) in enumerate(items):
        ends = is_last and index == len(items) - 1
        if operation in REPEATS:
            _, most, repeated = argument
            if most > LIMIT and not ends:
                yield repeated
            yield from endless_repeats(repeated, is_last=False)
        elif operation is _constants.SUBPATTERN:
            yield from endless_repeats(argument[3], is_last=ends)
        elif operation is _constants.BRANCH:
            for branch in argument[1]:
                yield from endless_repeats(branch, is_last=ends)
        elif operation in (_constants.ASSERT, _constants.ASSERT_NOT):
            yield from endless_repeats(argument[1], is_last=False)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_pattern_repeats_without_a_limit_before_its_end(pattern: re.Pattern[Any]) -> None:
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode()
    assert list(endless_repeats(_parser.parse(text, pattern.flags & ~re.UNICODE))) == []


@pytest.mark.parametrize(
    "text",
    [r"eyJ[\w-]+\.[\w-]+\.", r"(?:login|sms)\w*(?:code|key)", r"://[^/?#\s]*:[^/?#\s]*@", r"(?:a+)+b", r"(?=a*b)c"],
)
def test_that_finds_those_that_do(text: str) -> None:
    assert list(endless_repeats(_parser.parse(text))) != []


def steps(work: Callable[[], object]) -> int:
    """The lines that Python executes, with empty caches."""
    for module in MODULES:
        for function in vars(module).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()
            if isinstance(function, encoded.Pieces):
                function.kept.clear()
    count = 0

    def count_line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return count_line

    tracer = sys.gettrace()
    sys.settrace(count_line)
    try:
        work()
    finally:
        sys.settrace(tracer)
    return count


UNITS = st.text(st.sampled_from('a1Z%:/?&=;#.,@-_+"\\ 25eyJ'), min_size=1, max_size=6) | st.sampled_from(
    [
        "login",
        "sms",
        "verif",
        "eyJa.",
        "://a:",
        "%2525",
        "%3D",
        "next=%3F",
        "token",
        "sk-",
        "bot",
        "got ",
        '"a";v="1",',
        "a=&",
    ]
)
BEGINNINGS = st.sampled_from(["", "x=", "next=", "utm_source=", "https://shop.example/?"])


@given(unit=UNITS, beginning=BEGINNINGS, mode=st.sampled_from(["scrub", "utm"]))
@settings(max_examples=200, deadline=None)
def test_queries(unit: str, beginning: str, mode: Any) -> None:
    def filtered(length: int) -> Callable[[], object]:
        return lambda: query.filtered((beginning + unit * length)[:length], mode)

    short, long = steps(filtered(2_000)), steps(filtered(8_000))
    assert long <= 4.5 * short + 100
    # Decoding takes a few lines of Python for each percent sign, and again for what was encoded twice.
    assert long < 6 * 8_000


def headers(unit: bytes, length: int) -> list[tuple[bytes, bytes]]:
    text = (unit * length)[:length]
    names = (b"user-agent", b"accept-language", b"sec-ch-ua", b"sec-ch-ua-full-version-list", b"cookie", b"accept")
    return [*((name, text) for name in (*names, b"x-forwarded-for")), (b"referer", b"https://a.example/?" + text)]


@given(unit=UNITS | st.sampled_from(["ajs_anonymous_id", ";ajs_anonymous_id=", "1.1.1.1,", "en;q=0.9,"]))
@settings(max_examples=100, deadline=None)
def test_headers(unit: str) -> None:
    def read(length: int) -> Callable[[], object]:
        scope = {
            "path": "/",
            "query_string": b"",
            "headers": headers(unit.encode(), length),
            "client": ("192.0.2.1", 1),
        }

        def work() -> None:
            found = headers_of(scope)
            context_of(scope, found, PROXIES, "scrub")
            bots.is_bot(found.get(b"user-agent", b"").decode())
            cookies.read_id(found[b"cookie"], cookies.ANONYMOUS_ID)

        return work

    # Each header has its own limit: beyond the largest of them, nothing grows.
    assert steps(read(60_000)) <= max(steps(read(length)) for length in (900, 2_000)) + 100
    assert steps(read(900)) < 6_000


@given(unit=UNITS, trusted=st.sampled_from([PROXIES, ()]))
@settings(max_examples=50, deadline=None)
def test_encoded_headers(unit: str, trusted: Any) -> None:
    def read(length: int) -> Callable[[], object]:
        pieces = request.pieces_of({"headers": headers(unit.encode(), length), "client": (unit * length, 1)})
        return lambda: encoded.context_json(pieces, headers_of(pieces), trusted, "scrub")

    assert steps(read(60_000)) <= max(steps(read(length)) for length in (900, 2_000)) + 100


@pytest.mark.parametrize("name", [b"cookie", b"x-forwarded-for"])
def test_repeated_headers(name: bytes) -> None:
    def joined(count: int) -> Callable[[], object]:
        return lambda: headers_of({"headers": [(name, b"a")] * count})

    assert steps(joined(4_000)) <= 4.1 * steps(joined(1_000))


def test_a_page_in_parts_of_one_byte() -> None:
    parser = TitleParser([(b"content-type", b"text/html")])
    for byte in b"<head><title>A page</title></head>":
        parser.feed(bytes((byte,)))
    assert parser.title() == "A page"
