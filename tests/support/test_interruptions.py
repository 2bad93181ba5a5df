"""The places at which the package is interrupted are the same in each run, and lie in the package alone."""

import asyncio

import pytest

from segment_async import Client

from .interruptions import Interrupted, MemoryRefused, Points, cpu_limit, unwatched
from .scripted_transport import ScriptedTransport
from .virtual_clock import run


def scenario(points: Points) -> Points:
    async def main() -> None:
        async with Client("key", transport=ScriptedTransport(), flush_at=2) as client:
            with points:
                for _ in range(4):
                    await client.track("u", "E")
                await client.flush()

    run(main())
    return points


def interrupt() -> None:
    raise Interrupted


def test_the_same_program_passes_the_same_places() -> None:
    assert scenario(Points("_pipeline")).count == scenario(Points("_pipeline")).count > 50


def test_parts_are_watched_by_themselves() -> None:
    pipeline, both = scenario(Points("_pipeline")).count, scenario(Points("_pipeline", "_lifecycle")).count
    assert both > pipeline
    assert scenario(Points("_no_such_part")).count == 0


def test_it_acts_once_at_its_place() -> None:
    acted: list[str] = []
    points = Points("_client.py", act=lambda: acted.append("here"), at=3)
    scenario(points)
    assert acted == ["here"]
    assert "_client.py" in points.where


def test_it_acts_again_and_again_if_it_is_told_so() -> None:
    acted: list[str] = []
    points = scenario(Points("_pipeline", act=lambda: acted.append("here"), at=5, every=10))
    assert len(acted) == 1 + (points.count - 6) // 10


def test_what_it_raises_is_raised_in_the_package() -> None:
    with pytest.raises(Interrupted):
        scenario(Points("_client.py", act=interrupt, at=0))


def test_memory_is_refused_where_much_is_allocated() -> None:
    assert scenario(MemoryRefused("_pipeline")).count > 2
    assert scenario(MemoryRefused("_pipeline", at=0)).where != ""


def test_nothing_is_counted_meanwhile() -> None:
    points = Points("_client.py")
    with points, unwatched():
        Client("key", transport=ScriptedTransport())
    assert points.count == 0


def test_a_loop_without_an_await_is_ended() -> None:
    async def main() -> None:
        while True:
            pass

    with pytest.raises(AssertionError, match=r"still busy after 0\.1 s"), cpu_limit(0.1):
        asyncio.run(main())
