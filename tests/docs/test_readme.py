"""The README is short, says what it must at once, and its links work on a package index as well."""

import re

from tests.docs.blocks import ROOT, blocks

README = ROOT / "README.md"
TEXT = README.read_text()


def test_it_is_short() -> None:
    assert len(TEXT.split()) <= 900


def test_the_first_block_is_short_and_answers_the_first_question() -> None:
    first = blocks(README)[0]
    assert len(first.text.strip().splitlines()) <= 13
    assert "await does not wait for the network" in first.text


def test_the_first_screen_says_how_to_see_an_event() -> None:
    assert "segment-async dev" in TEXT[:1_600]


def test_every_link_and_picture_is_absolute() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert targets
    assert [target for target in targets if not target.startswith("https://")] == []


def test_every_link_into_the_documentation_has_its_page() -> None:
    site = "https://segment-async.github.io/segment-async/"
    for path in re.findall(rf"{re.escape(site)}([^)#]*)", TEXT):
        page = ROOT / "docs" / (path.rstrip("/") or "index")
        assert page.with_name(f"{page.name}.md").is_file() or (page / "index.md").is_file(), path
    for path in re.findall(r"blob/main/([^)]+)|segment-async/main/([^)]+)", TEXT):
        assert (ROOT / "".join(path)).is_file(), path
