"""`/token`: issues a token for a request that Segment's OAuth server would accept.

The claims of the assertion are checked, but not its signature, because no public key is registered here. Afterwards
`/v1/*` accepts any token, just as it accepts any write key.
"""

import base64
import binascii
import secrets
import time
from typing import Any, Final, NamedTuple, cast
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from ._faults import Faults
from ._ids import RecentIds
from ._tracking import reset

_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_SCOPE: Final = "tracking_api:write"
_FORM: Final = "application/x-www-form-urlencoded"
_TOKEN_SECONDS: Final = 86_400
_ASSERTION_SECONDS: Final = 60
_SKEW: Final = 5
_IDS_REMEMBERED: Final = 10_000


class Problem(NamedTuple):
    """Why a request gets no token: the `error` of RFC 6749, and what is wrong."""

    error: str
    text: str
    status: int = 400


class TokenServer:
    """Issues tokens, and remembers the ids of assertions, each of which may be used once."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._ids = RecentIds(_IDS_REMEMBERED)

    def route(self) -> web.RouteDef:
        return web.post("/token", self._token)

    async def _token(self, request: web.Request) -> web.Response:
        if self._faults.chaos.down:
            return reset(request)
        form = dict(parse_qsl((await request.read()).decode(errors="replace")))
        problem = self._problem(request, form)
        if problem is not None:
            return _json({"error": problem.error, "error_description": problem.text}, problem.status)
        content: dict[str, object] = {
            "access_token": secrets.token_urlsafe(32),
            "token_type": "Bearer",
            "expires_in": _TOKEN_SECONDS,
            "scope": form["scope"],
        }
        return _json(content, 200)

    def _problem(self, request: web.Request, form: dict[str, str]) -> Problem | None:
        if request.content_type != _FORM:
            return Problem("invalid_request", f"the Content-Type is not {_FORM}", 415)
        found = problem_with(form, time.time(), f"http://{request.host}")
        if found is None and self._ids.seen_before(str(_parts(form["client_assertion"])[1]["jti"])):
            return Problem("invalid_client", "the assertion was used before (jti)")
        return found


def _json(content: dict[str, object], status: int) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json", headers=headers)


def problem_with(form: dict[str, str], now: float, audience: str) -> Problem | None:
    """What is wrong with a request for a token of the server `audience`; `None` if nothing is."""
    if form.get("grant_type") != "client_credentials":
        return Problem("unsupported_grant_type", "grant_type is not client_credentials")
    if form.get("client_assertion_type") != _ASSERTION_TYPE:
        return Problem("invalid_request", f"client_assertion_type is not {_ASSERTION_TYPE}")
    if _SCOPE not in form.get("scope", "").split():
        return Problem("invalid_scope", f"scope is not {_SCOPE}")
    try:
        header, claims, signature = _parts(form.get("client_assertion", ""))
    except ValueError:
        return Problem("invalid_client", "client_assertion is not a JWT")
    text = (
        _problem_with_header(header, signature)
        or _problem_with_claims(claims, audience)
        or _problem_with_times(claims["iat"], claims["exp"], now)
    )
    return Problem("invalid_client", text) if text else None


def _parts(assertion: str) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, claims and signature of a JWT.

    Raises:
        ValueError: it does not have three parts in base64.
    """
    header, claims, signature = (_decoded(part) for part in assertion.split("."))
    return _object(header), _object(claims), signature


def _decoded(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error as error:
        raise ValueError(part) from error


def _object(json: bytes) -> dict[str, Any]:
    """A JSON object; empty if it is none."""
    try:
        parsed = orjson.loads(json)
    except orjson.JSONDecodeError:
        return {}
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}


def _problem_with_header(header: dict[str, Any], signature: bytes) -> str:
    if header.get("alg") != "RS256" or not header.get("kid"):
        return "the assertion's header needs alg RS256 and a kid"
    return "" if signature else "the assertion is not signed"


def _problem_with_claims(claims: dict[str, Any], audience: str) -> str:
    missing = [name for name in ("iss", "sub", "aud", "iat", "exp", "jti") if not claims.get(name)]
    if missing:
        return f"the assertion lacks {', '.join(missing)}"
    if claims["iss"] != claims["sub"]:
        return "iss and sub differ"
    if claims["aud"] != audience:
        return f"aud is not {audience}"
    if not all(isinstance(claims[name], int | float) for name in ("iat", "exp")):
        return "iat and exp must be numbers"
    return ""


def _problem_with_times(iat: float, exp: float, now: float) -> str:
    if iat > now + _SKEW:
        return "the token is used too early (iat)"
    if exp <= now - _SKEW:
        return "the token is expired (exp)"
    if exp > iat + _ASSERTION_SECONDS:
        return "exp is more than a minute after iat"
    return ""
