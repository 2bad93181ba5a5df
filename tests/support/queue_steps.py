"""What tests of the queue and of its admission share: callers and a consumer, played by a few functions, and changes that
are interrupted at each of their calls.
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from segment_async import Delivery, Status
from segment_async._outcome import BatchResult
from segment_async._pipeline.admission import Admission, Overflow
from segment_async._pipeline.batch import Batch, OpenBatch
from segment_async._pipeline.delivery import bodies_of
from segment_async._pipeline.queue import Queue
from tests.support.law import check_counters
from tests.support.stations import MANY, Station, station_with

DELIVERED = BatchResult(Status.DELIVERED)
REFUSED = BatchResult(Status.FAILED, "refused")
QUEUE_FULL = BatchResult(Status.DROPPED, "queue_full")


def make(*arguments: Any, **options: Any) -> Station:
    """A queue whose batches are of one message each."""
    return station_with(*arguments, **{"batch_of": 1, **options})


def message(queue: Queue, size: int = 1, name: str = "") -> Delivery:
    return Delivery(name, b"x" * size, queue.queued)


def offer(admission: Admission, size: int = 1, name: str = "") -> bool:
    return admission.put_nowait(message(admission._queue, size, name), size)


async def put(admission: Admission, size: int = 1, name: str = "", *, paced: bool = True) -> bool:
    return await admission.put(message(admission._queue, size, name), size, paced=paced)


def seal(queue: Queue, opened: OpenBatch) -> Batch:
    """As the consumer does it."""
    batch = opened.seal()
    backlog = queue.backlog
    with queue.lock:
        backlog.wait(batch)
        backlog.open = None
    queue.place(batch)
    return batch


def read(queue: Queue, most: int = MANY) -> list[str]:
    """Read so many messages, one by one; their names."""
    names: list[str] = []
    while len(names) < most and queue.ready:
        name = queue.ready[0].message_id
        size, to_seal = queue.read(1, all_of_it=True)
        if to_seal is not None:
            seal(queue, to_seal)
        else:
            assert size > 1
            names.append(name)
    return names


def end_batch(queue: Queue, batch: Batch | OpenBatch, result: BatchResult) -> None:
    queue.settle(batch, result)
    queue.notify()


def settle(queue: Queue, count: int = 1, result: BatchResult = DELIVERED) -> None:
    """The oldest batches that wait end; they are read first if there are none."""
    for _ in range(count):
        if not queue.backlog.waiting:
            if queue.backlog.open is None:
                read(queue, 1)
            assert queue.backlog.open is not None
            seal(queue, queue.backlog.open)
        end_batch(queue, queue.backlog.waiting[0], result)


def settle_all(queue: Queue) -> None:
    read(queue)
    while queue.accounts.pending:
        settle(queue)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def is_free(queue: Queue) -> bool:
    """Whether another thread can have the lock."""
    results: list[bool] = []

    def try_it() -> None:
        results.append(queue.lock.acquire(blocking=False))
        if results[0]:
            queue.lock.release()

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return results[0]


def made_ready(overflow: Overflow) -> Station:
    """Six messages, which are all there is room for: a batch of two that waits, one in flight, one open, one unread."""
    queue, admission = station_with(6, overflow=overflow, batch_of=2)
    queue.clock.attach(asyncio.get_running_loop())
    for number in range(6):
        assert offer(admission, 10, str(number))
    read(queue, 5)
    second = queue.backlog.waiting[1]
    backlog = queue.backlog
    with queue.lock:
        backlog.mark_in_flight(second)
    return Station(queue, admission)


def _split(queue: Queue) -> None:
    batch = next(iter(queue.backlog.in_flight))
    backlog = queue.backlog
    with queue.lock:
        # As the settlement does it.
        for part in batch.split():
            backlog.wait(part)
        backlog.remove(batch)


def _seal(queue: Queue) -> None:
    assert queue.backlog.open is not None
    seal(queue, queue.backlog.open)


CHANGES: Mapping[str, Callable[[Queue, Admission], object]] = {
    "offer": lambda queue, admission: (
        admission.offer(message(queue, 10), 10) or offer(admission, 10) or taken_over(admission)
    ),
    "put_nowait": lambda _, admission: offer(admission, 10) or taken_over(admission),
    "drop": lambda _, admission: offer(admission, 10) or taken_over(admission),
    "read": lambda queue, _: queue.read(1_000, all_of_it=True),
    "settle": lambda queue, _: end_batch(queue, next(iter(queue.backlog.in_flight)), REFUSED),
    "seal": lambda queue, _: _seal(queue),
    "split": lambda queue, _: _split(queue),
    "repair": lambda queue, _: queue.repair(),
    "sleep": lambda queue, _: queue.sleep_until_unread(queue.changed.mark, None),
}
# Changes that bring a message, which is counted in any case.
PUTS = ("offer", "put_nowait", "drop")


def taken_over(admission: Admission) -> None:
    """As the client does with a message that finds no room."""
    admission.refuse(QUEUE_FULL)


def traced(work: Callable[[], object], moment: int, handler: Callable[[], None]) -> bool:
    """Do it, and call the handler at that moment of it; `True`: there are not so many.

    Moments are where functions of these files begin, and where their calls come back: there Python looks for
    signals.
    """
    left = moment

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        # What is called has not begun at a "c_call".
        if frame.f_code.co_filename.endswith(FILES) and event != "c_call":
            left -= 1
            if left == -1:
                sys.setprofile(None)
                handler()

    profiler = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(profiler)
    return left >= 0


FILES = tuple(
    f"_pipeline/{name}.py"
    for name in ("admission", "queue", "order", "backlog", "schedule", "batch", "accounts", "room", "delivery")
)


def hold_to_the_law(queue: Queue, expected: int) -> None:
    """All that was accepted is there or has ended, in one place, and can all be settled."""
    counters = queue.statistics()
    check_counters(counters)
    assert counters.accepted == expected
    batches = list(queue.backlog.batches())
    places = [place for batch in batches for place in range(batch.start, batch.stop)]
    assert len(places) == len(set(places))
    assert counters.pending == len(places) + len(queue.ready)
    # The next batch begins behind all of them.
    assert queue.order.read_count == max(places) + 1
    assert queue.accounts.pending_bytes == 10 * counters.pending
    assert all(body == b"x" * 10 for batch in batches for body in batch.bodies())
    assert set(bodies_of(queue.ready)) <= {b"x" * 10}
    backlog = queue.backlog
    with queue.lock:
        for batch in list(backlog.in_flight):
            backlog.wait(batch)
    settle_all(queue)
    counters = queue.statistics()
    check_counters(counters)
    assert (counters.pending, queue.accounts.pending_bytes, counters.accepted) == (0, 0, expected)
    assert queue.order.left(queue.order.place_to_reach()) == 0
