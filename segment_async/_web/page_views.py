"""Reads the page that a visitor saw from the response: its name, its title, and whether a cookie may be added.

Pure: headers and parts of bodies in, fields out. This file knows neither clients nor how a response is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from html import unescape
from typing import Any, Final, cast

from segment_async._hooks import WrongResult

from .cookies import sets_anonymous_id
from .request import Headers, host_of

EXCLUDED: Final = (
    *("/health", "/healthz", "/healthcheck", "/livez", "/readyz", "/ping", "/metrics"),
    *("/static", "/assets", "/favicon.ico", "/robots.txt", "/.well-known"),
    *("/docs", "/redoc", "/openapi.json", "/schema"),
)
"""Health checks, static files, and the paths where frameworks serve API documentation."""

_CHARSET: Final = re.compile(rb"charset=[\"']?([\w.:-]+)", re.IGNORECASE)
_HTML: Final = (b"text/html", b"application/xhtml+xml")
# The title is searched in so many bytes of a page, and cut to so many characters.
_MAX_HEAD: Final = 32_768
_MAX_TITLE: Final = 512
_MAX_NAME: Final = 1_024
_TITLE_END: Final = b"</title"

RawHeaders = Sequence[Sequence[bytes]]


def exclusion(paths: Iterable[str]) -> re.Pattern[str]:
    """A pattern for these paths and everything below them; `*` matches any characters, `?` any single one."""
    patterns = [path.rstrip("/") or "/" for path in paths]
    below = [f"{pattern}/*" for pattern in patterns if pattern != "/"]
    return re.compile("|".join(map(translate, patterns + below)) or r"(?!)")


def is_html(headers: RawHeaders) -> bool:
    return _header(headers, b"content-type").lower().lstrip().startswith(_HTML)


def allows_cookie(headers: RawHeaders) -> bool:
    """Whether an id may be added: no shared cache may keep the response, and it does not set an id itself."""
    policy = b",".join(value for name, value in headers if name.lower() == b"cache-control").lower()
    return b"public" not in policy and b"s-maxage" not in policy and not sets_anonymous_id(headers)


def properties_of(page: Mapping[str, str], headers: Headers, title: str | None) -> dict[str, str]:
    """The properties of the page call (https://segment.com/docs/connections/spec/page/#properties)."""
    host = host_of(headers)
    return {**page, **({"host": host} if host else {}), **({"title": title} if title else {})}


def parse_name(value: Any) -> str | None:
    """The page name that the application returned.

    Raises:
        WrongResult: the value is not text, or too long.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise WrongResult(f"must return a str or None, not {type(value).__name__}")
    if len(value) > _MAX_NAME:
        raise WrongResult(f"returned more than {_MAX_NAME:,} characters")
    return value or None


def route_name(scope: Mapping[str, Any], root_path: str) -> str | None:
    """The template of the matched route, including the paths of mounts within the application, if it is known."""
    route, mounted = scope.get("route"), scope.get("root_path", "")
    if hasattr(route, "routes"):
        # A mount: of static files, or of an application that does not put its own route in the scope.
        return None
    template = _included_path(scope) or getattr(route, "path", None) or scope.get("path_template")
    if not isinstance(template, str) or not template:
        return None
    return mounted.removeprefix(root_path) + template if isinstance(mounted, str) else template


def _included_path(scope: Mapping[str, Any]) -> Any:
    """FastAPI's template of a route in an included router; the route itself has it without the router's prefix."""
    details = scope.get("fastapi")
    if not isinstance(details, Mapping):
        return None
    context = cast("Mapping[str, Any]", details).get("effective_route_context")
    is_of_this_route = context is not None and getattr(context, "original_route", None) is scope.get("route")
    return getattr(context, "path", None) if is_of_this_route else None


class TitleParser:
    """Finds `<title>` in the parts of a page, within its first 32 KiB."""

    def __init__(self, headers: RawHeaders) -> None:
        self._head = bytearray()
        self._charset = _charset(_header(headers, b"content-type"))
        self._is_searching = not _header(headers, b"content-encoding")

    def feed(self, part: bytes) -> None:
        if self._is_searching:
            # The end may be in two parts.
            begin = max(0, len(self._head) - len(_TITLE_END))
            self._head += part[: _MAX_HEAD - len(self._head)]
            self._is_searching = len(self._head) < _MAX_HEAD and self._head.find(_TITLE_END, begin) < 0

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
    name = named[1].decode("ascii", "replace") if named else "utf-8"
    try:
        # Some of Python's encodings are not for text, such as hex.
        b"a".decode(name, "replace")
    except (LookupError, ValueError):
        return "utf-8"
    return name
