"""The cookies of the browser library: any header is read without raising, and the id that is set is read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment_async._web.cookies import (
    ANONYMOUS_ID,
    MAX_ID,
    new_anonymous_id,
    read_id,
    set_anonymous_id,
    sets_anonymous_id,
)
from segment_async._web.request import headers_of
from tests.support.asgi import request


@pytest.mark.parametrize(
    ("cookie", "expected"),
    [
        ("ajs_anonymous_id=abc-1", "abc-1"),
        ("", None),
        ("a=b; ajs_anonymous_id=%22abc-1%22; c=d", "abc-1"),
        ('ajs_anonymous_id="abc-1"', "abc-1"),
        ("ajs_anonymous_id=J%C3%BCrgen", "Jürgen"),
        ("ajs_anonymous_id=null", None),
        ("ajs_anonymous_id=%22null%22; other=1", None),
        ("ajs_anonymous_id=", None),
        ("ajs_anonymous_id=%22%22", None),
        ("ajs_anonymous_id", None),
        ("ajs_anonymous_id=null; ajs_anonymous_id=second", "second"),
        (f"ajs_anonymous_id={'x' * 256}", "x" * 256),
        (f"ajs_anonymous_id={'x' * 257}", None),
        ("ajs_anonymous_id=%ff%fe", None),
        ("ajs_anonymous_id=a%00b", None),
        ("ajs_anonymous_id=%zz", "%zz"),
        ("xajs_anonymous_id=other", None),
        ("ajs_anonymous_id_old=other", None),
        (";;;=;==;" * 1_000 + "ajs_anonymous_id=there", "there"),
    ],
)
def test_the_id_in_the_cookie(cookie: str, expected: str | None) -> None:
    assert read_id(cookie.encode(), ANONYMOUS_ID) == expected


def test_cookies_in_several_headers() -> None:
    asked = request()
    asked["headers"] += [(b"cookie", b"a=1"), (b"cookie", b"ajs_anonymous_id=abc")]
    assert read_id(headers_of(asked)[b"cookie"], ANONYMOUS_ID) == "abc"


@given(st.binary(max_size=300) | st.text(alphabet='abc=;,%" 01é').map(str.encode))
def test_any_header(header: bytes) -> None:
    for cookie in (header, b"ajs_anonymous_id=" + header):
        found = read_id(cookie, ANONYMOUS_ID)
        assert found is None or 0 < len(found) <= MAX_ID


def test_the_id_that_is_set_is_read_again() -> None:
    anonymous_id = new_anonymous_id()
    name, value = set_anonymous_id(anonymous_id)
    assert name == b"set-cookie"
    assert read_id(value.partition(b";")[0], ANONYMOUS_ID) == anonymous_id
    assert sets_anonymous_id([(b"Set-Cookie", value)])
    assert not sets_anonymous_id([(b"set-cookie", b"other=1"), (b"cookie", value)])
