"""`python -m benchmarks.compare BASELINE`: compares this checkout's package with the package of another checkout.

Both run the same programs, those of this checkout; only `segment_async` differs. Each round runs every measurement once
for either package, in child processes, one right after the other, so that a slow minute of the machine slows both. A
pair that other processes disturbed is measured again, except in a quick run.

The ratio is new divided by old, the median over the rounds. `lowest` and `highest` are the ratios of single rounds: if
one is below 1 and the other above, the difference may be noise. CPU times vary least, 99th percentiles most. Compare a
checkout with itself to see how much a machine varies.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.bench import ENVIRONMENT, Bench, cores, pin
from benchmarks.environments import FOLDER, ROOT
from benchmarks.report.tables import table
from benchmarks.server.sink import Sink, compiled

Figures = dict[str, float]
ROUNDS, QUICK_ROUNDS = 6, 3
NOISE = 0.03
"""A smaller difference counts as none, even if every round shows it."""
DISTURBED = 0.1
"""A pair is measured again if others took more than this share of the core; as many as in one round, at most."""
ENOUGH = 5
"""Rounds that must agree before a difference is called better or worse; a quick run has too few."""


@dataclass(frozen=True, eq=False)
class Tree:
    """One checkout, through a folder that links this checkout's `benchmarks` and the other's `segment_async`."""

    bench: Bench
    folder: Path

    def probe(self, part: str, *, order: str = "", **task: Any) -> dict[str, Any]:
        """Run one of `probes`, with an order to the sink that holds meanwhile."""
        sink = self.bench.sink
        task |= {"part": part, "adapter": "ours", "url": sink.url, "other_core": self.bench.cores.other}
        sink.reset()
        if order:
            sink.order(order)
        try:
            return self._run(["-m", "benchmarks.probes", json.dumps(task)])
        finally:
            sink.order("latency/0")
            sink.order("stall/0")

    def program(self, name: str) -> dict[str, Any]:
        return self._run([str(self.folder / "benchmarks" / "probes" / name)])

    def _run(self, arguments: list[str]) -> dict[str, Any]:
        # A fixed seed for hashes: otherwise two runs of the same code differ.
        environment = ENVIRONMENT | {"PYTHONPATH": str(self.folder), "PYTHONHASHSEED": "0"}
        return self.bench.figures_of([sys.executable, *arguments], cwd=self.folder, env=environment)


def tree(bench: Bench, checkout: Path, folder: Path) -> Tree:
    """Link both packages into the folder, and check that a child process there imports the right one."""
    folder.mkdir()
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    (folder / "segment_async").symlink_to(checkout / "segment_async")
    code = "import segment_async.asgi, segment_async.spool; print(segment_async.__file__)"
    environment = ENVIRONMENT | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"cannot import segment_async from {checkout}: {done.stderr.strip()[-2000:]}")
    if not Path(done.stdout.strip()).resolve().is_relative_to(checkout):
        raise SystemExit(f"a child process imported {done.stdout.strip()} instead of the package in {checkout}")
    return Tree(bench, folder)


# -- what is measured


def end_to_end(tree: Tree) -> Figures:
    count, warm_up = 50_000, 500
    output = tree.probe("cpu", count=count)
    delivered(tree, count + warm_up)
    return {
        "CPU µs a message, end to end": output["cpu_per_message"],
        "bytes on the wire a message": tree.bench.sink.statistics().bytes / (count + warm_up),
    }


def with_latency(tree: Tree) -> Figures:
    count = 30_000
    output = tree.probe("delivery", order="latency/50", count=count)
    delivered(tree, count)
    seconds = (tree.bench.sink.statistics().last_ns - output["start_ns"]) / 1e9
    return {"messages a second, 50 ms to the server": count / seconds}


def delivered(tree: Tree, count: int) -> None:
    counted = tree.bench.sink.count()
    if counted.messages - counted.repeats != count:
        raise SystemExit(
            f"{counted.messages - counted.repeats:,} of {count:,} messages arrived: one of the packages loses messages"
        )


def call_flat_out(tree: Tree) -> Figures:
    output = tree.probe("calls", count=20_000)
    return {f"one call flat out, {name}, µs": output[name] for name in ("p50", "p99")}


def call_at_a_rate(tree: Tree) -> Figures:
    output = tree.probe("calls", rate=2_000, seconds=1.5)
    return {f"one call at 2,000 a second, {name}, µs": output[name] for name in ("p50", "p99")}


def pending(tree: Tree) -> Figures:
    count = 50_000
    output = tree.probe("memory", order="stall/1", count=count, seconds=0.5, queue_size=count * 2)
    return {"resident bytes a pending message": output["bytes_per_message"]}


def spool_callers(tree: Tree) -> Figures:
    output = tree.probe("spool", order="stall/1", count=20_000, callers=100, options={"spool": "full"})
    return {
        "spool, 100 callers: accepted a second": output["accepted_per_second"],
        "spool, 100 callers: CPU µs a call": output["cpu_per_call"],
    }


def spool_delivering(tree: Tree) -> Figures:
    output = tree.probe("spool", count=20_000, callers=100, options={"spool": "full"})
    return {"the same while the server answers: accepted a second": output["accepted_per_second"]}


def spool_at_a_rate(tree: Tree) -> Figures:
    output = tree.probe("spool", order="stall/1", rate=2_000, seconds=1.5, options={"spool": "full"})
    return {"spool, a call at 2,000 a second, p50, µs": output["p50"]}


def imports(tree: Tree) -> Figures:
    outputs = [tree.program("imports.py") for _ in range(5)]
    return {
        "import beside asyncio, CPU ms": min(output["import_ms"] for output in outputs),
        "import and a first client, CPU ms": min(output["client_ms"] for output in outputs),
    }


def web_requests(tree: Tree) -> Figures:
    output = tree.probe("requests")
    return {
        "middleware, no call: CPU µs added a request": output["middleware"] - output["plain"],
        "middleware, one call: CPU µs added a request": output["middleware_and_call"] - output["plain"],
    }


@dataclass(frozen=True)
class Measurement:
    measure: Callable[[Tree], Figures]
    rounds: int = 100
    """The most rounds that measure it: memory hardly differs between rounds, and takes long."""
    is_quick: bool = True
    """Whether `--quick` includes it."""


MEASUREMENTS = {
    "delivery": Measurement(end_to_end),
    "latency": Measurement(with_latency),
    "calls": Measurement(call_flat_out),
    "paced-calls": Measurement(call_at_a_rate),
    "memory": Measurement(pending, rounds=5),
    "spool": Measurement(spool_callers),
    "spool-delivering": Measurement(spool_delivering, is_quick=False),
    "paced-spool": Measurement(spool_at_a_rate),
    "imports": Measurement(imports),
    "web": Measurement(web_requests),
}


# -- rounds and ratios


def measured(old: Tree, new: Tree, names: list[str], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Each figure's pairs, old and new, one for each round."""
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    repeats = len(names) if rounds >= ENOUGH else 0
    for number in range(rounds):
        for name in names:
            measurement = MEASUREMENTS[name]
            if number >= measurement.rounds:
                continue
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            # Take turns at being first: the second of two finds other caches and a fuller disk.
            order = (old, new) if number % 2 == 0 else (new, old)
            figures, interference = one_pair(measurement, order)
            if interference > DISTURBED and repeats:
                repeats -= 1
                figures, _ = min((figures, interference), one_pair(measurement, order), key=itemgetter(1))
            for label, value in figures[old].items():
                pairs[label].append((value, figures[new][label]))
    return pairs


def one_pair(measurement: Measurement, order: tuple[Tree, Tree]) -> tuple[dict[Tree, Figures], float]:
    """The figures of both packages, and the largest share of the core that other processes took meanwhile."""
    seen = order[0].bench.interference
    before = len(seen)
    figures = {tree: measurement.measure(tree) for tree in order}
    return figures, max(seen[before:])


def row(label: str, pairs: list[tuple[float, float]]) -> tuple[str, ...]:
    old, new = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratios = [after / before for before, after in pairs]
    ratio = statistics.median(ratios)
    digits = 0 if old >= 1000 else 1 if old >= 100 else 2
    figures = (f"{old:,.{digits}f}", f"{new:,.{digits}f}", f"{ratio:.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}")
    return label, *figures, verdict(label, ratio, ratios)


def verdict(label: str, ratio: float, ratios: list[float]) -> str:
    """Better or worse if there are enough rounds and all of them agree; otherwise a dash."""
    if len(ratios) < ENOUGH or abs(ratio - 1) <= NOISE or min(ratios) <= 1 <= max(ratios):
        return "–"
    return "better" if (ratio > 1) == more_is_better(label) else "worse"


def more_is_better(label: str) -> bool:
    return label.endswith("accepted a second") or label.startswith("messages a second")


def compared(pairs: dict[str, list[tuple[float, float]]]) -> str:
    heads = ("", "old", "new", "new/old", "lowest", "highest", "verdict")
    return table(heads, [row(label, values) for label, values in pairs.items()])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description="Compare this checkout's package with another checkout's."
    )
    parser.add_argument("baseline", type=Path, help="the other checkout: the folder that holds segment_async/")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, fewer measurements")
    parser.add_argument("--rounds", type=int, help=f"how many rounds (default {ROUNDS}, with --quick {QUICK_ROUNDS})")
    parser.add_argument("--only", action="append", choices=list(MEASUREMENTS), help="measure this; may be repeated")
    parser.add_argument("--new", type=Path, default=ROOT, help="the checkout to judge (default: this one)")
    options = parser.parse_args()
    for checkout in (options.baseline, options.new):
        if not (checkout / "segment_async" / "__init__.py").is_file():
            parser.error(f"no package segment_async in {checkout}")
    return options


def main() -> None:
    options = arguments()
    names = options.only or [name for name, each in MEASUREMENTS.items() if each.is_quick or not options.quick]
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    start = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segment-async-bench-")))
        sink = stack.enter_context(Sink(compiled(FOLDER)))
        pin(sink.process_id, cores().other)
        bench = Bench(sink, cores())
        old = tree(bench, options.baseline.resolve(), folder / "old")
        new = tree(bench, options.new.resolve(), folder / "new")
        pairs = measured(old, new, names, rounds)
    print(compared(pairs))
    print(
        f"\n{rounds} interleaved rounds, {time.monotonic() - start:.0f} s; other processes took "
        f"{statistics.median(bench.interference):.0%} of the client's core in the median, {max(bench.interference):.0%} "
        f"at most; load {os.getloadavg()[0]:.1f} at the end."
    )


if __name__ == "__main__":
    main()
