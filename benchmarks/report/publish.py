"""Writes the last complete run's figures into the README's sentence and the page of all figures.

The page also has a table of runs on other versions of Python and with other event loops.
"""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT
from benchmarks.report import ratios, tables, targets

README, PAGE = ROOT / "README.md", ROOT / "docs" / "performance.md"
BLOCK = re.compile(
    r"(<!-- figures: made by `make bench ARGS=--publish` -->\n).*?(\n<!-- end of figures -->)", re.DOTALL
)

HEAD = """# Performance

`make bench` measures every figure above the notes, and `make bench ARGS=--publish` writes the page from \
`benchmarks/results.json`, which has each round. Every client sends the same messages to the same server in the same run, \
and every client that was measured is listed.

## Side by side

Absolute figures belong to a machine; ratios carry over to yours.
"""


OTHERS = """
## On other loops and versions

The same targets in runs of their own (`{files}`), with the contestants that the targets need. Where each was measured is \
below the table.
"""


def other_runs() -> dict[str, dict[str, Any]]:
    """The results of runs on other versions of Python and with other event loops, by the names of their files."""
    folder = Path(__file__).parents[1]
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("results-*.json"))}


def write(results: dict[str, Any], others: dict[str, dict[str, Any]]) -> None:
    README.write_text(readme(README.read_text(), results))
    PAGE.write_text(page(PAGE.read_text() if PAGE.exists() else "", results, others))


def readme(text: str, results: dict[str, Any]) -> str:
    """The README's text with these figures."""
    return BLOCK.sub(lambda found: found[1] + tables.readme(results) + found[2], text)


def page(before: str, results: dict[str, Any], others: dict[str, dict[str, Any]]) -> str:
    """The page with these figures; the notes below them, written by hand, stay as they are."""
    by_hand = before[before.index(NOTES) :] if NOTES in before else NOTES
    goals = ["\n## Targets and results\n", targets.markdown(results)]
    figures = ["\n## All figures\n", tables.markdown(results), ""]
    return "\n".join([HEAD, ratios.markdown(results), *goals, *_elsewhere(others), *figures, by_hand])


def _elsewhere(others: dict[str, dict[str, Any]]) -> list[str]:
    if not others:
        return []
    places = [f"- {run['machine']['python']}, {run['loop']}: {tables.conditions(run)}" for run in others.values()]
    head = OTHERS.format(files="`, `".join(f"benchmarks/{name}" for name in others))
    return [head, targets.side_by_side(others.values()), "", *places]


NOTES = "## Notes\n"
