"""`python -m tests.simulation --seeds 20000 [--first 0]`: many seeds, and what they met.

A violation prints the one line that repeats it, and so does a seed that hangs, which ends the run. The run fails as well
unless each kind of fault was seen.
"""

import argparse
import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from tests.simulation.on_sqlite import SQLiteScenario
from tests.simulation.scenario import POLICIES, Scenario
from tests.simulation.second_looks import without_second_looks
from tests.simulation.spooled import SpooledScenario
from tests.support.simulated_disk import FAULTS as DISK_FAULTS
from tests.support.simulated_network import FAULTS

# Real seconds that one seed may take: thousands of times what the slowest needs.
_PATIENCE = 60

MUST_BE_SEEN = (
    *(f"fault: {name}" for name in FAULTS),
    *(f"reason: queue_full under {policy}" for policy in POLICIES if policy != "raise"),
    *(f"reason: {name}" for name in ("refused", "unauthorized", "redirected", "too_large", "unexpected_answer")),
    *(f"reason: {name}" for name in ("gave_up", "no_identity", "before_send", "close_timeout")),
    "a message taken twice",
    "a batch split",
    "a batch halved after timeouts",
    "a retry",
    "a call cancelled",
    "a call's scope cancelled",
    "a close cancelled",
    "all tasks cancelled",
    "a loop ended amid its work",
    "the client changed its loop",
    "the loop stood still",
    "the loop stood still under callers that wait",
    "on_error called",
    "everything settled by itself",
    *(f"spool: {name}" for name in DISK_FAULTS),
    "spool: full by itself",
    "a backlog before the window",
    "calls after a burst in an outage",
    "small messages behind large ones in an outage",
    "an id came again",
    "an id came again after a failure",
    "an id came again after it was dropped",
    "another process delivered",
    "another process gave back",
    "a crash",
    "a crash with messages held",
    "a restart with a backlog",
    "messages of an earlier process",
    "kept at a close",
    "all tasks cancelled before a spool",
    "the client changed its loop before a spool",
    "everything settled by itself before a spool",
    "everything settled by itself before a shared spool",
    "reason: spool_unavailable",
    "SQLite: the disk was full",
    "SQLite: a message after the disk was full",
    "SQLite: messages waited in memory",
    "SQLite: full by itself",
    "SQLite: room that only free pages make",
    "SQLite: messages of an adopted shard",
    "SQLite: a restart with a backlog",
)


def kind_of(seed: int) -> type[Scenario]:
    """A third of the seeds has a spool, and a tenth of these has SQLite's."""
    if seed % 30 == 29:
        return SQLiteScenario
    return SpooledScenario if seed % 3 == 2 else Scenario


def line_that_repeats(seed: int) -> str:
    return f"broken: python -m tests.simulation --first {seed} --seeds 1"


@contextmanager
def ended_if_it_hangs(seed: int) -> Iterator[None]:
    """End the process, with the seed's line on stdout and the stack on stderr, if the block takes too long.

    Most of what hangs breaks a limit of the scenario's in virtual time, and is an ordinary violation.
    """

    def end() -> None:
        print(f"\n{line_that_repeats(seed)}", file=sys.__stdout__, flush=True)
        print(f"\nseed {seed} has taken {_PATIENCE} s", file=sys.__stderr__, flush=True)
        faulthandler.dump_traceback(sys.__stderr__)
        os._exit(1)

    timer = threading.Timer(_PATIENCE, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def run_seeds(first: int, count: int) -> tuple[Counter[str], list[tuple[int, str]]]:
    """What the seeds met, and those that broke something."""
    seen: Counter[str] = Counter()
    broken: list[tuple[int, str]] = []
    log = logging.getLogger("segment_async")
    log.disabled = True
    try:
        with warnings.catch_warnings(), without_second_looks():
            warnings.simplefilter("error")
            for seed in range(first, first + count):
                scenario = kind_of(seed)(seed)
                try:
                    with ended_if_it_hangs(seed):
                        scenario.run()
                except BaseException:
                    broken.append((seed, traceback.format_exc()))
                seen += scenario.seen.kinds
    finally:
        log.disabled = False
    return seen, broken


def _results(starts: range, counts: list[int]) -> Iterator[tuple[Counter[str], list[tuple[int, str]]]]:
    # One piece needs no other process.
    if len(starts) == 1:
        yield from map(run_seeds, starts, counts)
        return
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(run_seeds, starts, counts)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    seen: Counter[str] = Counter()
    broken: list[tuple[int, str]] = []
    piece, done = 25, 0
    starts = range(options.first, options.first + options.seeds, piece)
    ends = [min(piece, options.first + options.seeds - start) for start in starts]
    try:
        for some_seen, some_broken in _results(starts, ends):
            seen += some_seen
            broken += some_broken
            done += piece
            print(f"\r{min(done, options.seeds):,} of {options.seeds:,} seeds", end="", file=sys.stderr, flush=True)
            for seed, _ in some_broken:
                print(line_that_repeats(seed), flush=True)
    except BrokenProcessPool:
        print("\na process of the run has ended, and the run with it", file=sys.stderr)
        return 1
    print(file=sys.stderr)
    for kind, count in sorted(seen.items()):
        print(f"{count:>10,}  {kind}")
    for seed, text in broken[:3]:
        print(f"\nseed {seed}\n{text}", file=sys.stderr)
    missing = [kind for kind in MUST_BE_SEEN if not seen[kind]] if options.seeds >= 1_000 else []
    for kind in missing:
        print(f"never seen: {kind}", file=sys.stderr)
    print(f"{options.seeds:,} seeds in {time.monotonic() - began:.0f} s, {len(broken)} broken")
    return 1 if broken or missing else 0


if __name__ == "__main__":
    sys.exit(main())
