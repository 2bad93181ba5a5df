"""`/`: the page, a single HTML file that loads only the stream.

The Content-Security-Policy contains the hashes of the page's own script and style, so that no script from an event can
run.
"""

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Final

from aiohttp import web

_INLINE: Final = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def route() -> web.RouteDef:
    return web.get("/", page_of((files("segment_async.devserver") / "page.html").read_text("utf-8")))


def page_of(html: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    headers = {
        "Content-Security-Policy": policy(html),
        "Cache-Control": "no-cache",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html", headers=headers)

    return page


def policy(html: str) -> str:
    """The Content-Security-Policy for a page with inline script and style."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(hashes['script'])}",
            f"style-src {' '.join(hashes['style'])}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
