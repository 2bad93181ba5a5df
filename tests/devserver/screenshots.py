"""Takes the screenshots for the documentation: a shop's day, sent to the endpoint, in a browser.

    python -m tests.devserver.screenshots docs/images

Needs the same programs as the tests of the page. This is not a test: look at the pictures yourself.
"""

import asyncio
import json
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from segment_async.devserver import serve
from tests.devserver.browser import Page, opened
from tests.devserver.exchange import body

DAY = Path(__file__).parents[2] / "examples" / "data" / "shop-day.jsonl"
SECONDS = 75
DESK: dict[str, Any] = {"viewport": {"width": 1320, "height": 820}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}
WRONG = {
    "type": "track",
    "event": "order completed",
    "userId": "ada@example.com",
    "messageId": "order-10423",
    "timestamp": "2026-11-20T19:20:03",
    "properties": {
        "order_id": "o-10423",
        "revenue": "129.90",
        "currency": "EUR",
        "products": [{"product_id": "wool-throw", "price": 129.9, "quantity": 1}],
        "customer": {"loyalty": 4, "access_token": "…"},
    },
}


def shoppers(chance: random.Random) -> Iterator[dict[str, Any]]:
    """The messages of the day's busy hours with the current time; a few of them have typical mistakes."""
    for line in DAY.read_text().splitlines()[2_000:]:
        message = json.loads(line)
        message["timestamp"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        mistake = chance.random()
        if mistake < 0.02:
            message = {name: value for name, value in message.items() if name not in ("userId", "anonymousId")}
        elif mistake < 0.05:
            message["timestamp"] = message["timestamp"].removesuffix("Z")
        elif mistake < 0.08 and "event" in message:
            message["event"] = message["event"].lower().replace(" ", "_")
        yield message


async def fill(session: aiohttp.ClientSession, chance: random.Random) -> None:
    """Send traffic of a little more than a minute, in waves, with one request that Segment would refuse."""
    messages = shoppers(chance)
    for tick in range(SECONDS * 4):
        wave = 3 + tick // 30 % 4 * 2 + chance.randrange(6)
        batch = [next(messages) for _ in range(wave)]
        if tick == SECONDS * 3:
            batch.append({**WRONG, "note": "x" * 40_000})
        source = chance.choice(["shop-web", "shop-web", "shop-api"])
        headers = {"X-Retry-Count": "1"} if chance.random() < 0.04 else {}
        async with session.post("/v1/batch", data=body(*batch, writeKey=source), headers=headers):
            pass
        await asyncio.sleep(0.25)
    async with session.post("/v1/batch", data=body(next(messages), WRONG, next(messages), writeKey="shop-api")):
        pass


async def look(url: str, folder: Path) -> None:
    async with opened(url, color_scheme="light", **DESK) as page:
        await page.locator(".row").first.wait_for()
        await page.wait_for_timeout(1_500)
        await page.screenshot(path=folder / "dev-light.png")
    async with opened(url, color_scheme="dark", **DESK) as page:
        await page.get_by_text("By verdict").click()
        await open_the_wrong_one(page)
        await page.screenshot(path=folder / "dev-dark.png")
    async with opened(url, color_scheme="dark", **PHONE) as page:
        await open_the_wrong_one(page)
        await page.screenshot(path=folder / "dev-phone.png")


async def open_the_wrong_one(page: Page) -> None:
    await page.locator(".row", has_text="order completed").first.click()
    await page.wait_for_timeout(1_500)


async def main(folder: Path) -> None:
    async with serve(port=8765) as endpoint, aiohttp.ClientSession(endpoint.url) as session:
        await fill(session, random.Random(7))
        await look(endpoint.url, folder)


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    asyncio.run(main(Path(sys.argv[1])))
