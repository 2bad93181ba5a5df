"""Messages of one shape are judged once: what was judged before never changes what a message gets."""

import itertools
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment_async.importing._judging import Judge
from segment_async.importing._values import dumps
from website.rules import EXAMPLES

CLEAN = {
    "type": "track",
    "userId": "u1",
    "event": "Order Completed",
    "properties": {"total": 1.5, "currency": "EUR"},
    "integrations": {"All": False},
    "messageId": "id-1",
}
OTHERS = [
    CLEAN | {"userId": ""},
    {name: value for name, value in CLEAN.items() if name != "userId"},
    CLEAN | {"anonymousId": "a1"},
    CLEAN | {"event": ""},
    CLEAN | {"event": 7},
    CLEAN | {"event": ["Order Completed"]},
    CLEAN | {"properties": {"total": "1.5", "currency": "EUR"}},
    CLEAN | {"properties": {"total": 1.5, "currency": 7}},
    CLEAN | {"properties": {"total": 1.5, "products": [{"price": "much"}]}},
    CLEAN | {"properties": {"total": 1.5, "products": [{"price": 3.5}]}},
    CLEAN | {"properties": ["total"]},
    CLEAN | {"properties": "total"},
    CLEAN | {"integrations": {"All": "false"}},
    CLEAN | {"integrations": {"All": {"nested": True}}},
    CLEAN | {"traits": {"total": 1.5}},
    CLEAN | {"traits": {"createdAt": "yesterday"}},
    CLEAN | {"traits": {"createdAt": "2024-05-01T10:00:00Z"}},
    CLEAN | {"properties": {"createdAt": "yesterday"}, "traits": {}},
    CLEAN | {"properties": {}, "traits": {"createdAt": "yesterday"}},
    CLEAN | {"context": {"ip": 7}},
    CLEAN | {"context": {"ip": "203.0.113.7"}},
    CLEAN | {"messageId": "i" * 100},
    CLEAN | {"properties": {"total": 1.5, "currency": "E" * 33_000}},
    CLEAN | {"type": "identify"},
    CLEAN | {"type": "identify", "integrations": {"Customer.io": False}},
    CLEAN | {"type": "identify", "integrations": {"Customer.io": True}},
    CLEAN | {"type": "identify", "integrations": {"Customer.io": True}, "traits": {"email": ""}},
    CLEAN | {"type": "identify", "integrations": {"Customer.io": True}, "traits": {"email": "a@example.com"}},
]


def judged(judge, message):
    found = []
    content = dumps({name: value for name, value in message.items() if name != "messageId"})
    return judge.problem(message, content, found), found


def fresh(strict):
    return Judge(strict=strict, plan=None, rejects_violations=False)


@pytest.mark.parametrize("strict", [False, True])
def test_a_message_gets_the_same_whatever_was_judged_before(strict):
    expected = [judged(fresh(strict), message) for message in (CLEAN, *OTHERS)]
    assert expected[0] == (None, [])
    assert sum(problem is not None for problem, _ in expected) > 6
    judge = fresh(strict)
    for (message, first), (other, second) in itertools.product(zip((CLEAN, *OTHERS), expected, strict=True), repeat=2):
        assert judged(judge, message) == first
        assert judged(judge, other) == second


TEXTS = st.sampled_from(
    ["x", "EUR", "Order Completed", "a@example.com", "2024-05-01T10:00:00Z", "https://a.example", "7"]
)
# Without those about times, which are read and written before a message is judged.
RULES = [
    message
    for message, _ in EXAMPLES
    if isinstance(message, dict) and isinstance(message.get("messageId"), str) and "timestamp" not in message
]


@st.composite
def of_the_same_shape(draw, value):
    """Names and types as in `value`, with other values."""
    if isinstance(value, dict):
        fixed = ("type", "event", "messageId")
        return {name: each if name in fixed else draw(of_the_same_shape(each)) for name, each in value.items()}
    if isinstance(value, list):
        return [draw(of_the_same_shape(each)) for each in value]
    if isinstance(value, bool):
        return draw(st.booleans())
    if isinstance(value, (int, float)):
        return type(value)(draw(st.integers(0, 99)))
    return draw(TEXTS) if isinstance(value, str) else value


@pytest.mark.parametrize("example", RULES)
@given(data=st.data())
def test_no_rule_is_passed_over_after_a_message_of_the_same_shape(example, data):
    """A rule that looks at a value is one that `_is_told_by_shape` must know."""
    other = data.draw(of_the_same_shape(example))
    judge = fresh(True)
    judged(judge, other)
    assert judged(judge, example) == judged(fresh(True), example)


@pytest.mark.parametrize("value", [Decimal("30.50"), Decimal("12345678901234567890.12"), Decimal(2**70), Decimal(7)])
def test_a_decimal_travels_as_a_number(value):
    good = CLEAN | {"properties": {"total": value, "products": [{"price": value}]}}
    bad = CLEAN | {"properties": {"currency": value}}
    for message, expected in ((good, None), (bad, ("field-type", "properties.currency"))):
        problem, _ = judged(fresh(True), message)
        assert (problem and (problem.rule, problem.path)) == expected


def test_not_a_number_travels_as_null():
    nan = float("nan")
    message = CLEAN | {"properties": {"total": nan, "currency": nan}}
    assert judged(fresh(True), message) == (None, [])
    wrong = CLEAN | {"properties": {"total": "1.5", "currency": nan}}
    assert judged(fresh(True), wrong)[0].path == "properties.total"


@pytest.mark.parametrize("event", [date(2024, 5, 1), datetime(2024, 5, 1, tzinfo=UTC), UUID(int=1), b"A", ("A",)])
def test_an_event_that_the_client_refuses_is_rejected(event):
    problem, _ = judged(fresh(False), CLEAN | {"event": event})
    assert (problem.rule, problem.path) == ("field-type", "event")
