"""The guard: what one call and one batch execute, counted, so that a regression is seen in review.

Times differ from run to run and from machine to machine; counts do not. Counted are the bytecodes that Python executes,
the calls it makes into C, and the bytes it allocates at the most, with a transport that answers at once. What C code
does within a call is not seen: that is what the benchmarks are for.

`python -m benchmarks.guard` compares with `guard.json` and fails where more than a few percent came on top; `--update`
writes the figures down anew. They belong to one minor version of Python: compilers differ. On a busy machine the
allocations may move by some bytes, the other two do not.
"""

import asyncio
import gc
import json
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.workload import Call, medium
from segment_async import Client, Response

KEPT = Path(__file__).with_name("guard.json")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TOLERANCE = 0.03
BATCH, REPEATS = 100, 7

Counts = dict[str, int]


class Obliging:
    """A transport that answers at once."""

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        return Response(200, {}, b"")

    async def aclose(self) -> None: ...


Work = Callable[[Client, list[Call]], Awaitable[None]]


async def one_call(client: Client, calls: list[Call]) -> None:
    user_id, event, properties, context = calls[0]
    await client.track(user_id, event, properties, context=context)


async def one_batch(client: Client, calls: list[Call]) -> None:
    for user_id, event, properties, context in calls:
        await client.track(user_id, event, properties, context=context)
    await client.flush()


class Executed:
    """Counts, while the block runs, the bytecodes and the calls into C of whatever this thread begins."""

    def __enter__(self) -> Counts:
        self.counts = {"bytecodes": 0, "c_calls": 0}
        self._before = sys.gettrace(), sys.getprofile()
        sys.setprofile(self._profile)
        sys.settrace(self._trace)
        return self.counts

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before[0])
        sys.setprofile(self._before[1])

    def _trace(self, frame: Any, event: str, _: Any) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            self.counts["bytecodes"] += 1
        return self._trace

    def _profile(self, _frame: Any, event: str, _: Any) -> None:
        self.counts["c_calls"] += event == "c_call"


async def executed(work: Work, client: Client, calls: list[Call]) -> Counts:
    # Twice: Python 3.12 gives opcode events from the second `settrace` after a frame asked for them.
    with Executed():
        await work(client, calls)
    with Executed() as counts:
        await work(client, calls)
    return counts


async def allocated(work: Work, client: Client, calls: list[Call]) -> Counts:
    tracemalloc.start()
    try:
        await work(client, calls)
        return {"allocated_bytes": tracemalloc.get_traced_memory()[1]}
    finally:
        tracemalloc.stop()


async def counted(work: Work) -> Counts:
    """The least of several: now and then a second ends or a buffer grows in the middle of one."""
    async with Client("benchmark", transport=Obliging()) as client:
        found = []
        for first in range(0, REPEATS * BATCH, BATCH):
            calls = [medium(i) for i in range(first, first + BATCH)]
            found.append(await executed(work, client, calls) | await allocated(work, client, calls))
            await client.flush()
    return {name: min(counts[name] for counts in found) for name in found[0]}


async def count() -> dict[str, Counts]:
    gc.disable()
    try:
        return {"one call": await counted(one_call), f"one batch of {BATCH}": await counted(one_batch)}
    finally:
        gc.enable()


def grown(kept: dict[str, Counts], now: dict[str, Counts]) -> list[str]:
    """What came on top of the kept figures, beyond the tolerance, in words."""
    return [
        f"{what}: {name} {kept[what][name]:,} -> {figure:,} ({figure / kept[what][name] - 1:+.1%})"
        for what, counts in now.items()
        for name, figure in counts.items()
        if what in kept and figure > kept[what][name] * (1 + TOLERANCE)
    ]


def main() -> int:
    now, kept = asyncio.run(count()), json.loads(KEPT.read_text())
    print(json.dumps(now, indent=1))
    if "--update" in sys.argv[1:]:
        KEPT.write_text(json.dumps(kept | {PYTHON: now}, indent=1, sort_keys=True) + "\n")
        return 0
    if PYTHON not in kept:
        print(f"No figures are kept for Python {PYTHON}; --update writes them down.", file=sys.stderr)
    problems = grown(kept.get(PYTHON, {}), now)
    print(*problems, sep="\n", end="", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
