"""Access control: checks `Host`, `Origin` and token before anything else, and sends the CORS headers.

A page of another site can make a browser send requests to loopback and, by rebinding a DNS name, read the responses. It
cannot forge the headers that are checked here. Of a request's purpose, this file knows only the beginning of its path.
"""

import hmac
import ipaddress
import re
from typing import Final, cast
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

_ORIGIN: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/?#@*:\[\]]+)(:\d{1,5})?")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_COOKIE: Final = "segment-dev-token"
_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Content-Encoding, X-Retry-Count",
    "Access-Control-Max-Age": "600",
}


class AccessControl:
    """Middleware that refuses requests of other sites.

    Pages on this machine and those of `allowed_origins` may post events. With a `token`, any `Host` is accepted, and
    all paths except the tracking ones require the token. SDKs send it as their write key, which `_tracking` checks.

    Raises:
        ValueError: an allowed origin is not one.
    """

    def __init__(self, allowed_origins: tuple[str, ...] = (), token: str | None = None) -> None:
        if isinstance(cast("object", allowed_origins), str):
            raise ValueError(f"allow_origins must be a list of origins, such as [{allowed_origins!r}]")  # noqa: TRY004  # as other options
        self._allowed = frozenset(origin_of(text) for text in allowed_origins)
        self._token = token

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._token is None and not is_loopback_name(_host_name(request.headers.get("Host", ""))):
            raise web.HTTPForbidden(text="Refused: this endpoint can be reached as localhost or 127.0.0.1 only.\n")
        if request.path.startswith(("/v1/", "/token")):
            return await self._tracking(request, handler)
        if _comes_from_another_site(request):
            raise web.HTTPForbidden(text="Refused: other sites may not read from this endpoint.\n")
        if self._token is not None:
            self._check_token(request)
        return await handler(request)

    async def _tracking(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is None:
            return await handler(request)
        if not self._may_track(origin):
            raise web.HTTPForbidden(text="Refused: pages of this origin may not post here; see --allow-origin.\n")
        preflight = request.method == "OPTIONS"
        response = web.Response(status=204, headers=_PREFLIGHT) if preflight else await handler(request)
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = "Retry-After, X-RateLimit-Reset"
        response.headers["Vary"] = "Origin"
        return response

    def _may_track(self, origin: str) -> bool:
        if origin.lower() in self._allowed:
            return True
        return origin.startswith(("http://", "https://")) and is_loopback_name(_host_name(origin.partition("//")[2]))

    def _check_token(self, request: web.Request) -> None:
        in_query = request.query.get("token")
        in_header = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if in_query is not None and request.path == "/" and self._matches(in_query):
            raise _with_cookie(in_query)
        if not any(map(self._matches, (in_query or "", in_header, request.cookies.get(_COOKIE, "")))):
            raise web.HTTPUnauthorized(
                text="Refused: add ?token=… as printed at the start, or send the token as Bearer.\n"
            )

    def _matches(self, token: str) -> bool:
        # A header that is not UTF-8 has lone surrogates.
        sent = token.encode(errors="surrogatepass")
        return self._token is not None and hmac.compare_digest(sent, self._token.encode())


def _with_cookie(token: str) -> web.HTTPSeeOther:
    """A redirect that moves the token from the URL to a cookie, which scripts and other sites cannot read."""
    response = web.HTTPSeeOther("/")
    response.set_cookie(_COOKIE, token, httponly=True, samesite="Strict")
    return response


def _comes_from_another_site(request: web.Request) -> bool:
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{request.headers.get('Host')}":
        return True
    # A browser sends no Origin with a GET whose response the page cannot read: an image, a script, a link.
    followed_a_link = request.path == "/" and request.headers.get("Sec-Fetch-Mode") == "navigate"
    return request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not followed_a_link


async def harden(request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: outside of the tracking paths, only pages of this endpoint may load a response."""
    if not request.path.startswith("/v1/"):
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["X-Content-Type-Options"] = "nosniff"


def origin_of(text: str) -> str:
    """The origin as browsers send it.

    Raises:
        ValueError: it is none, so that it would never match.
    """
    origin = text.removesuffix("/").lower()
    if origin == "null":
        return origin
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        raise ValueError(f"{text!r} is not an origin, such as https://shop.test")
    return origin.removesuffix(_DEFAULT_PORTS.get(found["scheme"], "/"))


def _host_name(host: str) -> str:
    try:
        parts = urlsplit(f"//{host}")
        # What follows the colon must be a number: otherwise it belongs to another name.
        port = parts.port
    except ValueError:
        return ""
    return "" if port == 0 else parts.hostname or ""


def is_loopback_name(name: str) -> bool:
    """Whether a host name or address always refers to this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
