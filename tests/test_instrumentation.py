"""Instrumentation: each finished request, the age of the oldest message, and counts by outcome."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from segment_async import Client, Response, TransportError, blocking, bound
from segment_async._outcome import REASONS
from segment_async.instrumentation import Request, outcomes
from tests.support.scripted_transport import LATENCY, ScriptedTransport, Slow
from tests.support.virtual_clock import run, without_pauses


def observed(script: Any, messages: int = 1, **options: Any) -> list[Request]:
    requests: list[Request] = []

    async def main() -> None:
        async with Client("key", transport=ScriptedTransport(script), flush_at=messages, **options) as client:
            client.observe(requests.append)
            for number in range(messages):
                delivery = await client.track("user-1", "Seen", message_id=f"m{number}")
            await delivery

    run(main())
    return requests


def test_each_finished_request_is_observed() -> None:
    lost = TransportError("lost", maybe_sent=True)
    requests = observed([Response(503), Slow(0.2, lost), Response(200)], messages=3)
    assert [(request.status, request.attempt, request.count) for request in requests] == [
        *((503, 1, 3), (None, 2, 3), (200, 3, 3)),
    ]
    assert [request.seconds for request in requests] == pytest.approx([LATENCY, 0.2, LATENCY])
    assert requests[0].started_at <= requests[1].started_at <= requests[2].started_at


@pytest.mark.parametrize("gzip", [True, False])
def test_its_message_ids(gzip: bool) -> None:
    (request,) = observed([], messages=3, gzip=gzip)
    assert request.message_ids() == ["m0", "m1", "m2"]


def test_the_message_ids_of_a_split_batch() -> None:
    _, first, second = observed([Response(400)], messages=2)
    assert [first.message_ids(), second.message_ids()] == [["m0"], ["m1"]]


def test_its_repr_shows_no_message() -> None:
    (request,) = observed([])
    assert "user-1" not in repr(request)
    assert "bodies" not in repr(request)


async def waiting(request: Request) -> None:
    """No observer: nothing would await it."""


@pytest.mark.parametrize("listener", [None, "metrics", waiting])
@pytest.mark.parametrize("client", [Client, blocking.Client])
def test_an_observer_is_a_plain_function(client: Any, listener: Any) -> None:
    with pytest.raises(ValueError, match="listener must be a plain function"):
        client("key", send=False).observe(listener)


def test_a_request_cancelled_by_the_close_is_observed() -> None:
    requests: list[Request] = []

    async def main() -> None:
        transport = ScriptedTransport([Slow(60)])
        client = without_pauses(Client("key", transport=transport, flush_at=1, close_timeout=2))
        async with client:
            client.observe(requests.append)
            await client.track("user-1", "Seen")

    run(main())
    assert [(request.status, request.seconds) for request in requests] == [(None, pytest.approx(2))]


def test_an_error_in_an_observer_affects_neither_the_request_nor_other_observers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Request] = []

    async def main() -> None:
        async with Client("key", transport=ScriptedTransport(), flush_at=1) as client:
            client.observe(lambda request: 1 / 0)
            client.observe(seen.append)
            for _ in range(2):
                assert (await (await client.track("user-1", "Seen"))).attempts == 1

    run(main())
    assert len(seen) == 2
    (record,) = caplog.records
    assert record.name == "segment_async"
    assert "An observer failed" in record.getMessage()


def test_bound_fields_do_not_reach_the_observer() -> None:
    calls: list[str] = []

    async def main() -> None:
        async with Client("key", transport=ScriptedTransport(), flush_at=1) as client:

            def observer(request: Request) -> None:
                with pytest.raises(ValueError, match="userId"):
                    client.enqueue_nowait({"type": "track", "event": "Sent"})
                calls.append("observer")

            client.observe(observer)
            with bound(user_id="user-1"):
                await (await client.track(event="Seen"))

    run(main())
    assert calls == ["observer"]


def test_the_age_is_that_of_the_oldest_pending_message() -> None:
    async def main() -> list[float]:
        transport = ScriptedTransport([Slow(5, Response(503)), Slow(3)])
        ages = []
        async with Client("key", transport=transport, flush_at=2, flush_interval=60) as client:

            def look() -> None:
                ages.append(client.statistics().oldest_age)

            look()  # no messages
            await client.track("user-1", "First")
            await asyncio.sleep(10)
            look()  # in the open batch
            await client.track("user-1", "Second")
            await asyncio.sleep(1)
            look()  # in flight
            await client.track("user-1", "Third")
            await asyncio.sleep(4.01)
            look()  # during the back-off; the third one is younger
            left = await client.flush()
            assert left == 0
            look()
        return ages

    assert run(main()) == pytest.approx([0, 10, 11, 15.01, 0], abs=1e-3)


def test_statistics_with_equal_counts_are_equal() -> None:
    async def main() -> None:
        async with Client("key", transport=ScriptedTransport(), flush_interval=60) as client:
            await client.track("user-1", "Seen")
            await asyncio.sleep(1)
            before = client.statistics()
            await asyncio.sleep(1)
            assert client.statistics() == before

    run(main())


def test_every_reason_belongs_to_one_outcome() -> None:
    """The documentation's list of reasons, in the order of `outcomes`."""
    failed = {"refused", "unauthorized", "redirected", "too_large", "unexpected_answer", "gave_up"}
    dropped = {"queue_full", "no_identity", "before_send", "disabled", "close_timeout", "exit"}

    async def main() -> Any:
        async with Client("key", send=False) as client:
            await (await client.track("user-1", "Seen"))
            return client.statistics()

    statistics = run(main())
    object.__setattr__(statistics, "handed_over", 5)
    counts = {reason: (outcome, count) for outcome, reason, count in outcomes(statistics) if reason}
    assert counts.keys() == REASONS.keys()
    assert {reason: count for reason, (_, count) in counts.items() if count} == {"disabled": 1}
    for reason in failed | dropped:
        assert counts[reason][0] == ("failed" if reason in failed else "dropped")
    assert [each for each in outcomes(statistics) if not each[1]] == [("delivered", "", 0), ("handed_over", "", 5)]
