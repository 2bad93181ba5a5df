"""The `context` of a request as JSON: the same as `request.context_of`, put together from pieces.

What many requests have in common (browser, address, origin, referrer) is encoded once and kept. Pure, but for these
pieces, which are bounded in bytes. This file knows neither clients nor messages.
"""

from __future__ import annotations

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

_OF_SITE: Final = frozenset((b"user-agent", b"accept-language", b"host", *HINTS))
# Of an entry, beside its own bytes: the objects of the key and the place in the dict.
_OVERHEAD: Final = 512
# Larger ones are not kept: they are rare, and not a browser's.
_MAX_KEPT: Final = 2_048

_Site = tuple[str, tuple[tuple[bytes, bytes], ...]]


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
    """The JSON of the context's members, without braces. `scope` is what `pieces_of` returned."""
    site: _Site = (scope["scheme"], tuple([pair for pair in headers.items() if pair[0] in _OF_SITE]))
    device, origin = sites.kept.get(site) or sites.add(site)
    client = scope["client"]
    if trusted:
        address = _address_json(client_ip(scope, headers, trusted))
        origin = _text_json(origin_of(scope, headers, is_behind_proxy(scope, trusted)))
    elif client and type(peer := client[0]) is str:
        address = addresses.kept.get(peer) or addresses.add(peer)
    else:
        address = b""
    search, fields = "", None
    if scope["query_string"]:
        search = search_of(scope, query)
        fields = campaign(search[1:])
    return b'"channel":"server"%b%b%b%b' % (
        address,
        device,
        b',"campaign":%b' % orjson.dumps(fields) if fields else b"",
        _page(scope, headers, origin, search, query),
    )


def _page(scope: Mapping[str, Any], headers: Headers, origin: bytes, search: str, query: Mode) -> bytes:
    # A path and a query string hold nothing that JSON escapes: they are percent-encoded.
    raw = path_of(scope)
    json = b""
    if raw is not None:
        path, search = raw.encode(), fitting(search, raw)
        json = b',"path":"%b"' % path
        if origin:
            json += b',"url":"%b%b%b"' % (origin, path, search.encode())
        if search:
            json += b',"search":"%b"' % search.encode()
    sent = headers.get(b"referer")
    if sent:
        json += referrers.kept.get((sent, query)) or referrers.add((sent, query))
    return b',"page":{%b}' % json[1:] if json else b""


# -- the pieces


def _site_pieces(site: _Site) -> tuple[tuple[bytes, bytes], int]:
    """The members that describe the browser; and the address of the site, in JSON without quotation marks."""
    scheme, pairs = site
    headers = dict(pairs)
    device = device_of(headers)
    pieces = (b",%b" % orjson.dumps(device)[1:-1] if device else b""), _origin_json(scheme, headers)
    return pieces, len(scheme) + sum(map(len, (*headers, *headers.values(), *pieces)))


def _origin_json(scheme: str, headers: Headers) -> bytes:
    return _text_json(origin_of({"scheme": scheme}, headers, behind_proxy=False))


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
