"""The rules: each one applies to a message that violates it, and to no other."""

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment_async import Client, MessageError
from segment_async._message.build import MAX_MESSAGE_ID
from segment_async._pipeline.batch import MAX_BATCH_MESSAGES
from segment_async.messages import MAX_MESSAGE_BYTES
from segment_async.verdicts import BATCH_MESSAGES, MESSAGE_BYTES, MESSAGE_ID_CHARACTERS, SEVERITIES, judge
from website.rules import EXAMPLES


def message(**fields: Any) -> dict[str, Any]:
    """A valid message with these `fields` replaced; None removes a field."""
    given = {
        "type": "track",
        "event": "Article Bookmarked",
        "userId": "u1",
        "messageId": "m1",
        "timestamp": "2026-11-21T19:20:03.047Z",
        **fields,
    }
    return {name: value for name, value in given.items() if value is not None}


def findings(judged: object) -> list[tuple[str, str, str]]:
    return [(verdict.severity, verdict.rule, verdict.path) for verdict in judge(judged)]


@pytest.mark.parametrize(
    "good",
    [
        message(),
        message(userId=None, anonymousId="a1"),
        message(userId="0"),
        message(timestamp="2026-11-21T19:20:03+01:00"),
        message(timestamp="2026-11-21t19:20:03.047123456z"),
        message(properties={"revenue": 30.5, "currency": "EUR", "value": 3, "products": [{"price": "any"}]}),
        message(
            event="Order Completed", properties={"total": 30.5, "products": [{"sku": "a", "price": 1, "quantity": 2}]}
        ),
        message(event="Order Completed", properties={"coupon": None, "total": None}),
        message(integrations={"All": False, "Mixpanel": {"distinctId": "x"}, "Vero": True}),
        message(context={"active": True, "ip": "1.2.3.4", "device": {"token": "push"}, "traits": {"email": "a@b.c"}}),
        message(type="identify", event=None, traits={"email": "a@b.c", "age": 30, "birthday": "1990-05-01"}),
        message(type="identify", event=None, traits={"createdAt": "2026-03-01T09:00:00Z", "address": {"city": "Graz"}}),
        message(type="group", event=None, groupId="g1", traits={"employees": "51-200"}),
        message(type="group", event=None, groupId="g1", traits={"employees": 120}),
        message(type="alias", event=None, previousId="a1"),
        message(type="page", event=None, category="Shop", name="Home", properties={"keywords": ["a"]}),
        message(type="screen", event=None),
        message(properties={"title": 7, "search": {"text": "x"}, "keywords": "a b", "products": 3, "discount": "none"}),
        message(event="Product Tour Completed", properties={"position": "first", "price": "free"}),
        message(event="Promotion Clicked", properties={"position": "home_banner_top"}),
        message(type="page", event=None, properties={"revenue": "none", "products": 3}),
        message(type="group", event=None, groupId="g1", traits={"age": "new", "title": 1, "company": "Initech"}),
        message(type="identify", event=None, traits={"employees": [], "industry": 7, "company": {"id": 7}}),
        message(context={"screen": {"width": 320}, "network": {"wifi": True}, "traits": {"industry": 1}}),
        message(
            properties={"token_count": 3, "password_reset_at": "never", "card": {"number": "1"}, "secretary": "Ada"}
        ),
    ],
)
def test_a_good_message_has_no_findings(good: dict[str, Any]) -> None:
    assert findings(good) == []


@pytest.mark.parametrize(
    ("bad", "severity", "rule", "path"),
    [
        # would be dropped
        (message(userId=None), "dropped", "id-missing", "userId"),
        (message(userId="", anonymousId=""), "dropped", "id-missing", "userId"),
        (
            message(type="alias", event=None, previousId="p", userId=None, anonymousId="a"),
            "dropped",
            "id-missing",
            "userId",
        ),
        (message(type="alias", event=None), "dropped", "previous-id-missing", "previousId"),
        (message(type="group", event=None), "dropped", "group-id-missing", "groupId"),
        (message(event=None), "dropped", "event-missing", "event"),
        (message(event=""), "dropped", "event-missing", "event"),
        (message(messageId="m" * 100), "dropped", "message-id-long", "messageId"),
        (message(padding="x" * 32_768), "dropped", "message-too-large", ""),
        # against the spec
        (message(type="tarck"), "spec", "type-unknown", "type"),
        (message(type=None), "spec", "type-unknown", "type"),
        (message(type=["track"]), "spec", "type-unknown", "type"),
        (message(userId=7), "spec", "id-type", "userId"),
        (message(userId=0), "spec", "id-type", "userId"),
        (message(anonymousId={"id": 1}), "spec", "id-type", "anonymousId"),
        (message(messageId=7), "spec", "id-type", "messageId"),
        (message(event=7), "spec", "field-type", "event"),
        (message(timestamp="2026-11-21T19:20:03"), "spec", "timestamp-zone", "timestamp"),
        (message(timestamp="2026-11-21 19:20"), "spec", "timestamp-zone", "timestamp"),
        (message(timestamp="yesterday"), "spec", "timestamp-format", "timestamp"),
        (message(timestamp="2026-11-21"), "spec", "timestamp-format", "timestamp"),
        (message(timestamp="2026-02-30T19:20:03Z"), "spec", "timestamp-format", "timestamp"),
        (message(timestamp=1_800_000_000), "spec", "timestamp-format", "timestamp"),
        (message(originalTimestamp="2026-11-21T19:20:03"), "spec", "timestamp-zone", "originalTimestamp"),
        (message(properties=[1]), "spec", "field-type", "properties"),
        (message(context="web"), "spec", "field-type", "context"),
        (message(integrations=True), "spec", "field-type", "integrations"),
        (message(integrations={"All": "yes"}), "spec", "field-type", "integrations.All"),
        (message(properties={"revenue": "30.50"}), "spec", "field-type", "properties.revenue"),
        (message(properties={"revenue": True}), "spec", "field-type", "properties.revenue"),
        (message(event="Order Completed", properties={"total": "9"}), "spec", "field-type", "properties.total"),
        (message(event="Cart Viewed", properties={"products": ["x"]}), "spec", "field-type", "properties.products[0]"),
        (
            message(event="Product Added", properties={"products": [{}, {"price": "1"}]}),
            "spec",
            "field-type",
            "properties.products[1].price",
        ),
        (
            message(event="Product Added to Wishlist", properties={"quantity": "1"}),
            "spec",
            "field-type",
            "properties.quantity",
        ),
        (message(event="Checkout Step Viewed", properties={"step": "2"}), "spec", "field-type", "properties.step"),
        (message(event="Promotion Viewed", properties={"position": 1}), "spec", "field-type", "properties.position"),
        (message(type="page", event=None, properties={"url": 7}), "spec", "field-type", "properties.url"),
        (message(type="page", event=None, properties={"keywords": "a"}), "spec", "field-type", "properties.keywords"),
        (message(type="screen", event=None, properties={"name": 7}), "spec", "field-type", "properties.name"),
        (message(context={"ip": 1}), "spec", "field-type", "context.ip"),
        (message(context={"active": "yes"}), "spec", "field-type", "context.active"),
        (message(context={"screen": {"width": "320"}}), "spec", "field-type", "context.screen.width"),
        (message(context={"page": {"path": 1}}), "spec", "field-type", "context.page.path"),
        (message(context={"traits": {"age": "30"}}), "spec", "field-type", "context.traits.age"),
        (message(type="identify", event=None, traits={"company": "Initech"}), "spec", "field-type", "traits.company"),
        (
            message(type="identify", event=None, traits={"company": {"employee_count": "9"}}),
            "spec",
            "field-type",
            "traits.company.employee_count",
        ),
        (message(type="identify", event=None, traits={"first_name": 7}), "spec", "field-type", "traits.first_name"),
        (
            message(type="identify", event=None, traits={"created_at": "2026-03-01T09:00"}),
            "spec",
            "timestamp-zone",
            "traits.created_at",
        ),
        (
            message(type="identify", event=None, traits={"birthday": "1990-13-01"}),
            "spec",
            "timestamp-format",
            "traits.birthday",
        ),
        (
            message(type="group", event=None, groupId="g1", traits={"industry": 7}),
            "spec",
            "field-type",
            "traits.industry",
        ),
        (message(type="identify", event=None, traits={"age": "30"}), "spec", "field-type", "traits.age"),
        (message(type="identify", event=None, traits={"createdAt": 1}), "spec", "timestamp-format", "traits.createdAt"),
        (
            message(type="identify", event=None, traits={"createdAt": "2026-03-01T09:00"}),
            "spec",
            "timestamp-zone",
            "traits.createdAt",
        ),
        (message(type="page", event=None, name=7), "spec", "field-type", "name"),
        (message(type="screen", event=None, category={}), "spec", "field-type", "category"),
        # not recommended
        (message(messageId=None), "style", "message-id-missing", "messageId"),
        (message(event="order_completed"), "style", "event-name", "event"),
        (message(event="Order completed"), "style", "event-name", "event"),
        (message(event="Completed"), "style", "event-name", "event"),
        (message(event="Complete Order"), "style", "event-name", "event"),
        (message(event="Order  Completed"), "style", "event-name", "event"),
        (message(event="Order 10423 Completed"), "style", "event-dynamic", "event"),
        (message(event="Invite Sent To a@b.c"), "style", "event-dynamic", "event"),
        (message(userId="ada@example.com"), "style", "id-email", "userId"),
        (message(type="group", event=None, groupId="a@example.com"), "style", "id-email", "groupId"),
        (message(userId="undefined"), "style", "id-placeholder", "userId"),
        (message(anonymousId="None"), "style", "id-placeholder", "anonymousId"),
        (message(properties={"api_key": "x"}), "style", "key-secret", "properties.api_key"),
        (message(properties={"a": [{"userPassword": "x"}]}), "style", "key-secret", "properties.a[0].userPassword"),
        (message(context={"session": {"Auth-Token": 1}}), "style", "key-secret", "context.session.Auth-Token"),
        (message(properties={"creditCardNumber": 1}), "style", "key-secret", "properties.creditCardNumber"),
        (message(properties={"customer": {"email": 1}}), "style", "key-personal", "properties.customer.email"),
        (message(properties={"billing_phone_number": 1}), "style", "key-personal", "properties.billing_phone_number"),
        (message(context={"email": "a@b.c"}), "style", "key-personal", "context.email"),
        (message(type="identify", event=None, traits={"ssn": "1"}), "style", "key-secret", "traits.ssn"),
    ],
)
def test_each_rule(bad: dict[str, Any], severity: str, rule: str, path: str) -> None:
    assert findings(bad) == [(severity, rule, path)]


@pytest.mark.parametrize(
    "event", ["Signed Up", "Invite Sent", "Added to Cart", "API Key Created", "Video Playback Started", "2FA Enabled"]
)
def test_object_action(event: str) -> None:
    assert findings(message(event=event)) == []


@pytest.mark.parametrize("nonsense", [None, 1, "track", [], [message()], True])
def test_anything_but_an_object_would_be_dropped(nonsense: object) -> None:
    assert findings(nonsense) == [("dropped", "not-an-object", "")]


def test_the_most_severe_comes_first() -> None:
    bad = message(userId="ada@example.com", event="", timestamp="now", messageId=None)
    assert [severity for severity, _, _ in findings(bad)] == ["dropped", "spec", "style", "style"]


def test_the_limits_are_exact() -> None:
    rest = len(json.dumps(message(padding=""), separators=(",", ":")))
    assert findings(message(padding="x" * (32_768 - rest))) == []
    assert findings(message(padding="x" * (32_769 - rest))) == [("dropped", "message-too-large", "")]
    assert findings(message(padding="é" * ((32_770 - rest) // 2))) == [("dropped", "message-too-large", "")]
    assert findings(message(messageId="m" * 99)) == []


def test_a_given_size_is_used() -> None:
    assert [verdict.rule for verdict in judge(message(), size=40_000)] == ["message-too-large"]


def test_no_text_repeats_a_value() -> None:
    bad = message(
        userId="ada@secret.example", event="Ordered 99999", timestamp="tea-time", properties={"revenue": "42.42"}
    )
    texts = " ".join(verdict.text for verdict in judge(bad))
    assert not any(value in texts for value in ("secret.example", "99999", "tea-time", "42.42"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
FIELDS = [
    "type",
    "event",
    "userId",
    "anonymousId",
    "messageId",
    "timestamp",
    "traits",
    "properties",
    "context",
    "integrations",
    "groupId",
]


@given(json_values | st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_any_value_is_judged_and_not_changed(anything: object) -> None:
    before = json.dumps(anything)
    verdicts = judge(anything)
    assert json.dumps(anything) == before
    severities = [SEVERITIES.index(verdict.severity) for verdict in verdicts]
    assert severities == sorted(severities)
    assert all(verdict.rule and verdict.text for verdict in verdicts)


def test_a_deeply_nested_message_is_judged() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"password": deep}
    assert len(judge(message(properties=deep), size=1)) == 5_000


def test_the_path_of_a_long_key_is_cut() -> None:
    inner = {f"password{number}": {"password": 1} for number in range(3)}
    long = message(properties={"k" * 5_000: {**inner, "password": 1, "list": [[{"token": 1}]]}})
    found = judge(long)
    assert len(found) == 5
    assert all(len(verdict.path) < 320 and verdict.path.startswith("properties.kkk") for verdict in found)


def test_the_client_has_the_limits_of_the_rules() -> None:
    """They are written twice: on each side of the wire."""
    assert (MAX_MESSAGE_BYTES, MAX_BATCH_MESSAGES) == (MESSAGE_BYTES, BATCH_MESSAGES)
    assert MAX_MESSAGE_ID == MESSAGE_ID_CHARACTERS - 1


DROPPED = [example for example, _ in EXAMPLES if judge(example)[0].severity == "dropped"]


@pytest.mark.parametrize("dropped", DROPPED, ids=lambda example: judge(example)[0].rule)
def test_the_client_refuses_what_segment_would_drop(dropped: Any) -> None:
    client = Client("KEY", send=False)
    with pytest.raises(MessageError):
        client.enqueue_nowait(dropped)
    assert len(DROPPED) > 6


def test_a_decimal_counts_as_a_number_with_its_digits() -> None:
    total = Decimal("12345678901234567890.10")
    judged = message(event="Order Completed", properties={"total": total})
    assert findings(judged) == []
    assert findings(judged | {"properties": {"currency": total}}) == [("spec", "field-type", "properties.currency")]
    size = len(b'{"a":12345678901234567890.10,"b":""}')
    fitting = {"a": total, "b": "x" * (MESSAGE_BYTES - size)}
    assert "message-too-large" not in {rule for _, rule, _ in findings(fitting)}
    assert "message-too-large" in {rule for _, rule, _ in findings(fitting | {"b": fitting["b"] + "x"})}


@pytest.mark.parametrize("value", [date(2026, 11, 21), {1: 2}, {"a"}])
def test_what_is_no_json_is_no_message(value: object) -> None:
    with pytest.raises(TypeError):
        judge({"type": "track", "userId": "u1", "event": "Order Completed", "properties": {"value": value}})
