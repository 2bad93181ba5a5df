"""Reads Segment's `context` from the ASGI scope of a request: address, browser, language, page.

Pure: a scope in, plain fields out. For any request, each field is either correct or absent, and nothing raises. Each
field has a maximum size, so that no forged header can make a message too large. This file knows neither clients nor
messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final
from urllib.parse import quote

from .query import Mode, campaign, filtered

Scope = MutableMapping[str, Any]
Headers = Mapping[bytes, bytes]
Network = IPv4Network | IPv6Network

_MAX_HEADER: Final = 1_024
_MAX_URL: Final = 2_048
_MAX_BRANDS: Final = 10
_MAX_LANGUAGES: Final = 16
_MAX_PROXIES: Final = 32

# Client hints, and their names in Segment's browser library.
HINTS: Final = {
    b"sec-ch-ua": "brands",
    b"sec-ch-ua-mobile": "mobile",
    b"sec-ch-ua-platform": "platform",
    b"sec-ch-ua-platform-version": "platformVersion",
    b"sec-ch-ua-arch": "architecture",
    b"sec-ch-ua-bitness": "bitness",
    b"sec-ch-ua-model": "model",
    b"sec-ch-ua-full-version-list": "fullVersionList",
}
_PURPOSES: Final = (b"sec-purpose", b"purpose", b"x-moz", b"x-purpose")
_WANTED: Final = frozenset(
    (
        *HINTS,
        *(b"cookie", b"user-agent", b"accept", b"accept-language", b"referer", b"host"),
        *(b"x-forwarded-for", b"x-forwarded-proto", b"sec-gpc"),
        *_PURPOSES,
    )
)
# What `X-Forwarded-Proto` means for a request, and for a web socket, of which proxies say either.
_HTTP: Final = {"http": "http", "https": "https"}
_WEB_SOCKET: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_FORWARDED: Final = {"http": _HTTP, "https": _HTTP, "ws": _WEB_SOCKET, "wss": _WEB_SOCKET}
_SEPARATORS: Final = {b"cookie": b"; ", b"x-forwarded-for": b", "}

_URL_SAFE: Final = "!#$%&'()*+,/:;=?@[]-._~"
# In a decoded path, `#`, `?` and `%` are no separators: they are encoded again.
_PATH_SAFE: Final = "!$&'()*+,/:;=@[]-._~"
_ENCODED: Final = re.compile(rb"[!#$%&'()*+,/:;=?@\[\]\-._~A-Za-z0-9]*")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8}){0,4}")
_QUALITY: Final = re.compile(r"q=([01](?:\.[0-9]{0,3})?)")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.){0,256}+)"')
_BRAND: Final = re.compile(rf"[\s,]{{0,8}}{_QUOTED.pattern};\s{{0,8}}v={_QUOTED.pattern}")
_PORT: Final = re.compile(r"(?:\[([^\]]{0,64})\]|([0-9.]{1,15}))(?::[0-9]{0,5})?")


def all_headers_of(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """All headers, of any length; if one is repeated, those of `headers_of`."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return headers if len(headers) == len(scope["headers"]) else headers_of(scope)


def headers_of(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The headers that are used here.

    Joins the values of headers that may be repeated. Of the others, takes the first value that is not far too long.
    """
    found = [pair for pair in scope["headers"] if pair[0] in _WANTED]
    headers: dict[bytes, bytes] = dict(found)
    if len(headers) == len(found) and len(b"".join(headers.values())) <= _MAX_URL:
        return headers
    return _joined(found)


def _joined(found: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    repeated: dict[bytes, list[bytes]] = {}
    for name, value in found:
        if name in _SEPARATORS:
            repeated.setdefault(name, []).append(value)
        elif name not in headers and len(value) <= _MAX_URL:
            headers[name] = value
    return headers | {name: _SEPARATORS[name].join(values) for name, values in repeated.items()}


def pieces_of(scope: Mapping[str, Any]) -> dict[str, Any]:
    """What is read here of a scope, as it is now: the application may change it, and need not keep it for us."""
    headers: Any = scope.get("headers")
    return {
        "headers": headers.copy() if hasattr(headers, "copy") else [*headers],
        "client": scope.get("client"),
        "scheme": scope.get("scheme", "http"),
        "path": scope.get("path", ""),
        "raw_path": scope.get("raw_path"),
        "root_path": scope.get("root_path", ""),
        "query_string": scope.get("query_string", b""),
    }


def context_of(scope: Mapping[str, Any], headers: Headers, trusted: Sequence[Network], query: Mode) -> dict[str, Any]:
    """Segment's `context` for the calls made in this request, without the fields that are not known."""
    context: dict[str, Any] = {"channel": "server"}
    if ip := client_ip(scope, headers, trusted):
        context["ip"] = ip
    context |= device_of(headers)
    search = search_of(scope, query)
    if fields := campaign(search[1:]):
        context["campaign"] = fields
    if fields := _page(scope, headers, search, query, trusted):
        context["page"] = fields
    return context


# -- the address


def client_ip(scope: Mapping[str, Any], headers: Headers, trusted: Sequence[Network]) -> str | None:
    """The address of the connection's peer or, behind trusted proxies, the one that the outermost proxy saw.

    `X-Forwarded-For` is read from the right, because each proxy appends the address of its peer. Entries to the left of
    the first untrusted address may be forged.
    """
    address = _peer(scope)
    forwarded = headers.get(b"x-forwarded-for", b"") if trusted else b""
    if len(forwarded) > _MAX_HEADER:
        # Drop the entry that was cut in two: its rest may look like another address.
        forwarded = forwarded[-_MAX_HEADER:].partition(b",")[2]
    entries = forwarded.decode("latin-1").rsplit(",", _MAX_PROXIES)[-_MAX_PROXIES:] if forwarded else ()
    for entry in reversed(entries):
        if not _is_trusted(address, trusted):
            break
        if entry := entry.strip():
            address = _address(entry)
    return _address_text(address)


def is_behind_proxy(scope: Mapping[str, Any], trusted: Sequence[Network]) -> bool:
    return bool(trusted) and _is_trusted(_peer(scope), trusted)


def _peer(scope: Mapping[str, Any]) -> IPv4Address | IPv6Address | None:
    client = scope.get("client")
    return _address(client[0]) if client and isinstance(client[0], str) else None


@lru_cache(maxsize=1_024)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    if with_port := _PORT.fullmatch(text):
        text = with_port[1] or with_port[2] or ""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        # Drop the zone, which has a meaning on one machine only.
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


@lru_cache(maxsize=1_024)
def _address_text(address: IPv4Address | IPv6Address | None) -> str | None:
    return None if address is None else str(address)


def _is_trusted(address: IPv4Address | IPv6Address | None, trusted: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in trusted)


# -- the browser


def device_of(headers: Headers) -> dict[str, Any]:
    """The fields of the context that describe the browser."""
    device: dict[str, Any] = {}
    if agent := _text(headers.get(b"user-agent")):
        device["userAgent"] = agent
    if hints := user_agent_data(headers):
        device["userAgentData"] = hints
    accepted = headers.get(b"accept-language", b"")
    if len(accepted) <= _MAX_HEADER and (language := locale(accepted)):
        device["locale"] = language
    return device


@lru_cache(maxsize=256)
def locale(accepted: bytes) -> str | None:
    """The preferred language of an `Accept-Language` header."""
    best, best_quality = None, 0.0
    for entry in _decoded(accepted, _MAX_HEADER).split(",")[:_MAX_LANGUAGES]:
        language, _, parameter = (text.strip() for text in entry.partition(";"))
        weight = _QUALITY.fullmatch(parameter)
        quality = float(weight[1]) if weight else float(not parameter)
        if quality > best_quality and _LANGUAGE.fullmatch(language):
            best, best_quality = language, quality
    return best


def user_agent_data(headers: Headers) -> dict[str, Any] | None:
    """The client hints in the format of Segment's browser library."""
    values = [(field, headers.get(name)) for name, field in HINTS.items()]
    sent = tuple([(field, value) for field, value in values if value and len(value) <= _MAX_HEADER])
    return (_hints(sent) or None) if sent else None


@lru_cache(maxsize=256)
def _hints(sent: tuple[tuple[str, bytes], ...]) -> dict[str, Any]:
    hints = {field: _hint(field, _decoded(value, _MAX_HEADER).strip()) for field, value in sent}
    return {field: value for field, value in hints.items() if value not in (None, [], "")}


def _hint(field: str, text: str) -> Any:
    if field == "mobile":
        return {"?1": True, "?0": False}.get(text)
    if field in ("brands", "fullVersionList"):
        return [{"brand": brand, "version": version} for brand, version in _brands(text)]
    quoted = _QUOTED.fullmatch(text)
    return quoted[1] if quoted else None


def _brands(text: str) -> Iterator[tuple[str, str]]:
    """The brands of a list, up to the first entry that is malformed."""
    end = 0
    for _ in range(_MAX_BRANDS):
        entry = _BRAND.match(text, end)
        if entry is None:
            return
        yield entry[1], entry[2]
        end = entry.end()


# -- the page


def _page(
    scope: Mapping[str, Any], headers: Headers, search: str, query: Mode, trusted: Sequence[Network]
) -> dict[str, str]:
    page: dict[str, str] = {}
    path = path_of(scope)
    if path is not None:
        search = fitting(search, path)
        page["path"] = path
        if origin := origin_of(scope, headers, is_behind_proxy(scope, trusted)):
            page["url"] = f"{origin}{path}{search}"
        if search:
            page["search"] = search
    if address := referrer(headers.get(b"referer", b""), query):
        page["referrer"] = address
    return page


def host_of(headers: Headers) -> str | None:
    host = _decoded(headers.get(b"host", b""), 300)
    return host if _HOST.fullmatch(host) else None


def origin_of(scope: Mapping[str, Any], headers: Headers, behind_proxy: bool) -> str | None:
    host, scheme = host_of(headers), scope.get("scheme", "http")
    if behind_proxy and scheme in _FORWARDED:
        scheme = _FORWARDED[scheme].get(_decoded(headers.get(b"x-forwarded-proto", b""), 10), scheme)
    return f"{scheme}://{host}" if host else None


def path_of(scope: Mapping[str, Any]) -> str | None:
    """The path as the browser sees it, with the `root_path` in front, which some servers leave out of the path."""
    sent, decoded = scope.get("raw_path"), scope.get("path", "")
    raw = sent.partition(b"?")[0] if sent else _encoded_again(decoded)
    root = scope.get("root_path", "").rstrip("/")
    if root and not begins_with(decoded, root):
        raw = _encoded_again(root) + raw
    path = _percent_encoded(raw[: _MAX_URL + 1])
    return path if path and len(path) <= _MAX_HEADER else None


def path_within(scope: Mapping[str, Any]) -> str:
    """The path within the application, without the `root_path`, whether the server's path contains it or not."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return (path[len(root) :] if begins_with(path, root) else path) or "/"


def begins_with(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


def fitting(search: str, path: str) -> str:
    """The query string, unless the URL would become too long with it."""
    return search if len(path) + len(search) <= _MAX_URL else ""


def search_of(scope: Mapping[str, Any], query: Mode) -> str:
    """The query string that may be sent, with its question mark."""
    text = _url_text(scope.get("query_string", b""))
    if text is None:
        return ""
    return f"?{text}" if (text := filtered(text, query)) else ""


def referrer(sent: bytes, query: Mode) -> str | None:
    """The page that the visitor came from, with its query filtered like the request's own."""
    text = _url_text(sent)
    if not text or not text.startswith(("http://", "https://", "android-app://")):
        return None
    address, _, search = text.partition("#")[0].partition("?")
    scheme, _, rest = address.partition("://")
    authority, slash, path = rest.partition("/")
    search = filtered(search, query)
    address = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    return f"{address}?{search}" if search else address


def _url_text(raw: bytes) -> str | None:
    """A URL, or a part of one, encoded as a browser does it; `None` if it is too long."""
    if not raw:
        return ""
    if len(raw) > _MAX_URL:
        return None
    text = _percent_encoded(raw)
    return text if len(text) <= _MAX_URL else None


def _encoded_again(path: str) -> bytes:
    return quote(path[: _MAX_URL + 1], safe=_PATH_SAFE, errors="replace").encode()


def _percent_encoded(raw: bytes) -> str:
    # Nearly all URLs are encoded already.
    return raw.decode("ascii") if _ENCODED.fullmatch(raw) else quote(raw, safe=_URL_SAFE)


def _text(value: bytes | None) -> str | None:
    return _decoded(value or b"", _MAX_HEADER).strip() or None


def _decoded(value: bytes, limit: int) -> str:
    """The text of a header; empty if it is too long or not printable."""
    return _printable(value) if len(value) <= limit else ""


@lru_cache(maxsize=1_024)
def _printable(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() else ""


# -- the kind of request


def is_get(scope: Mapping[str, Any]) -> bool:
    """Whether it is the request of a page, or a malformed one."""
    return bool(scope["type"] == "http" and scope.get("method", "GET") == "GET")


def is_prefetch(headers: Headers) -> bool:
    """Whether a browser or a preview loads the page ahead of time, so that it may never be seen."""
    purposes = [headers[name].lower() for name in _PURPOSES if name in headers]
    return any(word in purpose for purpose in purposes for word in (b"prefetch", b"prerender", b"preview"))


def asks_for_html(headers: Headers) -> bool:
    return b"text/html" in headers.get(b"accept", b"")


def has_gpc_signal(headers: Headers) -> bool:
    """Whether the browser sends the signal of Global Privacy Control (https://w3c.github.io/gpc/)."""
    return headers.get(b"sec-gpc", b"").strip() == b"1"
