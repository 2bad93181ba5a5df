"""Looks at pages of the built documentation in Chromium: axe's serious findings, sideways scrolling, other hosts.

    python -m website.accessibility build/axe/node_modules/axe-core/axe.min.js build/screenshots

Also takes a screenshot of each page, for people to look at.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from tests.devserver.browser import opened
from website.build import SITE

PAGES: Final = (
    "",
    "start/",
    "how-to/alerts/",
    "troubleshooting/nothing-arrives/",
    "reference/options/",
    "reference/client/",
)
WIDTHS: Final[dict[str, dict[str, Any]]] = {
    "desk": {"viewport": {"width": 1360, "height": 900}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "is_mobile": True,
        "has_touch": True,
        "device_scale_factor": 2,
    },
}
SERIOUS: Final = ("serious", "critical")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the base class's name
        """Say nothing."""


@contextmanager
def served() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(SITE)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def problems_of(url: str, axe: str, picture: Path, **context: Any) -> list[str]:
    """What is wrong with one page."""
    async with opened(url, **context) as page:
        loaded = await page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
        found = [f"loads {each}" for each in loaded if not each.startswith("http://127.0.0.1:")]
        if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append("scrolls sideways")
        await page.evaluate(axe)
        result = await page.evaluate("axe.run()")
        found += [
            f"{each['impact']} ({each['id']}): {each['nodes'][0]['html'][:120]}"
            for each in result["violations"]
            if each["impact"] in SERIOUS
        ]
        await page.screenshot(path=picture)
    return found


async def main(axe: str, folder: Path) -> int:
    count = 0
    with served() as base:
        for path in PAGES:
            for width, context in WIDTHS.items():
                for scheme in ("light", "dark"):
                    name = f"{path.strip('/').replace('/', '-') or 'index'}-{width}-{scheme}"
                    found = await problems_of(
                        f"{base}/{path}", axe, folder / f"{name}.png", color_scheme=scheme, **context
                    )
                    for problem in found:
                        print(f"{name}: {problem}")
                    count += len(found)
    print(f"{count} serious findings; screenshots are in {folder}")
    return 1 if count else 0


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    sys.exit(asyncio.run(main(Path(sys.argv[1]).read_text(), Path(sys.argv[2]))))
