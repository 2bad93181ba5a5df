"""The rate limit and the chaos: the decisions, and what an SDK receives."""

import asyncio
import random
import re
from importlib.resources import files
from pathlib import Path

import aiohttp
import pytest

from segment_async.devserver import Endpoint
from segment_async.devserver._faults import CHAOS_WORDS, Chaos, PlannedResponse, Rate
from segment_async.devserver._run import HELP
from tests.devserver.exchange import KEY, body, get, send, track, with_endpoint

HTML = (files("segment_async.devserver") / "page.html").read_text("utf-8")
GUIDE = (Path(__file__).parents[2] / "docs" / "how-to" / "local-segment.md").read_text()


def test_a_specification_is_parsed_and_printed() -> None:
    assert str(Chaos.parse(" 429:10%, 500:5%,slow:2s,reset:1% ")) == "429:10%,500:5%,reset:1%,slow:2s"
    assert str(Chaos.parse("401:5%,400:1%,timeout:2%,down")) == "401:5%,400:1%,timeout:2%,down"
    assert str(Chaos.parse("slow:250ms")) == "slow:0.25s"
    assert Chaos.parse("") == Chaos.parse("500:0%") == Chaos()


@pytest.mark.parametrize(
    "spec",
    [
        "429",
        "429:10",
        "600:5%",
        "fast:2s",
        "slow:10%",
        "slow:2h",
        "slow:61s",
        "500:60%,429:50%",
        "500:101%",
        "down:5%",
        "timeout",
    ],
)
def test_a_malformed_specification_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="chaos"):
        Chaos.parse(spec)


def test_the_help_the_page_and_the_guide_name_every_fault_and_no_other() -> None:
    example = re.search(r'"(.+?)"', HELP["chaos"])
    assert example is not None
    chaos = str(Chaos.parse(example[1]))
    switches = re.search(r"^const FAULTS = \{\n(.+?)^\};", HTML, re.MULTILINE | re.DOTALL)
    assert switches is not None
    names = re.findall(r"(\w+): \[", switches[1])
    for word in CHAOS_WORDS:
        assert word in names
        assert word in HELP["chaos"]
        assert re.search(rf'--chaos "?([\w:%,]+,)?{word}\b', GUIDE)
    assert {item.partition(":")[0] for item in chaos.split(",")} | {"down"} == {*names}
    for name in names:
        assert Chaos.parse({"slow": "slow:1s", "down": "down"}.get(name, f"{name}:1%")) != Chaos()


def test_each_fault_occurs_as_often_as_specified() -> None:
    chaos, chance = Chaos.parse("429:10%,500:5%,reset:1%"), random.Random(1)
    statuses = [chaos.draw(chance).status for _ in range(10_000)]
    assert [round(statuses.count(status) / 100) for status in (429, 500, 0, 200)] == [10, 5, 1, 84]


def test_slow_applies_to_every_response() -> None:
    assert Chaos.parse("slow:2s,500:100%").draw(random.Random(1)) == PlannedResponse(500, 2.0, "injected by --chaos")


def test_the_rate_applies_to_seconds_that_begin_with_a_request() -> None:
    rate = Rate(2)
    assert [rate.seconds_to_wait(now) for now in (10.0, 10.5, 10.75, 11.0, 11.5, 11.9)] == [
        0.0,
        0.0,
        0.25,
        0.0,
        0.0,
        pytest.approx(0.1),
    ]


def test_beyond_the_rate_both_headers_give_the_delay() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        assert await send(session, track(1)) == 200
        async with session.post("/v1/batch", data=body(track(2)), headers=KEY) as answer:
            assert answer.status == 429
            assert (answer.headers["Retry-After"], answer.headers["X-RateLimit-Reset"]) == ("1", "1")
        assert endpoint.messages == [track(1)]

    with_endpoint(case, rate=1)


def test_a_reset_closes_the_connection_without_a_response() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.ClientConnectionError):
            await send(session, track())
        assert endpoint.summary()["refused"] == {"reset": 1}
        assert endpoint.messages == []

    with_endpoint(case, chaos="reset:100%")


def test_without_an_answer_the_client_waits_until_it_gives_up() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await send(session, track())
        assert endpoint.summary()["refused"] == {"timeout": 1}
        assert endpoint.messages == []

    with_endpoint(case, chaos="timeout:100%")


def test_down_resets_every_request_for_events_settings_and_tokens() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.ClientConnectionError):
            await send(session, track())
        for method, path in (("GET", "/v1/projects/key/settings"), ("POST", "/token")):
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.request(method, path)
        assert endpoint.summary()["refused"] == {"down": 1}
        assert await get(session, "/_dev/chaos") == {"chaos": "down"}

    with_endpoint(case, chaos="down")


@pytest.mark.parametrize("status", [400, 401])
def test_a_refusal_can_be_injected(status: int) -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        assert await send(session, track()) == status
        assert endpoint.messages == []

    with_endpoint(case, chaos=f"{status}:100%")


def test_a_slow_response_arrives() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        assert await send(session, track()) == 200

    with_endpoint(case, chaos="slow:10ms")


def test_the_chaos_can_be_replaced_while_it_runs() -> None:
    async def case(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        async with session.put("/_dev/chaos", data="503:100%") as answer:
            assert await answer.json() == {"chaos": "503:100%"}
        assert await send(session, track()) == 503
        async with session.put("/_dev/chaos", data="503:101%") as answer:
            assert (answer.status, await answer.text()) == (
                400,
                "chaos '503:101%': must end with a percentage such as 10%\n",
            )
        assert await get(session, "/_dev/chaos") == {"chaos": "503:100%"}
        async with session.put("/_dev/chaos", data=""):
            pass
        assert await send(session, track()) == 200

    with_endpoint(case)
