"""Writes the last complete run's figures into the README's sentence and the page of all figures."""

import re
from typing import Any

from benchmarks.environments import ROOT
from benchmarks.report import ratios, tables, targets

README, PAGE = ROOT / "README.md", ROOT / "docs" / "performance.md"
BLOCK = re.compile(
    r"(<!-- figures: made by `make bench ARGS=--publish` -->\n).*?(\n<!-- end of figures -->)", re.DOTALL
)

HEAD = """# Performance

`make bench` measures every figure on this page, and `make bench ARGS=--publish` writes the page from \
`benchmarks/results.json`, which has each round. Every client sends the same messages to the same server in the same run, \
and every client that was measured is listed.

## Side by side

Absolute figures belong to a machine; ratios carry over to yours.
"""


def write(results: dict[str, Any]) -> None:
    README.write_text(readme(README.read_text(), results))
    PAGE.write_text(page(PAGE.read_text() if PAGE.exists() else "", results))


def readme(text: str, results: dict[str, Any]) -> str:
    """The README's text with these figures."""
    return BLOCK.sub(lambda found: found[1] + tables.readme(results) + found[2], text)


def page(before: str, results: dict[str, Any]) -> str:
    """The page with these figures; the notes below them, written by hand, stay as they are."""
    by_hand = before[before.index(NOTES) :] if NOTES in before else NOTES
    goals = ["\n## Targets and results\n", targets.markdown(results)]
    return "\n".join(
        [HEAD, ratios.markdown(results), *goals, "\n## All figures\n", tables.markdown(results), "", by_hand]
    )


NOTES = "## Notes\n"
