"""A plan from messages."""

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

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


NAMES = st.sampled_from(["a", "a.b", "type", "$ref", "properties", "required", "", "é"])
TEXTS = st.sampled_from(
    ["a", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05+01:00", "2026-99-99T99:99:99Z", "2026-02-30"]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=3), min_size=1, max_size=4))
@example([{"a": "2026-99-99T99:99:99Z"}])
def test_any_messages_follow_what_was_inferred_from_them(contents: list[dict[str, Any]]) -> None:
    messages = [track(properties=each) for each in contents]
    plan = Plan.load(infer(messages))
    assert [plan.judge(message) for message in messages] == [[] for _ in messages]
