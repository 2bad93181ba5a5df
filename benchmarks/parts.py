"""The parts of a run: what is measured, for which contestants, and how the output becomes figures.

Each part is one function from a case to its figures. Their units are in their names or in the columns of
`report.tables`: CPU seconds a million messages, microseconds, milliseconds for the web.

A new part needs its function here and its entry in `PARTS`, its columns and its title in `report.tables` and, to be
published, a line in `MARKDOWN_PARTS` there; what is to be shown beside another contestant's goes into `report.ratios`.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import importing
from benchmarks.bench import Bench, cpu_seconds, pin
from benchmarks.contestants import BY_NAME, Contestant
from benchmarks.environments import FOLDER, python

Figures = dict[str, Any]
LOADER = Path(__file__).parent / "server" / "loader.py"

MESSAGES = {"small": 100_000, "medium": 100_000, "large": 10_000}
UNDER_LATENCY = {"50": 60_000, "200": 30_000}
CALLS, PENDING = 100_000, 50_000
SECONDS_OF_ARRIVALS, SECONDS_OF_LOAD, CONNECTIONS = 3, 3, 32
FLAT_OUT = "flat out"
SPOOLED_MESSAGES = 100_000
ROWS = 100_000
RELAYED, WAITING = 100_000, 120_000


class Spooled(NamedTuple):
    """Callers at once, calls a second (0: flat out), whether the disk is slow, and whether the server responds."""

    callers: int
    rate: int = 0
    slow_disk: bool = False
    delivers: bool = False


SPOOLED = {
    "1 caller": Spooled(1),
    "100 callers": Spooled(100),
    "100 callers while messages are delivered": Spooled(100, delivers=True),
    "2,000 calls a second": Spooled(0, 2_000),
    "2,000 calls a second and a slow disk": Spooled(0, 2_000, slow_disk=True),
}


@dataclass(frozen=True)
class Case:
    part: str
    contestant: Contestant
    variant: str

    @property
    def rate(self) -> int:
        return 0 if self.variant == FLAT_OUT else int(self.variant)


@dataclass(frozen=True)
class Part:
    """`variants` of the measurement; `field` names the contestants that take part."""

    measure: Callable[[Bench, Case], Figures]
    variants: tuple[str, ...]
    field: tuple[str, ...]

    def cases(self, name: str, contestants: set[str]) -> list[Case]:
        return [
            Case(name, BY_NAME[each], variant)
            for variant in self.variants
            for each in self.field
            if each in contestants and (name, variant, each) not in NOT_DONE
        ]


def delivery(bench: Bench, case: Case) -> Figures:
    return _delivered(bench, case.contestant, case.variant, MESSAGES[case.variant])


def latency(bench: Bench, case: Case) -> Figures:
    # A client that waits for each response sends a hundred messages a round trip; with fewer messages it takes as long.
    share = 1 if case.contestant.adapter == "ours" else 0.2
    bench.sink.order(f"latency/{case.variant}")
    try:
        return _delivered(bench, case.contestant, "medium", int(UNDER_LATENCY[case.variant] * share))
    finally:
        bench.sink.order("latency/0")


def _delivered(bench: Bench, contestant: Contestant, size: str, messages: int) -> Figures:
    count = int(messages * contestant.share)
    queue_size = count + 1_000 if contestant.drops else None
    before = bench.sink.statistics().cpu_ns
    output = bench.probe(contestant, part="delivery", size=size, count=count, queue_size=queue_size)
    after, counted = bench.sink.statistics(), bench.sink.count()
    seconds = (after.last_ns - output["start_ns"]) / 1e9
    return {
        "messages": count,
        "delivered_per_second": counted.messages / seconds,
        "cpu_per_million": (output["cpu_ns"] - output["application_cpu_ns"]) / count / 1e3,
        "application_cpu_per_million": output["application_cpu_ns"] / count / 1e3,
        "wire_bytes": after.bytes / counted.messages,
        "messages_a_request": counted.messages / after.requests,
        "lost": count - counted.messages + counted.repeats,
        "sink_busy": (after.cpu_ns - before) / 1e9 / seconds,
        "disturbed": output["disturbed"],
    }


def calls(bench: Bench, case: Case) -> Figures:
    count = int(CALLS * case.contestant.share)
    return bench.probe(
        case.contestant, part="calls", count=max(count, 10_000), rate=case.rate, seconds=SECONDS_OF_ARRIVALS
    )


def under_load(bench: Bench, case: Case) -> Figures:
    # Flat out fills any queue, and this does not measure what a full queue does.
    queue_size = 1_000_000 if case.contestant.drops and not case.rate else None
    return bench.probe(
        case.contestant, part=case.part, rate=case.rate, seconds=SECONDS_OF_ARRIVALS, queue_size=queue_size
    )


def memory(bench: Bench, case: Case) -> Figures:
    bench.sink.order("stall/1")
    try:
        return bench.probe(case.contestant, part="memory", count=PENDING, seconds=1, queue_size=PENDING * 2)
    finally:
        bench.sink.order("stall/0")


def spool(bench: Bench, case: Case) -> Figures:
    """A queue in memory has room for all messages. If the server does not respond meanwhile, a spool grows."""
    callers, rate, slow, delivers = SPOOLED[case.variant]
    queue_size = SPOOLED_MESSAGES * 2 if "spool" not in case.contestant.options else None
    bench.sink.order("stall/0" if delivers else "stall/1")
    try:
        return bench.probe(
            case.contestant,
            part="spool",
            count=SPOOLED_MESSAGES if callers > 1 else SPOOLED_MESSAGES // 20,
            callers=callers,
            rate=rate,
            seconds=SECONDS_OF_ARRIVALS,
            slow_disk=slow,
            queue_size=queue_size,
        )
    finally:
        bench.sink.order("stall/0")


def web(bench: Bench, case: Case) -> Figures:
    with bench.watched() as seen, bench.started(case.contestant, part=case.part) as server:
        assert server.stdout
        port = server.stdout.readline().strip()
        _load(bench, port, 1, 0)
        before = cpu_seconds(server.pid)
        figures = _load(bench, port, SECONDS_OF_LOAD, case.rate)
        figures["cpu_per_request"] = (cpu_seconds(server.pid) - before) / figures["requests"] * 1e6
    return figures | seen


def _load(bench: Bench, port: str, seconds: int, rate: int) -> Figures:
    command = [sys.executable, str(LOADER), port, str(CONNECTIONS), str(seconds), str(rate)]
    figures: Figures = json.loads(bench.output_of(command, bench.cores.other))
    return figures


IMPORT = """
{before}
import os, time
start = time.perf_counter()
{imports}
imported = time.perf_counter()
{constructs}
print((imported - start) * 1e3, (time.perf_counter() - start) * 1e3, flush=True)
os._exit(0)
"""
IMPORTS = 7


def imports(bench: Bench, case: Case) -> Figures:
    """In a fresh interpreter, and in one that has already loaded asyncio, as an asyncio program has."""
    imported, constructed = _import_times(bench, case.contestant, "")
    beside_asyncio, _ = _import_times(bench, case.contestant, "import asyncio")
    return {"import_ms": imported, "beside_asyncio_ms": beside_asyncio, "first_client_ms": constructed}


def _import_times(bench: Bench, contestant: Contestant, before: str) -> tuple[float, float]:
    code = IMPORT.format(before=before, imports=contestant.imports, constructs=contestant.constructs)
    command = [str(python(contestant.environment)), "-c", code]
    lines = [bench.output_of(command, bench.cores.client, cwd=FOLDER) for _ in range(IMPORTS)]
    imported, constructed = zip(*[map(float, line.split()) for line in lines], strict=True)
    return statistics.median(imported), statistics.median(constructed)


def import_files(bench: Bench, case: Case) -> Figures:
    """A process of its own, as people run it, on a file of orders."""
    with bench.watched() as seen, tempfile.TemporaryDirectory(prefix="segment-async-bench-") as folder:
        importing.write_files(Path(folder), ROWS)
        command = importing.command_of(case.contestant.environment, case.variant, bench.sink.url)
        figures = importing.measure(command, ROWS, bench.sink, Path(folder), bench.cores.client)
    return figures | seen


def relayed(bench: Bench, case: Case) -> Figures:
    """A host's callers, or a relay, on the client's core; Valkey shares the other one with the sink."""
    # Redis and Valkey are not needed for any other part.
    from benchmarks import relay

    bench.sink.reset()
    with tempfile.TemporaryDirectory(prefix="segment-") as folder, relay.valkey(Path(folder)) as (url, server):
        pin(server, bench.cores.other)
        if case.variant == "handed over":
            return bench.figures_of(
                [sys.executable, "-m", "benchmarks.relay", "--host", url, str(server), str(RELAYED)]
            )
        with bench.watched() as seen:
            figures = relay.deliver(url, server, bench.sink, RELAYED, WAITING, bench.cores.client)
    return figures | seen


OURS = ("ours-isal", "ours-zlib")
THREADS = ("official", "rudder", "posthog")
NODE = ("node", "node-100")
APPLICATION = ("nothing",)

PARTS = {
    "delivery": Part(
        delivery,
        ("medium", "small", "large"),
        (*OURS, "ours-blocking", "official", "official-plain", "rudder", "posthog", "posthog-async", *NODE, "floor"),
    ),
    "latency": Part(latency, ("50", "200"), (*OURS, *THREADS, *NODE)),
    "calls": Part(calls, (FLAT_OUT, "2000"), (*OURS, "ours-blocking", *THREADS, "posthog-async", "node")),
    "lag": Part(under_load, ("2000", "5000", FLAT_OUT), (*APPLICATION, *OURS, *THREADS, "posthog-async")),
    "steps": Part(under_load, ("5000", FLAT_OUT), (*OURS, "posthog-async")),
    "memory": Part(memory, ("medium",), (*OURS, *THREADS, "posthog-async", "node")),
    "web": Part(
        web,
        (FLAT_OUT, "3000"),
        (
            *APPLICATION,
            "making",
            *OURS,
            "ours-middleware-none",
            "ours-middleware-module",
            "ours-middleware-state",
            "ours-middleware-dependency",
            "official",
            "official-background",
            *THREADS[1:],
            "posthog-async",
        ),
    ),
    "flask": Part(web, (FLAT_OUT,), (*APPLICATION, "ours-blocking", *THREADS)),
    "spool": Part(spool, tuple(SPOOLED), ("ours-isal", "ours-process", "ours-full")),
    "importing": Part(import_files, ("CSV", "JSONL"), ("ours-isal", "official")),
    "relay": Part(relayed, ("handed over", "delivered"), ("ours-isal",)),
    "imports": Part(imports, ("import",), ("ours-isal", *THREADS, "posthog-async")),
}
"""In the order of a run."""

NOT_DONE = {("importing", "JSONL", "official")}
"""What a contestant does not do."""

QUICK = {"calls": (FLAT_OUT, "2000"), "delivery": ("medium",)}
QUICK_FIELD = ("ours-isal", "ours-zlib", "official", "official-plain")
