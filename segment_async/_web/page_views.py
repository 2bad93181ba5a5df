"""What a response says of the page that a visitor saw, and what may be added to it.

Pure: headers and pieces of bodies in, fields out. This file knows neither clients nor how a response travels.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from html import unescape
from typing import Any, Final

from .request import Headers, host_of
from .visitor import ANONYMOUS_COOKIE

EXCLUDED: Final = (
    *("/health", "/healthz", "/healthcheck", "/livez", "/readyz", "/ping", "/metrics"),
    *("/static", "/assets", "/favicon.ico", "/robots.txt", "/.well-known"),
    *("/docs", "/redoc", "/openapi.json", "/schema"),
)
"""Health checks, static files, and the places where frameworks put the documentation of an API."""

_YEAR: Final = 365 * 24 * 3600
_CHARSET: Final = re.compile(rb"charset=[\"']?([\w.:-]+)", re.IGNORECASE)
_HTML: Final = (b"text/html", b"application/xhtml+xml")
# Bytes of a page in which its title must stand, and characters that it may have.
_HEAD: Final = 32_768
_MAX_TITLE: Final = 512
_MAX_NAME: Final = 1_024

RawHeaders = Sequence[Sequence[bytes]]


def exclusion(paths: Iterable[str]) -> re.Pattern[str]:
    """Matches paths that are one of these, or below one; `*` stands for any characters, `?` for any one."""
    patterns = [path.rstrip("/") or "/" for path in paths]
    below = [f"{pattern}/*" for pattern in patterns if pattern != "/"]
    return re.compile("|".join(map(translate, patterns + below)) or r"(?!)")


def is_html(headers: RawHeaders) -> bool:
    return _header(headers, b"content-type").lower().lstrip().startswith(_HTML)


def may_carry_an_id(headers: RawHeaders) -> bool:
    """Neither made for caches, where one visitor's id would go to many, nor with an id of the application's own."""
    policy = _header(headers, b"cache-control").lower()
    own = ANONYMOUS_COOKIE + b"="
    return (
        b"public" not in policy
        and b"s-maxage" not in policy
        and not any(name.lower() == b"set-cookie" and value.startswith(own) for name, value in headers)
    )


def id_cookie(anonymous_id: str) -> tuple[bytes, bytes]:
    """The header that sets the cookie as Segment's browser library does: for a year, and for its scripts to read."""
    cookie = b"%b=%b; Max-Age=%d; Path=/; SameSite=Lax" % (ANONYMOUS_COOKIE, anonymous_id.encode(), _YEAR)
    return b"set-cookie", cookie


def properties_of(page: Mapping[str, str], headers: Headers, title: str | None) -> dict[str, str]:
    """The page call's properties (https://segment.com/docs/connections/spec/page/#properties)."""
    host = host_of(headers)
    return {**page, **({"host": host} if host else {}), **({"title": title} if title else {})}


def name_of(answer: Any) -> str | None:
    """Raises:
    TypeError: it is no name; ValueError: it is too long for one.
    """
    if answer is None:
        return None
    if not isinstance(answer, str):
        raise TypeError
    if len(answer) > _MAX_NAME:
        raise ValueError
    return answer or None


def route_name(scope: Mapping[str, Any], root_path: str) -> str | None:
    """The template that the framework matched, below what it is mounted at; `None`: it does not tell."""
    route, mounted = scope.get("route"), scope.get("root_path", "")
    if hasattr(route, "routes"):
        # A mount: of files, or of an application that does not tell its own routes.
        return None
    template = _included(scope) or getattr(route, "path", None) or scope.get("path_template")
    if not isinstance(template, str) or not template:
        return None
    return mounted.removeprefix(root_path) + template if isinstance(mounted, str) else template


def _included(scope: Mapping[str, Any]) -> Any:
    """Where FastAPI keeps a route's whole template, since the route itself tells it without what it is included at."""
    said = scope.get("fastapi")
    effective = said.get("effective_route_context") if isinstance(said, Mapping) else None
    is_of_this_route = effective is not None and getattr(effective, "original_route", None) is scope.get("route")
    return getattr(effective, "path", None) if is_of_this_route else None


class TitleReader:
    """Finds `<title>` in the pieces of a page, within its first 32 KiB."""

    def __init__(self, headers: RawHeaders) -> None:
        self._head = bytearray()
        self._charset = _charset(_header(headers, b"content-type"))
        self._reads = not _header(headers, b"content-encoding")

    def feed(self, piece: bytes) -> None:
        if self._reads:
            self._head += piece[: _HEAD - len(self._head)]
            self._reads = len(self._head) < _HEAD and b"</title" not in self._head

    def title(self) -> str | None:
        lower = self._head.lower()
        tag = lower.find(b"<title")
        begin = lower.find(b">", tag) + 1
        end = lower.find(b"</title", begin)
        if tag < 0 or not begin or end < 0:
            return None
        text = self._head[begin:end].decode(self._charset, "replace")
        return " ".join(unescape(text).split())[:_MAX_TITLE] or None


def _header(headers: RawHeaders, wanted: bytes) -> bytes:
    return next((value for name, value in headers if name.lower() == wanted), b"")


@lru_cache(maxsize=64)
def _charset(content_type: bytes) -> str:
    named = _CHARSET.search(content_type)
    try:
        return codecs.lookup(named[1].decode("ascii", "replace")).name if named else "utf-8"
    except LookupError:
        return "utf-8"
