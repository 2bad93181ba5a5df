"""`/token`: issues a token for a request that Segment's OAuth server would accept.

The claims of the assertion are checked, but not its signature, because no public key is registered here. Afterwards
`/v1/*` accepts any token, just as it accepts any write key.
"""

import base64
import binascii
import secrets
import time
from typing import Any, Final, cast
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

_FIXED: Final = {
    "grant_type": "client_credentials",
    "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
}
_TOKEN_SECONDS: Final = 86_400
_ASSERTION_SECONDS: Final = 60
_SKEW: Final = 5


async def token(request: web.Request) -> web.Response:
    form = dict(parse_qsl((await request.read()).decode(errors="replace")))
    problem = problem_with(form, time.time())
    if problem:
        content: dict[str, object] = {"error": "invalid_request", "error_description": problem}
        return web.Response(status=400, body=orjson.dumps(content), content_type="application/json")
    content = {
        "access_token": secrets.token_urlsafe(32),
        "token_type": "Bearer",
        "expires_in": _TOKEN_SECONDS,
        "scope": form["scope"],
    }
    return web.Response(
        body=orjson.dumps(content), content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def problem_with(form: dict[str, str], now: float) -> str:
    """What is wrong with a request for a token; "" if nothing is."""
    for name, value in _FIXED.items():
        if form.get(name) != value:
            return f"{name} is not {value}"
    if not form.get("scope"):
        return "scope is missing"
    try:
        header, claims, _ = (_decoded(part) for part in form.get("client_assertion", "").split("."))
    except ValueError:
        return "client_assertion is not a JWT"
    return _problem_with_claims(header, claims, now)


def _decoded(part: str) -> dict[str, Any]:
    """One part of a JWT; empty for the signature, which is not JSON."""
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    except binascii.Error as error:
        raise ValueError(part) from error
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}


def _problem_with_claims(header: dict[str, Any], claims: dict[str, Any], now: float) -> str:
    missing = [name for name in ("iss", "sub", "aud", "iat", "exp", "jti") if not claims.get(name)]
    times = (claims.get("iat"), claims.get("exp"))
    if header.get("alg") != "RS256" or not header.get("kid"):
        return "the assertion's header needs alg RS256 and a kid"
    if missing:
        return f"the assertion lacks {', '.join(missing)}"
    if claims["iss"] != claims["sub"]:
        return "iss and sub differ"
    if not all(isinstance(at, int | float) for at in times):
        return "iat and exp must be numbers"
    if claims["iat"] > now + _SKEW:
        return "the token is used too early (iat)"
    if claims["exp"] <= now - _SKEW:
        return "the token is expired (exp)"
    return "" if claims["exp"] <= now + _ASSERTION_SECONDS + _SKEW else "exp is more than a minute ahead"
