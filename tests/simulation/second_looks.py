"""The timers by which the client looks a second time, taken out for a simulation.

A signal handler that raises may interrupt a wake-up; then a timer finds, seconds later, what was to be done. The
simulation raises no such exceptions. There, these timers would only turn a lost wake-up, which stops a message for ever,
into a short delay that no check can see.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from segment_async._lifecycle import owner, tasks
from segment_async._pipeline import consumer, schedule
from segment_async._pipeline.spool_calls import AwaitedCalls


@contextmanager
def without_second_looks() -> Iterator[None]:
    """Let a lost wake-up stay lost, for the loops that run meanwhile.

    - `_OWN_WATCH_SECONDS`: what waits on the client's own loop looks at its condition again.
    - `LONGEST_SLEEP`: the consumer looks at what is pending. It also does so for callers on other loops, which the
      simulation does not have.
    - `_CHECK_DELAY`, and `SupervisedTask._make_sure`: a task that was not started, or not started again, is. The delay
      after a crash is as before.
    - `AwaitedCalls._look` is needed, as it ends calls that wait for a disk that stands still. It does that only if every
      call that has its answer was woken, and nothing else waits for what has happened already.
    """
    with (
        # No timer, as infinity means none to the virtual clock: if nothing else can happen, that is a `Deadlock`.
        patch.object(owner, "_OWN_WATCH_SECONDS", None),
        patch.object(schedule, "LONGEST_SLEEP", math.inf),
        patch.object(consumer, "LONGEST_SLEEP", math.inf),
        patch.object(tasks, "_CHECK_DELAY", math.inf),
        patch.object(tasks.SupervisedTask, "_make_sure", lambda *_: None),
        patch.object(AwaitedCalls, "_look", _end_late_calls),
    ):
        yield


_look = AwaitedCalls._look


def _end_late_calls(calls: AwaitedCalls, *arguments: Any) -> None:
    conditions = calls._queue.changed._waiters.values()
    if not (calls.answered or any(is_met is not None and is_met() for is_met in conditions)):
        _look(calls, *arguments)
