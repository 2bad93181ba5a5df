"""The client's clock: it goes on evenly from loop to loop, and stands still while there is none."""

from segment_async._pipeline.clock import LoopClock
from tests.support.virtual_clock import VirtualClockLoop


def test_it_stands_still_without_a_loop() -> None:
    clock = LoopClock()
    assert clock.now() == clock.now() == 0.0
    assert clock.loop is None


def test_it_goes_with_its_loop() -> None:
    clock, loop = LoopClock(), VirtualClockLoop(5_000.0)
    clock.attach(loop)
    assert clock.now() == 0.0
    loop.advance(7.5)
    assert clock.now() == 7.5
    loop.close()


def test_it_neither_jumps_nor_goes_back_when_the_loop_changes() -> None:
    clock = LoopClock()
    readings = [clock.now()]
    for start in (1_000_000.0, 3.0, 50_000.0):
        loop = VirtualClockLoop(start)
        clock.attach(loop)
        readings.append(clock.now())
        loop.advance(10)
        readings.append(clock.now())
        clock.detach()
        loop.advance(1_000)
        readings.append(clock.now())
        loop.close()
    assert readings == [0, 0, 10, 10, 10, 20, 20, 20, 30, 30]


def test_from_one_loop_to_the_next_without_a_pause() -> None:
    clock, first, second = LoopClock(), VirtualClockLoop(100.0), VirtualClockLoop(7.0)
    clock.attach(first)
    first.advance(4)
    clock.attach(second)
    second.advance(2)
    assert clock.now() == 6.0
    assert clock.loop is second
    first.close()
    second.close()
