"""Who may talk to the endpoint: the checks of `Host` and `Origin` that every request passes first.

A page of another site can make a browser send requests to loopback, and, by rebinding a DNS name, read the answers.
It cannot forge the two headers checked here. Knows nothing of what a request is for, but for the path it begins with.
"""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

_TRACKING: Final = ("/v1/", "/token")


class Guard:
    """`allowed_origins` may post events from a browser besides pages on this machine; nobody else's page may."""

    def __init__(self, allowed_origins: tuple[str, ...] = ()) -> None:
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed_origins)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_loopback_name(_host_name(request.headers.get("Host", ""))):
            raise web.HTTPForbidden(text="Refused: this endpoint answers to localhost and 127.0.0.1 only.\n")
        if not self._origin_is_welcome(request):
            raise web.HTTPForbidden(text="Refused: pages of that origin may not talk to this endpoint.\n")
        return await handler(request)

    def _origin_is_welcome(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        if request.path.startswith(_TRACKING):
            return origin is None or self.may_track(origin)
        return origin is None or origin == f"http://{request.headers['Host']}"

    def may_track(self, origin: str) -> bool:
        if origin.lower() in self._allowed:
            return True
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and is_loopback_name(parts.hostname or "")


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_loopback_name(name: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
