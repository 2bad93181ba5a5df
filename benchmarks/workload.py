"""The messages that every contestant sends: the same ones, each computed from its number without randomness.

Pure, and it uses only the standard library, since it runs in each contestant's interpreter. `workload.mjs` builds the
same messages in Node from the same tables; a test compares the two. Every message is a new object, strings included, as
in an application: a client that keeps what it is given keeps all of it.

`python -m benchmarks.workload` prints the tables as JSON.
"""

import json
import random
import sys
from collections.abc import Callable
from typing import Any

Call = tuple[str, str, dict[str, Any], dict[str, Any]]
"""The arguments of a call: user id, event, properties, context."""

EVENTS = ["Product Viewed", "Product Added", "Cart Viewed", "Checkout Started", "Order Completed", "Coupon Applied"]
CATEGORIES = ["shoes", "jackets", "trousers", "bags", "watches", "outdoor", "home", "sale"]
BRANDS = ["Northwind", "Contoso", "Fabrikam", "Tailspin", "Adventure Works", "Litware"]
COLOURS = ["black", "white", "navy", "olive", "burgundy", "sand", "teal"]
PRODUCTS = 60
TAGS = ["spring", "bestseller", "members", "clearance", "new", "gift"]
WAREHOUSES = ["berlin-2", "leeds-1", "porto-4"]
AGENTS = [
    f"Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) {browser}.0.0.0 Safari/537.36"
    for system in ("Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10_15_7", "X11; Linux x86_64")
    for browser in ("Chrome/139", "Chrome/140", "Chrome/141", "Edg/141")
]


def tables(seed: int = 2026) -> dict[str, list[Any]]:
    """Random values, drawn by index. The lengths are primes, so that no two tables repeat together."""
    rng = random.Random(seed)
    return {
        "numbers": [rng.getrandbits(40) for _ in range(8191)],
        "users": [rng.randrange(10_000, 99_999) for _ in range(4999)],
        # Never whole: Python writes 12.0 where JavaScript writes 12.
        "prices": [rng.randrange(5, 400) + rng.choice((0.25, 0.49, 0.75, 0.99)) for _ in range(499)],
        "addresses": [[rng.randrange(1, 255) for _ in range(4)] for _ in range(2999)],
    }


TABLES = tables()
NUMBERS, USERS, PRICES, ADDRESSES = TABLES["numbers"], TABLES["users"], TABLES["prices"], TABLES["addresses"]


def small(i: int) -> Call:
    """About 278 bytes: a few properties, no context."""
    number = NUMBERS[i % 8191]
    return (
        f"user-{USERS[i % 4999]}",
        EVENTS[number % 6],
        {"sku": f"SKU-{number % 100_000:05d}", "price": PRICES[i % 499], "currency": "EUR"},
        {},
    )


def medium(i: int) -> Call:
    """About 756 bytes: a dozen properties with a nested object and a list, context with address and user agent."""
    number, user, price = NUMBERS[i % 8191], USERS[i % 4999], PRICES[i % 499]
    category, colour = CATEGORIES[number % 8], COLOURS[number % 7]
    one, two, three, four = ADDRESSES[i % 2999]
    properties = {
        "order_id": f"ord_{number:010x}",
        "product_id": f"SKU-{number % 100_000:05d}",
        "name": f"{BRANDS[number % 6]} {colour} {category}",
        "category": category,
        "price": price,
        "quantity": 1 + number % 4,
        "currency": "EUR",
        "coupon": None if number % 3 else "WELCOME10",
        "url": f"https://shop.example.com/{category}/{number % 100_000:05d}?ref={number % 977}",
        "logged_in": number % 2 == 0,
        "checkout": {"step": 1 + number % 5, "method": "card", "express": number % 5 == 0},
        "tags": [TAGS[number % 6], TAGS[number % 5]],
        "session_id": f"{NUMBERS[user % 8191]:010x}",
        "warehouse": WAREHOUSES[number % 3],
    }
    context = {"ip": f"{one}.{two}.{three}.{four}", "userAgent": AGENTS[user % 12], "locale": "en-GB"}
    return f"user-{user}", EVENTS[number % 6], properties, context


def large(i: int) -> Call:
    """About 8 KB: the medium one with a cart of products."""
    user_id, event, properties, context = medium(i)
    properties["products"] = [_product(i + position) for position in range(PRODUCTS)]
    return user_id, event, properties, context


def _product(i: int) -> dict[str, Any]:
    number = NUMBERS[i % 8191]
    return {
        "product_id": f"SKU-{number % 100_000:05d}",
        "name": f"{BRANDS[number % 6]} {COLOURS[number % 7]} {CATEGORIES[number % 8]}",
        "price": PRICES[i % 499],
        "quantity": 1 + number % 4,
        "variant": f"{number % 46 + 1}-{COLOURS[number % 5]}",
        "position": i % PRODUCTS,
    }


MAKERS: dict[str, Callable[[int], Call]] = {"small": small, "medium": medium, "large": large}
SIZES = {"small": 278, "medium": 756, "large": 8_100}
"""Average bytes of one message's JSON on the wire, rounded."""

BROWSER_HEADERS = (
    ("Host", "shop.example"),
    ("sec-ch-ua", '"Chromium";v="142", "Not A;Brand";v="99"'),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", '"macOS"'),
    ("User-Agent", f"{AGENTS[4].rpartition('Chrome')[0]}Chrome/142.0.0.0 Safari/537.36"),
    ("Accept", "application/json"),
    ("Accept-Language", "de-CH,de;q=0.9,en;q=0.8"),
    ("Referer", "https://shop.example/shoes/42?utm_source=mail"),
    ("Cookie", "theme=dark; ajs_anonymous_id=3b9ae1a7-2d3e-4a44-9d4c-0d1ab2a0a9d1; cart=17"),
)
"""What a browser sends with a request; web middleware reads several of these."""


def on_the_wire(call: Call, i: int = 0) -> dict[str, Any]:
    """The message a call becomes, with an id and a timestamp of the usual length."""
    user_id, event, properties, context = call
    return {
        "type": "track",
        "messageId": f"{i:032x}",
        "timestamp": "2026-11-21T19:20:03.047Z",
        "userId": user_id,
        "event": event,
        "properties": properties,
        "context": {**context, "library": {"name": "segment-async", "version": "0.1.0"}},
    }


if __name__ == "__main__":
    json.dump(TABLES, sys.stdout)
