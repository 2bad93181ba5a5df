"""The client's clock: it goes on evenly from loop to loop, and between them."""

from segment_async._pipeline.clock import LoopClock
from tests.support.virtual_clock import VirtualClockLoop


class Monotonic:
    """The time that passes without a loop, which the test sets."""

    now = 700.0

    def __call__(self) -> float:
        return self.now


def test_it_stands_still_before_the_first_loop() -> None:
    monotonic = Monotonic()
    clock = LoopClock(monotonic)
    monotonic.now += 60
    clock.detach()
    monotonic.now += 60
    assert clock.now() == 0.0
    assert clock.loop is None


def test_it_goes_with_its_loop() -> None:
    clock, loop = LoopClock(), VirtualClockLoop(5_000.0)
    clock.attach(loop)
    assert clock.now() == 0.0
    loop.advance(7.5)
    assert clock.now() == 7.5
    loop.close()


def test_it_neither_jumps_nor_goes_back_when_the_loop_changes() -> None:
    clock = LoopClock(Monotonic())
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


def test_it_goes_on_between_two_loops() -> None:
    """A pause that the server asked for passes although no loop runs, as between two `asyncio.run`."""
    monotonic = Monotonic()
    clock, first, second = LoopClock(monotonic), VirtualClockLoop(100.0), VirtualClockLoop(7.0)
    clock.attach(first)
    first.advance(4)
    clock.detach()
    monotonic.now += 5
    assert clock.now() == 9.0
    clock.detach()
    monotonic.now += 1
    clock.attach(second)
    assert clock.now() == 10.0
    second.advance(2)
    monotonic.now += 1_000
    assert clock.now() == 12.0
    first.close()
    second.close()


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
