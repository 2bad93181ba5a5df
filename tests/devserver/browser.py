"""Chromium, driven by Playwright, for the tests. This file can be imported without Playwright."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
# For Debian's Chromium run by root, and without the requests that a browser sends at its start.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]

Page = Any


@asynccontextmanager
async def opened(url: str, *, faultless: bool = True, **context: Any) -> AsyncIterator[Page]:
    """A new page. Fails at the end if its script raised or violated its policy."""
    from playwright.async_api import async_playwright

    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try:
            held = await browser.new_context(**{"viewport": {"width": 1360, "height": 860}, **context})
            await held.grant_permissions(["clipboard-read", "clipboard-write"])
            page = await held.new_page()
            page.set_default_timeout(10_000)
            faults: list[str] = []
            page.on("pageerror", lambda fault: faults.append(str(fault)))
            page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
            await page.goto(url)
            yield page
            assert not (faultless and faults), faults
        finally:
            await browser.close()
