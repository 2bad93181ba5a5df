"""What `make docs` finds in the site itself: links to missing files, names that are missing in the reference."""

import zlib
from pathlib import Path

from tests.docs.blocks import ROOT
from website import build, public


def _inventory(site: Path, names: list[str]) -> None:
    head = b"# Sphinx inventory version 2\n# Project: segment_async\n# Version: \n# The rest is compressed with zlib.\n"
    lines = "".join(f"{name} py:function 1 reference/#$ -\n" for name in names)
    (site / "objects.inv").write_bytes(head + zlib.compress(lines.encode()))


def _names() -> list[str]:
    return [f"{module}.{name}" for module in public.modules() for name in public.names(module)]


def test_a_complete_reference_lacks_nothing(tmp_path: Path) -> None:
    _inventory(tmp_path, _names())
    assert build.missing_names(tmp_path) == []


def test_a_missing_name_is_reported(tmp_path: Path) -> None:
    _inventory(tmp_path, [name for name in _names() if name != "segment_async.bind"])
    assert build.missing_names(tmp_path) == ["segment_async.bind is not in the reference"]


def test_a_link_to_a_missing_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide" / "index.html").write_text(
        '<a href="../">home</a> <a href="https://example.com/x">x</a> <img src="../images/no%20such.png"> <a href="#a">a</a>'
    )
    (tmp_path / "index.html").write_text('<a href="guide/">guide</a> <link href="style.css">')
    assert build.broken_links(tmp_path) == [
        "guide/index.html links to ../images/no%20such.png, which is not there",
        "index.html links to style.css, which is not there",
    ]


def test_every_page_by_hand_is_in_the_navigation() -> None:
    listed = {path for _, path in build.navigation((ROOT / "mkdocs.yml").read_text()) if path}
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert written <= listed
