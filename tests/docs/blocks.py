"""The code blocks of a page of the documentation, with the remarks that say how to run them.

A remark is a comment directly above a block: `<!-- with: flask -->`. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_BLOCK: Final = re.compile(
    r"(?P<remarks>(?:^[ ]*<!-- [^\n]* -->\n)*)^(?P<indent>[ ]*)```(?P<language>\w*)(?P<options>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_REMARK: Final = re.compile(r"<!-- (.+?) -->")
_TITLE: Final = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One code block. `title` is the name of the file that it shows, or empty."""

    page: str
    number: int
    language: str
    title: str
    text: str
    remarks: tuple[str, ...]

    def remark(self, name: str) -> str | None:
        """The text after `name:` of a remark; empty for a remark without a colon; `None` without the remark."""
        for remark in self.remarks:
            head, _, text = remark.partition(": ")
            if head == name:
                return text
        return None

    def __str__(self) -> str:
        return f"{self.page}, block {self.number}"


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path) -> list[Block]:
    return list(_read(path.read_text(), str(path.relative_to(ROOT))))


def _read(text: str, page: str) -> Iterator[Block]:
    for number, found in enumerate(_BLOCK.finditer(text)):
        title = _TITLE.search(found["options"])
        indent = found["indent"]
        yield Block(
            page,
            number,
            found["language"],
            title[1] if title else "",
            "".join(line.removeprefix(indent) for line in found["text"].splitlines(keepends=True)),
            tuple(_REMARK.findall(found["remarks"])),
        )
