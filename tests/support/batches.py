"""Batches in a backlog, as the consumer makes them."""

from collections import deque

from segment_async._pipeline.backlog import Backlog
from segment_async._pipeline.batch import Batch, OpenBatch
from segment_async._pipeline.delivery import Record
from segment_async._pipeline.retry import History
from tests.support.stations import AlwaysRunning, deliveries, sealed


def put(backlog: Backlog, count: int, *, start: int = 0, now: float = 0.0, size: int = 10) -> OpenBatch:
    """Messages join the open batch, which is begun if there is none."""
    batch = backlog.open or backlog.begin(Record(AlwaysRunning()), start, now, 0)
    bodies = [b"x" * size] * count
    batch.take(deque(deliveries(bodies)), bodies, size * count)
    return batch


def seal(backlog: Backlog) -> Batch:
    """As the consumer does it."""
    assert backlog.open is not None
    batch = backlog.open.seal()
    backlog.wait(batch)
    backlog.open = None
    batch.place()
    return batch


def waiting(backlog: Backlog, start: int, count: int = 1, *, not_before: float = 0.0, **history: float) -> Batch:
    batch = sealed([b"{}"] * count, start=start)
    batch.not_before = not_before
    batch.history = History(**history)  # type: ignore[arg-type]
    backlog.wait(batch)
    return batch
