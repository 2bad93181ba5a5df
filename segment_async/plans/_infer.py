"""Infers a plan from messages that were sent. Pure.

What is inferred is a start: an event gets the properties and the types that were seen, and a property is required if
every message had it. Values are never copied into the plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from ._rule import JSONObject, as_object
from ._schema import is_date_time
from ._wording import given_type

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_CALLS: Final = {"track": "TRACK", "identify": "IDENTIFY", "group": "GROUP", "page": "TRACK", "screen": "TRACK"}
_VIEWS: Final = {"page": "Page Viewed", "screen": "Screen Viewed"}
_MAX_DEPTH: Final = 10


class _Seen:
    """What was seen of one value."""

    def __init__(self) -> None:
        self.count = 0
        self.types: set[str] = set()
        self.is_time = True
        self.objects = 0
        self.properties: dict[str, _Seen] = {}
        self.items: _Seen | None = None

    def add(self, value: object, depth: int = 0) -> None:
        self.count += 1
        kind = given_type(value)
        self.types.add(kind)
        if isinstance(value, str):
            self.is_time = self.is_time and _TIME.fullmatch(value) is not None and is_date_time(value)
        elif isinstance(value, dict) and depth < _MAX_DEPTH:
            self.objects += 1
            for name, each in cast("JSONObject", value).items():
                self.properties.setdefault(name, _Seen()).add(each, depth + 1)
        elif isinstance(value, list) and depth < _MAX_DEPTH:
            self.items = self.items or _Seen()
            for each in cast("list[object]", value):
                self.items.add(each, depth + 1)

    def schema(self) -> JSONObject:
        types = sorted(self.types - ({"integer"} if "number" in self.types else set()))
        found: JSONObject = {"type": types[0] if len(types) == 1 else types} if types else {}
        if "string" in self.types and self.is_time:
            found["format"] = "date-time"
        if self.properties:
            found["properties"] = {name: self.properties[name].schema() for name in sorted(self.properties)}
            found["required"] = sorted(name for name, seen in self.properties.items() if seen.count == self.objects)
        if self.items is not None and self.items.count:
            found["items"] = self.items.schema()
        return found


def infer(messages: Iterable[Mapping[str, Any]]) -> JSONObject:
    """A plan in the form of Segment's Public API, which `Plan.load` reads. Calls without an event are left out."""
    seen: dict[tuple[str, str], _Seen] = {}
    for message in messages:
        call = message.get("type")
        kind = _CALLS.get(call) if isinstance(call, str) else None
        name = message.get("event") if call == "track" else _VIEWS.get(str(call), "")
        if kind is None or not isinstance(name, str) or (call == "track" and not name):
            continue
        section = "traits" if kind in ("IDENTIFY", "GROUP") else "properties"
        seen.setdefault((kind, name), _Seen()).add(as_object(message.get(section)))
    return {"rules": [_rule(kind, name, seen[kind, name]) for kind, name in sorted(seen)]}


def _rule(kind: str, name: str, seen: _Seen) -> JSONObject:
    section = "traits" if kind in ("IDENTIFY", "GROUP") else "properties"
    schema: JSONObject = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {section: {"type": "object", "properties": {}, "required": [], **seen.schema()}},
    }
    return {"type": kind, "key": name or None, "version": 1, "jsonSchema": schema}
