"""The examples do what the README says of them: the day can be made again, it is valid, and the scripts run as they are.

The scripts run as a reader runs them, in a process of their own; only the demo's endpoint is sometimes another.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from segment_async.verdicts import judge

EXAMPLES = Path(__file__).parents[1] / "examples"
SHOP_DAY = EXAMPLES / "data" / "shop-day.jsonl"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def day() -> list[dict[str, Any]]:
    return [json.loads(line) for line in SHOP_DAY.read_text(encoding="utf-8").splitlines()]


class TestTheShopDay:
    def test_the_seed_gives_the_committed_bytes(self, tmp_path: Path) -> None:
        again = tmp_path / "again.jsonl"
        made = run(EXAMPLES / "make_shop_day.py", again)
        assert made.returncode == 0, made.stderr
        assert again.read_bytes() == SHOP_DAY.read_bytes()

    def test_it_is_a_busy_day_of_all_six_calls(self, day: list[dict[str, Any]]) -> None:
        assert len(day) >= 5_000
        assert {message["type"] for message in day} == {"track", "identify", "page", "screen", "group", "alias"}
        assert SHOP_DAY.stat().st_size < 5_000_000

    def test_segment_would_keep_every_message_and_miss_nothing_in_it(self, day: list[dict[str, Any]]) -> None:
        faults = [(m["messageId"], v) for m in day for v in judge(m) if v.severity in ("dropped", "spec")]
        assert faults == []

    def test_a_broken_message_would_have_been_noticed(self, day: list[dict[str, Any]]) -> None:
        broken = next(message for message in day if message["type"] == "track") | {"event": ""}
        assert [verdict.rule for verdict in judge(broken)] == ["event-missing"]

    def test_ids_are_unique_and_namespaced(self, day: list[dict[str, Any]]) -> None:
        ids = Counter(message["messageId"] for message in day)
        assert ids.most_common(1)[0][1] == 1
        assert all(message_id.startswith("kestrelandpine-2026-11-20-") for message_id in ids)

    def test_it_is_one_day_in_the_order_of_time_busiest_at_lunch_and_in_the_evening(
        self, day: list[dict[str, Any]]
    ) -> None:
        times = [message["timestamp"] for message in day]
        assert times == sorted(times)
        assert all(time.startswith("2026-11-20T") and time.endswith("Z") for time in times)
        by_hour = Counter(int(time[11:13]) for time in times)
        assert by_hour[10] < by_hour[12] > by_hour[14]
        assert by_hour[16] < by_hour[20] > by_hour[23]

    def test_sums_of_orders_add_up(self, day: list[dict[str, Any]]) -> None:
        orders = [message["properties"] for message in day if message.get("event") == "Order Completed"]
        assert len(orders) > 50
        for order in orders:
            goods = sum(item["price"] * item["quantity"] for item in order["products"])
            assert order["revenue"] == pytest.approx(goods - order["discount"])
            assert order["total"] == pytest.approx(order["revenue"] + order["shipping"] + order["tax"])

    def test_refunds_are_of_no_more_than_was_paid(self, day: list[dict[str, Any]]) -> None:
        paid = {
            message["properties"]["order_id"]: (message["timestamp"], message["properties"]["total"])
            for message in day
            if message.get("event") == "Order Completed"
        }
        refunds = [message for message in day if message.get("event") == "Order Refunded"]
        todays = [refund for refund in refunds if refund["properties"]["order_id"] in paid]
        assert len(refunds) > len(todays) > 0
        for refund in todays:
            ordered_at, total = paid[refund["properties"]["order_id"]]
            assert ordered_at < refund["timestamp"]
            assert refund["properties"]["total"] <= total

    def test_anonymous_visitors_become_known(self, day: list[dict[str, Any]]) -> None:
        aliases = [message for message in day if message["type"] == "alias"]
        for alias in aliases:
            theirs = [message for message in day if message.get("anonymousId") == alias["previousId"]]
            before = [message for message in theirs if "userId" not in message]
            after = [message for message in theirs if message.get("userId") == alias["userId"]]
            assert before and after
            assert len(before) + len(after) == len(theirs)
            assert max(m["timestamp"] for m in before) <= alias["timestamp"] <= min(m["timestamp"] for m in after)
