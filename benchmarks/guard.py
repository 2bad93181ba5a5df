"""`python -m benchmarks.guard`: counts what a call, a batch and a web request execute, and fails if it became more.

Times differ from run to run and from machine to machine; counts do not. The guard counts the bytecodes that Python
executes, the calls into C, and the most bytes that are allocated at once, with a transport that answers at once. It
does not see what C code does within a call: the benchmarks measure that.

The baseline is `guard.json`, one set of counts for each minor version of Python, since compilers differ. `--update`
replaces the running version's counts; for one that grew it wants `--because`, words of CHANGELOG.md that say why. On a
busy machine a batch varies by 1 %; one call does not vary.
"""

import argparse
import asyncio
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.probes.requests import plain, receive, request_scope, send
from benchmarks.report.tables import table
from benchmarks.transports import AcceptingTransport
from benchmarks.workload import Call, medium
from segment_async import Client
from segment_async.asgi import SegmentMiddleware

BASELINE = Path(__file__).with_name("guard.json")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
CHANGELOG = BASELINE.parents[1] / "CHANGELOG.md"
TOLERANCE = 0.05
LEAST_WORDS = 4
BATCH, REPEATS = 100, 7

Counts = dict[str, int]
Work = Callable[[Client, list[Call]], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]


async def one_call(client: Client, calls: list[Call]) -> None:
    user_id, event, properties, context = calls[0]
    await client.track(user_id, event, properties, context=context)


async def one_batch(client: Client, calls: list[Call]) -> None:
    for user_id, event, properties, context in calls:
        await client.track(user_id, event, properties, context=context)
    await client.flush()


def request(app: Callable[[Client, Call], App]) -> Work:
    """One request of a browser's, with the middleware."""

    made: dict[Client, SegmentMiddleware] = {}

    async def one_request(client: Client, calls: list[Call]) -> None:
        if client not in made:
            made[client] = SegmentMiddleware(app(client, calls[0]), client)
        await made[client](request_scope(7), receive, send)

    return one_request


def silent(_client: Client, _call: Call) -> App:
    return plain


def tracking(client: Client, call: Call) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await client.track(event=call[1], properties=call[2])
        await plain(scope, receive, send)

    return app


class Executed:
    """Counts the bytecodes and the calls into C of every frame that this thread starts within the block."""

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
    # Twice: Python 3.12 reports opcodes only from the second `settrace` after a frame asked for them.
    with Executed():
        await work(client, calls)
    next_millisecond()
    with Executed() as counts:
        await work(client, calls)
    return counts


def next_millisecond() -> None:
    """The first call in a millisecond executes more than a second one."""
    now = int(time.time() * 1000)
    while int(time.time() * 1000) == now:
        pass


async def allocated(work: Work, client: Client, calls: list[Call]) -> Counts:
    tracemalloc.start()
    try:
        await work(client, calls)
        return {"allocated_bytes": tracemalloc.get_traced_memory()[1]}
    finally:
        tracemalloc.stop()


async def counted(work: Work) -> Counts:
    """The smallest of several counts: a run costs more when a second ends or a buffer grows in the middle of it."""
    async with Client("benchmark", transport=AcceptingTransport()) as client:
        found = []
        for first in range(0, REPEATS * BATCH, BATCH):
            calls = [medium(i) for i in range(first, first + BATCH)]
            found.append(await executed(work, client, calls) | await allocated(work, client, calls))
            await client.flush()
    return {name: min(counts[name] for counts in found) for name in found[0]}


WORK = {
    "one call": one_call,
    f"one batch of {BATCH}": one_batch,
    "one request, no call": request(silent),
    "one request, one call": request(tracking),
}


async def count() -> dict[str, Counts]:
    gc.disable()
    try:
        return {name: await counted(work) for name, work in WORK.items()}
    finally:
        gc.enable()


def grown(old: dict[str, Counts], new: dict[str, Counts]) -> list[str]:
    """The counts that grew by more than the tolerance, one sentence each."""
    return [
        f"{what}: {name} {old[what][name]:,} -> {figure:,} ({figure / old[what][name] - 1:+.1%})"
        for what, counts in new.items()
        for name, figure in counts.items()
        if what in old and figure > old[what][name] * (1 + TOLERANCE)
    ]


def compared(old: dict[str, Counts], new: dict[str, Counts]) -> str:
    """A table of the counts before and now; a dash where the baseline has none."""
    rows = []
    for what, counts in new.items():
        for name, figure in counts.items():
            before = old.get(what, {}).get(name)
            change = "–" if before is None else f"{figure / before - 1:+.1%}"
            rows.append((f"{what}: {name}", "–" if before is None else f"{before:,}", f"{figure:,}", change))
    return table((f"Python {PYTHON}", "old", "new", "change"), rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description="Compare counts with guard.json.")
    parser.add_argument("--update", action="store_true", help="make the new counts the baseline of this Python version")
    parser.add_argument("--because", default="", help="with --update: words of CHANGELOG.md that say why counts grew")
    parser.add_argument("--json", action="store_true", help="print the new counts as JSON instead of a table")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    baselines, new = json.loads(BASELINE.read_text()), asyncio.run(count())
    old = baselines.get(PYTHON, {})
    print(json.dumps(new) if options.json else compared(old, new))
    problems = grown(old, new)
    is_explained = options.update and explains(CHANGELOG.read_text(), options.because)
    if problems and not is_explained:
        print(f"More than {TOLERANCE:.0%} above the baseline:", *problems, sep="\n", file=sys.stderr)
        print(
            "If the change is worth it, say so in CHANGELOG.md and run with --update --because='its words'.",
            file=sys.stderr,
        )
        return 1
    if options.update:
        BASELINE.write_text(json.dumps(baselines | {PYTHON: new}, indent=1, sort_keys=True) + "\n")
    elif not old:
        print(f"guard.json has no counts for Python {PYTHON}: add them with --update.", file=sys.stderr)
    return 0


def explains(changelog: str, words: str) -> bool:
    """Whether these are words of what is not released yet."""
    unreleased = changelog.partition("## [Unreleased]")[2].partition("\n## [")[0]
    return len(words.split()) >= LEAST_WORDS and " ".join(words.split()) in " ".join(unreleased.split())


if __name__ == "__main__":
    sys.exit(main())
