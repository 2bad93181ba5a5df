"""The cookies of Segment's browser library: their names, how an id is read from one, and how one is set.

Pure: header values in, ids and header values out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import unquote_to_bytes
from uuid import uuid4

ANONYMOUS_ID: Final = b"ajs_anonymous_id"
USER_ID: Final = b"ajs_user_id"

MAX_ID: Final = 256
"""The most characters of an id; a longer one is not the browser library's and is ignored."""
# Places where the cookie's name is looked at, and white space before it.
_MAX_FOUND: Final = 16
_MAX_SPACES: Final = 8
_PLAIN: Final = re.compile(rb"; (?:%b|%b)=([0-9A-Za-z-]{1,%d})(?:;|\Z)" % (ANONYMOUS_ID, USER_ID, MAX_ID))
_MAX_AGE: Final = 365 * 24 * 3600


def read_id(header: bytes, name: bytes) -> str | None:
    """The id in this cookie of a `Cookie` header; `None` if the cookie is missing or does not contain an id."""
    begin = header.find(name)
    # Nearly all ids are a UUID in a cookie that is not the first: the rest of this function takes twice as long.
    if begin > 1 and (found := _PLAIN.match(header, begin - 2)) and found[1] != b"null":
        return found[1].decode()
    for _ in range(_MAX_FOUND):
        if begin < 0:
            break
        end = header.find(b";", begin)
        key, _, value = header[begin : end if end >= 0 else len(header)].partition(b"=")
        if key.strip() == name and _begins_cookie(header, begin) and (text := _decoded(value)):
            return text
        begin = header.find(name, begin + len(name))
    return None


def _begins_cookie(header: bytes, begin: int) -> bool:
    return header[max(0, begin - _MAX_SPACES) : begin].rstrip(b" \t")[-1:] in (b"", b";")


def _decoded(value: bytes) -> str | None:
    if len(value) > 3 * MAX_ID + 8:
        return None
    try:
        text = unquote_to_bytes(value.strip()).decode().strip('" ')
    except UnicodeDecodeError:
        return None
    if text == "null" or len(text) > MAX_ID or not text.isprintable():
        return None
    return text


def new_anonymous_id() -> str:
    """An anonymous id in the format of Segment's browser library."""
    return str(uuid4())


def set_anonymous_id(anonymous_id: str) -> tuple[bytes, bytes]:
    """The `Set-Cookie` header that Segment's browser library would use: valid for a year, readable by its scripts."""
    cookie = b"%b=%b; Max-Age=%d; Path=/; SameSite=Lax" % (ANONYMOUS_ID, anonymous_id.encode(), _MAX_AGE)
    return b"set-cookie", cookie


def sets_anonymous_id(headers: Iterable[Sequence[bytes]]) -> bool:
    """Whether a response sets the cookie itself."""
    prefix = ANONYMOUS_ID + b"="
    return any(name.lower() == b"set-cookie" and value.startswith(prefix) for name, value in headers)
