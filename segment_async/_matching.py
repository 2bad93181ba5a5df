"""Which message fits what a test expects, which ones come nearest, and how to say so.

Messages are plain dicts, as they travel. This file knows no client; `testing` asks it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from . import MessageError, messages

Fields = dict[str, Any]
ID = str | int | UUID

_SHOWN: Final = 3
# Characters of a value in the text of a failure.
_LONGEST: Final = 400


class Difference(NamedTuple):
    """One field that does not fit. `distance`: how far off it is, from 0 to 1."""

    path: str
    text: str
    distance: float


def expectation(kind: str, user_id: ID | None, anonymous_id: ID | None, **fields: Any) -> Fields:
    """What a message has to have; `None` asks for nothing."""
    fields |= {"userId": _id(user_id), "anonymousId": _id(anonymous_id)}
    return {"type": kind} | {name: value for name, value in fields.items() if value is not None}


def _id(value: Any) -> Any:
    """Ids travel as text."""
    return str(value) if isinstance(value, (int, UUID)) else value


def fitting(expected: Fields, events: Iterable[Fields]) -> list[Fields]:
    return [message for message in events if not differences(expected, message)]


def differences(expected: Any, actual: Any, path: str = "") -> list[Difference]:
    """Where `actual` is not what is expected; more keys than expected are no difference."""
    if isinstance(expected, Mapping) and isinstance(actual, dict):
        return [found for key in expected for found in _at_key(str(key), expected[key], actual, path)]
    if isinstance(expected, (list, tuple)) and isinstance(actual, list) and len(expected) == len(actual):
        pairs = zip(expected, actual, strict=True)
        return [found for i, pair in enumerate(pairs) for found in differences(*pair, f"{path}[{i}]")]
    if _as_it_travels(expected) == actual or expected == actual:
        return []
    return [Difference(path, f"expected {shown(expected)}, is {shown(actual)}", _distance(expected, actual))]


def _at_key(key: str, expected: Any, actual: Fields, path: str) -> list[Difference]:
    inner = f"{path}.{key}" if path else key
    if key in actual:
        return differences(expected, actual[key], inner)
    others = f"; there are {', '.join(actual)}" if path and actual else ""
    return [Difference(inner, f"expected {shown(expected)}, is absent{others}", 1.0)]


def _as_it_travels(value: Any) -> Any:
    try:
        return orjson.loads(messages.body_of({"value": value}))["value"]
    except MessageError:
        return value  # a matcher, which compares for itself


def _distance(expected: Any, actual: Any) -> float:
    if isinstance(expected, str) and isinstance(actual, str):
        return 1.0 - SequenceMatcher(None, expected, actual).ratio()
    return 1.0


def nearest(expected: Fields, events: list[Fields]) -> str:
    """The messages that differ least, by call and event first, and where they differ."""
    if not events:
        return listed(events)
    compared = [(differences(expected, message), message) for message in events]
    compared.sort(key=lambda pair: (sum(d.distance for d in pair[0] if d.path in ("type", "event")), len(pair[0])))
    lines = [f"The nearest of {len(events)}:"]
    for found, message in compared[:_SHOWN]:
        lines.append(f"  {headline(message)}")
        lines.extend(f"    {difference.path}: {difference.text}" for difference in found)
    return "\n".join(lines)


def listed(events: list[Fields]) -> str:
    if not events:
        return "There are no messages at all."
    return "\n".join(["There are:", *(f"  {headline(message)}" for message in events)])


def headline(message: Fields) -> str:
    name = message.get("event") or message.get("name") or message.get("groupId")
    who = message.get("userId") or message.get("anonymousId")
    return " ".join([message["type"], *([shown(name)] if name else []), f"of {who}"])


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
