"""Pauses, dead servers, batches taken apart, and what the log says of a wrong key: the sender when things go wrong.

The whole client in virtual time, before a transport that answers by script. A life without such troubles is
`test_consumer`'s.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from email.utils import formatdate
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import pytest
from multidict import CIMultiDict

from segment_async import (
    Client,
    Delivery,
    DeliveryError,
    HTTPTransport,
    Outcome,
    Response,
    RetryPolicy,
    Statistics,
    Status,
)
from tests.support.scripted_transport import LATENCY, Request, Script, ScriptedTransport, Slow, Step, lost, refused
from tests.support.simulated_network import SimulatedNetwork, Weather
from tests.support.simulated_segment import SimulatedSegment
from tests.support.virtual_clock import run, running_clock

MORNING = 1_763_000_000.0
BUSY = Response(503)
BACK_OFF = (0.25, 0.5)


def asked(seconds: str, status: int = 429) -> Response:
    return Response(status, {"Retry-After": seconds})


@pytest.fixture(autouse=True)
def _same_jitter() -> None:
    random.seed(3)


@pytest.fixture
def _wall(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's own clock goes with the virtual one."""

    def wall() -> float:
        with suppress(RuntimeError):
            return MORNING + running_clock().time()
        return MORNING

    monkeypatch.setattr(time, "time", wall)
    yield
    monkeypatch.undo()


async def give(client: Client, count: int, first: int = 0) -> list[Delivery]:
    return [await client.track("u", "E", message_id=f"m{number}") for number in range(first, first + count)]


async def give_one_by_one(client: Client, count: int, first: int = 0) -> list[Delivery]:
    """Each in a batch of its own, where `flush_at` is 1."""
    deliveries = []
    for number in range(first, first + count):
        deliveries += await give(client, 1, number)
        await asyncio.sleep(LATENCY / 100)
    return deliveries


class TestRetryAfter:
    @staticmethod
    def gap_after(answer: Response) -> float:
        async def main() -> float:
            transport = ScriptedTransport([answer])
            async with Client("key", transport=transport, flush_at=1) as client:
                await (await give(client, 1))[0]
            return transport.gaps[0]

        return run(main())

    @pytest.mark.parametrize(
        ("value", "least", "most"),
        [
            *(("2", 2.0, 2.0), ("0.5", 0.5, 0.5), ("1e9", 300.0, 300.0), ("7.25", 7.25, 7.25)),
            *((value, *BACK_OFF) for value in ("0", "-5", "nan", "inf", "soon", "")),
            (formatdate(MORNING + 30, usegmt=True), 29.0, 30.0),
            (formatdate(MORNING + 86_400, usegmt=True), 300.0, 300.0),
            (formatdate(MORNING - 30, usegmt=True), *BACK_OFF),
        ],
    )
    @pytest.mark.parametrize("status", [429, 503, 408])
    @pytest.mark.usefixtures("_wall")
    def test_each_form_of_it(self, status: int, value: str, least: float, most: float) -> None:
        assert least - 0.02 <= self.gap_after(asked(value, status)) <= most + 0.001

    def test_doubled_headers(self) -> None:
        doubled = CIMultiDict([("Retry-After", "3"), ("Retry-After", "9")])
        assert self.gap_after(Response(503, doubled)) == pytest.approx(3, abs=0.001)

    @pytest.mark.parametrize(("status", "least", "most"), [(429, 9.0, 9.0), (503, *BACK_OFF)])
    def test_the_reset_of_a_rate_limit_counts_on_a_429_alone(self, status: int, least: float, most: float) -> None:
        assert least <= self.gap_after(Response(status, {"X-RateLimit-Reset": "9"})) <= most + 0.001

    def test_on_a_portals_page_too(self) -> None:
        portal = Response(200, {"Content-Type": "text/html", "Retry-After": "20"}, b"Please log in")
        assert self.gap_after(portal) == pytest.approx(20, abs=0.001)


class TestPause:
    def test_it_holds_the_whole_pipeline_and_then_one_goes_first(self) -> None:
        async def main() -> ScriptedTransport:
            # What is in flight already is answered within the pause, well or badly.
            transport = ScriptedTransport([asked("10"), Slow(1), Slow(2, BUSY), Slow(3), Slow(1)])
            async with Client("key", transport=transport, flush_at=1) as client:
                await give_one_by_one(client, 4)
                await asyncio.sleep(1)
                await give_one_by_one(client, 8, first=4)
                await client.flush()
            return transport

        transport = run(main())
        assert [round(began, 1) for began in transport.times[:5]] == [0, 0, 0, 0, 10]
        probe, *others = transport.requests[4:]
        assert min(request.began for request in others) >= probe.ended
        # It succeeded: the others follow at once, and together.
        assert {round(request.began - probe.ended, 3) for request in others} == {0}
        assert len(others) == 2
        assert len(set(transport.taken)) == 12

    def test_a_probe_that_is_told_to_wait_begins_another(self) -> None:
        async def main() -> ScriptedTransport:
            transport = ScriptedTransport([asked("10"), asked("20"), lost(), None])
            async with Client("key", transport=transport, flush_at=1) as client:
                await give_one_by_one(client, 1)
                await asyncio.sleep(1)
                await give_one_by_one(client, 5, first=1)
                await client.flush()
            return transport

        transport = run(main())
        assert transport.times[1] == pytest.approx(10, abs=0.1)
        assert transport.times[2] == pytest.approx(30, abs=0.1)
        # The third fails otherwise: still one at a time.
        assert max(request.at_once for request in transport.requests[:4]) == 1

    def test_flush_does_not_cut_it_short_and_leaves_when_its_time_is_up(self) -> None:
        async def main() -> None:
            transport = ScriptedTransport([asked("60")])
            async with Client("key", transport=transport, flush_at=1) as client:
                await give(client, 1)
                await asyncio.sleep(1)
                assert await client.flush(timeout=5) == 1
                assert running_clock().time() == pytest.approx(6, abs=0.01)
                assert len(transport.requests) == 1
                assert await client.flush() == 0
                assert transport.gaps == [pytest.approx(60, abs=0.01)]

        run(main())

    @pytest.mark.parametrize(("seconds", "sent"), [(5.0, 1), (100.0, 4)])
    def test_neither_does_a_close(self, seconds: float, sent: int) -> None:
        async def main() -> ScriptedTransport:
            transport = ScriptedTransport([asked("60")])
            client = Client("key", transport=transport, flush_at=1, close_timeout=seconds)
            await give(client, 1)
            await asyncio.sleep(1)
            await give_one_by_one(client, 2, first=1)
            await client.aclose()
            assert client.statistics().dropped == (3 if sent == 1 else 0)
            assert running_clock().time() == pytest.approx(1 + 5 if sent == 1 else 60, abs=0.1)
            return transport

        transport = run(main())
        assert len(transport.requests) in (sent, sent - 1)
        assert all(began >= 60 for began in transport.times[1:])

    def test_a_longer_one_is_not_shortened_by_another(self) -> None:
        async def main() -> ScriptedTransport:
            transport = ScriptedTransport([asked("100"), Slow(1, asked("2"))])
            async with Client("key", transport=transport, flush_at=1) as client:
                await give_one_by_one(client, 3)
                await client.flush()
            return transport

        assert run(main()).times[3] == pytest.approx(100, abs=0.1)


class TestDeadServer:
    @pytest.mark.parametrize("cause", [refused(), lost(), BUSY, Response(429)], ids=["refused", "lost", "503", "429"])
    def test_one_request_at_a_time_until_it_is_back_and_then_all(self, cause: Response | Exception) -> None:
        back_at = 1_800.0

        def answer(request: Request) -> Step:
            return Slow(0.5, cause if request.began < back_at else None)

        async def main() -> tuple[ScriptedTransport, float]:
            transport = ScriptedTransport(answer)
            async with Client("key", transport=transport, flush_at=1) as client:
                for number in range(100):
                    await give(client, 1, number)
                    await asyncio.sleep(5)
                await client.flush()
                assert client.statistics().delivered == 100
                return transport, running_clock().time()

        transport, ended = run(main())
        # The handful is soon had; of each request, its back-off is as long as the failures were many.
        probes = [request for request in transport.requests if 30 <= request.began < back_at]
        assert max(request.at_once for request in probes) == 1
        assert all(30 <= after.began - before.ended <= 61 for before, after in pairwise(probes[5:]))
        assert ended < back_at + 61 + 100 * 0.5
        assert max(request.at_once for request in transport.requests if request.began >= back_at) == 4

    def test_its_probes_double_from_the_first_step(self) -> None:
        """However many batches there are, and however often one of them has failed."""

        async def main() -> list[float]:
            transport = ScriptedTransport(lambda _: BUSY)
            client = Client("key", transport=transport, flush_at=1, close_timeout=0)
            await give_one_by_one(client, 100)
            await asyncio.sleep(400)
            await client.aclose()
            return transport.gaps

        steps = [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
        # Five requests fail before, four of them at once.
        gaps = run(main())[4 : 4 + len(steps)]
        for gap, whole in zip(gaps, steps, strict=True):
            assert whole / 2 <= gap <= whole + 0.001

    def test_fresh_messages_do_not_wake_it_more_often(self) -> None:
        async def main() -> int:
            transport = ScriptedTransport(lambda _: refused())
            client = Client("key", transport=transport, flush_at=1, close_timeout=0)
            await give(client, 1)
            await asyncio.sleep(600)
            before = len(transport.requests)
            await give_one_by_one(client, 300, first=1)
            await asyncio.sleep(60)
            after = len(transport.requests)
            await client.aclose()
            return after - before

        assert run(main()) <= 3

    def test_a_close_tries_once_more_and_ends_in_time(self) -> None:
        async def main() -> list[float]:
            transport = ScriptedTransport(lambda _: refused())
            client = Client("key", transport=transport, flush_at=1, close_timeout=5)
            await give_one_by_one(client, 20)
            await asyncio.sleep(600)
            began = running_clock().time()
            await client.aclose()
            assert running_clock().time() == pytest.approx(began + 5, abs=0.5)
            assert client.statistics().dropped == 20
            return [moment for moment in transport.times if moment >= began]

        tries = run(main())
        assert tries[0] == pytest.approx(600, abs=1)
        assert len(tries) <= 10


def refusing(*poison: str, status: int = 400) -> Script:
    return lambda request: Response(status) if set(poison) & set(request.ids) else None


def deliver(script: Script, count: int, **options: Any) -> tuple[ScriptedTransport, dict[str, Outcome]]:
    """So many messages in one batch, and what comes of them."""

    async def main() -> tuple[ScriptedTransport, dict[str, Outcome]]:
        transport = ScriptedTransport(script)
        async with Client("key", transport=transport, flush_at=count, **options) as client:
            deliveries = await give(client, count)
            return transport, {delivery.message_id: await delivery for delivery in deliveries}

    return run(main())


class TestServerErrors:
    @pytest.mark.parametrize(("share", "count", "seconds"), [(0.5, 3_000, 20), (0.8, 1_500, 0.1), (0.9, 300, 60)])
    def test_a_server_that_fails_at_random_loses_no_message(self, share: float, count: int, seconds: float) -> None:
        """However often one of them has bad luck while others are delivered."""
        chance = random.Random(1)

        async def main() -> Mapping[str, int]:
            transport = ScriptedTransport(lambda _: BUSY if chance.random() < share else None)
            async with Client("key", transport=transport, flush_at=1, max_queue_size=count) as client:
                for number in range(count):
                    await client.track("u", "E", message_id=f"m{number}")
                    await asyncio.sleep(seconds)
                assert await client.flush() == 0
                assert client.statistics().delivered == len(transport.taken)
                return client.statistics().reasons

        assert not run(main())

    def test_a_message_that_it_never_takes_is_given_up_while_others_are_delivered(self) -> None:
        async def main() -> tuple[Outcome, float]:
            transport = ScriptedTransport(refusing("m0", status=500))
            async with Client("key", transport=transport, flush_at=1) as client:
                bad = await client.track("u", "E", message_id="m0")
                for number in range(1, 200):
                    await client.track("u", "E", message_id=f"m{number}")
                    await asyncio.sleep(5)
                return await bad, running_clock().time()

        outcome, ended = run(main())
        assert outcome.reason == "gave_up"
        assert 11 <= outcome.attempts <= 12
        assert ended < 1_100


class TestRefusedMessages:
    @pytest.mark.parametrize("place", [0, 1, 499, 500, 777, 999])
    def test_one_among_a_thousand(self, place: int) -> None:
        transport, outcomes = deliver(refusing(f"m{place}"), 1_000, retry=RetryPolicy(max_retries=0))
        poisoned = outcomes.pop(f"m{place}")
        assert (poisoned.status, poisoned.reason, poisoned.status_code) == (Status.FAILED, "refused", 400)
        assert {outcome.status for outcome in outcomes.values()} == {Status.DELIVERED}
        assert len(outcomes) == 999
        assert sorted(transport.taken) == sorted(outcomes)
        assert len(transport.requests) <= 1 + 2 * math.ceil(math.log2(1_000))

    @pytest.mark.parametrize("count", [1, 2, 7, 32])
    def test_all_of_them_cost_2n_minus_1_requests(self, caplog: pytest.LogCaptureFixture, count: int) -> None:
        transport, outcomes = deliver(lambda _: Response(400), count)
        assert {(outcome.reason, outcome.status_code) for outcome in outcomes.values()} == {("refused", 400)}
        assert len(transport.requests) == 2 * count - 1
        assert "refuses every message" not in caplog.text

    @pytest.mark.parametrize("count", [64, 500, 2_500])
    def test_after_fifty_refused_alone_the_rest_fails_whole(self, caplog: pytest.LogCaptureFixture, count: int) -> None:
        transport, outcomes = deliver(lambda _: Response(400), count)
        assert {(outcome.reason, outcome.status_code) for outcome in outcomes.values()} == {("refused", 400)}
        assert len(outcomes) == count
        # Fifty alone and what was in flight beside the last of them; the splits that led there, at two requests each.
        alone = [request for request in transport.requests if len(request.ids) == 1]
        assert 50 <= len(alone) < 60
        assert len(transport.requests) <= 2 * (54 + 2 * math.ceil(math.log2(count)))
        warnings = [record for record in caplog.records if record.getMessage().startswith("The server refuses every")]
        assert len(warnings) == 1

    def test_a_batch_of_which_none_was_refused_alone_is_taken_apart_all_the_same(self) -> None:
        """The fifty may have been of one kind, which another batch need not have."""

        async def main() -> tuple[ScriptedTransport, list[Outcome]]:
            transport = ScriptedTransport(lambda _: Response(400))
            async with Client("key", transport=transport, flush_at=100, max_in_flight=1) as client:
                await give(client, 100)
                await client.flush()
                transport.script = refusing("m107")
                return transport, [await delivery for delivery in await give(client, 100, first=100)]

        transport, outcomes = run(main())
        assert [outcome.message_id for outcome in outcomes if outcome.status is Status.FAILED] == ["m107"]
        assert len(transport.taken) == 99

    def test_some_of_them(self) -> None:
        poison = {f"m{number}" for number in (3, 4, 50, 99)}
        transport, outcomes = deliver(refusing(*poison), 100)
        assert {name for name, outcome in outcomes.items() if outcome.status is Status.FAILED} == poison
        assert sorted(transport.taken) == sorted(set(outcomes) - poison)


class TestTooLarge:
    @staticmethod
    def letting_through(most: int) -> Script:
        return lambda request: Response(413) if request.arrival.size > most else None

    def test_it_is_halved_until_it_fits(self) -> None:
        transport, outcomes = deliver(self.letting_through(20_000), 1_000)
        assert {outcome.status for outcome in outcomes.values()} == {Status.DELIVERED}
        assert len(transport.taken) == 1_000

    def test_a_message_alone_fails(self) -> None:
        transport, outcomes = deliver(self.letting_through(10), 2)
        assert {(outcome.reason, outcome.status_code) for outcome in outcomes.values()} == {("too_large", 413)}
        assert len(transport.requests) == 3

    def test_the_smaller_limit_is_remembered_for_some_minutes(self) -> None:
        async def main() -> tuple[list[int], list[int], list[int]]:
            transport = ScriptedTransport(self.letting_through(20_000))
            statuses: list[list[int]] = []
            async with Client("key", transport=transport, flush_at=500, flush_interval=0.1) as client:
                for pause in (60, 200, 400):
                    before = len(transport.requests)
                    await give(client, 500, first=1_000 * len(statuses))
                    await asyncio.sleep(1)
                    seen = transport.requests[before:]
                    statuses.append([request.arrival.status or 0 for request in seen])
                    await asyncio.sleep(pause)
                transport.script = ()
                before = len(transport.requests)
                await give(client, 500, first=9_000)
                await asyncio.sleep(1)
                # Forgotten by now.
                assert [len(request.ids) for request in transport.requests[before:]] == [500]
            return statuses[0], statuses[1], statuses[2]

        first, second, third = run(main())
        assert first.count(413) >= 3
        assert 413 not in second
        assert 413 not in third

    def test_what_waits_already_is_halved_before_it_is_sent(self) -> None:
        async def main() -> list[int]:
            transport = ScriptedTransport(self.letting_through(9_000))
            async with Client("key", transport=transport, flush_at=50, max_in_flight=1) as client:
                await give(client, 400)
                await client.flush()
            return [request.arrival.status or 0 for request in transport.requests]

        assert run(main()).count(413) <= 6


class TestSlowLink:
    """Ten kilobytes a second, and a limit of 15 seconds a request: half a megabyte does not get through."""

    @pytest.mark.parametrize("max_in_flight", [1, 4])
    def test_batches_become_as_small_as_gets_through(self, max_in_flight: int) -> None:
        async def main() -> tuple[SimulatedNetwork, Statistics]:
            network = SimulatedNetwork(SimulatedSegment(), Weather(bandwidth=10_000))
            async with Client("key", transport=network, gzip=False, max_in_flight=max_in_flight) as client:
                await give(client, 3_000)
                await asyncio.sleep(600)
                return network, client.statistics()

        network, statistics = run(main())
        assert (statistics.delivered, statistics.pending) == (3_000, 0)
        # A few that were too large, and then one after the other.
        lost = [each for each in network.attempts if each.arrival.status is None]
        assert len(lost) <= 20
        assert len(network.attempts) <= 60

    def test_what_a_probe_delivers_alone_says_nothing_of_requests_that_share_the_link(self) -> None:
        async def main() -> Statistics:
            network = SimulatedNetwork(SimulatedSegment(), Weather(bandwidth=40_000))
            async with Client("key", transport=network, gzip=False, timeout=15) as client:
                for _ in range(8_000):
                    client.nowait.track("u", "E", {"fill": "x" * 900})
                for _ in range(900):
                    for _ in range(20):
                        client.nowait.track("u", "E", {"fill": "x" * 900})
                    await asyncio.sleep(1)
                return client.statistics()

        statistics = run(main())
        assert (statistics.accepted, statistics.dropped) == (26_000, 0)
        assert statistics.pending < 500

    def test_requests_that_hang_whatever_their_size_make_no_batch_smaller(self) -> None:
        """Of a load balancer's five servers one is dead."""

        async def main() -> tuple[list[int], Statistics]:
            chance = random.Random(1)
            transport = ScriptedTransport(lambda _: Slow(1_000) if chance.random() < 0.2 else None)
            async with Client("key", transport=transport, gzip=False) as client:
                for _ in range(600):
                    for _ in range(100):
                        client.nowait.track("u", "E", {"fill": "x" * 400})
                    await asyncio.sleep(0.5)
                await client.flush()
                return [request.arrival.size for request in transport.requests], client.statistics()

        sizes, statistics = run(main())
        assert (statistics.delivered, statistics.dropped) == (60_000, 0)
        assert max(sizes[len(sizes) // 2 :]) > 200_000

    def test_a_server_that_answers_nothing_gets_no_more_requests_for_it(self) -> None:
        async def main() -> int:
            transport = ScriptedTransport(lambda _: Slow(1_000))
            async with Client("key", transport=transport, gzip=False, close_timeout=0) as client:
                await give(client, 3_000)
                await asyncio.sleep(3_600)
                return len(transport.requests)

        # One at a time, each with its time limit and a back-off.
        assert run(main()) <= 3_600 / 15 + 10


class TestPoisonedBy500:
    def test_it_holds_up_no_other_message_and_is_found_and_given_up(self) -> None:
        async def main() -> tuple[ScriptedTransport, dict[str, Outcome], float]:
            transport = ScriptedTransport(refusing("m42", status=500))
            async with Client("key", transport=transport, flush_at=100, flush_interval=0.1) as client:
                deliveries = await give(client, 100)
                for second in range(300):
                    deliveries += await give(client, 1, first=100 + second)
                    await asyncio.sleep(1)
                outcomes = {delivery.message_id: await delivery for delivery in deliveries}
                return transport, outcomes, running_clock().time()

        transport, outcomes, ended = run(main())
        poisoned = outcomes.pop("m42")
        assert (poisoned.status, poisoned.reason, poisoned.status_code) == (Status.FAILED, "gave_up", 500)
        assert {outcome.status for outcome in outcomes.values()} == {Status.DELIVERED}
        assert ended < 400
        alone = [request for request in transport.requests if request.ids == ["m42"]]
        # Ten counted re-sends, some of them while it still had company; the halves are not counted.
        assert poisoned.attempts <= 1 + 10 + math.ceil(math.log2(100)) + 1
        assert alone
        # The others of its batch were there as soon as it was suspected.
        neighbours = [request for request in transport.requests if set(request.ids) & {f"m{n}" for n in range(100)}]
        last_good = max(request.ended for request in neighbours if request.arrival.taken)
        assert last_good < 60

    def test_without_other_traffic_too(self) -> None:
        transport, outcomes = deliver(refusing("m3", status=500), 8, retry=RetryPolicy(give_up_after=3_600))
        poisoned = outcomes.pop("m3")
        assert (poisoned.reason, poisoned.status_code) == ("gave_up", 500)
        assert {outcome.status for outcome in outcomes.values()} == {Status.DELIVERED}
        assert max(request.ended for request in transport.requests if request.arrival.taken) < 300

    def test_kept_in_order_the_others_pass_it(self) -> None:
        async def main() -> tuple[dict[str, Outcome], float]:
            transport = ScriptedTransport(refusing("m1", status=500))
            async with Client("key", transport=transport, flush_at=1, max_in_flight=1) as client:
                deliveries = await give_one_by_one(client, 5)
                outcomes = {delivery.message_id: await delivery for delivery in deliveries}
                return outcomes, running_clock().time()

        outcomes, ended = run(main())
        assert outcomes.pop("m1").reason == "gave_up"
        assert {outcome.status for outcome in outcomes.values()} == {Status.DELIVERED}
        assert ended < 3_600

    def test_an_outage_is_not_taken_for_poison(self) -> None:
        async def main() -> tuple[int, int]:
            transport = ScriptedTransport(lambda _: BUSY if running_clock().time() < 1_800 else None)
            async with Client("key", transport=transport, flush_at=10) as client:
                for number in range(0, 300, 10):
                    await give(client, 10, number)
                    await asyncio.sleep(10)
                await client.flush()
                return client.statistics().delivered, len(transport.taken)

        assert run(main()) == (300, 300)


class Answering(HTTPTransport):
    """Stands for a real host, which no test may ask."""

    def __init__(self, url: str, answer: Response) -> None:
        super().__init__(url)
        self._given = answer

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        await asyncio.sleep(LATENCY)
        return self._given


US = "https://api.segment.io/v1/batch"
EU = "https://events.eu1.segmentapis.com/v1/batch"
MORE = "This is logged once a minute; client.statistics().reasons counts them as"


class TestWhatTheLogSays:
    @staticmethod
    def log_of(caplog: pytest.LogCaptureFixture, url: str, answer: Response, messages: int = 3) -> list[str]:
        async def main() -> None:
            async with Client("key", transport=Answering(url, answer), flush_at=1) as client:
                for number in range(messages):
                    await (await give(client, 1, number))[0]

        run(main())
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    def test_the_host_of_a_transport_within_another(self, caplog: pytest.LogCaptureFixture) -> None:
        class Wrapping:
            hostname = "api.segment.io"

            async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
                return Response(403)

            async def aclose(self) -> None: ...

        async def main() -> None:
            async with Client("key", transport=Wrapping()) as client:
                await give(client, 1)

        run(main())
        failed, hint = [record.getMessage() for record in caplog.records]
        assert "(last status: 403 from api.segment.io)" in failed
        assert "write key" in hint

    @pytest.mark.parametrize("status", [401, 403])
    @pytest.mark.parametrize(("url", "other"), [(US, 'region="eu"'), (EU, 'region="us"')])
    def test_a_key_that_segment_refuses(
        self, caplog: pytest.LogCaptureFixture, url: str, other: str, status: int
    ) -> None:
        failed, hint = self.log_of(caplog, url, Response(status))
        host = urlsplit(url).hostname
        assert (
            failed
            == f"Messages failed: 1 message, unauthorized (last status: {status} from {host}). {MORE} unauthorized."
        )
        assert "write key" in hint
        assert "API Keys" in hint
        assert other in hint

    def test_an_address_that_segment_does_not_know(self, caplog: pytest.LogCaptureFixture) -> None:
        _, hint = self.log_of(caplog, US, Response(404))
        assert "SEGMENT_HOST" in hint
        assert 'region="eu"' in hint

    @pytest.mark.parametrize("status", [400, 402, 422, 501])
    def test_other_refusals_are_said_without_advice(self, caplog: pytest.LogCaptureFixture, status: int) -> None:
        (text,) = self.log_of(caplog, US, Response(status))
        assert text == (
            f"Messages failed: 1 message, refused (last status: {status} from api.segment.io). {MORE} refused."
        )

    def test_how_many_they_are(self, caplog: pytest.LogCaptureFixture) -> None:
        deliver(lambda _: Response(404), 1_234)
        (record,) = caplog.records
        assert record.getMessage() == f"Messages failed: 1,234 messages, refused (last status: 404). {MORE} refused."

    def test_no_other_host_is_taken_for_segments(self, caplog: pytest.LogCaptureFixture) -> None:
        assert len(self.log_of(caplog, "https://segment.io.example/v1/batch", Response(401))) == 1

    def test_where_a_redirect_points_to(self, caplog: pytest.LogCaptureFixture) -> None:
        answer = Response(307, {"Location": "https://user:SECRET@elsewhere.example/path?SECRET"})
        (text,) = self.log_of(caplog, US, answer)
        assert "redirected to elsewhere.example;" in text
        assert "SECRET" not in text

    def test_so_does_the_error(self) -> None:
        answer = Response(307, {"Location": "https://elsewhere.example/path?SECRET"})
        _, outcomes = deliver([answer], 1)
        assert outcomes["m0"].location == "elsewhere.example"
        with pytest.raises(DeliveryError, match=r"^message m0 failed: redirected to elsewhere\.example, status 307$"):
            outcomes["m0"].raise_for_failure()

    def test_given_up_without_an_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        deliver(lambda _: refused(), 1, retry=RetryPolicy(give_up_after=100))
        outage, record = caplog.records
        assert outage.getMessage().startswith("Deliveries to ScriptedTransport have failed for ")
        assert record.getMessage() == (f"Messages failed: 1 message, gave_up (no response). {MORE} gave_up.")

    def test_white_space_around_the_key_is_no_part_of_it(self) -> None:
        async def main() -> str:
            transport = ScriptedTransport()
            async with Client(" key\n", transport=transport) as client:
                await give(client, 1)
            return str(transport.arrivals[0].envelope["writeKey"])

        assert run(main()) == "key"
