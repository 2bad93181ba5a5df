"""The simulated network injects what it says, the same for the same seed, its Segment sees what breaks the rules."""

import asyncio
import gzip
import random
from collections.abc import Coroutine
from typing import Any

import orjson
import pytest

from segment_async import Response, TransportError
from tests.support.simulated_network import FAULTS, Outage, SimulatedNetwork, Weather
from tests.support.simulated_segment import Arrival, Message, SimulatedSegment, violations
from tests.support.virtual_clock import run, running_clock

HEADERS = {"Content-Type": "application/json"}


def message(number: int, **fields: Any) -> Message:
    return {"type": "track", "event": "Order", "userId": "u", "messageId": f"id-{number}", **fields}


def body(*messages: Message) -> bytes:
    return orjson.dumps({"batch": messages, "sentAt": "2025-11-21T00:00:00.000Z", "writeKey": "k"})


def always(fault: str) -> SimulatedNetwork:
    return SimulatedNetwork(SimulatedSegment(), Weather(faults={fault: 1.0}, latency=(0.5, 0.5)))


def ask(network: SimulatedNetwork, sent: bytes | None = None) -> tuple[Response, float]:
    async def main() -> tuple[Response, float]:
        return await network.send(sent or body(message(1)), HEADERS), running_clock().time()

    return run(main())


def test_fair_weather_takes_everything() -> None:
    network = SimulatedNetwork(SimulatedSegment(), Weather(latency=(0.5, 0.5)))
    response, took = ask(network)
    assert (response.status, took) == (200, 1.0)
    assert network.segment.taken == {"id-1": [message(1)]}
    assert network.segment.violations == []


def test_compressed_bodies_are_read() -> None:
    segment = SimulatedSegment()
    arrival = Arrival.read(gzip.compress(body(message(1))), {**HEADERS, "content-encoding": "gzip"})
    assert segment.receive(arrival).status == 200
    assert list(segment.taken) == ["id-1"]


@pytest.mark.parametrize("fault", ["refused", "request lost", "answer lost", "connection stale"])
def test_a_lost_exchange_raises_and_says_whether_it_may_have_been_sent(fault: str) -> None:
    network = always(fault)
    with pytest.raises(TransportError) as caught:
        ask(network)
    assert caught.value.maybe_sent is (fault != "refused")
    assert list(network.segment.taken) == (["id-1"] if fault == "answer lost" else [])
    assert network.injected == {fault: 1}


@pytest.mark.parametrize("fault", [name for name in FAULTS if name[:3].isdecimal() or name.startswith("status")])
def test_a_status_is_answered_and_nothing_taken(fault: str) -> None:
    network = always(fault)
    response, _ = ask(network)
    assert str(response.status) in fault
    assert network.segment.taken == {}
    assert len(network.segment.arrivals) == 1


@pytest.mark.parametrize("fault", ["html 200", "success false"])
def test_a_200_of_another_server_never_reaches_segment(fault: str) -> None:
    network = always(fault)
    response, _ = ask(network)
    assert response.status == 200
    assert network.segment.arrivals == []


def test_retry_after_comes_with_its_value() -> None:
    response, _ = ask(always("503 with Retry-After 0.5"))
    assert response.headers["Retry-After"] == "0.5"


def test_an_outage_lasts_as_long_as_it_says() -> None:
    weather = Weather(outages=(Outage(10, 5, "refused"),), latency=(0, 0))
    network = SimulatedNetwork(SimulatedSegment(), weather)

    async def main() -> list[str]:
        return [await outcome_of(network.send(body(message(1)), HEADERS), then_wait=5) for _ in range(5)]

    assert run(main(), start=77) == ["200", "200", "refused", "200", "200"]


async def outcome_of(sending: Coroutine[Any, Any, Response], then_wait: float) -> str:
    try:
        return str((await sending).status)
    except TransportError:
        return "refused"
    finally:
        await asyncio.sleep(then_wait)


def test_one_bad_message_has_the_whole_batch_refused() -> None:
    segment = SimulatedSegment(verdict=lambda message: 400 if message["messageId"] == "id-7" else None)
    network = SimulatedNetwork(segment, Weather())
    assert ask(network, body(*map(message, range(10))))[0].status == 400
    assert ask(network, body(*map(message, range(7))))[0].status == 200
    assert sorted(segment.taken) == [f"id-{number}" for number in range(7)]


def test_a_proxy_refuses_what_is_too_large_for_it() -> None:
    network = SimulatedNetwork(SimulatedSegment(max_body_bytes=1000), Weather())
    assert ask(network, body(*map(message, range(100))))[0].status == 413
    assert ask(network)[0].status == 200


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ([message(1, properties={"text": "x" * 33_000})], "message id-1 has 33,"),
        ([message(number) for number in range(2501)], "2,501 messages"),
        ([message(number, properties={"text": "x" * 30_000}) for number in range(17)], "the batch has 51"),
        ([message(1), message(1)], "twice"),
        ([{**message(1), "messageId": "x" * 100}], "no text of 1 to 99"),
        ([], "0 messages"),
    ],
)
def test_broken_limits_are_noticed_and_answered_400(broken: list[Message], complaint: str) -> None:
    network = SimulatedNetwork(SimulatedSegment(), Weather())
    assert ask(network, body(*broken))[0].status == 400
    assert complaint in " ".join(network.segment.violations)


def test_broken_headers_are_noticed() -> None:
    arrival = Arrival.read(orjson.dumps({"batch": [message(1)]}), {"X-Retry-Count": "0"})
    assert violations(arrival) == [
        "the envelope has no writeKey",
        "the envelope has no sentAt",
        "the Content-Type is not application/json",
        "the X-Retry-Count is '0'",
    ]


def test_a_limit_itself_is_no_violation() -> None:
    full = message(1, properties={"text": ""})
    full["properties"]["text"] = "x" * (32_768 - len(orjson.dumps(full)))
    assert violations(Arrival.read(body(full), HEADERS)) == []


def test_what_runs_at_once_is_counted() -> None:
    network = SimulatedNetwork(SimulatedSegment(), Weather(latency=(1, 2)), seed=3)

    async def main() -> None:
        await asyncio.gather(*(network.send(body(message(number)), HEADERS) for number in range(5)))
        await network.send(body(message(9)), HEADERS)

    run(main())
    assert network.most_at_once == 5
    assert network.attempts[-1].at_once == 1
    assert all(attempt.ended is not None and attempt.ended > attempt.started for attempt in network.attempts)


def history(seed: int) -> list[tuple[float, str | None, float | None]]:
    chance = random.Random(seed)
    network = SimulatedNetwork(SimulatedSegment(), Weather.seeded(chance, until=1200), seed=seed)

    async def main() -> None:
        for number in range(40):
            await asyncio.gather(
                *(network.send(body(message(number)), HEADERS) for _ in range(3)), return_exceptions=True
            )
            await asyncio.sleep(60)

    run(main())
    return [(attempt.started, attempt.fault, attempt.ended) for attempt in network.attempts]


def test_the_same_seed_makes_the_same_history() -> None:
    assert history(1) == history(1)
    assert history(1) != history(2)


def test_many_seeds_see_every_fault_and_end_in_fair_weather() -> None:
    seen = set()
    for seed in range(200):
        attempts = history(seed)
        seen |= {fault for _, fault, _ in attempts}
        assert all(fault is None for started, fault, _ in attempts if started - attempts[0][0] >= 1200)
    assert seen >= FAULTS.keys()
