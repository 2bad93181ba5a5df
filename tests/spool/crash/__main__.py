"""Many crashes: `python -m tests.spool.crash`, or some kinds of them, `python -m tests.spool.crash --kills 500`.

Says what was seen, ends with 1 at the first thing that is wrong. Without options all kinds, for an hour:
`--kills 10000 --calls --salvage --errors --power 100000 --flips 10000`.
"""

import argparse
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from . import calls, flips, kills, power, salvage

_EVERYTHING = ("--kills", "10000", "--calls", "--salvage", "--errors", "--power", "100000", "--flips", "10000")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.spool.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="kill -9 at so many random moments")
    parser.add_argument("--calls", action="store_true", help="kill -9 at every system call of a script")
    parser.add_argument("--salvage", action="store_true", help="kill -9 at every system call of a salvage")
    parser.add_argument("--errors", action="store_true", help="let every system call of a script fail")
    parser.add_argument("--power", type=int, default=0, metavar="N", help="check so many states after a power loss")
    parser.add_argument("--flips", type=int, default=0, metavar="N", help="turn over so many bits, one at a time")
    parser.add_argument("--steps", type=int, default=12, metavar="N", help="of the scripts for all but kills and flips")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th system call")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not any((options.kills, options.calls, options.salvage, options.errors, options.power, options.flips)):
        options = parser.parse_args([*sys.argv[1:], *_EVERYTHING])
    # Damage is done on purpose here, and each is reported.
    logging.getLogger("segment_async").setLevel(logging.CRITICAL)
    seed = str(options.seed)
    jobs: list[tuple[str, object, Callable[[Path], dict[str, int]]]] = [
        ("kills", options.kills, lambda folder: kills.run(folder, options.kills, options.seed)),
        ("calls", options.calls, lambda folder: calls.kill_everywhere(folder, seed, options.steps, options.every)),
        ("salvage", options.salvage, lambda folder: salvage.run(folder, seed, options.every)),
        ("errors", options.errors, lambda folder: calls.fail_everywhere(folder, seed, options.steps, options.every)),
        ("power", options.power, lambda folder: power.run(folder, options.power, options.seed, options.steps)),
        ("flips", options.flips, lambda folder: flips.run(folder, options.flips, options.seed)),
    ]
    for name, wanted, job in jobs:
        if wanted:
            _run(name, job)


def _run(name: str, job: Callable[[Path], dict[str, int]]) -> None:
    # What is checked is what a sync promises, not the disk: memory is as good, and wears nothing out.
    memory = Path("/dev/shm")
    start = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="segment-async-crash-", dir=memory if memory.is_dir() else None))
    print(f"{name}: in {folder}", flush=True)
    seen = job(folder)
    print(f"{name}: {seen}, {time.monotonic() - start:.0f} s", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
