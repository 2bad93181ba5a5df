"""The last whole run's figures, put where people read them: a block of the README, and a page of all of them."""

import re
from typing import Any

from benchmarks.environments import ROOT
from benchmarks.report import tables, targets

README, PAGE = ROOT / "README.md", ROOT / "docs" / "performance.md"
BLOCK = re.compile(
    r"(<!-- figures: made by `make bench ARGS=--publish` -->\n).*?(\n<!-- end of figures -->)", re.DOTALL
)

HEAD = """# Performance

Every figure here is made by `make bench` and put here by `make bench ARGS=--publish`, out of `benchmarks/results.json`, \
which has each round. The same messages, the same server and the same run for everybody; whoever is ahead, is ahead.

## What was to be reached, and what was
"""


def write(results: dict[str, Any]) -> None:
    README.write_text(readme(README.read_text(), results))
    PAGE.write_text(page(PAGE.read_text() if PAGE.exists() else "", results))


def readme(text: str, results: dict[str, Any]) -> str:
    """The README's text, with these figures in it."""
    return BLOCK.sub(lambda found: found[1] + tables.readme(results) + found[2], text)


def page(before: str, results: dict[str, Any]) -> str:
    """The page, with what was written by hand below its figures left as it was."""
    by_hand = before[before.index(NOTES) :] if NOTES in before else NOTES
    return "\n".join([HEAD, targets.markdown(results), "\n## All of it\n", tables.markdown(results), "", by_hand])


NOTES = "## Notes\n"
