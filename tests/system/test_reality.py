"""The whole client over real sockets, against every fault of the fault server: the law holds, and a fresh message
still goes through.

Real time, so that waits are for events and limits are short. How long a back-off is, `_pipeline/test_retry` tests.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from multidict import CIMultiDict

from segment_async import Client, RetryPolicy, Status
from tests.support import faults
from tests.support.exchange import Exchange
from tests.support.fault_server import FaultServer
from tests.support.faults import OnRequest, Step, answer
from tests.support.law import Ledger, check_retry_counts
from tests.support.private_ca import PrivateCA
from tests.support.simulated_segment import violations

QUICK = RetryPolicy(backoff=0.005, max_backoff=0.01, max_retry_after=0.01)
# Long enough for loopback, short enough to wait for.
SHORT = 0.4
MESSAGES = 12


def counted_as(status: int | None, step: OnRequest) -> OnRequest:
    """Count the request as answered so: `None` where it was not Segment that said 200, 200 where the step does not say."""

    async def act(exchange: Exchange) -> None:
        try:
            await step.act(exchange)
        finally:
            exchange.request.status = status

    return OnRequest(act)


def portal() -> OnRequest:
    return counted_as(None, answer(200, {"Content-Type": "text/html"}, b"<!doctype html>"))


AGAIN: Mapping[str, Callable[[], Step]] = {
    "FIN on accept": faults.fin_on_accept,
    "RST on accept": faults.rst_on_accept,
    "never reads": faults.never_read,
    "reset in the body": lambda: faults.reset_in_body(after=30),
    "silence": faults.silence,
    "answer lost, RST": faults.lose_answer,
    "answer lost, FIN": lambda: faults.lose_answer(politely=True),
    "garbage": faults.garbage,
    "mis-chunked": faults.mis_chunked,
    "1 MB of headers": faults.huge_headers,
    "100, then silence": lambda: faults.informational(100, then=faults.silence()),
    "101": faults.switch_protocols,
    "half a head": lambda: faults.raw(b"HTTP/1.1 200 OK\r\nContent-Le", then=Exchange.reset),
    "408": lambda: answer(408),
    "429": lambda: answer(429, {"Retry-After": "1"}),
    "429 with doubled headers": lambda: answer(429, CIMultiDict([("Retry-After", "soon"), ("Retry-After", "1")])),
    "500": lambda: answer(500),
    "503, HTML": lambda: answer(503, {"Content-Type": "text/html"}, b"<html>"),
    "520": lambda: answer(520, {"Connection": "close"}),
    "999": lambda: answer(999),
    "a portal": portal,
    "success false": lambda: counted_as(None, answer(200, {}, b'{"success": false}')),
}
"""What is to be met again with another try."""

TAKEN: Mapping[str, Callable[[], Step]] = {
    "200": answer,
    "204": lambda: answer(204),
    "read slowly": lambda: faults.read_slowly(piece=64, pause=0.0),
    "closed on reuse": faults.close_on_reuse,
    "a byte at a time": faults.slow_bytes,
    "short body": lambda: counted_as(200, faults.short_body()),
    "cut body": lambda: counted_as(200, faults.cut_body()),
    "endless body": lambda: counted_as(200, faults.endless_body()),
    "bad gzip": faults.bad_gzip,
    "200 MB in 200 KB": faults.gzip_bomb,
    "103 first": lambda: faults.informational(103, 100),
}
"""What is a yes, however odd."""

REFUSED: Mapping[str, Callable[[], Step]] = {
    **{str(status): partial(answer, status) for status in (401, 403, 404, 422, 451, 501, 505, 511)},
    "307": lambda: faults.redirect("http://127.0.0.1:9/"),
    "304": lambda: answer(304),
}
"""What is final for the messages that met it."""


class Life:
    """A client, what it was given, and the server that it talks to."""

    def __init__(self, client: Client, server: FaultServer) -> None:
        self.client = client
        self.server = server
        self.ledger = Ledger()
        self._number = 0

    async def give(self, count: int = 1) -> list[Any]:
        deliveries = []
        for _ in range(count):
            self._number += 1
            fields = {"userId": "u", "event": "E", "properties": {"n": self._number}}
            delivery = await self.client.track("u", "E", {"n": self._number}, message_id=f"m{self._number}")
            self.ledger.accept(delivery, {"type": "track", "messageId": delivery.message_id, **fields})
            deliveries.append(delivery)
        return deliveries

    async def see_a_fresh_message_through(self) -> None:
        self.server.script = ()
        (delivery,) = await self.give()
        async with asyncio.timeout(20):
            assert (await delivery).status is Status.DELIVERED

    def check(self) -> None:
        arrivals = self.server.arrivals
        self.ledger.check_settled(self.client.statistics(), arrivals)
        check_retry_counts(arrivals)
        assert not [words for arrival in arrivals for words in violations(arrival)]


def live(
    script: Any,
    story: Callable[[Life], Any],
    *,
    tls: ssl.SSLContext | None = None,
    up: bool = True,
    **options: Any,
) -> FaultServer:
    """A client's life against a server that goes wrong, with the law held at its end."""

    async def main() -> FaultServer:
        settings = {
            "flush_at": 4,
            "flush_interval": 0.01,
            "retry": QUICK,
            "timeout": SHORT,
            "close_timeout": 5.0,
            **options,
        }
        async with FaultServer(script, tls=tls, up=up) as server:
            async with Client("key", host=server.url, **settings) as client:
                life = Life(client, server)
                await story(life)
                await life.see_a_fresh_message_through()
            life.check()
        return server

    return asyncio.run(main())


@pytest.mark.parametrize("name", AGAIN)
def test_it_is_met_again_until_all_is_delivered(name: str) -> None:
    async def story(life: Life) -> None:
        deliveries = await life.give(MESSAGES)
        async with asyncio.timeout(20):
            outcomes = [await delivery for delivery in deliveries]
        assert {outcome.status for outcome in outcomes} == {Status.DELIVERED}

    server = live([AGAIN[name](), answer(), AGAIN[name](), AGAIN[name]()], story)
    assert server.taken.keys() >= {f"m{number}" for number in range(1, MESSAGES + 2)}


@pytest.mark.parametrize("name", TAKEN)
def test_it_is_a_yes(name: str) -> None:
    async def story(life: Life) -> None:
        async with asyncio.timeout(20):
            outcomes = [await delivery for delivery in await life.give(MESSAGES)]
        assert {outcome.status for outcome in outcomes} == {Status.DELIVERED}
        assert not any(outcome.reason for outcome in outcomes)

    live([TAKEN[name](), TAKEN[name]()], story, max_in_flight=1)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_final(name: str) -> None:
    async def story(life: Life) -> None:
        async with asyncio.timeout(20):
            outcomes = [await delivery for delivery in await life.give(8)]
        assert [outcome.status for outcome in outcomes].count(Status.FAILED) in (4, 8)
        assert [outcome.attempts for outcome in outcomes] == [1] * 8

    live([REFUSED[name]()], story, max_in_flight=1)


def test_a_port_that_refuses_and_then_does_not() -> None:
    async def story(life: Life) -> None:
        deliveries = await life.give(MESSAGES)
        assert await life.client.flush(timeout=0.05) == MESSAGES
        life.server.come_up()
        outcomes = [await delivery for delivery in deliveries]
        assert {outcome.status for outcome in outcomes} == {Status.DELIVERED}
        assert not any(outcome.possibly_delivered for outcome in outcomes)

    live((), story, up=False)


def test_a_server_that_goes_down_amid_the_traffic_and_comes_back() -> None:
    async def story(life: Life) -> None:
        await life.give(MESSAGES)
        await life.server.wait_for_requests(1)
        await life.server.go_down()
        await life.give(MESSAGES)
        await life.client.flush(timeout=0.05)
        life.server.come_up()
        assert await life.client.flush(timeout=20) == 0

    live((), story)


def test_a_poisoned_message_among_forty() -> None:
    async def story(life: Life) -> None:
        life.server.script = lambda request: answer(400 if "m17" in request.arrival.ids else 200)
        outcomes = [await delivery for delivery in await life.give(40)]
        failed = [outcome.message_id for outcome in outcomes if outcome.status is Status.FAILED]
        assert failed == ["m17"]

    live((), story, flush_at=40)


SLOW = (faults.silence, faults.never_read)


def test_a_row_of_everything() -> None:
    steps = [make() for make in (*AGAIN.values(), *TAKEN.values()) if make not in SLOW]

    async def story(life: Life) -> None:
        for _ in range(len(steps)):
            await life.give(2)
            await life.client.flush(timeout=0.02)
        assert await life.client.flush(timeout=30) == 0

    live(steps, story, flush_at=1)


class TestTLS:
    CA = PrivateCA()

    def life(self, script: Any, story: Callable[[Life], Any], tls: ssl.SSLContext, **options: Any) -> FaultServer:
        return live(script, story, tls=tls, ssl_context=self.CA.client_context(), timeout=2.0, **options)

    @pytest.mark.parametrize(
        "name",
        ["FIN on accept", "RST on accept", "answer lost, RST", "answer lost, FIN", "reset in the body", "503, HTML"],
    )
    def test_a_private_authority_and_a_fault(self, name: str) -> None:
        async def story(life: Life) -> None:
            async with asyncio.timeout(20):
                outcomes = [await delivery for delivery in await life.give(MESSAGES)]
            assert {outcome.status for outcome in outcomes} == {Status.DELIVERED}

        self.life([AGAIN[name](), answer(), AGAIN[name]()], story, self.CA.good())

    @pytest.mark.parametrize("certificate", ["wrong_name", "expired", "self_signed"])
    def test_a_certificate_that_is_no_good_gets_nothing_and_costs_nothing(self, certificate: str) -> None:
        async def story(life: Life) -> None:
            deliveries = await life.give(MESSAGES)
            assert await life.client.flush(timeout=0.2) == MESSAGES
            assert life.server.failed_handshakes >= 1
            assert not life.server.requests
            await life.server.change_certificate(self.CA.good())
            outcomes = [await delivery for delivery in deliveries]
            assert {outcome.status for outcome in outcomes} == {Status.DELIVERED}
            assert not any(outcome.possibly_delivered for outcome in outcomes)

        self.life((), story, getattr(self.CA, certificate)())

    def test_it_turns_bad_amid_the_traffic(self) -> None:
        async def story(life: Life) -> None:
            await (await life.give(4))[0]
            before = len(life.server.requests)
            await life.server.change_certificate(self.CA.expired())
            await life.give(4)
            assert await life.client.flush(timeout=0.1) == 4
            assert len(life.server.requests) == before
            await life.server.change_certificate(self.CA.good())
            assert await life.client.flush(timeout=20) == 0

        self.life((), story, self.CA.good())
