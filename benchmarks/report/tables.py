"""Tables of results: for the terminal, and as Markdown for the README and the page of figures. Pure.

Every contestant that was measured has a row, also those that are faster.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

Entry = dict[str, Any]


class Column(NamedTuple):
    head: str
    cell: Callable[[dict[str, float]], str]


def number(name: str, digits: int = 0) -> Callable[[dict[str, float]], str]:
    """Formats the figure of that name, or a dash if there is none."""
    return lambda figures: f"{figures[name]:,.{digits}f}" if name in figures else "–"


DELIVERY = (
    Column("delivered/s", number("delivered_per_second")),
    Column("CPU s a million", number("cpu_per_million", 1)),
    Column("bytes on the wire", number("wire_bytes")),
    Column("messages a request", number("messages_a_request")),
    Column("lost", number("lost")),
)
LATENCY = (Column("delivered/s", number("delivered_per_second")), Column("lost", number("lost")))
MICROSECONDS = tuple(Column(f"{name} µs", number(name, 1)) for name in ("p50", "p99", "p99.9", "max"))
WEB = (
    Column("requests/s", number("per_second")),
    Column("CPU µs a request", number("cpu_per_request")),
    Column("p50 ms", number("p50", 2)),
    Column("p99 ms", number("p99", 2)),
    Column("max ms", number("max", 1)),
)
COLUMNS: dict[str, tuple[Column, ...]] = {
    "delivery": DELIVERY,
    "latency": LATENCY,
    "calls": MICROSECONDS,
    "lag": (*MICROSECONDS, Column("calls/s", number("calls_per_second"))),
    "steps": (Column("longest step, CPU µs", number("max")),),
    "memory": (Column("resident bytes a pending message", number("bytes_per_message")),),
    "web": WEB,
    "flask": WEB,
    "spool": (
        Column("accepted/s", number("accepted_per_second")),
        Column("p50 µs", number("p50", 1)),
        Column("p99 µs", number("p99", 1)),
        Column("CPU µs a call", number("cpu_per_call", 1)),
        Column("lag of the loop, p99 µs", number("lag_p99", 1)),
        Column("one sync, ms", number("sync_ms", 2)),
    ),
    "importing": (
        Column("rows/s", number("rows_per_second")),
        Column("rows a CPU second", number("rows_per_cpu_second")),
        Column("MB", number("megabytes")),
        Column("lost", number("lost")),
    ),
    "relay": (
        Column("messages/s", number("per_second")),
        Column("CPU µs a message", number("cpu_per_message", 1)),
        Column("CPU µs of Valkey", number("server_cpu_per_message", 1)),
        Column("messages a CPU second", number("per_core_second")),
        Column("resident MiB", number("resident_mib")),
    ),
    "imports": (
        Column("import ms", number("import_ms", 1)),
        Column("in an asyncio program ms", number("beside_asyncio_ms", 1)),
        Column("with a first client ms", number("first_client_ms", 1)),
    ),
}
TITLES = {
    "delivery": "Throughput, {} messages",
    "latency": "Throughput with {} ms to the server",
    "calls": "One call to its caller, {}",
    "lag": "Lag of the event loop, {}",
    "steps": "Longest single step of the event loop, {}",
    "memory": "Memory, the server answering nothing",
    "web": "FastAPI on asyncio's own loop, one event a request, {}",
    "flask": "Flask on four threads, one event a request, {}",
    "spool": "On disk, {}",
    "importing": "Import of a file, {}",
    "relay": "With a relay and Valkey, {}",
    "imports": "Import of the package",
}


def title(part: str, variant: str) -> str:
    return TITLES[part].format(f"{int(variant):,} a second" if variant.isdigit() and part != "latency" else variant)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column is aligned to the left, the others to the right."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| " + " | ".join([line[0].ljust(widths[0]), *(map(str.rjust, line[1:], widths[1:]))]) + " |"
        for line in [lines[0], rule, *lines[1:]]
    )


def sections(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Title and table of each part's variants, in the order they were measured."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in results["figures"]:
        groups.setdefault((entry["part"], entry["variant"]), []).append(entry)
    return [(title(*key), table_of(key[0], entries)) for key, entries in groups.items()]


def table_of(part: str, entries: list[Entry]) -> str:
    columns = COLUMNS[part]
    rows = [[entry["label"], *(column.cell(entry["median"]) for column in columns)] for entry in entries]
    return table(["", *(column.head for column in columns)], rows)


def terminal(results: dict[str, Any], ratios: str) -> str:
    """All figures; what they say beside each other comes first."""
    parts = [f"{head}\n\n{body}" for head, body in sections(results)]
    return "\n\n".join([ratios, *parts, conditions(results)])


def conditions(results: dict[str, Any]) -> str:
    """Where, when and how the figures were measured."""
    machine, sink = results["machine"], results["sink"]
    capacity = sink["messages_per_second"]
    return (
        f"{results['date']}, {machine['cpu']}, {machine['cores']} cores, {machine['python']}, {machine['system']}; "
        f"load {machine['load']} before it began; medians of {results['rounds']} interleaved rounds, the client on one core and the server ({sink['kind']}, able to "
        f"receive {capacity['gzip']:,.0f} compressed and {capacity['plain']:,.0f} plain messages a second) on another."
    )


MARKDOWN_PARTS = [
    ("delivery", "medium"),
    ("latency", "50"),
    ("latency", "200"),
    ("calls", "flat out"),
    ("calls", "2000"),
    ("lag", "5000"),
    ("memory", "medium"),
    ("web", "flat out"),
    ("web", "3000"),
    ("flask", "flat out"),
    ("spool", "1 caller"),
    ("spool", "100 callers"),
    ("spool", "100 callers while messages are delivered"),
    ("spool", "2,000 calls a second"),
    ("spool", "2,000 calls a second and a slow disk"),
    ("importing", "CSV"),
    ("importing", "JSONL"),
    ("relay", "handed over"),
    ("relay", "delivered"),
    ("imports", "import"),
]


def markdown(results: dict[str, Any]) -> str:
    """The page of all figures, with the conditions, the versions, and what was not measured."""
    missing = "; ".join(f"{name}: {why}" for name, why in results["missing"].items())
    return "\n\n".join(
        [
            *_tables(results, MARKDOWN_PARTS),
            conditions(results),
            f"Versions: {versions(results)}. Not measured: {missing}."
            if missing
            else f"Versions: {versions(results)}.",
            "`make bench` measures it all again; `benchmarks/results.json` has every round.",
        ]
    )


def readme(results: dict[str, Any]) -> str:
    """The README's sentence: how fast this package delivers beside the official SDK, and where that was measured."""
    rates = {
        entry["contestant"]: entry["median"]["delivered_per_second"]
        for entry in results["figures"]
        if (entry["part"], entry["variant"]) == ("delivery", "medium")
    }
    machine = results["machine"]
    return (
        f"One core delivers {rates['ours-isal'] / rates['official']:.1f} times as many events a second as with Segment's "
        f"official Python SDK: {rates['ours-isal']:,.0f} and {rates['official']:,.0f}, both with gzip ({machine['cpu']}, "
        f"{machine['python']}, {results['date']}). [All figures, and the targets that were missed](https://segment-async.github.io/segment-async/performance/)."
    )


def _tables(results: dict[str, Any], parts: Iterable[tuple[str, str]]) -> list[str]:
    wanted = dict(sections(results))
    shown = [title(*key) for key in parts if title(*key) in wanted]
    return [f"**{head}**\n\n{wanted[head]}" for head in shown]


SHOWN_VERSIONS = {
    "ours-isal": ("segment-async", "aiohttp", "orjson", "isal", "fastapi", "uvicorn"),
    "official": ("segment-analytics-python",),
    "rudder": ("rudder-sdk-python",),
    "posthog": ("posthog", "httpx"),
    "node": ("@segment/analytics-node",),
}


def versions(results: dict[str, Any]) -> str:
    installed = results["versions"]
    return ", ".join(
        f"{package} {installed[environment][package]}"
        for environment, packages in SHOWN_VERSIONS.items()
        for package in packages
        if package in installed.get(environment, {})
    )
