"""What the figures say beside each other, first in every report: absolute figures belong to a machine. Pure.

Each row is one figure of ours beside another contestant's, from the same run: the official SDK, a bare loop that does
the least, or the application alone.
"""

from typing import Any, NamedTuple

from benchmarks.report.figures import Medians
from benchmarks.report.tables import table

ISAL, ZLIB, BLOCKING, OFFICIAL, FLOOR, NOTHING = (
    "ours-isal",
    "ours-zlib",
    "ours-blocking",
    "official",
    "floor",
    "nothing",
)
LABELS = {
    OFFICIAL: "the official SDK",
    FLOOR: "a bare loop",
    NOTHING: "the application alone",
    "making": "the application, building the message",
}


class Ratio(NamedTuple):
    """`digits` are those of the ratio; `is_share` shows it as a share of the other figure."""

    what: str
    part: str
    variant: str
    figure: str
    ours: str
    other: str
    is_share: bool = False


def _web(ours: str, what: str, other: str = NOTHING) -> Ratio:
    return Ratio(f"FastAPI's requests a second, {what}", "web", "flat out", "per_second", ours, other, True)


RATIOS = (
    Ratio("delivered a second (isal)", "delivery", "medium", "delivered_per_second", ISAL, OFFICIAL),
    Ratio("delivered a second (zlib)", "delivery", "medium", "delivered_per_second", ZLIB, OFFICIAL),
    Ratio("delivered a second (isal)", "delivery", "medium", "delivered_per_second", ISAL, FLOOR, True),
    Ratio("delivered a second (blocking client)", "delivery", "medium", "delivered_per_second", BLOCKING, OFFICIAL),
    Ratio("delivered a second with 50 ms to the server", "latency", "50", "delivered_per_second", ISAL, OFFICIAL),
    Ratio("CPU of a message", "delivery", "medium", "cpu_per_million", ISAL, OFFICIAL),
    Ratio("CPU of a message", "delivery", "medium", "cpu_per_million", ISAL, FLOOR),
    Ratio("one call flat out, p50", "calls", "flat out", "p50", ISAL, OFFICIAL),
    Ratio("one call flat out, p99", "calls", "flat out", "p99", ISAL, OFFICIAL),
    Ratio("one call at 2,000 a second, p50", "calls", "2000", "p50", ISAL, OFFICIAL),
    Ratio("one blocking call flat out, p50", "calls", "flat out", "p50", BLOCKING, OFFICIAL),
    Ratio("lag of the loop at 5,000 a second, p99", "lag", "5000", "p99", ISAL, OFFICIAL),
    Ratio("memory of a pending message", "memory", "medium", "bytes_per_message", ISAL, OFFICIAL),
    _web("ours-middleware-none", "middleware and no event"),
    _web(ISAL, "one event"),
    _web("ours-middleware-module", "middleware and one event of a module's client"),
    _web("ours-middleware-dependency", "middleware and one event of FastAPI's dependency"),
    _web(OFFICIAL, "one event of the official SDK"),
    Ratio("Flask's requests a second, one event", "flask", "flat out", "per_second", BLOCKING, NOTHING, True),
    Ratio("Flask's requests a second, one event of the official SDK", "flask", "flat out", "per_second", OFFICIAL, NOTHING, True),
    Ratio("import, in an asyncio program", "imports", "import", "beside_asyncio_ms", ISAL, OFFICIAL),
    Ratio("import of a CSV file, rows a second", "importing", "CSV", "rows_per_second", ISAL, OFFICIAL),
)  # fmt: skip


def markdown(results: dict[str, Any]) -> str:
    """The table, without the rows that were not measured."""
    medians = Medians(results)
    rows = [
        (each.what, LABELS[each.other], _text(ratio, is_share=each.is_share))
        for each in RATIOS
        if (ratio := medians.ratio(each.part, each.variant, each.ours, each.other, each.figure)) is not None
    ]
    return table(("", "beside", "ratio"), rows)


def _text(ratio: float, *, is_share: bool) -> str:
    if is_share:
        return f"{ratio:.0%}"
    return f"1/{1 / ratio:.0f}" if ratio < 0.5 else f"{ratio:.2f} ×" if ratio < 1 else f"{ratio:.1f} ×"
