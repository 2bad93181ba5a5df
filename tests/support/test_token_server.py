"""The token server hands out tokens to a proper assertion, and to nothing else."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.exchange import ReceivedRequest
from tests.support.fault_server import FaultServer
from tests.support.faults import OnRequest, answer, silence
from tests.support.token_server import ASSERTION_TYPE, TokenServer, private_key, private_key_pem

Answer = tuple[int, dict[str, Any]]


def assertion(server: TokenServer, *, key: Any = None, kid: str = "the-key", **changed: Any) -> str:
    now = time.time()
    claims = {"iss": "the-client", "sub": "the-client", "aud": server.url, "iat": now - 5, "exp": now + 50}
    claims = {**claims, "jti": str(uuid.uuid4()), **changed}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key or private_key(), algorithm="RS256", headers={"kid": kid})


def form(signed: str, **changed: str) -> dict[str, str]:
    return {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": signed,
        "scope": "tracking_api:write",
        **changed,
    }


async def ask(server: TokenServer, fields: dict[str, str]) -> Answer:
    async with aiohttp.ClientSession() as session, session.post(f"{server.url}/token", data=fields) as response:
        return response.status, await response.json(content_type=None)


def with_server(client: Callable[[TokenServer], Awaitable[None]], **options: Any) -> TokenServer:
    async def main() -> TokenServer:
        async with asyncio.timeout(10), TokenServer(**options) as server:
            await client(server)
        return server

    return asyncio.run(main())


def test_a_proper_assertion_gets_a_token() -> None:
    async def client(server: TokenServer) -> None:
        status, said = await ask(server, form(assertion(server)))
        assert (status, said["expires_in"], said["token_type"]) == (200, 1800, "Bearer")
        assert server.tokens == [said["access_token"]]
        assert server.accepts(f"Bearer {said['access_token']}")
        assert not server.accepts("Bearer something else")
        assert not server.accepts(None)

    server = with_server(client, lifetime=1800)
    assert (server.refreshes, server.complaints) == (1, [])


def test_the_key_can_be_had_as_pem() -> None:
    async def client(server: TokenServer) -> None:
        assert (await ask(server, form(assertion(server, key=private_key_pem()))))[0] == 200

    with_server(client)


def from_now(seconds: float) -> Callable[[], float]:
    return lambda: time.time() + seconds


@pytest.mark.parametrize(
    ("wrong", "status", "complaint"),
    [
        ({"iss": "somebody"}, 401, "issuer"),
        ({"sub": "somebody"}, 401, "sub"),
        ({"aud": "https://oauth2.segment.io"}, 401, "[Aa]udience"),
        ({"kid": "another"}, 401, "kid"),
        ({"key": rsa.generate_private_key(65_537, 2048)}, 401, "[Ss]ignature"),
        ({"jti": None}, 401, "jti"),
        ({"jti": ""}, 401, "jti"),
        ({"iat": from_now(600)}, 400, "iat"),
        ({"exp": from_now(-1)}, 400, "exp"),
        ({"exp": from_now(600)}, 400, "exp"),
    ],
)
def test_a_wrong_assertion_gets_none(wrong: dict[str, Any], status: int, complaint: str) -> None:
    async def client(server: TokenServer) -> None:
        claims = {name: value() if callable(value) else value for name, value in wrong.items()}
        assert (await ask(server, form(assertion(server, **claims))))[0] == status

    server = with_server(client)
    assert server.refreshes == 0
    with pytest.raises(AssertionError, match=complaint):
        raise AssertionError(server.complaints[0])


def test_a_trailing_slash_makes_another_audience() -> None:
    async def client(server: TokenServer) -> None:
        assert (await ask(server, form(assertion(server, aud=f"{server.url}/"))))[0] == 401

    with_server(client)


@pytest.mark.parametrize(
    "wrong",
    [{"grant_type": "password"}, {"scope": "public_api:read"}, {"client_secret": "x"}, {"client_assertion": "x"}],
)
def test_a_wrong_form_gets_none(wrong: dict[str, str]) -> None:
    async def client(server: TokenServer) -> None:
        assert (await ask(server, form(assertion(server), **wrong)))[0] in (400, 401)

    assert with_server(client).refreshes == 0


def test_json_is_no_form() -> None:
    async def client(server: TokenServer) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{server.url}/token", json=form(assertion(server))) as response:
                assert response.status == 415
            async with session.get(f"{server.url}/token") as response:
                assert response.status == 404

    with_server(client)


def test_an_assertion_is_good_once() -> None:
    async def client(server: TokenServer) -> None:
        signed = assertion(server)
        assert [(await ask(server, form(signed)))[0] for _ in range(2)] == [200, 401]

    with_server(client)


@pytest.mark.parametrize(("skew", "names"), [(-3600, "iat"), (3600, "exp")])
def test_a_skewed_clock_complains_and_shows_itself(skew: float, names: str) -> None:
    async def client(server: TokenServer) -> None:
        fields = form(assertion(server))
        async with aiohttp.ClientSession() as session, session.post(f"{server.url}/token", data=fields) as response:
            assert response.status == 400
            assert names in (await response.json())["error_description"]
            date = parsedate_to_datetime(response.headers["Date"]).timestamp()
            assert abs(date - time.time() - skew) < 5
        corrected = assertion(server, iat=date - 5, exp=date + 50)
        assert (await ask(server, form(corrected)))[0] == 200

    with_server(client, skew=skew)


def test_scripted_answers_come_first() -> None:
    async def client(server: TokenServer) -> None:
        assert [(await ask(server, form(assertion(server))))[0] for _ in range(3)] == [429, 500, 200]

    server = with_server(client, script=[answer(429, {"Retry-After": "1"}), answer(500)])
    assert (len(server.requests), server.refreshes) == (3, 1)


def test_it_may_be_silent_or_down() -> None:
    async def client(server: TokenServer) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ask(server, form(assertion(server)))
        await server.go_down()
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(server, form(assertion(server)))
        server.come_up()
        assert (await ask(server, form(assertion(server))))[0] == 200

    with_server(client, script=[silence()])


def test_tokens_end_by_age_and_by_revocation() -> None:
    now = time.time()

    async def client(server: TokenServer) -> None:
        nonlocal now
        _, first = await ask(server, form(assertion(server)))
        assert server.accepts(f"Bearer {first['access_token']}")
        now += 61
        assert not server.accepts(f"Bearer {first['access_token']}")
        _, second = await ask(server, form(assertion(server, iat=now - 5, exp=now + 50)))
        server.revoke()
        assert not server.accepts(f"Bearer {second['access_token']}")

    with_server(client, lifetime=60, clock=lambda: now)


def test_a_tracking_server_can_ask_it() -> None:
    async def main() -> list[int]:
        async with TokenServer() as tokens:

            def script(request: ReceivedRequest) -> OnRequest:
                return answer(200 if tokens.accepts(request.headers.get("Authorization")) else 401)

            async with FaultServer(script) as tracking, aiohttp.ClientSession() as session:
                _, said = await ask(tokens, form(assertion(tokens)))
                seen = []
                for token in (said["access_token"], "stale"):
                    async with session.post(tracking.url, headers={"Authorization": f"Bearer {token}"}) as response:
                        seen.append(response.status)
                return seen

    assert asyncio.run(main()) == [200, 401]
