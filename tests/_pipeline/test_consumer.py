"""What the consumer sends when: headers, due rules, order, back-off, giving up, what an outcome and the counters say.

The whole client in virtual time, before a transport that answers by script. What each answer means by itself is
`test_retry`'s; pauses, dead servers and split batches are `test_trouble`'s.
"""

import asyncio
import gc
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import orjson
import pytest

from segment_async import (
    Client,
    Delivery,
    DeliveryError,
    Outcome,
    QueueFull,
    Response,
    RetryPolicy,
    Statistics,
    Status,
    messages,
)
from segment_async._message.timestamps import millisecond_text
from segment_async._pipeline.admission import Overflow
from segment_async._pipeline.batch import Batch
from tests.support.scripted_transport import Script, ScriptedTransport, Slow, Step, lost, refused, stale
from tests.support.simulated_segment import violations
from tests.support.virtual_clock import run, running_clock

MORNING = 1_763_000_000.0
PORTAL = Response(200, {"Content-Type": "text/html"}, b"<!doctype html>")
BUSY = Response(503)


def asked(seconds: str, status: int = 429) -> Response:
    return Response(status, {"Retry-After": seconds})


@pytest.fixture(autouse=True)
def _same_jitter() -> None:
    random.seed(3)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], float]]:
    """The machine's own clock goes with the virtual one."""

    def wall() -> float:
        with suppress(RuntimeError):
            return MORNING + running_clock().time()
        return MORNING

    monkeypatch.setattr(time, "time", wall)
    yield wall
    monkeypatch.undo()


async def give(client: Client, count: int, first: int = 0, size: int = 0) -> list[Delivery]:
    return [
        await client.track("u", "E", {"fill": "x" * size}, message_id=f"m{number}")
        for number in range(first, first + count)
    ]


def one_message(script: Script, **options: Any) -> tuple[ScriptedTransport, Outcome, Statistics]:
    """What comes of a message alone; the client is closed only once it has its outcome."""

    async def main() -> tuple[ScriptedTransport, Outcome, Statistics]:
        transport = ScriptedTransport(script)
        async with Client("key", transport=transport, flush_at=1, **options) as client:
            outcome = await (await give(client, 1))[0]
            return transport, outcome, client.statistics()

    return run(main())


class TestEachAttempt:
    CAUSES = (BUSY, refused(), asked("1"), PORTAL, lost(), stale(), Response(408), asked("2", 503), Response(600))

    def test_every_re_send_is_counted_whatever_caused_it(self) -> None:
        transport, outcome, statistics = one_message(self.CAUSES)
        assert transport.retry_counts == [None, *map(str, range(1, 10))]
        assert outcome.status is Status.DELIVERED
        assert outcome.attempts == statistics.requests == 10
        assert statistics.retries == 9

    @pytest.mark.usefixtures("wall")
    def test_sent_at_is_fresh_and_all_else_the_same(self) -> None:
        transport, _, _ = one_message(self.CAUSES)
        envelopes = [dict(request.arrival.envelope) for request in transport.requests]
        assert [envelope.pop("sentAt") for envelope in envelopes] == [
            millisecond_text(int((MORNING + began) * 1000)) for began in transport.times
        ]
        assert len(set(transport.times)) == 10
        assert len({orjson.dumps(envelope) for envelope in envelopes}) == 1
        assert not [words for arrival in transport.arrivals for words in violations(arrival)]

    def test_the_halves_of_a_batch_go_on_with_its_count(self) -> None:
        async def main() -> ScriptedTransport:
            transport = ScriptedTransport([BUSY, Response(400)])
            async with Client("key", transport=transport, flush_at=4, max_in_flight=1) as client:
                await give(client, 4)
            return transport

        transport = run(main())
        assert [(request.retry_count, len(request.ids)) for request in transport.requests] == [
            (None, 4),
            ("1", 4),
            ("2", 2),
            ("2", 2),
        ]

    def test_headers_and_envelope(self) -> None:
        transport, _, _ = one_message(())
        (request,) = transport.requests
        assert request.arrival.headers["Authorization"] == "Basic a2V5Og=="
        assert request.arrival.headers["Content-Type"] == "application/json"
        assert request.arrival.headers["Content-Encoding"] == "gzip"
        assert request.arrival.headers["User-Agent"].startswith("segment-async/")
        assert set(request.arrival.envelope) == {"batch", "sentAt", "writeKey"}
        assert request.arrival.envelope["writeKey"] == "key"

    def test_plain_bodies(self) -> None:
        transport, _, _ = one_message((), gzip=False)
        assert "Content-Encoding" not in transport.requests[0].arrival.headers
        assert transport.requests[0].arrival.body.startswith(b'{"batch":[')


class TestBackOff:
    @pytest.mark.parametrize("cause", [refused(), lost(), Response(429), BUSY], ids=["refused", "lost", "429", "503"])
    def test_gaps_double_within_their_envelope(self, cause: Response | Exception) -> None:
        transport, outcome, _ = one_message([cause] * 12)
        assert outcome.status is Status.DELIVERED
        for gap, whole in zip(transport.gaps, [0.5, 1, 2, 4, 8, 16, 32, *[60] * 5], strict=True):
            assert whole / 2 <= gap <= whole + 0.001

    def test_numbers_of_the_policy(self) -> None:
        transport, _, _ = one_message([refused()] * 5, retry=RetryPolicy(backoff=10, max_backoff=25))
        for gap, whole in zip(transport.gaps, [10, 20, 25, 25, 25], strict=True):
            assert whole / 2 <= gap <= whole + 0.001

    def test_a_stale_connection_is_tried_again_at_once_and_for_free(self) -> None:
        transport, outcome, _ = one_message([stale()], retry=RetryPolicy(max_retries=0))
        assert transport.gaps == [pytest.approx(0, abs=0.001)]
        assert transport.retry_counts == [None, "1"]
        assert outcome.status is Status.DELIVERED

    def test_a_second_one_in_a_row_is_a_failure_like_any(self) -> None:
        transport, _, _ = one_message([stale(), stale()])
        assert transport.gaps[0] < 0.001
        assert 0.25 <= transport.gaps[1] <= 0.501

    def test_a_back_off_holds_up_no_other_batch(self) -> None:
        async def main() -> ScriptedTransport:
            transport = ScriptedTransport([BUSY])
            async with Client("key", transport=transport, flush_at=1) as client:
                await give(client, 1)
                await asyncio.sleep(0.1)
                await give(client, 1, first=1)
                await client.flush()
            return transport

        assert run(main()).taken == ["m1", "m0"]


class TestGivingUp:
    @pytest.mark.parametrize("most", [0, 1, 3])
    @pytest.mark.parametrize("cause", [refused(), BUSY, Response(460)], ids=["refused", "503", "460"])
    def test_after_max_retries(self, most: int, cause: Response | Exception) -> None:
        transport, outcome, statistics = one_message([cause] * 10, retry=RetryPolicy(max_retries=most))
        assert len(transport.requests) == most + 1
        code = cause.status if isinstance(cause, Response) else None
        assert outcome == Outcome(Status.FAILED, "m0", "gave_up", code, most + 1)
        assert statistics.reasons == {"gave_up": 1}

    def test_what_is_asked_for_and_a_stale_connection_do_not_count(self) -> None:
        script: list[Step] = [asked("1"), asked("1", 503), stale(), BUSY, asked("1"), BUSY]
        transport, outcome, _ = one_message(script, retry=RetryPolicy(max_retries=1))
        assert outcome == Outcome(Status.FAILED, "m0", "gave_up", 503, 6, possibly_delivered=True)
        assert len(transport.requests) == 6

    def test_when_its_time_is_up_even_amid_a_back_off(self) -> None:
        async def main() -> float:
            transport = ScriptedTransport(lambda _: refused())
            options = RetryPolicy(give_up_after=100)
            async with Client("key", transport=transport, flush_at=1, retry=options) as client:
                outcome = await (await give(client, 1))[0]
                assert (outcome.reason, outcome.possibly_delivered) == ("gave_up", False)
                return running_clock().time() - transport.requests[0].ended

        assert run(main()) == pytest.approx(100, abs=0.01)

    def test_a_429_of_thirteen_hours_is_given_up_at_twelve(self) -> None:
        complaints: list[str] = []

        def on_error(error: DeliveryError, failed: list[dict[str, Any]]) -> None:
            complaints.extend(message["messageId"] for message in failed)

        async def main() -> tuple[float, list[Outcome], Statistics, ScriptedTransport]:
            transport = ScriptedTransport(lambda _: asked("300") if running_clock().time() < 13 * 3_600 else None)
            async with Client("key", transport=transport, flush_at=100, on_error=on_error) as client:
                outcomes = [await delivery for delivery in await give(client, 100)]
                return running_clock().time(), outcomes, client.statistics(), transport

        ended, outcomes, statistics, transport = run(main())
        assert ended == pytest.approx(12 * 3_600, abs=1)
        assert {(outcome.reason, outcome.status_code) for outcome in outcomes} == {("gave_up", 429)}
        assert sorted(complaints) == sorted(outcome.message_id for outcome in outcomes)
        assert (statistics.failed, statistics.pending) == (100, 0)
        assert len(transport.requests) == 12 * 12

    def test_what_waited_behind_it_gets_its_own_twelve_hours(self) -> None:
        async def main() -> tuple[ScriptedTransport, Statistics]:
            transport = ScriptedTransport(lambda _: asked("300") if running_clock().time() < 13 * 3_600 else None)
            async with Client("key", transport=transport, flush_at=10) as client:
                for hour in range(14):
                    await give(client, 50, first=50 * hour)
                    await asyncio.sleep(3_600)
                await client.flush()
                return transport, client.statistics()

        transport, statistics = run(main())
        assert statistics.delivered + statistics.failed == 700
        assert 0 < statistics.failed <= 100
        assert len(transport.taken) == len(set(transport.taken)) == statistics.delivered
        assert max(request.at_once for request in transport.requests if request.began < 13 * 3_600) <= 4


class TestPossiblyDelivered:
    @pytest.mark.parametrize(
        ("cause", "possibly"),
        [
            *((refused(), False), (lost(), True), (stale(), True), (ZeroDivisionError(), True)),
            *((BUSY, False), (asked("1"), False), (PORTAL, False), (Slow(20), True)),
        ],
        ids=["refused", "lost", "stale", "bug", "503", "429", "portal", "late"],
    )
    def test_it_is_marked_once_a_request_may_have_left_unanswered(
        self, cause: Response | Exception | Slow, *, possibly: bool
    ) -> None:
        _, outcome, _ = one_message([cause, refused(), BUSY])
        assert outcome.status is Status.DELIVERED
        assert outcome.possibly_delivered is possibly

    @pytest.mark.parametrize("cause", [TimeoutError(), Slow(20), ZeroDivisionError()], ids=["own", "late", "bug"])
    def test_what_a_transport_should_not_raise_is_logged(
        self, cause: Exception | Slow, caplog: pytest.LogCaptureFixture
    ) -> None:
        one_message([cause])
        assert caplog.text.count("The transport raised") == 1

    def test_both_halves_are_marked(self) -> None:
        async def main() -> list[Outcome]:
            transport = ScriptedTransport([lost(), Response(400)])
            async with Client("key", transport=transport, flush_at=2) as client:
                return [await delivery for delivery in await give(client, 2)]

        assert [outcome.possibly_delivered for outcome in run(main())] == [True, True]

    def test_closed_in_flight(self) -> None:
        async def main() -> list[Outcome | None]:
            transport = ScriptedTransport([Slow(100)])
            client = Client("key", transport=transport, flush_at=1, max_in_flight=1, timeout=200, close_timeout=5)
            deliveries = await give(client, 1)
            await asyncio.sleep(0.1)
            deliveries += await give(client, 2, first=1)
            before = running_clock().time()
            await client.aclose()
            assert running_clock().time() - before == pytest.approx(5, abs=0.5)
            assert transport.closed
            return [delivery.outcome for delivery in deliveries]

        assert run(main()) == [
            Outcome(Status.DROPPED, "m0", "close_timeout", None, 1, possibly_delivered=True),
            Outcome(Status.DROPPED, "m1", "close_timeout"),
            Outcome(Status.DROPPED, "m2", "close_timeout"),
        ]


class TestAnswersThatRaise:
    """A transport of your own may return an object that raises when it is read."""

    @pytest.mark.parametrize("error", [ConnectionError, asyncio.CancelledError, GeneratorExit])
    @pytest.mark.parametrize("name", ["status", "headers", "body"])
    def test_the_answer_is_taken_once_and_all_is_delivered(self, name: str, error: type[BaseException]) -> None:
        class Raising:
            def __init__(self) -> None:
                self.reads = 0

            def __getattr__(self, attribute: str) -> object:
                if attribute == name:
                    self.reads += 1
                    raise error
                return {"status": 200 if name == "body" else 503, "headers": {}, "body": b""}[attribute]

        class Transport(ScriptedTransport):
            async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
                response = await super().send(body, headers)
                return answer if len(self.requests) == 1 else response  # type: ignore[return-value]

        answer = Raising()

        async def main() -> list[Outcome]:
            async with Client("key", transport=Transport(), flush_at=1) as client, asyncio.timeout(60):
                return [await (await give(client, 1, number))[0] for number in range(2)]

        outcomes = run(main())
        assert {outcome.status for outcome in outcomes} == {Status.DELIVERED}
        assert [outcome.attempts for outcome in outcomes] == [2, 1]
        assert answer.reads == 1


def test_a_failed_batch_is_not_kept_although_the_handler_that_logs_it_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        if "Messages failed" in record.getMessage():
            raise RuntimeError
        return True

    def batches() -> int:
        gc.collect()
        return sum(isinstance(each, Batch) for each in gc.get_objects())

    monkeypatch.setattr(logging.getLogger("segment_async"), "filters", [refuse])

    async def main() -> None:
        async with Client("key", transport=ScriptedTransport([Response(404)]), flush_at=1) as client:
            for number in range(2):
                await give(client, 1, number)
                await client.flush()
                # The consumer comes back, and what made sure of that is gone.
                await asyncio.sleep(20)
            assert client.statistics().failed == 1
            assert batches() == before

    before = batches()
    run(main())


class TestWhatGoesWhen:
    def test_a_lone_message_waits_for_company_for_the_interval(self) -> None:
        async def main() -> ScriptedTransport:
            transport = ScriptedTransport()
            async with Client("key", transport=transport, flush_at=100, flush_interval=0.5) as client:
                await give(client, 1)
                await asyncio.sleep(0.3)
                await give(client, 1, first=1)
                await asyncio.sleep(0.3)
                await give(client, 1, first=2)
                await asyncio.sleep(10)
            return transport

        transport = run(main())
        assert [request.ids for request in transport.requests] == [["m0", "m1"], ["m2"]]
        assert transport.times == [pytest.approx(0.5, abs=0.001), pytest.approx(1.1, abs=0.001)]

    def test_the_interval_begins_with_the_message_where_an_older_timer_will_look_for_it(self) -> None:
        async def main() -> ScriptedTransport:
            transport = ScriptedTransport()
            async with Client("key", transport=transport, flush_at=10, flush_interval=0.5) as client:
                await give(client, 1)
                await asyncio.sleep(0.1)
                await give(client, 9, first=1)
                await asyncio.sleep(0.2)
                assert len(transport.requests) == 1
                await give(client, 1, first=10)
                for age in (0.1, 0.2, 0.3, 0.4):
                    await asyncio.sleep(0.1)
                    assert client.statistics().oldest_age == pytest.approx(age, abs=0.001)
                await asyncio.sleep(10)
            return transport

        transport = run(main())
        assert [len(request.ids) for request in transport.requests] == [10, 1]
        assert transport.times == [pytest.approx(0.1, abs=0.001), pytest.approx(0.8, abs=0.001)]

    @pytest.mark.parametrize("options", [{}, {"overflow": "drop_oldest", "max_queue_size": 500}])
    def test_what_finds_no_room_in_a_batch_waits_no_longer_than_the_interval(self, options: dict[str, Any]) -> None:
        async def main() -> tuple[list[int], list[float]]:
            transport = ScriptedTransport()
            async with Client("key", transport=transport, flush_interval=5, **options) as client:
                for _ in range(25):
                    await client.track("user", "Event", {"fill": "x" * 30_000})
                    await asyncio.sleep(0.01)
                await asyncio.sleep(20)
            return [len(request.ids) for request in transport.requests], transport.times

        counts, times = run(main())
        assert sum(counts) == 25
        assert len(counts) > 1
        assert times == pytest.approx([5.0] * len(counts), abs=0.05)

    def test_flush_at_makes_it_due_at_once(self) -> None:
        async def main() -> ScriptedTransport:
            transport = ScriptedTransport()
            async with Client("key", transport=transport, flush_at=10, flush_interval=30) as client:
                await give(client, 10)
                await asyncio.sleep(1)
                assert transport.times == [pytest.approx(0, abs=0.001)]
                await give(client, 9, first=10)
                await asyncio.sleep(1)
                assert len(transport.requests) == 1
            return transport

        transport = run(main())
        assert [len(request.ids) for request in transport.requests] == [10, 9]

    def test_flush_waits_for_no_company_and_for_all_that_came_before_it(self) -> None:
        async def main() -> None:
            transport = ScriptedTransport([Slow(1), Slow(1)])
            async with Client("key", transport=transport, flush_interval=30) as client:
                before = await give(client, 3)
                assert await client.flush() == 0
                assert running_clock().time() == pytest.approx(1, abs=0.01)
                assert all(delivery.outcome for delivery in before)
                await give(client, 1, first=3)
                assert await client.flush(timeout=0.2) == 1
                assert running_clock().time() == pytest.approx(1.2, abs=0.01)

        run(main())

    def test_a_full_queue_is_due(self) -> None:
        async def main() -> list[float]:
            transport = ScriptedTransport()
            async with Client("key", transport=transport, max_queue_size=5, flush_interval=30) as client:
                await give(client, 20)
            return transport.times

        assert run(main())[-1] < 0.2

    @pytest.mark.parametrize("nowait", [False, True])
    @pytest.mark.parametrize("overflow", ["wait", "drop_newest", "raise"])
    def test_a_queue_full_of_bytes_is_due(self, overflow: Overflow, *, nowait: bool) -> None:
        async def main() -> list[float]:
            transport = ScriptedTransport()
            limits = {"max_queue_bytes": 5_000, "overflow": overflow}
            async with Client("key", transport=transport, flush_interval=30, **limits) as client:
                await give(client, 2, size=1_500)
                # The consumer has read them, and sleeps.
                await asyncio.sleep(0.05)
                with suppress(QueueFull):
                    if nowait:
                        client.nowait.track("u", "E", {"fill": "x" * 2_500})
                    else:
                        await give(client, 1, first=2, size=2_500)
                await asyncio.sleep(1)
            return transport.times

        assert run(main())[0] < 0.1

    def test_what_is_unread_joins_the_batch_that_is_due(self) -> None:
        async def main() -> list[int]:
            transport = ScriptedTransport()
            async with Client("key", transport=transport, flush_at=100) as client:
                for number in range(1_000):
                    client.enqueue_nowait(messages.track("u", "E", message_id=f"m{number}"))
                assert await client.flush() == 0
            assert transport.taken == [f"m{number}" for number in range(1_000)]
            return [len(request.ids) for request in transport.requests]

        lengths = run(main())
        assert lengths[0] >= 400
        assert len(lengths) <= 3

    @pytest.mark.parametrize(("size", "most"), [(0, 2_500), (1_000, 500)])
    def test_the_open_batch_grows_while_the_slots_are_busy(self, size: int, most: int) -> None:
        async def main() -> ScriptedTransport:
            transport = ScriptedTransport([Slow(1)])
            async with Client("key", transport=transport, flush_at=10, max_in_flight=1) as client:
                await give(client, 10)
                await asyncio.sleep(0.01)
                await give(client, 6_000, first=10, size=size)
                assert len(transport.requests) == 1
                assert await client.flush() == 0
            return transport

        transport = run(main())
        lengths = [len(request.ids) for request in transport.requests]
        assert lengths[0] == 10
        assert max(lengths) <= most
        assert max(lengths) >= most * 0.8
        assert max(request.arrival.size for request in transport.requests) <= 500_000
        assert transport.taken == [f"m{number}" for number in range(6_010)]
        assert not [words for arrival in transport.arrivals for words in violations(arrival)]

    @pytest.mark.parametrize("slots", [1, 2, 4])
    def test_so_many_requests_at_once_and_no_more(self, slots: int) -> None:
        async def main() -> int:
            transport = ScriptedTransport(lambda _: Slow(1))
            async with Client("key", transport=transport, flush_at=1, max_in_flight=slots) as client:
                for number in range(10):
                    await give(client, 1, first=number)
                    await asyncio.sleep(0.01)
                await client.flush()
            return max(request.at_once for request in transport.requests)

        assert run(main()) == slots

    def test_one_at_a_time_keeps_the_order_whatever_happens(self) -> None:
        script = (BUSY, lost(), None, asked("3"), None, stale(), refused(), Response(408), None, Response(400), BUSY)

        async def main() -> ScriptedTransport:
            transport = ScriptedTransport(script * 3)
            async with Client("key", transport=transport, flush_at=5, max_in_flight=1, close_timeout=1_000) as client:
                for number in range(60):
                    await give(client, 1, first=number)
                    await asyncio.sleep(0.3)
                await client.flush()
            return transport

        transport = run(main())
        assert transport.taken == [f"m{number}" for number in range(60)]
        assert max(request.at_once for request in transport.requests) == 1


class TestTimeThatIsLost:
    def test_a_loop_that_stood_still_takes_no_answer_for_late(self) -> None:
        async def main() -> tuple[ScriptedTransport, Outcome]:
            transport = ScriptedTransport([Slow(1)])
            async with Client("key", transport=transport, flush_at=1, timeout=15) as client:
                (delivery,) = await give(client, 1)
                await asyncio.sleep(0.5)
                running_clock().advance(30)
                return transport, await delivery

        transport, outcome = run(main())
        assert outcome == Outcome(Status.DELIVERED, "m0", None, 200, 1)
        assert len(transport.requests) == 1

    @pytest.mark.parametrize("cause", [BUSY, asked("300"), refused()], ids=["503", "429", "refused"])
    def test_after_eight_hours_asleep_there_is_neither_storm_nor_stall(self, cause: Response | Exception) -> None:
        async def main() -> tuple[ScriptedTransport, float, float]:
            clock = running_clock()
            transport = ScriptedTransport(lambda _: cause)
            async with Client("key", transport=transport, flush_at=1) as client:
                for number in range(50):
                    await give(client, 1, first=number)
                    await asyncio.sleep(1)
                transport.script = ()
                await asyncio.sleep(0.5)
                clock.advance(8 * 3_600)
                woke = clock.time()
                assert await client.flush() == 0
                assert client.statistics().delivered == 50
                return transport, woke, clock.time()

        transport, woke, ended = run(main())
        after = [request for request in transport.requests if request.began >= woke]
        assert len(after) <= 50
        assert after[0].began == pytest.approx(woke, abs=0.1)
        assert max(request.at_once for request in after) <= 4
        assert ended - woke < 5


class TestCounters:
    @staticmethod
    def counts(client: Client) -> tuple[int, ...]:
        now = client.statistics()
        assert now.accepted == now.delivered + now.failed + now.dropped + now.pending
        assert now.pending == now.queued + now.in_flight
        return (now.queued, now.in_flight, now.delivered, now.failed, now.requests, now.retries)

    def test_at_each_point(self) -> None:
        async def main() -> list[tuple[int, ...]]:
            transport = ScriptedTransport([Slow(1, BUSY), Slow(1, Response(400)), Slow(1), Slow(1, Response(400))])
            async with Client("key", transport=transport, flush_at=2, max_in_flight=1) as client:
                seen = [self.counts(client)]
                await give(client, 2)
                seen.append(self.counts(client))
                await asyncio.sleep(0.5)
                seen.append(self.counts(client))
                # Within the back-off.
                await asyncio.sleep(0.6)
                seen.append(self.counts(client))
                await asyncio.sleep(0.9)
                seen.append(self.counts(client))
                # The first half flies, then the second.
                await asyncio.sleep(1)
                seen.append(self.counts(client))
                await asyncio.sleep(1)
                seen.append(self.counts(client))
                await client.flush()
                seen.append(self.counts(client))
                assert client.statistics().reasons == {"refused": 1}
                assert client.statistics().queued_bytes == 0
                return seen

        assert run(main()) == [
            (0, 0, 0, 0, 0, 0),
            (2, 0, 0, 0, 0, 0),
            (0, 2, 0, 0, 1, 0),
            (2, 0, 0, 0, 1, 0),
            (0, 2, 0, 0, 2, 1),
            (1, 1, 0, 0, 3, 2),
            (0, 1, 1, 0, 4, 3),
            (0, 0, 1, 1, 4, 3),
        ]
