"""`/token`: which requests get a token, and the errors for all others."""

import base64
import json
import time
from typing import Any

import aiohttp
import pytest

from segment_async.devserver import Endpoint
from segment_async.devserver._oauth import problem_with
from tests.devserver.exchange import body, track, with_endpoint

NOW = 1_800_000_000.0
HEADER = {"alg": "RS256", "typ": "JWT", "kid": "k1"}
CLAIMS = {"iss": "app", "sub": "app", "aud": "http://127.0.0.1:8765", "iat": NOW - 5, "exp": NOW + 55, "jti": "1"}


AUDIENCE = "http://127.0.0.1:8765"


def part(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def form(header: dict[str, Any] = HEADER, claims: dict[str, Any] = CLAIMS, **fields: str) -> dict[str, str]:
    return {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": f"{part(header)}.{part(claims)}.c2lnbmVk",
        "scope": "tracking_api:write",
        **fields,
    }


def test_a_valid_request_gets_a_token_that_is_accepted_for_a_batch() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        now = time.time()
        asked = form(claims={**CLAIMS, "aud": endpoint.url, "iat": now - 5, "exp": now + 55})
        async with session.post("/token", data=asked) as answer:
            token = await answer.json()
            assert (answer.status, token["token_type"], token["expires_in"]) == (200, "Bearer", 86_400)
        bearer = {"Authorization": f"Bearer {token['access_token']}"}
        async with session.post("/v1/batch", data=body(track(), writeKey="key"), headers=bearer) as answer:
            assert answer.status == 200
        assert endpoint.events[0].verdicts == ()
        async with session.post("/token", data=asked) as answer:
            assert (answer.status, await answer.json()) == (
                400,
                {"error": "invalid_client", "error_description": "the assertion was used before (jti)"},
            )

    with_endpoint(case)


def test_an_invalid_request_gets_400_and_the_reason() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        async with session.post("/token", data=form(grant_type="password")) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"] == "unsupported_grant_type"

    with_endpoint(case)


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "text/plain; charset=nonsense", "multipart/form-data; boundary=x"],
)
@pytest.mark.parametrize("sent", [b"", b"\xff\xfe=\x80", b"--x\r\nbroken", b"grant_type&&=;="])
def test_a_body_that_is_not_a_form_is_refused(sent: bytes, content_type: str) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        async with session.post("/token", data=sent, headers={"Content-Type": content_type}) as answer:
            assert answer.status == (400 if content_type == "application/x-www-form-urlencoded" else 415)
        async with session.put("/_dev/chaos", data=b"\xff" + sent, headers={"Content-Type": content_type}) as answer:
            assert answer.status == 400

    with_endpoint(case)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (form(), ""),
        ({}, "grant_type"),
        (form(client_assertion_type="x"), "client_assertion_type"),
        (form(scope=""), "scope"),
        (form(scope="public_api:read_write"), "scope is not tracking_api:write"),
        (form(claims={**CLAIMS, "aud": "http://127.0.0.1:8765/"}), "aud is not http://127.0.0.1:8765"),
        (form(claims={**CLAIMS, "aud": "https://oauth2.segment.io"}), "aud is not http://127.0.0.1:8765"),
        (form(client_assertion=f"{part(HEADER)}.{part(CLAIMS)}."), "not signed"),
        (form(claims={**CLAIMS, "iat": NOW - 30}), "a minute after iat"),
        (form(client_assertion=""), "not a JWT"),
        (form(client_assertion="a.b"), "not a JWT"),
        (form(client_assertion="a.b.c"), "not a JWT"),
        (form(client_assertion="ééé.ééé.ééé"), "not a JWT"),
        (form(header={**HEADER, "alg": "none"}), "RS256"),
        (form(header={"alg": "RS256"}), "kid"),
        (form(claims={**CLAIMS, "jti": ""}), "lacks jti"),
        (form(claims={**CLAIMS, "sub": "other"}), "differ"),
        (form(claims={**CLAIMS, "exp": "soon"}), "numbers"),
        (form(claims={**CLAIMS, "iat": NOW + 30}), "too early (iat)"),
        (form(claims={**CLAIMS, "iat": NOW - 80, "exp": NOW - 30}), "expired (exp)"),
        (form(claims={**CLAIMS, "exp": NOW + 600}), "a minute after iat"),
    ],
)
def test_every_problem(asked: dict[str, str], problem: str) -> None:
    found = problem_with(asked, NOW, AUDIENCE)
    assert problem in found.text if found else problem == ""
