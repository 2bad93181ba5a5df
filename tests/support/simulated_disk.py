"""A disk in which everything goes wrong, seeded: for a `SpoolStore` in a simulation.

The same seed makes the same faults at the same operations, as long as the program under test takes the same steps. What
was injected is counted by name, so that a run can insist that it *saw* each fault. After `until`, or `calm`, the disk
works, at once.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from segment_async.spool import SpoolUnavailable

from .memory_spool import Disk

TROUBLES = ("disk refuses", "disk full", "slow disk", "disk stands still")
FAULTS = (*TROUBLES, "read refused", "read raised", "a hold ended")
"""Every fault by its name. A hold ends only in a shared spool."""


@dataclass(frozen=True)
class Trouble:
    """From `start` to `end`, in the loop's seconds, the disk has this trouble."""

    kind: str
    start: float
    end: float


class SimulatedDisk(Disk):
    def __init__(self, chance: random.Random, *, until: float) -> None:
        self.injected: Counter[str] = Counter()
        self._chance = chance
        self._until = until
        self._now = 0.0
        self._latency = chance.choice(((0.0, 0.0), (0.0, 0.0), (0.001, 0.02), (0.1, 2.0)))
        self._troubles = [self._make_up(until) for _ in range(chance.choice((0, 1, 2, 4)))]
        self._read_faults = chance.choice((0.0, 0.0, 0.02, 0.3))
        self._ended_holds = chance.choice((0.0, 0.0, 0.01, 0.2))

    def _make_up(self, until: float) -> Trouble:
        start = self._chance.choice((0.0, self._chance.uniform(0, until)))
        length = self._chance.choice((0.05, 1, 30, 300))
        return Trouble(self._chance.choice(TROUBLES), start, min(start + length, until))

    def calm(self) -> None:
        self._until = 0.0

    @property
    def is_calm(self) -> bool:
        return self._time() >= self._until

    def _time(self) -> float:
        loop = asyncio._get_running_loop()
        if loop is not None:
            self._now = loop.time()
        return self._now

    def has(self, kind: str) -> bool:
        """Whether it has this trouble now."""
        now = self._time()
        return now < self._until and any(
            trouble.kind == kind and trouble.start <= now < trouble.end for trouble in self._troubles
        )

    @property
    def works(self) -> bool:
        """Whether it has none of its troubles now."""
        return not any(self.has(kind) for kind in TROUBLES)

    def _meets(self, kind: str, probability: float) -> bool:
        meets = not self.is_calm and self._chance.random() < probability
        self.injected[kind] += meets
        return meets

    # -- what operations meet

    def delay(self) -> float | None:
        if self.is_calm:
            return 0.0
        # Without a loop no time passes, and nothing would ever be answered.
        if self.has("disk stands still") and asyncio._get_running_loop() is not None:
            self.injected["disk stands still"] += 1
            return None
        if self.has("slow disk"):
            self.injected["slow disk"] += 1
            return self._chance.uniform(1.0, 10.0)
        return self._chance.uniform(*self._latency)

    def append_fault(self) -> SpoolUnavailable | Literal["full"] | None:
        if self.has("disk refuses"):
            self.injected["disk refuses"] += 1
            return SpoolUnavailable("the disk refuses")
        if self.has("disk full"):
            self.injected["disk full"] += 1
            return "full"
        return None

    def read_fault(self) -> Exception | None:
        if self._meets("read refused", self._read_faults):
            return SpoolUnavailable("the disk cannot be read")
        if self._meets("read raised", self._read_faults / 2):
            return RuntimeError("a bug of the spool's")
        return None

    def ended_holds(self, keys: Sequence[int]) -> Collection[int]:
        if keys and self._meets("a hold ended", self._ended_holds):
            return self._chance.sample(keys, self._chance.randint(1, len(keys)))
        return ()
