"""Writes `data/shop-day.jsonl`: a fictional day of an outdoor shop, one message per line, as Segment accepts them.

    python examples/make_shop_day.py [FILE]

The same seed gives the same bytes. It does not use the client: `demo.py` sends the file.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from random import Random

from shop.stories import come_by, refund_some
from shop.visits import JSON, MIDNIGHT, Shop, iso

FILE = Path(__file__).parent / "data" / "shop-day.jsonl"
VISITS = 440
# The relative number of visits in each hour: a quiet night, a peak at lunch and a higher one in the evening.
RHYTHM = (4, 2, 1, 1, 1, 3, 9, 17, 22, 24, 27, 30, 74, 46, 30, 29, 35, 45, 58, 80, 96, 84, 50, 20)


def shop_day(seed: int = 20261120) -> list[JSON]:
    """The messages in chronological order.

    Their ids contain the shop's name and the day, because Segment deduplicates across all its customers.
    """
    rng = Random(seed)
    shop = Shop(rng)
    hours = rng.choices(range(24), RHYTHM, k=VISITS)
    for start in sorted(MIDNIGHT + timedelta(hours=hour, milliseconds=rng.randrange(3_600_000)) for hour in hours):
        come_by(shop, start)
    refund_some(shop)
    shop.messages.sort(key=lambda entry: entry[0])
    return [
        message | {"timestamp": iso(moment), "messageId": f"kestrelandpine-2026-11-20-{number:05d}"}
        for number, (moment, message) in enumerate(shop.messages, start=1)
    ]


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    lines = (json.dumps(message, ensure_ascii=False, separators=(",", ":")) for message in shop_day())
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
