"""The `context` of a request as JSON: the same as `request.context_of`, put together from pieces.

What many requests have in common (browser, address, origin, referrer) is encoded once and kept. Pure, but for these
pieces, which are bounded in bytes. This file knows neither clients nor messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import orjson

from .query import Mode, campaign
from .request import (
    HINTS,
    Headers,
    Network,
    client_ip,
    device_of,
    fitting,
    is_behind_proxy,
    origin_of,
    path_of,
    referrer,
    search_of,
)

Key = TypeVar("Key", bound=Hashable)
Piece = TypeVar("Piece")

_OF_SITE: Final = (b"host", b"user-agent", b"accept-language", *HINTS)
# A path that is encoded already, without a query string behind it.
_PLAIN_PATH: Final = re.compile(rb"[!#$%&'()*+,/:;=@\[\]\-._~A-Za-z0-9]{1,1024}")
# Of an entry, beside its own bytes: the objects of the key and the place in the dict.
_OVERHEAD: Final = 512
# Larger ones are not kept: they are rare, and not a browser's.
_MAX_KEPT: Final = 2_048

_Site = tuple[str | bytes | None, ...]
"""The scheme, and the headers of `_OF_SITE`."""


class Pieces(Generic[Key, Piece]):
    """Pieces of JSON by what they are made of; all together they take about `max_bytes`.

    `make` makes a piece that is not kept, and says how many bytes it and its key have.
    """

    def __init__(self, make: Callable[[Key], tuple[Piece, int]], max_bytes: int) -> None:
        self._make = make
        self._max_bytes = max_bytes
        self.kept: dict[Key, Piece] = {}
        self._bytes = 0

    def add(self, key: Key) -> Piece:
        piece, size = self._make(key)
        if size <= _MAX_KEPT and key not in self.kept:
            # Two threads at once may count one of two, until all are dropped.
            self._bytes += size + _OVERHEAD
            if self._bytes > self._max_bytes:
                self.kept, self._bytes = {}, size + _OVERHEAD
            self.kept[key] = piece
        return piece


def context_json(scope: Mapping[str, Any], headers: Headers, trusted: Sequence[Network], query: Mode) -> bytes:
    """The JSON of the context's members, without braces. `scope` is what `pieces_of` returned.

    Each line costs a request, whose caches are cold, a tenth of a microsecond or more: hence one long function.
    """
    site: _Site = (scope["scheme"], *map(headers.get, _OF_SITE))
    device, origin = sites.kept.get(site) or sites.add(site)
    client = scope["client"]
    address = b""
    if trusted:
        address = _address_json(client_ip(scope, headers, trusted))
        origin = _text_json(origin_of(scope, headers, is_behind_proxy(scope, trusted)))
    elif client and type(peer := client[0]) is str:
        address = addresses.kept.get(peer) or addresses.add(peer)
    sent = headers.get(b"referer")
    referred = (referrers.kept.get((sent, query)) or referrers.add((sent, query))) if sent else b""
    raw = scope["raw_path"]
    # Neither a path nor a query string holds what JSON escapes: they are percent-encoded.
    if raw and origin and not scope["query_string"] and not scope["root_path"] and _PLAIN_PATH.fullmatch(raw):
        page = b'"path":"%b","url":"%b%b"%b' % (raw, origin, raw, referred)
        return b'"channel":"server"%b%b,"page":{%b}' % (address, device, page)
    search = search_of(scope, query)
    fields = campaign(search[1:])
    campaign_json = b',"campaign":%b' % orjson.dumps(fields) if fields else b""
    page = (_address_of_page(scope, origin, search) + referred)[1:]
    page_json = b',"page":{%b}' % page if page else b""
    return b'"channel":"server"%b%b%b%b' % (address, device, campaign_json, page_json)


def _address_of_page(scope: Mapping[str, Any], origin: bytes, search: str) -> bytes:
    text = path_of(scope)
    if text is None:
        return b""
    path, query_string = text.encode(), fitting(search, text).encode()
    json = b',"path":"%b"' % path
    if origin:
        json += b',"url":"%b%b%b"' % (origin, path, query_string)
    return json + b',"search":"%b"' % query_string if query_string else json


# -- the pieces


def _site_pieces(site: _Site) -> tuple[tuple[bytes, bytes], int]:
    """The members that describe the browser; and the address of the site, in JSON without its quotation marks."""
    scheme, *values = site
    headers = {name: value for name, value in zip(_OF_SITE, values, strict=True) if isinstance(value, bytes)}
    device = device_of(headers)
    device_json = b",%b" % orjson.dumps(device)[1:-1] if device else b""
    origin = _text_json(origin_of({"scheme": scheme}, headers, behind_proxy=False))
    return (device_json, origin), sum(map(len, (*filter(None, site), device_json, origin)))


def _address_piece(peer: str) -> tuple[bytes, int]:
    piece = _address_json(client_ip({"client": (peer, 0)}, {}, ()))
    return piece, len(peer) + len(piece)


def _address_json(address: str | None) -> bytes:
    return b',"ip":"%b"' % address.encode() if address else b""


def _referrer_piece(key: tuple[bytes, Mode]) -> tuple[bytes, int]:
    address = referrer(*key)
    piece = b',"referrer":"%b"' % _text_json(address) if address else b""
    return piece, len(key[0]) + len(piece)


def _text_json(text: str | None) -> bytes:
    """A text in JSON, without its quotation marks."""
    return orjson.dumps(text)[1:-1] if text else b""


sites: Final = Pieces(_site_pieces, 1 << 20)
addresses: Final = Pieces(_address_piece, 1 << 18)
referrers: Final = Pieces(_referrer_piece, 1 << 18)
