"""Plans for the tests, in the forms in which they are kept."""

from typing import Any

ORDER_COMPLETED: dict[str, Any] = {
    "key": "Order Completed",
    "type": "TRACK",
    "version": 2,
    "deprecatedAt": "0001-01-01T00:00:00.000Z",
    "jsonSchema": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "labels": {"area": "checkout"},
        "description": "An order was paid",
        "properties": {
            "context": {},
            "traits": {},
            "properties": {
                "type": "object",
                "properties": {
                    "order_id": {"description": "the order's number", "id": "/order_id", "type": ["string"]},
                    "coupon": {"type": ["string", "null"]},
                    "plan": {"type": ["string", "null"]},
                    "season": {"type": "string", "pattern": "fall|winter"},
                    "kind": {"type": "string", "enum": ["new", "repeat"]},
                    "paid_at": {"type": "string", "format": "date-time"},
                    "integer": {"type": "integer"},
                    "site id": {"type": "string"},
                    "odd": {"type": "any"},
                    "products": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": [],
                            "properties": {"price": {"type": "number"}, "sku": {"type": "string"}},
                        },
                    },
                },
                "required": ["order_id", "plan"],
            },
        },
        "required": ["properties"],
    },
}
COMMON: dict[str, Any] = {
    "key": None,
    "type": "COMMON",
    "version": 1,
    "jsonSchema": {
        "type": "object",
        "required": ["context"],
        "properties": {
            "properties": {},
            "traits": {},
            "context": {
                "type": "object",
                "required": ["userAgent"],
                "properties": {"userAgent": {"type": "string", "not": {"pattern": "(bot|crawl)"}}},
            },
        },
    },
}


def rule(
    key: str | None = "Signed Up",
    properties: dict[str, Any] | None = None,
    *,
    kind: str = "TRACK",
    version: int = 1,
    required: tuple[str, ...] = (),
    **more: Any,
) -> dict[str, Any]:
    """A rule of the Public API."""
    section = "traits" if kind in ("IDENTIFY", "GROUP") else "properties"
    fields = {"type": "object", "properties": properties or {}, "required": [*required], **more}
    return {
        "key": key,
        "type": kind,
        "version": version,
        "jsonSchema": {"type": "object", "properties": {section: fields}},
    }


def track(event: str = "Order Completed", properties: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "track", "userId": "u", "event": event, "properties": properties, **more}


TYPED: list[dict[str, Any]] = [
    ORDER_COMPLETED,
    rule(version=1),
    rule(version=2),
    rule(None, {"Plan Name": {"type": "string"}}, kind="IDENTIFY"),
]
"""The plan of `tests/typing/planned.py`."""
