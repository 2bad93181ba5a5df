"""The targets and the results, of one run or of several beside each other. Pure.

A figure that was not measured is a dash; a figure that misses its target is marked.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from benchmarks.report.figures import Medians
from benchmarks.report.tables import table

Results = dict[str, Any]


class Target(NamedTuple):
    """`seen` returns one figure for each of `bounds`. A negative bound is a minimum, a positive one a maximum."""

    what: str
    bounds: tuple[float, ...]
    unit: str
    seen: Callable[[Medians], tuple[float | None, ...]]
    digits: int = 0


def _quantiles(part: str, variant: str, *names: str) -> Callable[[Medians], tuple[float | None, ...]]:
    return lambda f: tuple(f(part, variant, "ours-isal", name) for name in names)


OFFICIAL, ISAL, ZLIB, NOTHING, FLOOR = "official", "ours-isal", "ours-zlib", "nothing", "floor"


def _shares(*ours: str) -> Callable[[Medians], tuple[float | None, ...]]:
    return lambda f: tuple(f.ratio("web", "flat out", each, NOTHING, "per_second") for each in ours)


TARGETS = (
    Target(
        "delivered a second, beside the official SDK with gzip (isal / zlib)",
        (-8, -6),
        "×",
        lambda f: tuple(f.ratio("delivery", "medium", each, OFFICIAL, "delivered_per_second") for each in (ISAL, ZLIB)),
        2,
    ),
    Target(
        "the same, beside a bare loop",
        (-0.85,),
        "×",
        lambda f: (f.ratio("delivery", "medium", ISAL, FLOOR, "delivered_per_second"),),
        2,
    ),
    Target(
        "CPU of a message, beside a bare loop",
        (1.2,),
        "×",
        lambda f: (f.ratio("delivery", "medium", ISAL, FLOOR, "cpu_per_million"),),
        2,
    ),
    Target(
        "one call flat out, p50",
        (2.9,),
        "µs",
        lambda f: (f("calls", "flat out", ISAL, "p50"),),
        1,
    ),
    Target(
        "the same, beside the official SDK",
        (0.11,),
        "×",
        lambda f: (f.ratio("calls", "flat out", ISAL, OFFICIAL, "p50"),),
        2,
    ),
    Target("one call at 2,000 a second: p50 / p99", (11.0, 30), "µs", _quantiles("calls", "2000", "p50", "p99"), 1),
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
        (150,),
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
        "FastAPI's requests a second, as a share of the application's alone: middleware and no event / one event",
        (-0.92, -0.8),
        "",
        _shares("ours-middleware-none", ISAL),
        2,
    ),
    Target(
        "the same: middleware and one event of a module's client / of FastAPI's dependency",
        (-0.67, -0.62),
        "",
        _shares("ours-middleware-module", "ours-middleware-dependency"),
        2,
    ),
    Target("bytes on the wire a message", (97,), "bytes", lambda f: (f("delivery", "medium", ISAL, "wire_bytes"),), 1),
    Target(
        "on disk: accepted a second by 100 callers, synced",
        (-35_000,),
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
        1,
    ),
    Target(
        "blocking client: one call, p50",
        (15,),
        "µs",
        lambda f: (f("calls", "flat out", "ours-blocking", "p50"),),
        1,
    ),
    Target(
        "blocking client: delivered a second, beside the official SDK",
        (-5,),
        "×",
        lambda f: (f.ratio("delivery", "medium", "ours-blocking", OFFICIAL, "delivered_per_second"),),
        1,
    ),
    Target(
        "import of files: CSV rows / JSONL lines a second",
        (-30_000, -40_000),
        "/s",
        lambda f: tuple(f("importing", each, ISAL, "rows_per_second") for each in ("CSV", "JSONL")),
    ),
    Target(
        "relay: delivered a second by one / handed over by 100 callers of one host",
        (-40_000, -30_000),
        "/s",
        lambda f: tuple(f("relay", each, ISAL, "per_second") for each in ("delivered", "handed over")),
    ),
)


def markdown(results: Results) -> str:
    return _table({"result": results})


def side_by_side(runs: Iterable[Results]) -> str:
    """The results of runs on several versions of Python, and with several event loops."""
    return _table({f"{run['machine']['python']}, {run['loop']}": run for run in runs})


def _table(runs: Mapping[str, Results]) -> str:
    figures = [Medians(run) for run in runs.values()]
    return table(("", "target", *runs), [_row(target, figures) for target in TARGETS])


def _row(target: Target, runs: Iterable[Medians]) -> tuple[str, ...]:
    wanted = " / ".join(f"{abs(bound):,.{_digits(bound)}f}" for bound in target.bounds)
    kind = "at least" if target.bounds[0] < 0 else "at most"
    bound = f"{kind} {wanted} {target.unit}".strip()
    return target.what, bound, *(_result(target, target.seen(figures)) for figures in runs)


def _result(target: Target, seen: tuple[float | None, ...]) -> str:
    shown = " / ".join(_shown(figure, bound, target.digits) for figure, bound in zip(seen, target.bounds, strict=True))
    return f"{shown} {target.unit}".strip()


def _digits(bound: float) -> int:
    return 0 if float(bound).is_integer() else len(str(bound).partition(".")[2])


def _shown(figure: float | None, bound: float, digits: int) -> str:
    if figure is None:
        return "–"
    missed = figure < -bound if bound < 0 else figure > bound
    text = f"{figure:,.{digits}f}"
    return f"**{text}** (missed)" if missed else text
