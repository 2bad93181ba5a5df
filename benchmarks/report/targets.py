"""The targets and the results, as one table. Pure.

A figure that was not measured is a dash; a figure that misses its target is marked.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.report.tables import table

Results = dict[str, Any]


class Figures:
    """Looks up medians; `None` if there is none."""

    def __init__(self, results: Results) -> None:
        self._medians = {
            (each["part"], each["variant"], each["contestant"]): each["median"] for each in results["figures"]
        }

    def __call__(self, part: str, variant: str, contestant: str, name: str) -> float | None:
        median: dict[str, float] = self._medians.get((part, variant, contestant), {})
        return median.get(name)

    def ratio(self, part: str, variant: str, one: str, other: str, name: str) -> float | None:
        above, below = self(part, variant, one, name), self(part, variant, other, name)
        return None if above is None or not below else above / below

    def added(self, part: str, variant: str, one: str, other: str, name: str) -> float | None:
        whole, base = self(part, variant, one, name), self(part, variant, other, name)
        return None if whole is None or base is None else max(0.0, whole - base)


class Target(NamedTuple):
    """`seen` returns one figure for each of `bounds`. A negative bound is a minimum, a positive one a maximum."""

    what: str
    bounds: tuple[float, ...]
    unit: str
    seen: Callable[[Figures], tuple[float | None, ...]]
    digits: int = 0


def _percentiles(part: str, variant: str) -> Callable[[Figures], tuple[float | None, ...]]:
    return lambda figures: tuple(figures(part, variant, "ours-isal", name) for name in ("p50", "p99", "p99.9"))


OFFICIAL, ISAL, ZLIB, NOTHING = "official", "ours-isal", "ours-zlib", "nothing"

TARGETS = (
    Target(
        "delivered a second, beside the official SDK with gzip (isal / zlib)",
        (-8, -6),
        "×",
        lambda f: tuple(f.ratio("delivery", "medium", each, OFFICIAL, "delivered_per_second") for each in (ISAL, ZLIB)),
        1,
    ),
    Target(
        "CPU seconds a million messages (isal / zlib)",
        (6, 9),
        "s",
        lambda f: tuple(f("delivery", "medium", each, "cpu_per_million") for each in (ISAL, ZLIB)),
        1,
    ),
    Target("one call, flat out: p50 / p99 / p99.9", (3, 10, 30), "µs", _percentiles("calls", "flat out"), 1),
    Target("one call at 2,000 a second: p50 / p99 / p99.9", (5, 30, 60), "µs", _percentiles("calls", "2000"), 1),
    Target(
        "lag added to the loop at 5,000 a second, p99",
        (200,),
        "µs",
        lambda f: (f.added("lag", "5000", ISAL, NOTHING, "p99"),),
    ),
    Target("lag of the loop flat out, p99", (500,), "µs", lambda f: (f("lag", "flat out", ISAL, "p99"),)),
    Target(
        "longest step of the loop at 5,000 a second, CPU (isal / zlib)",
        (400, 400),
        "µs",
        lambda f: tuple(f("steps", "5000", each, "max") for each in (ISAL, ZLIB)),
    ),
    Target(
        "resident bytes a pending message",
        (200,),
        "bytes",
        lambda f: (f("memory", "medium", ISAL, "bytes_per_message"),),
    ),
    Target(
        "delivered a second with 50 / 200 ms to the server",
        (-30_000, -8_000),
        "/s",
        lambda f: tuple(f("latency", each, ISAL, "delivered_per_second") for each in ("50", "200")),
    ),
    Target(
        "FastAPI's requests a second with one event each, as a share of those without / of those that build it and do not send it",
        (-0.87, -0.87),
        "",
        lambda f: tuple(f.ratio("web", "flat out", ISAL, each, "per_second") for each in (NOTHING, "making")),
        2,
    ),
    Target("its p99 at 3,000 requests a second", (0.7,), "ms", lambda f: (f("web", "3000", ISAL, "p99"),), 2),
    # The machine of the targets took 0.4 ms without tracking.
    Target(
        "the same, relative to the p99 without an event",
        (1.75,),
        "×",
        lambda f: (f.ratio("web", "3000", ISAL, NOTHING, "p99"),),
        2,
    ),
    Target("bytes on the wire a message", (115,), "bytes", lambda f: (f("delivery", "medium", ISAL, "wire_bytes"),)),
    Target(
        "on disk: accepted a second by 100 callers, synced",
        (-50_000,),
        "/s",
        lambda f: (f("spool", "100 callers", "ours-full", "accepted_per_second"),),
    ),
    Target(
        "on disk: one call at 2,000 a second, p50, synced",
        (500,),
        "µs",
        lambda f: (f("spool", "2,000 calls a second", "ours-full", "p50"),),
    ),
    Target(
        "import, where asyncio is loaded already",
        (30,),
        "ms",
        lambda f: (f("imports", "import", ISAL, "beside_asyncio_ms"),),
    ),
)


def markdown(results: Results) -> str:
    figures = Figures(results)
    return table(("", "target", "result"), [_row(target, target.seen(figures)) for target in TARGETS])


def _row(target: Target, seen: tuple[float | None, ...]) -> tuple[str, str, str]:
    wanted = " / ".join(f"{abs(bound):,.{_digits(bound)}f}" for bound in target.bounds)
    shown = " / ".join(_shown(figure, bound, target.digits) for figure, bound in zip(seen, target.bounds, strict=True))
    kind = "at least" if target.bounds[0] < 0 else "at most"
    return target.what, f"{kind} {wanted} {target.unit}".strip(), f"{shown} {target.unit}".strip()


def _digits(bound: float) -> int:
    return 0 if float(bound).is_integer() else 2


def _shown(figure: float | None, bound: float, digits: int) -> str:
    if figure is None:
        return "–"
    missed = figure < -bound if bound < 0 else figure > bound
    text = f"{figure:,.{digits}f}"
    return f"**{text}** (missed)" if missed else text
