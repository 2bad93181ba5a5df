"""A plan from messages."""

import json
from typing import Any

from segment_async.plans import Plan, infer
from tests.plans.samples import track

MESSAGES: list[dict[str, Any]] = [
    track(properties={"total": 3, "paid_at": "2026-01-02T03:04:05Z", "products": [{"sku": "SECRET", "price": 1}]}),
    track(properties={"total": 2.5, "paid_at": "2026-01-02T03:04:05Z", "coupon": None, "products": [{"sku": "b"}]}),
    {"type": "identify", "userId": "u", "traits": {"email": "SECRET"}},
    {"type": "page", "userId": "u", "name": "Home", "properties": {"path": "/"}},
    {"type": "track", "userId": "u"},
    {"type": "alias", "userId": "u"},
]


def test_what_was_seen() -> None:
    inferred = infer(MESSAGES)
    assert [(rule["type"], rule["key"]) for rule in inferred["rules"]] == [
        ("IDENTIFY", None),
        ("TRACK", "Order Completed"),
        ("TRACK", "Page Viewed"),
    ]
    assert inferred["rules"][1]["jsonSchema"]["properties"]["properties"] == {
        "type": "object",
        "properties": {
            "coupon": {"type": "null"},
            "paid_at": {"type": "string", "format": "date-time"},
            "products": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"price": {"type": "integer"}, "sku": {"type": "string"}},
                    "required": ["sku"],
                },
            },
            "total": {"type": "number"},
        },
        "required": ["paid_at", "products", "total"],
    }
    assert "SECRET" not in json.dumps(inferred)


def test_the_messages_follow_it() -> None:
    plan = Plan.load(infer(MESSAGES))
    assert [plan.judge(message) for message in MESSAGES[:4]] == [[], [], [], []]
