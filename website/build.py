"""`python -m website.build` makes the documentation in `site/`, and fails on what is missing or broken in it.

The pages by hand and those from the code are put into one folder, and Zensical makes the site from that. Zensical fails
on links, anchors and references that lead nowhere; afterwards this file checks what it does not look at: files that are
linked, and that every public name is in the reference. At last it writes `llms.txt`, and each page's text beside it.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from website import public, reference

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "build" / "website"
SITE: Final = ROOT / "site"
CONFIG: Final = ROOT / "mkdocs.yml"
URL: Final = "https://segment-async.github.io/segment-async/"


def main() -> None:
    # The table of values has a naive datetime, about which the package would warn.
    logging.getLogger("segment_async").setLevel(logging.ERROR)
    problems = [f"{name} has no docstring" for name in public.undocumented()]
    if not problems:
        collect()
        command = [Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean"]
        if subprocess.run(command, check=False, cwd=SOURCE).returncode:
            sys.exit("The documentation has errors; see above.")
        shutil.rmtree(SITE, ignore_errors=True)
        shutil.move(SOURCE / "site", SITE)
        write_texts()
        problems = [*missing_names(), *broken_links()]
    if problems:
        sys.exit("\n".join(["The documentation has errors:", *problems]))
    print(f"The documentation is in {SITE.relative_to(ROOT)}/index.html")


def collect() -> None:
    """Put all pages and the configuration into one folder."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCE / "docs")
    for path, text in reference.pages().items():
        (SOURCE / "docs" / path).parent.mkdir(parents=True, exist_ok=True)
        (SOURCE / "docs" / path).write_text(text)
    modules = "".join(f"\n          - {name}: {reference.module_path(name)}" for name in public.modules()[1:])
    made = {
        "paths: [.]  # made": f"paths: [{ROOT}]",
        "- Modules: []  # made": f"- Modules:{modules}",
    }
    config = CONFIG.read_text()
    for mark, text in made.items():
        assert mark in config, mark
        config = config.replace(mark, text)
    (SOURCE / "mkdocs.yml").write_text(without_missing(config))


def without_missing(config: str) -> str:
    """The configuration without the pages that are still to be written."""
    pages = re.findall(r"^ +- .*: (\S+)  # once it is there\n", config, re.MULTILINE)
    for page in pages:
        if not (SOURCE / "docs" / page).exists():
            config = re.sub(rf"^ +- .*: {re.escape(page)} .*\n", "", config, flags=re.MULTILINE)
    return config


def missing_names(site: Path = SITE) -> list[str]:
    """Public names without an entry in the inventory of the reference."""
    head, packed = re.split(rb"(?<=zlib\.\n)", (site / "objects.inv").read_bytes(), maxsplit=1)
    assert head.startswith(b"# Sphinx inventory version 2")
    listed = {line.split(" ", 1)[0] for line in zlib.decompress(packed).decode().splitlines()}
    wanted = [f"{module}.{name}" for module in public.modules() for name in public.names(module)]
    return [f"{name} is not in the reference" for name in wanted if name not in listed]


# -- links to files


class _Targets(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {value for name, value in attrs if name in ("href", "src") and value}


def broken_links(site: Path = SITE) -> list[str]:
    """Links and pictures of the site whose file does not exist."""
    problems = []
    for page in sorted(site.rglob("*.html")):
        if page.name == "404.html":
            continue  # its links are absolute, from the site's root
        parser = _Targets()
        parser.feed(page.read_text())
        for target in sorted(parser.found):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or not parts.path:
                continue
            file = page.parent / unquote(parts.path)
            if not (file / "index.html" if file.is_dir() else file).exists():
                problems.append(f"{page.relative_to(site)} links to {target}, which is not there")
    return problems


# -- for programs that read


def write_texts() -> None:
    """Write a list of the pages, and the text of each page as it was before it became HTML."""
    lines = ["# segment_async", "", "> The asyncio-native Python SDK for Segment's tracking API.", ""]
    for title, path in navigation((SOURCE / "mkdocs.yml").read_text()):
        if not path:
            lines += ["", f"## {title}", ""]
            continue
        text = re.sub(r"^ *<!-- .*? -->\n", "", (SOURCE / "docs" / path).read_text(), flags=re.MULTILINE)
        folder = SITE / (path.removesuffix(".md").removesuffix("index") or ".")
        (folder / "index.md").write_text(text)
        head = re.search(r"^# (.+)$", text, re.MULTILINE)
        assert head is not None, path
        address = URL + str((folder / "index.md").relative_to(SITE))
        lines.append(f"- [{head[1].replace('`', '')}]({address})")
    (SITE / "llms.txt").write_text("\n".join(lines) + "\n")


def navigation(config: str) -> list[tuple[str, str]]:
    """The entries of the configuration's navigation in order, as title and path; a section has no path."""
    entries = re.findall(
        r'^ +- (?:"?(?P<title>[^":\n]+)"?:)?(?: *(?P<path>[\w./-]+\.md))?(?:  # .*)?$',
        config[config.index("nav:") :],
        re.MULTILINE,
    )
    return [(title, path) for title, path in entries]


if __name__ == "__main__":
    main()
