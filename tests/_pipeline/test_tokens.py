"""When a token is fetched, renewed, dropped and given up, and what is said when there is none to be had.

Against a token server that verifies each signature, over real sockets. Time is an argument of `Tokens`; how long it
waits between two requests is seen in virtual time, before a token server by script.
"""

import asyncio
import gc
import logging
import math
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from segment_async import Client, HTTPTransport, Outcome, Response, RetryPolicy, Status, TransportError
from segment_async._lifecycle import process
from segment_async._pipeline.auth import Refused
from segment_async._pipeline.tokens import Tokens
from tests.support import faults
from tests.support.fault_server import FaultServer
from tests.support.faults import OnRequest, answer
from tests.support.token_server import TokenServer, oauth, private_key, private_key_pem
from tests.support.virtual_clock import run, running_clock

QUICK = RetryPolicy(backoff=0.001, max_backoff=0.002)


class Clock:
    """A client's monotonic clock, which the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def unnoted(error: str, retry_in: float) -> None:
    """For tests of something else."""


@asynccontextmanager
async def tokens_from(
    server: TokenServer,
    clock: Callable[[], float] | None = None,
    note_failure: Callable[[str, float], object] = unnoted,
    **options: Any,
) -> AsyncIterator[Tokens]:
    transport = HTTPTransport(f"{server.url}/token", timeout=5)
    tokens = Tokens(
        oauth(**options),
        server.url,
        transport,
        QUICK,
        now=clock or Clock(),
        wall_clock=time.time,
        random=lambda: 0.0,
        note_failure=note_failure,
    )
    try:
        yield tokens
    finally:
        await tokens.aclose()


async def fetched() -> None:
    """Wait for the fetching that goes on behind the traffic."""
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "segment_async token"))


class TestToken:
    def test_the_first_is_fetched_when_it_is_needed(self) -> None:
        async def main() -> None:
            async with TokenServer() as server, tokens_from(server) as tokens:
                assert not server.requests
                assert await tokens.header() == f"Bearer {server.tokens[0]}"
                assert server.complaints == []

        asyncio.run(main())

    def test_one_request_at_a_time_however_many_wait(self) -> None:
        async def main() -> None:
            async with TokenServer() as server, tokens_from(server) as tokens:
                headers = await asyncio.gather(*(tokens.header() for _ in range(50)))
                assert set(headers) == {f"Bearer {server.tokens[0]}"}
                assert len(server.requests) == 1

        asyncio.run(main())

    def test_one_that_stops_waiting_leaves_it_to_the_others(self) -> None:
        async def main() -> None:
            async with TokenServer() as server, tokens_from(server) as tokens:
                first, second = (asyncio.create_task(tokens.header()) for _ in range(2))
                await asyncio.sleep(0)
                first.cancel()
                assert await second == f"Bearer {server.tokens[0]}"
                assert len(server.requests) == 1

        asyncio.run(main())

    def test_it_is_renewed_at_half_its_life_behind_the_traffic(self) -> None:
        async def main() -> None:
            clock = Clock()
            async with TokenServer(lifetime=1_000) as server, tokens_from(server, clock) as tokens:
                first = await tokens.header()
                clock.now = 499.9
                assert await tokens.header() == first
                assert server.refreshes == 1
                clock.now = 500.0
                # The old one is still good: nothing waits.
                assert await asyncio.gather(*(tokens.header() for _ in range(9))) == [first] * 9
                await fetched()
                assert server.refreshes == len(server.requests) == 2
                clock.now = 999.9
                assert await tokens.header() == f"Bearer {server.tokens[1]}"

        asyncio.run(main())

    def test_without_traffic_nothing_is_renewed(self) -> None:
        async def main() -> None:
            clock = Clock()
            async with TokenServer(lifetime=1_000) as server, tokens_from(server, clock) as tokens:
                await tokens.header()
                clock.now = 5_000.0
                assert not [task for task in asyncio.all_tasks() if "segment_async" in task.get_name()]
                assert server.refreshes == 1
                assert await tokens.header() == f"Bearer {server.tokens[1]}"

        asyncio.run(main())

    def test_a_dropped_one_is_fetched_anew_once(self) -> None:
        async def main() -> None:
            clock = Clock()
            async with TokenServer() as server, tokens_from(server, clock) as tokens:
                await tokens.header()
                clock.now = 10.0
                tokens.renew(sent_at=5.0)
                second = await tokens.header()
                # Others that were sent with the first token learn of it only now.
                tokens.renew(sent_at=5.0)
                tokens.renew(sent_at=9.0)
                assert await tokens.header() == second
                assert server.refreshes == 2

        asyncio.run(main())

    @pytest.mark.parametrize("is_closed", [True, False])
    def test_a_loop_does_not_wait_for_what_another_left_unfinished(
        self, is_closed: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Slow:
            """Answers the second time."""

            asked = 0

            async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
                self.asked += 1
                if self.asked == 1:
                    await asyncio.get_running_loop().create_future()
                return Response(200, {}, orjson.dumps(TOKEN))

            async def aclose(self) -> None:
                """Nothing is held."""

        async def begin() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(tokens.header(), 0.001)

        tokens = Tokens(
            oauth(), "x", Slow(), QUICK, now=Clock(), wall_clock=time.time, random=lambda: 0.0, note_failure=unnoted
        )
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin())
        if is_closed:
            loop.close()
        assert asyncio.run(tokens.header()) == "Bearer good"
        loop.close()
        del loop
        # No task is left there.
        gc.collect()
        assert not caplog.records

    def test_it_does_not_show(self) -> None:
        tokens = Tokens(
            oauth(),
            "x",
            ByScript([]),
            QUICK,
            now=Clock(),
            wall_clock=time.time,
            random=lambda: 0.0,
            note_failure=unnoted,
        )
        assert repr(tokens) == "<Tokens>"


class TestAssertion:
    def test_what_it_says(self) -> None:
        async def main() -> tuple[Mapping[str, Any], Mapping[str, list[str]], str]:
            async with TokenServer() as server, tokens_from(server) as tokens:
                await tokens.header()
                (request,) = server.requests
                assert (request.method, request.target) == ("POST", "/token")
                form = parse_qs(request.body.decode(), strict_parsing=True)
                assert jwt.get_unverified_header(form["client_assertion"][0])["kid"] == "the-key"
                claims = jwt.decode(
                    form.pop("client_assertion")[0], private_key().public_key(), ["RS256"], audience=server.url
                )
                return claims, form, server.url

        claims, form, url = asyncio.run(main())
        assert form == {
            "grant_type": ["client_credentials"],
            "client_assertion_type": ["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"],
            "scope": ["tracking_api:write"],
        }
        assert claims.keys() == {"iss", "sub", "aud", "iat", "exp", "jti"}
        assert (claims["iss"], claims["sub"], claims["aud"]) == ("the-client", "the-client", url)
        assert claims["iat"] == pytest.approx(time.time() - 5, abs=3)
        assert claims["exp"] <= time.time() + 60

    @pytest.mark.parametrize("skew", [-3_600.0, -90.0, 90.0, 3_600.0])
    def test_a_clock_that_is_off_is_corrected_once_and_stays_so(self, skew: float) -> None:
        async def main() -> None:
            clock = Clock()
            async with TokenServer(skew=skew, lifetime=100) as server, tokens_from(server, clock) as tokens:
                assert await tokens.header() == f"Bearer {server.tokens[0]}"
                assert len(server.complaints) == 1
                clock.now = 100.0
                assert await tokens.header() == f"Bearer {server.tokens[1]}"
                assert len(server.complaints) == 1

        asyncio.run(main())

    def test_a_clock_that_is_off_a_little_is_no_matter(self) -> None:
        async def main() -> None:
            for skew in (-4.0, 50.0):
                async with TokenServer(skew=skew) as server, tokens_from(server) as tokens:
                    await tokens.header()
                    assert server.complaints == []

        asyncio.run(main())

    @pytest.mark.parametrize("text", ["iat is in the future", "invalid_iat", "token_expired", "Used too early."])
    def test_a_server_that_complains_of_the_time_for_ever_is_believed(self, text: str) -> None:
        async def main() -> None:
            complaint = answer(400, {}, b'{"error_description":"%b"}' % text.encode())
            async with TokenServer([complaint] * 9) as server, tokens_from(server) as tokens:
                with pytest.raises(Refused):
                    await tokens.header()
                assert len(server.requests) == 2

        asyncio.run(main())


class TestRefusal:
    @pytest.mark.parametrize("status", [400, 401, 415])
    def test_it_is_final_and_says_what_to_mend(self, status: int) -> None:
        async def main() -> str:
            script = [answer(status, {}, b'{"error":"invalid_client"}')] * 9
            async with TokenServer(script) as server, tokens_from(server) as tokens:
                with pytest.raises(Refused) as refusal:
                    await tokens.header()
                assert len(server.requests) == 1
                return str(refusal.value).removeprefix(server.url)

        text = asyncio.run(main())
        assert text.startswith(f" answered {status}: check client_id, key_id, client_key and scope")
        assert "region" in text

    @pytest.mark.parametrize("wrong", [{"client_id": "another"}, {"key_id": "another"}, {"scope": "another"}])
    def test_a_real_server_refuses_what_is_wrong(self, wrong: Mapping[str, Any]) -> None:
        async def main() -> None:
            async with TokenServer() as server, tokens_from(server, None, **wrong) as tokens:
                with pytest.raises(Refused):
                    await tokens.header()

        asyncio.run(main())

    @pytest.mark.parametrize(
        "key", ["no PEM", "-----BEGIN PRIVATE KEY-----\nbm9uZQ==\n-----END PRIVATE KEY-----", "public"]
    )
    def test_a_key_that_is_none_is_refused_when_the_client_is_made(self, key: str) -> None:
        with pytest.raises(ValueError, match=r"^OAuth's client_key .* pass the text of the file") as refusal:
            Client("key", oauth=oauth(client_key=key))
        assert refusal.value.__cause__ is refusal.value.__context__ is None

    def test_a_client_that_sends_nothing_needs_no_key_that_can_be_used(self) -> None:
        Client("key", oauth=oauth(client_key="for tests"), send=False)

    def test_a_public_key_is_none(self) -> None:
        public = private_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        with pytest.raises(ValueError, match="not a usable private RSA key"):
            Client("key", oauth=oauth(client_key=public))

    def test_it_stands_for_a_minute(self) -> None:
        async def main() -> None:
            clock = Clock()
            async with TokenServer([answer(401)]) as server, tokens_from(server, clock) as tokens:
                for clock.now in (0.0, 1.0, 59.9):
                    with pytest.raises(Refused):
                        await tokens.header()
                assert len(server.requests) == 1
                clock.now = 60.0
                assert await tokens.header() == f"Bearer {server.tokens[0]}"

        asyncio.run(main())

    def test_also_while_an_older_token_is_still_good(self) -> None:
        async def main() -> None:
            clock = Clock()
            async with TokenServer(lifetime=1_000) as server, tokens_from(server, clock) as tokens:
                first = await tokens.header()
                server.script.extend([answer(401)] * 9)
                clock.now = 600.0
                for _ in range(3):
                    assert await tokens.header() == first
                    await fetched()
                assert len(server.requests) == 2
                clock.now = 660.0
                assert await tokens.header() == first
                await fetched()
                assert len(server.requests) == 3

        asyncio.run(main())


TOKEN = {"access_token": "good", "expires_in": 100, "token_type": "Bearer"}


def token_with(**fields: Any) -> OnRequest:
    return answer(200, {}, orjson.dumps({**TOKEN, **fields}))


class TestFaults:
    STEPS: Mapping[str, Callable[[], OnRequest]] = {
        "500": lambda: answer(500),
        "503": lambda: answer(503),
        "403": lambda: answer(403),
        "404": lambda: answer(404),
        "307": lambda: faults.redirect("http://elsewhere.invalid/"),
        "answer lost": faults.lose_answer,
        "garbage": faults.garbage,
        "cut body": faults.cut_body,
        "bad gzip": faults.bad_gzip,
        "a portal": lambda: answer(200, {"Content-Type": "text/html"}, b"<!doctype html>"),
        "no JSON object": lambda: answer(200, {}, b"[]"),
        "no token": lambda: answer(200, {}, b'{"expires_in": 5}'),
        "no lifetime": lambda: answer(200, {}, b'{"access_token": "x"}'),
        "an empty token": lambda: token_with(access_token=""),
        "a null token": lambda: token_with(access_token=None),
        "a token that would end the header": lambda: token_with(access_token="x\r\nX-Evil: 1"),
        "a token that no header holds": lambda: token_with(access_token="ключ"),
        "no life": lambda: token_with(expires_in=0),
        "less than no life": lambda: token_with(expires_in=-5),
        "a life of less than a second": lambda: token_with(expires_in=0.0005),
        "a life of nearly a second": lambda: token_with(expires_in=0.999),
        "a lifetime in words": lambda: token_with(expires_in="soon"),
    }

    @pytest.mark.parametrize("name", STEPS)
    def test_it_is_asked_again(self, name: str) -> None:
        failures: list[tuple[str, float]] = []

        async def main() -> None:
            steps = [self.STEPS[name]() for _ in range(3)]
            async with (
                TokenServer(steps) as server,
                tokens_from(server, note_failure=lambda *failure: failures.append(failure)) as tokens,
            ):
                assert await tokens.header() == f"Bearer {server.tokens[0]}"
                assert len(server.requests) == 4
                assert all(request.target == "/token" for request in server.requests)

        asyncio.run(main())
        assert [pause for _, pause in failures] == [0.001, 0.002, 0.002]
        assert all(error.startswith("no token from http://127.0.0.1") for error, _ in failures)

    def test_down_and_up_again(self) -> None:
        async def main() -> None:
            async with TokenServer() as server, tokens_from(server) as tokens:
                await server.go_down()
                waiting = asyncio.create_task(tokens.header())
                await asyncio.wait([waiting], timeout=0.02)
                assert not waiting.done()
                server.come_up()
                assert await waiting == f"Bearer {server.tokens[0]}"

        asyncio.run(main())

    @pytest.mark.parametrize("lifetime", [100, 100.0, "100"])
    def test_forms_of_a_lifetime(self, lifetime: object) -> None:
        async def main() -> None:
            clock = Clock()
            async with (
                TokenServer([token_with(expires_in=lifetime)]) as server,
                tokens_from(server, clock) as tokens,
            ):
                assert await tokens.header() == "Bearer good"
                clock.now = 100.0
                assert await tokens.header() == f"Bearer {server.tokens[0]}"

        asyncio.run(main())


class TestFork:
    def test_a_child_fetches_a_token_of_its_own_and_renews_it(self) -> None:
        async def main() -> None:
            clock = Clock()
            clock.now = 10_000.0
            async with TokenServer(lifetime=1_000) as server, tokens_from(server, clock) as tokens:
                await tokens.header()
                tokens.abandon_after_fork()
                clock.now = 0.0
                assert await tokens.header() == f"Bearer {server.tokens[1]}"
                clock.now = 5.0
                # The tracking API has answered 401.
                tokens.renew(4.0)
                assert await tokens.header() == f"Bearer {server.tokens[2]}"
                clock.now = 505.0
                await tokens.header()
                await fetched()
                assert server.refreshes == 4

        asyncio.run(main())

    def test_a_refusal_of_the_parents_does_not_stand(self) -> None:
        async def main() -> None:
            clock = Clock()
            clock.now = 10_000.0
            async with TokenServer([answer(401)]) as server, tokens_from(server, clock) as tokens:
                with pytest.raises(Refused):
                    await tokens.header()
                tokens.abandon_after_fork()
                clock.now = 0.0
                assert await tokens.header() == f"Bearer {server.tokens[0]}"

        asyncio.run(main())

    def test_a_fetching_of_the_parents_is_not_waited_for(self) -> None:
        async def main() -> None:
            clock = Clock()
            clock.now = 10_000.0
            async with TokenServer([answer(503)]) as server:
                transport = HTTPTransport(f"{server.url}/token", timeout=5)
                tokens = Tokens(
                    oauth(),
                    server.url,
                    transport,
                    RetryPolicy(backoff=3_600, max_backoff=3_600),
                    now=clock,
                    wall_clock=time.time,
                    random=lambda: 0.0,
                    note_failure=lambda *_: failed.set(),
                )
                failed = asyncio.Event()
                waiting = asyncio.create_task(tokens.header())
                await failed.wait()
                assert tokens.asks_at > clock.now
                (of_parent,) = (task for task in asyncio.all_tasks() if task.get_name() == "segment_async token")
                tokens.abandon_after_fork()
                clock.now = 0.0
                assert tokens.asks_at == -math.inf
                assert await tokens.header() == f"Bearer {server.tokens[0]}"
                waiting.cancel()
                of_parent.cancel()
                await tokens.aclose()

        asyncio.run(main())


class TestExit:
    def test_a_loop_that_has_ended_leaves_no_session_open(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> Client:
            async with TokenServer() as tokens, FaultServer() as server:
                client = Client("KEY", host=server.url, oauth=oauth(auth_server=tokens.url))
                assert (await (await client.track("user", "Event"))).status is Status.DELIVERED
                return client

        loop = asyncio.new_event_loop()
        client = loop.run_until_complete(main())
        # As the exit does if there is nothing to send.
        client._owner.release()
        process.forget(client._owner)
        loop.close()
        del client
        gc.collect()
        assert "Unclosed" not in caplog.text


class ByScript:
    """A token server's answers, and when each was asked for in virtual time."""

    def __init__(self, answers: Iterable[Response | TransportError]) -> None:
        self.times: list[float] = []
        self._answers: Iterator[Response | TransportError] = iter(answers)

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        self.times.append(running_clock().time())
        step = next(self._answers, Response(200, {}, orjson.dumps(TOKEN)))
        if isinstance(step, Exception):
            raise step
        return step

    async def aclose(self) -> None:
        """Nothing is held."""


class TestPauses:
    @staticmethod
    def times(answers: Iterable[Response | TransportError], policy: RetryPolicy | None = None) -> list[float]:
        async def main() -> list[float]:
            server = ByScript(answers)
            clock = running_clock().time
            tokens = Tokens(
                oauth(),
                "x",
                server,
                policy or RetryPolicy(),
                now=clock,
                wall_clock=time.time,
                random=lambda: 0.0,
                note_failure=unnoted,
            )
            assert await tokens.header() == "Bearer good"
            return server.times

        return run(main())

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"Retry-After": "7"}, 7.0),
            ({"Retry-After": "7", "X-RateLimit-Reset": "9"}, 7.0),
            ({"X-RateLimit-Reset": "9"}, 9.0),
            ({"Retry-After": "soon", "X-RateLimit-Reset": "9"}, 9.0),
            ({"Retry-After": "-5"}, 5.0),
            ({"Retry-After": "1e9"}, 300.0),
            ({}, 5.0),
        ],
    )
    def test_a_429_is_waited_out(self, headers: Mapping[str, str], seconds: float) -> None:
        assert self.times([Response(429, headers)] * 2) == [0.0, pytest.approx(seconds), pytest.approx(2 * seconds)]

    def test_a_429_is_no_reason_to_spin_where_no_retry_after_is_obeyed(self) -> None:
        policy = RetryPolicy(max_retry_after=0)
        assert self.times([Response(429, {"Retry-After": "7"})], policy) == [0.0, pytest.approx(5.0)]

    def test_a_date_as_a_retry_after(self) -> None:
        ahead = Response(429, {"Retry-After": formatdate(time.time() + 100, usegmt=True)})
        assert self.times([ahead])[1] == pytest.approx(100, abs=3)

    def test_a_server_that_is_busy_says_for_how_long(self) -> None:
        busy = Response(503, {"Retry-After": "7"})
        assert self.times([busy, Response(503), busy]) == [0.0, 7.0, 8.0, 15.0]

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_moment_is_no_pause(self, status: int) -> None:
        assert self.times([Response(status, {"Retry-After": "0.001"})] * 3) == [0.0, 0.5, 1.0, 1.5]

    def test_other_faults_back_off(self) -> None:
        down = TransportError("down", maybe_sent=False)
        assert self.times([down, Response(500), down, Response(404)]) == [0.0, 0.5, 1.5, 3.5, 7.5]


def test_while_the_old_token_is_good_nothing_fails() -> None:
    async def main() -> list[tuple[float, str]]:
        clock = running_clock().time
        failures: list[tuple[float, str]] = []
        server = ByScript([Response(200, {}, orjson.dumps({**TOKEN, "expires_in": 1_000})), *[Response(503)] * 10])
        tokens = Tokens(
            oauth(),
            "https://oauth2.example",
            server,
            RetryPolicy(backoff=100, max_backoff=100),
            now=clock,
            wall_clock=time.time,
            random=lambda: 0.0,
            note_failure=lambda error, _: failures.append((clock(), error)),
        )
        first = await tokens.header()
        await asyncio.sleep(501)
        assert await tokens.header() == first
        await asyncio.sleep(450)
        assert (failures, tokens.asks_at) == ([], -math.inf)
        await asyncio.sleep(200)
        assert tokens.asks_at == pytest.approx(1_201)
        return failures

    expected = "no token from https://oauth2.example (status 503)"
    assert run(main()) == [(pytest.approx(1_001 + 100 * number), expected) for number in range(2)]


@asynccontextmanager
async def segment_with_tokens(tokens: TokenServer, **options: Any) -> AsyncIterator[tuple[Client, FaultServer]]:
    """A client with OAuth, before a tracking API that knows which tokens are good."""

    def choose(request: Any) -> OnRequest:
        return answer(200 if tokens.accepts(request.headers["Authorization"]) else 401)

    async with tokens, FaultServer(choose) as server:
        credentials = options.pop("oauth", None) or oauth(auth_server=tokens.url)
        settings = {"flush_at": 1, "retry": QUICK, "close_timeout": 5.0, **options}
        async with Client("THE-KEY", host=server.url, oauth=credentials, **settings) as client:
            yield client, server


async def deliver(client: Client, number: int = 0) -> Outcome:
    return await (await client.track("u", "E", message_id=f"m{number}"))


class TestClient:
    def test_the_token_goes_into_the_header_and_the_key_into_the_body(self) -> None:
        async def main() -> None:
            tokens = TokenServer()
            async with segment_with_tokens(tokens) as (client, server):
                for number in range(3):
                    assert (await deliver(client, number)).status is Status.DELIVERED
                assert tokens.refreshes == 1
                for request in server.requests:
                    assert request.headers["Authorization"] == f"Bearer {tokens.tokens[0]}"
                    assert request.json["writeKey"] == "THE-KEY"

        asyncio.run(main())

    def test_a_token_that_is_revoked_costs_one_more_request(self) -> None:
        async def main() -> None:
            tokens = TokenServer()
            async with segment_with_tokens(tokens, retry=RetryPolicy(max_retries=0)) as (client, server):
                await deliver(client)
                tokens.revoke()
                outcome = await deliver(client, 1)
                assert (outcome.status, outcome.attempts) == (Status.DELIVERED, 2)
                assert tokens.refreshes == 2
                first, second = server.requests[1:]
                assert (first.status, second.status) == (401, 200)
                assert first.arrival.ids == second.arrival.ids == ["m1"]
                assert second.headers["X-Retry-Count"] == "1"

        asyncio.run(main())

    def test_many_batches_that_meet_a_revoked_one_cost_one_token(self) -> None:
        async def main() -> None:
            tokens = TokenServer()
            async with segment_with_tokens(tokens, max_in_flight=8) as (client, _):
                await deliver(client)
                tokens.revoke()
                outcomes = await asyncio.gather(*(deliver(client, number) for number in range(1, 9)))
                assert {outcome.status for outcome in outcomes} == {Status.DELIVERED}
                assert tokens.refreshes == 2

        asyncio.run(main())

    @pytest.mark.parametrize("status", [401, 403, 511])
    def test_a_refusal_for_ever_is_final_after_one_fresh_token(self, status: int) -> None:
        async def main() -> None:
            tokens = TokenServer()
            async with segment_with_tokens(tokens) as (client, server):
                server.script = lambda _: answer(status)
                outcome = await deliver(client)
                assert outcome == Outcome(Status.FAILED, "m0", "unauthorized", status, 2)
                assert len(server.requests) == tokens.refreshes == 2
                # The next message is worth one more try of its own.
                assert (await deliver(client, 1)).attempts == 2
                assert tokens.refreshes == 3

        asyncio.run(main())

    def test_while_there_is_no_token_messages_wait(self) -> None:
        async def main() -> None:
            tokens = TokenServer()
            async with segment_with_tokens(tokens) as (client, server):
                await tokens.go_down()
                deliveries = [await client.track("u", "E", message_id=f"m{number}") for number in range(20)]
                assert await client.flush(timeout=0.05) == 20
                assert not server.requests
                assert client.statistics().requests == 0
                tokens.come_up()
                outcomes = [await delivery for delivery in deliveries]
                assert {outcome.status for outcome in outcomes} == {Status.DELIVERED}
                assert not any(outcome.possibly_delivered for outcome in outcomes)

        asyncio.run(main())

    def test_that_is_an_outage(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "segment_async")

        async def main() -> None:
            tokens = TokenServer()
            async with segment_with_tokens(tokens, retry=RetryPolicy(backoff=0.001, max_backoff=0.5)) as (client, _):
                await tokens.go_down()
                delivery = await client.track("u", "E")
                while client.statistics().retry_in < 0.1:
                    await client.flush(timeout=0.01)
                assert not client.statistics().server_up
                tokens.come_up()
                await delivery
                assert (client.statistics().server_up, client.statistics().retry_in) == (True, 0.0)

        asyncio.run(main())
        began, over = (record.getMessage() for record in caplog.records if "Deliveries to" in record.getMessage())
        assert "no token from http://127.0.0.1" in began
        assert "1 message was waiting" in began
        assert "work again" in over

    def test_closed_without_a_token_they_are_dropped_and_were_never_sent(self) -> None:
        async def main() -> None:
            tokens = TokenServer()
            async with segment_with_tokens(tokens, close_timeout=0.05) as (client, _):
                await tokens.go_down()
                delivery = await client.track("u", "E", message_id="m0")
                await client.aclose()
                assert delivery.outcome == Outcome(Status.DROPPED, "m0", "close_timeout")

        asyncio.run(main())

    def test_it_is_given_up_when_its_time_is_up(self) -> None:
        async def main() -> None:
            tokens = TokenServer()
            async with segment_with_tokens(tokens, retry=RetryPolicy(give_up_after=0.05)) as (client, _):
                await tokens.go_down()
                assert await deliver(client) == Outcome(Status.FAILED, "m0", "gave_up")

        asyncio.run(main())

    @pytest.mark.parametrize("wrong", [{"client_id": "another"}, {"client_key": private_key_pem("another")}])
    def test_a_refusal_fails_the_messages_and_the_log_says_what_to_mend(
        self, wrong: Mapping[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            async with TokenServer() as tokens:
                credentials = oauth(auth_server=tokens.url, **wrong)
                async with Client("key", host="http://127.0.0.1:9", oauth=credentials, flush_at=1) as client:
                    for number in range(3):
                        outcome = await deliver(client, number)
                        assert outcome == Outcome(Status.FAILED, f"m{number}", "unauthorized")

        asyncio.run(main())
        (text,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
        assert text.startswith("No OAuth token; messages fail as unauthorized: ")
        assert "client_key" in text
        assert "PRIVATE" not in text

    @pytest.mark.parametrize(("region", "server"), [("us", "oauth2.segment.io"), ("eu", "oauth2.eu1.segmentapis.com")])
    def test_each_region_has_its_token_server(self, region: Any, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def main() -> list[str]:
            loop = asyncio.get_running_loop()
            names: list[str] = []
            asked = asyncio.Event()

            def getaddrinfo(host: str, *_: object, **__: object) -> object:
                names.append(host)
                loop.call_soon_threadsafe(asked.set)
                raise socket.gaierror(socket.EAI_NONAME, "no such name")

            monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
            async with Client("key", region=region, oauth=oauth(), close_timeout=0.0) as client:
                await client.track("u", "E")
                await client.flush(timeout=0)
                async with asyncio.timeout(10):
                    await asked.wait()
            return names

        assert set(asyncio.run(main())) == {server}


class TestConstruction:
    def test_a_missing_extra_says_how_to_mend_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("jwt", "cryptography"):
            with monkeypatch.context() as without:
                without.setitem(sys.modules, name, None)
                with pytest.raises(ImportError, match=r"pip install 'segment-async\[oauth\]'"):
                    Client("key", oauth=oauth())

    def test_a_token_server_in_the_clear_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^auth_server must use https://"):
            Client("key", oauth=oauth(auth_server="http://auth.example"))
