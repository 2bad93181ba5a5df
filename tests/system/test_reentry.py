"""Signal handlers, finalizers and refused memory between any two steps of the client.

A handler may raise, as Celery's time limit does, or enqueue a message of its own; so may a finalizer that the garbage
collector runs. Whatever happens where: what was accepted is delivered in bounded time without another call, the law
holds, and no lock is left held. Each test goes through the places one after the other, in virtual time.
"""

import asyncio
import gc
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from segment_async import Client, ClientClosed, Delivery, Statistics, Status, messages
from tests.support.interruptions import Interrupted, MemoryRefused, Points, cpu_limit
from tests.support.law import check_counters
from tests.support.memory_spool import SpoolStore
from tests.support.scripted_transport import ScriptedTransport, lost, refused
from tests.support.virtual_clock import Deadlock, Spinning, VirtualClockLoop

PARTS = ("_pipeline", "_lifecycle", "_client.py")
QUEUE = ("_pipeline/admission.py", "_pipeline/queue.py", "_pipeline/order.py", "_pipeline/spool_share.py")
COUNT = 24
# Virtual seconds after the last call, in which everything settles by itself.
BOUND = 60.0
# Places that a test goes through, spread over all of them; PLACES=100000 goes through each.
PLACES = int(os.environ.get("PLACES", "80"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Each interruption is logged, with its stack: hundreds of them are of no use."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# A handler that does not raise runs each time that so many places were passed; the lives begin at different ones.
EVERY = 53


def every_life(_count: int) -> range:
    return range(0, EVERY, max(1, 4 * EVERY // PLACES))


class Life:
    """A client with an answer lost, an outage and a change of its loop; interrupted while it runs, and then left alone."""

    def __init__(
        self, points: Points, *, with_spool: bool = False, calls_again: bool = False, flush_at: int = 5
    ) -> None:
        self.points = points
        self._calls_again = calls_again
        self.store = SpoolStore() if with_spool else None
        self.transport = ScriptedTransport([None, lost(), refused(), refused(), None])
        self.client = Client(
            "key",
            transport=self.transport,
            spool=self.store.open() if self.store is not None else None,
            flush_at=flush_at,
            flush_interval=0.1,
            max_in_flight=2,
            max_queue_size=10,
            overflow_timeout=None,
            close_timeout=0,
        )
        self.deliveries: dict[str, Delivery] = {}
        # The handler comes again after what a callback raised.
        self.resumes = False
        self._numbers = itertools.count()
        self.left: Statistics | None = None

    def run(self) -> None:
        self._on_a_loop(self._send(0, COUNT // 2))
        self._on_a_loop(self._send(COUNT // 2, COUNT, settle=True))

    def _on_a_loop(self, main: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
            # What a callback raises is told to the loop's handler, and no more comes of it.
            runner.get_loop().set_exception_handler(lambda _loop, _context: self._resume())
            runner.run(main)
        if self.store is not None:
            for process in list(self.store._processes):
                process.catch_up()

    def _resume(self) -> None:
        if self.resumes:
            self.points.resume()

    async def _send(self, first: int, last: int, *, settle: bool = False) -> None:
        with self.points:
            for number in range(first, last):
                with suppress(Interrupted, MemoryError):
                    async with asyncio.timeout(BOUND):
                        delivery = await self.client.track("u", "E", message_id=f"m{number}")
                        self.deliveries[delivery.message_id] = delivery
                self.points.resume()
                await asyncio.sleep(0.02 * (number % 3))
            if settle:
                await asyncio.sleep(BOUND / 2)
        if settle and self._calls_again:
            self.deliveries["again"] = await self.client.track("u", "E", message_id="again")
        if settle:
            await asyncio.sleep(BOUND)
            self.left = self.client.statistics()
            await self.client.aclose()

    async def fall_asleep(self) -> None:
        """One call, and a look in the silence after it, which finds nothing; what is watched is what comes after the call."""
        self.deliveries["m0"] = await self.client.track("u", "E", message_id="m0")
        await self.deliveries["m0"]
        with self.points:
            await asyncio.sleep(0.03)
            self.client._owner.pipeline.queue.notify()
            await asyncio.sleep(BOUND / 2)
        await asyncio.sleep(BOUND)
        self.left = self.client.statistics()
        await self.client.aclose()

    def enqueue_within(self) -> None:
        """From a handler, in the middle of another call; not for ever, as each message makes work of its own."""
        number = next(self._numbers)
        if number >= COUNT:
            return
        message_id = f"within-{number}"
        self.deliveries[message_id] = self.client.enqueue_nowait(messages.track("u", "E", message_id=message_id))

    def check(self) -> None:
        """Everything that was accepted has arrived, and the client can be used."""
        assert self.left is not None
        check_counters(self.left)
        assert self.left.pending == 0, f"{self.left.pending} messages are pending"
        assert self.left.accepted >= len(self.deliveries)
        taken = self.transport.taken
        outcomes = {name: delivery.outcome for name, delivery in self.deliveries.items()}
        assert {name for name, outcome in outcomes.items() if outcome is None} == set()
        dropped = {name for name, outcome in outcomes.items() if outcome and outcome.status is Status.DROPPED}
        assert {name for name in outcomes if name not in taken} <= dropped
        # Only a message that was enqueued within another call may have found the queue full.
        assert dropped <= {name for name in outcomes if name.startswith("within")}
        # What has ended is not sent once more by the next process.
        assert self.store is None or not self.store.pending_ids
        assert self._can_be_used_by_another_thread()

    def _can_be_used_by_another_thread(self) -> bool:
        thread = threading.Thread(target=self.client.statistics, daemon=True)
        thread.start()
        thread.join(5.0)
        return not thread.is_alive()


def go_through(
    make_points: Callable[[int | None, Callable[[], Life]], Points],
    *,
    with_spool: bool,
    calls_again: bool = False,
    lives_for: Callable[[int], range] = lambda count: range(0, count, max(1, count // PLACES) | 1),
) -> None:
    """Interrupt one life after the other, each at another place, and say at which places something broke.

    `lives_for` chooses places of so many; an odd step meets each line of a loop's body sooner or later.
    """
    lives: list[Life] = []

    def live(at: int | None) -> Points:
        points = make_points(at, lambda: lives[-1])
        lives.append(Life(points, with_spool=with_spool, calls_again=calls_again))
        lives[-1].run()
        return points

    count = live(None).count
    lives[-1].check()
    assert count > 0
    broken: list[str] = []
    for at in lives_for(count):
        with collecting(broken, lambda: lives[-1].points.where), cpu_limit(2.0):
            live(at)
            lives[-1].check()
        if len(broken) == 5:
            break
    assert not broken, "\n".join(broken)


@contextmanager
def collecting(broken: list[str], where: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except (AssertionError, Deadlock, Spinning, TimeoutError, Interrupted, MemoryError) as fault:
        broken.append(f"{where()}: {type(fault).__name__} {str(fault)[:120]}")


def interrupt() -> None:
    raise Interrupted


with_and_without_a_spool = pytest.mark.parametrize("with_spool", [False, True], ids=["memory", "spool"])


@with_and_without_a_spool
def test_a_signal_handler_that_raises_loses_nothing(with_spool: bool) -> None:
    go_through(lambda at, _life: Points(*PARTS, act=interrupt, at=at), with_spool=with_spool)


@with_and_without_a_spool
def test_some_that_raise_in_a_row_lose_nothing(with_spool: bool) -> None:
    """What is called once more in case that the first one raises meets the next one."""

    def make(at: int | None, life: Callable[[], Life]) -> Points:
        left = iter(range(3))

        def act() -> None:
            if next(left, None) is not None:
                life().resumes = True
                raise Interrupted

        return Points(*PARTS, act=act, at=at, every=1)

    go_through(make, with_spool=with_spool)


@with_and_without_a_spool
def test_after_many_that_raise_the_next_call_finds_everything_at_work(with_spool: bool) -> None:
    """What begins again after one exception may meet the next one."""

    def make(at: int | None, _life: object) -> Points:
        return Points(*PARTS, act=interrupt, at=at, every=4 * EVERY)

    def lives_for(_count: int) -> range:
        return range(0, 4 * EVERY, max(1, 8 * EVERY // PLACES) | 1)

    go_through(make, with_spool=with_spool, calls_again=True, lives_for=lives_for)


@with_and_without_a_spool
def test_a_signal_handler_that_enqueues_stops_nothing(with_spool: bool) -> None:
    def make(at: int | None, life: Callable[[], Life]) -> Points:
        return Points(*PARTS, act=lambda: life().enqueue_within(), at=at, every=EVERY)

    go_through(make, with_spool=with_spool, lives_for=every_life)


@with_and_without_a_spool
@pytest.mark.parametrize("on_any_thread", [False, True], ids=["handler", "finalizer"])
@pytest.mark.parametrize("flush_at", [1, 5, 100])
def test_a_message_that_comes_while_the_client_falls_asleep_is_sent(
    flush_at: int, on_any_thread: bool, with_spool: bool
) -> None:
    """The only one, from a handler, at any place between the last call and the silence: nothing else wakes anything."""

    def live(at: int | None) -> Points:
        life = Life(Points(), with_spool=with_spool, flush_at=flush_at)
        life.points = Points(*PARTS, act=life.enqueue_within, at=at, on_any_thread=on_any_thread)
        life._on_a_loop(life.fall_asleep())
        life.check()
        return life.points

    count = live(None).count
    assert count > 0
    broken: list[str] = []
    for at in range(0, count, max(1, count // PLACES) | 1):
        where = f"place {at}"
        with collecting(broken, where.strip), cpu_limit(2.0):
            live(at)
    assert not broken, "\n".join(broken[:5])


@with_and_without_a_spool
def test_a_signal_handler_that_looks_at_the_counters_sees_the_law(with_spool: bool) -> None:
    def make(at: int | None, life: Callable[[], Life]) -> Points:
        return Points(*PARTS, act=lambda: check_counters(life().client.statistics()), at=at, every=EVERY)

    go_through(make, with_spool=with_spool, lives_for=every_life)


@pytest.mark.parametrize(
    ("parts", "with_spool"),
    [
        ((*QUEUE, "_lifecycle/waiting.py"), False),
        ((*QUEUE, "_lifecycle/waiting.py"), True),
        (("_pipeline/spool_intake.py", "_pipeline/spool_answers.py", "_pipeline/spool_calls.py"), True),
    ],
    ids=["memory", "spool", "intake"],
)
def test_a_finalizer_that_enqueues_at_any_place_stops_nothing(parts: tuple[str, ...], with_spool: bool) -> None:
    """Also amid the answers of a spool, which come on a thread of its own."""

    def make(at: int | None, life: Callable[[], Life]) -> Points:
        return Points(*parts, act=lambda: life().enqueue_within(), at=at, on_any_thread=True)

    go_through(make, with_spool=with_spool)


class Finalized:
    """Part of a cycle: the garbage collector ends it, in the middle of whatever runs."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._cycle = self

    def __del__(self) -> None:
        self._act()


@with_and_without_a_spool
@pytest.mark.parametrize("threshold", [3, 7, 11, 20, 33])
def test_a_finalizer_that_enqueues_stops_nothing(threshold: int, with_spool: bool) -> None:
    life = Life(Points(), with_spool=with_spool)

    def enqueue() -> None:
        # The last ones may be collected after the close.
        with suppress(ClientClosed):
            life.enqueue_within()

    async def litter() -> None:
        for _ in range(COUNT):
            Finalized(enqueue)
            await asyncio.sleep(0.015)

    async def main() -> None:
        littering = asyncio.create_task(litter())
        await life._send(0, COUNT, settle=True)
        await littering

    before = gc.get_threshold()
    gc.set_threshold(threshold)
    try:
        with cpu_limit(10.0):
            life._on_a_loop(main())
    finally:
        gc.set_threshold(*before)
    life.check()
    assert any(name.startswith("within") for name in life.deliveries)


@with_and_without_a_spool
def test_memory_that_is_refused_loses_nothing(with_spool: bool) -> None:
    go_through(lambda at, _life: MemoryRefused("_pipeline", at=at), with_spool=with_spool)


def test_flush_says_what_is_left_after_memory_was_refused() -> None:
    """A message may be lost to no count: 0 means that everything has its outcome."""

    async def main(points: MemoryRefused) -> None:
        transport = ScriptedTransport()
        client = Client("key", transport=transport, flush_at=100, close_timeout=0)
        deliveries = [client.enqueue_nowait(messages.track("u", "E", {"fill": "x" * 400})) for _ in range(200)]
        with points:
            left = await client.flush(timeout=30)
        pending = [delivery for delivery in deliveries if delivery.outcome is None]
        assert left == client.statistics().pending == len(pending)
        await asyncio.sleep(BOUND)
        assert client.statistics().pending == 0
        assert len(set(transport.taken)) == len(deliveries)
        await client.aclose()

    def on_a_loop(points: MemoryRefused) -> None:
        with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
            runner.get_loop().set_exception_handler(lambda _loop, _context: None)
            runner.run(main(points))

    counted = MemoryRefused("_pipeline")
    on_a_loop(counted)
    broken: list[str] = []
    for at in range(counted.count):
        points = MemoryRefused("_pipeline", at=at)
        with collecting(broken, lambda points=points: points.where), cpu_limit(2.0):
            on_a_loop(points)
    assert not broken, "\n".join(broken[:5])
