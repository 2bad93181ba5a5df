"""A message for each rule of `segment_async.verdicts` that breaks it, and the page of Segment's documentation behind it."""

from __future__ import annotations

from typing import Any, Final

_DOCS: Final = "https://segment.com/docs/connections"
SPEC: Final = {
    "http-api": f"{_DOCS}/sources/catalog/libraries/server/http-api/",
    "common": f"{_DOCS}/spec/common/",
    "timestamps": f"{_DOCS}/spec/common/#timestamps",
    "integrations": f"{_DOCS}/spec/common/#integrations",
    "identities": f"{_DOCS}/spec/identify/#identities",
    "track": f"{_DOCS}/spec/track/",
    "group": f"{_DOCS}/spec/group/",
    "alias": f"{_DOCS}/spec/alias/",
    "best-practices": f"{_DOCS}/spec/best-practices-event-calls/",
    "names": "https://segment.com/academy/collecting-data/naming-conventions-for-clean-data/",
    "customer-io": f"{_DOCS}/destinations/catalog/customer-io/",
    "traits": f"{_DOCS}/spec/identify/#traits",
}


# How Segment calls these pages.
TITLES: Final = {
    SPEC["http-api"]: "HTTP API",
    SPEC["common"]: "Common Fields",
    SPEC["timestamps"]: "Timestamps",
    SPEC["integrations"]: "Integrations",
    SPEC["identities"]: "Identities",
    SPEC["track"]: "Track",
    SPEC["group"]: "Group",
    SPEC["alias"]: "Alias",
    SPEC["best-practices"]: "Best Practices for Event Calls",
    SPEC["names"]: "Naming Conventions",
    SPEC["customer-io"]: "Customer.io",
    SPEC["traits"]: "Traits",
}


def _track(**fields: Any) -> dict[str, Any]:
    return {"type": "track", "event": "Order Completed", "userId": "user-1", "messageId": "order-1", **fields}


def _customer_io(**traits: Any) -> dict[str, Any]:
    integrations = {"Customer.io": True}
    return {"type": "identify", "userId": "u", "messageId": "m", "integrations": integrations, "traits": traits}


# Each breaks one rule; if a message breaks several, the first example that breaks a rule shows it.
EXAMPLES: Final[list[tuple[object, str]]] = [
    ([1, 2], SPEC["http-api"]),
    (_track(properties={"note": "x" * 33_000}), SPEC["http-api"]),
    (_track(event=None), SPEC["track"]),
    (_track(userId=None), SPEC["identities"]),
    ({"type": "group", "userId": "user-1", "messageId": "m"}, SPEC["group"]),
    ({"type": "alias", "userId": "user-1", "messageId": "m"}, SPEC["alias"]),
    (_track(messageId="m" * 120), SPEC["http-api"]),
    ({"type": "Track", "userId": "user-1", "messageId": "m"}, SPEC["common"]),
    (_track(userId=42), SPEC["identities"]),
    (_track(properties={"revenue": "30.50"}), SPEC["track"]),
    (_track(timestamp="21.11.2026"), SPEC["timestamps"]),
    (_track(timestamp="2026-11-21T19:20:03.047"), SPEC["timestamps"]),
    (_track(integrations={"mixpanel": True}), SPEC["integrations"]),
    (_customer_io(), SPEC["customer-io"]),
    (_customer_io(email="a@example.com", **{f"trait{n}": n for n in range(30)}), SPEC["customer-io"]),
    (_customer_io(email="a@example.com", unsubscribe=True), SPEC["customer-io"]),
    (_track(userId="ada@example.com"), SPEC["identities"]),
    (_track(userId="undefined"), SPEC["identities"]),
    (_track(messageId=None), SPEC["common"]),
    (_track(event="order_10423_completed"), SPEC["best-practices"]),
    (_track(event="order completed"), SPEC["names"]),
    (_track(properties={"access_token": "…"}), SPEC["common"]),
    (_track(properties={"email": "ada@example.com"}), SPEC["traits"]),
]
