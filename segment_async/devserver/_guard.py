"""Who may talk to the endpoint: `Host`, `Origin` and token, checked before anything else; and CORS, its polite half.

A page of another site can make a browser send requests to loopback, and, by rebinding a DNS name, read the answers; it
cannot forge the headers checked here. Knows nothing of what a request is for, but for the path it begins with.
"""

import hmac
import ipaddress
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

_COOKIE: Final = "segment-dev-token"
_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Content-Encoding, X-Retry-Count",
    "Access-Control-Max-Age": "600",
}


class Guard:
    """`allowed_origins` may post events from a browser, as pages on this machine may; nobody else's page.

    With a `token`, any `Host` will do, and all but the tracking paths ask for the token. SDKs cannot send one there:
    they use it as their write key, which is not this class's business.
    """

    def __init__(self, allowed_origins: tuple[str, ...] = (), token: str | None = None) -> None:
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed_origins)
        self._token = token

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._token is None and not is_loopback_name(_host_name(request.headers.get("Host", ""))):
            raise web.HTTPForbidden(text="Refused: this endpoint answers to localhost and 127.0.0.1 only.\n")
        if request.path.startswith(("/v1/", "/token")):
            return await self._tracking(request, handler)
        if _comes_from_another_site(request):
            raise web.HTTPForbidden(text="Refused: other sites may not look into this endpoint.\n")
        if self._token is not None:
            self._check_token(request)
        return await handler(request)

    async def _tracking(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is None:
            return await handler(request)
        if not self._may_track(origin):
            raise web.HTTPForbidden(text="Refused: pages of that origin may not post here; see --allow-origin.\n")
        preflight = request.method == "OPTIONS"
        answer = web.Response(status=204, headers=_PREFLIGHT) if preflight else await handler(request)
        answer.headers["Access-Control-Allow-Origin"] = origin
        answer.headers["Access-Control-Expose-Headers"] = "Retry-After, X-RateLimit-Reset"
        answer.headers["Vary"] = "Origin"
        return answer

    def _may_track(self, origin: str) -> bool:
        if origin.lower() in self._allowed:
            return True
        return origin.startswith(("http://", "https://")) and is_loopback_name(_host_name(origin.partition("//")[2]))

    def _check_token(self, request: web.Request) -> None:
        in_query = request.query.get("token")
        in_header = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if in_query is not None and request.path == "/" and self._fits(in_query):
            raise _remember(in_query)
        if not any(map(self._fits, (in_query or "", in_header, request.cookies.get(_COOKIE, "")))):
            raise web.HTTPUnauthorized(text="Refused: add ?token=… as printed at the start, or send it as Bearer.\n")

    def _fits(self, token: str) -> bool:
        return self._token is not None and hmac.compare_digest(token.encode(), self._token.encode())


def _remember(token: str) -> web.HTTPSeeOther:
    """Move the token from the address bar into a cookie that no script and no other site gets at."""
    answer = web.HTTPSeeOther("/")
    answer.set_cookie(_COOKIE, token, httponly=True, samesite="Strict")
    return answer


def _comes_from_another_site(request: web.Request) -> bool:
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{request.headers.get('Host')}":
        return True
    # A browser sends no Origin with a GET that expects no answer it could read: an image, a script, a link.
    followed_a_link = request.path == "/" and request.headers.get("Sec-Fetch-Mode") == "navigate"
    return request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not followed_a_link


async def harden(request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: what is not for SDKs is for pages of this endpoint alone, and is what it says it is."""
    if not request.path.startswith("/v1/"):
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["X-Content-Type-Options"] = "nosniff"


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
