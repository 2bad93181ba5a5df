"""The destinations of a message, and the verdicts on them."""

from typing import Any

import pytest

from segment_async import messages
from segment_async.destinations import only, without
from segment_async.verdicts import judge


def test_only() -> None:
    assert only("Mixpanel", "Amplitude") == {"All": False, "Mixpanel": True, "Amplitude": True}
    assert only(options={"Mixpanel": {"a": 1}}) == {"All": False, "Mixpanel": {"a": 1}}


def test_without() -> None:
    assert without("Intercom") == {"Intercom": False}
    assert without("Intercom", options={"Mixpanel": {"a": 1}}) == {"Intercom": False, "Mixpanel": {"a": 1}}


@pytest.mark.parametrize(
    "call",
    [
        only,
        without,
        lambda: only(""),
        lambda: without("All"),
        lambda: only("Mixpanel", options={"All": {}}),
        lambda: without("Mixpanel", options={"Mixpanel": {"a": 1}}),
    ],
)
def test_what_is_no_choice(call: Any) -> None:
    with pytest.raises(ValueError, match="destination"):
        call()


def test_a_call_takes_them() -> None:
    assert messages.track("u", "Signed Up", integrations=only("Mixpanel"))["integrations"] == {
        "All": False,
        "Mixpanel": True,
    }


def rules(**fields: Any) -> list[tuple[str, str]]:
    message = {"type": "identify", "userId": "u", "messageId": "m", "timestamp": "2026-11-21T19:20:03.047Z", **fields}
    return [(verdict.rule, verdict.path) for verdict in judge(message)]


@pytest.mark.parametrize("name", ["mixpanel", "MixPanel", "Mixpane", "Mixpanell", "Mixpamel", "customer.io"])
def test_a_name_that_is_nearly_known(name: str) -> None:
    assert rules(integrations={name: False}) == [("destination-name", f"integrations.{name}")]


@pytest.mark.parametrize("name", ["Mixpanel", "All", "Vero", "Our Own Thing", "V", "Mixpanels and more"])
def test_other_names(name: str) -> None:
    assert rules(integrations={name: False}) == []


@pytest.mark.parametrize(
    ("traits", "found"),
    [
        ({"email": "a@b.c"}, []),
        ({}, [("customer-io-email", "traits.email")]),
        ({"email": "a@b.c", **{f"t{number}": 1 for number in range(30)}}, [("customer-io-traits", "traits")]),
        ({"email": "a@b.c", "unsubscribed": True}, []),
        ({"email": "a@b.c", "unsubscribed": "yes"}, [("customer-io-unsubscribe", "traits.unsubscribed")]),
        ({"email": "a@b.c", "unsubscribe": True}, [("customer-io-unsubscribe", "traits.unsubscribe")]),
    ],
)
def test_customer_io(traits: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert rules(traits=traits, integrations={"Customer.io": True}) == found
    assert rules(traits=traits, integrations={"Customer.io": False}) == []
    assert rules(traits=traits) == []
