"""Plots of the results for the README: horizontal bars, this package's in colour, the other SDKs' in grey.

`plots.py RESULTS FOLDER`, a program of its own that runs in matplotlib's environment. The plots have a light background
of their own, so that they look the same in a light and a dark README.
"""

import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# By name: type checkers look at the harness's environment, which has no matplotlib.
importlib.import_module("matplotlib").use("agg")
plt: Any = importlib.import_module("matplotlib.pyplot")

BACKGROUND, INK, FAINT, OURS, PEERS = "#fafbfc", "#24292f", "#6e7781", "#2da44e", "#b6bdc6"


@dataclass(frozen=True)
class Plot:
    """One plot: one figure of a part's variant, for each contestant that has it."""

    name: str
    title: str
    part: str
    variant: str
    figure: str
    unit: str
    digits: int = 0
    logarithmic: bool = False


PLOTS = [
    Plot("delivery", "Delivered messages a second, one core", "delivery", "medium", "delivered_per_second", "/s"),
    Plot("latency", "Delivered a second with 50 ms to the server", "latency", "50", "delivered_per_second", "/s"),
    Plot("call", "What one call costs its caller, 99th percentile", "calls", "flat out", "p99", " µs", 1, True),
    Plot("lag", "Event-loop lag at 5,000 messages a second, p99", "lag", "5000", "p99", " µs", 0, True),
    Plot("memory", "Memory of a pending message", "memory", "medium", "bytes_per_message", " bytes", 0, True),
    Plot("fastapi", "FastAPI requests a second, one event a request", "web", "flat out", "per_second", "/s"),
]


def main(results: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for plot in PLOTS:
        bars = [
            (entry["label"], entry["median"][plot.figure])
            for entry in results["figures"]
            if (entry["part"], entry["variant"]) == (plot.part, plot.variant)
        ]
        if bars:
            draw(
                plot, bars, f"{results['date']} · {results['machine']['cpu']} · {results['machine']['python']}", folder
            )


def draw(plot: Plot, bars: list[tuple[str, float]], footnote: str, folder: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(bars) + 1.1), dpi=160, facecolor=BACKGROUND)
    labels, values = [label for label, _ in bars], [value for _, value in bars]
    drawn = axes.barh(labels, values, color=[colour(label) for label in labels], height=0.66)
    axes.bar_label(
        drawn, [f"{value:,.{plot.digits}f}{plot.unit}" for value in values], padding=4, fontsize=9, color=INK
    )
    plain(axes, plot)
    figure.suptitle(plot.title, x=0.015, ha="left", fontsize=12, fontweight="bold", color=INK)
    figure.text(0.985, 0.015, footnote, ha="right", fontsize=7, color=FAINT)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(folder / f"bench-{plot.name}.png", facecolor=BACKGROUND, metadata={"Software": None})
    plt.close(figure)


def plain(axes: Any, plot: Plot) -> None:
    """Show bars and their figures, and remove everything else."""
    axes.invert_yaxis()
    axes.set_facecolor(BACKGROUND)
    axes.xaxis.set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=9, colors=INK)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text().startswith("segment_async") else "normal")
    for side in axes.spines.values():
        side.set_visible(False)
    if plot.logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(left=1)
        axes.set_title("logarithmic scale", loc="right", fontsize=7, color=FAINT)
    axes.margins(x=0.16)


def colour(label: str) -> str:
    if label.startswith("segment_async"):
        return OURS
    return FAINT if label.startswith("the ") else PEERS


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
