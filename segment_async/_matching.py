"""Compares messages with what a test expects, finds the most similar ones, and describes the differences.

Messages are plain dicts, as they are sent. This file does not know the client; `testing` uses it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

import orjson

from . import MessageError, messages

MessageDict = dict[str, Any]
ID = str | int | UUID

_MAX_SHOWN: Final = 3
# The most characters of a value in an assertion error.
_MAX_CHARACTERS: Final = 400


class Difference(NamedTuple):
    """One field that does not match. `distance` is from 0 (nearly equal) to 1."""

    path: str
    text: str
    distance: float


def expectation(kind: str, user_id: ID | None, anonymous_id: ID | None, **fields: Any) -> MessageDict:
    """The fields that a message must have. An argument that is `None` is not compared."""
    fields |= {"userId": _id(user_id), "anonymousId": _id(anonymous_id)}
    return {"type": kind} | {name: value for name, value in fields.items() if value is not None}


def _id(value: Any) -> Any:
    """The id as text, as it is sent."""
    return str(value) if isinstance(value, (int, UUID)) else value


def matching(expected: MessageDict, events: Iterable[MessageDict]) -> list[MessageDict]:
    return [message for message in events if not differences(expected, message)]


def differences(expected: Any, actual: Any, path: str = "") -> list[Difference]:
    """Where `actual` differs from `expected`. Keys that are not expected do not count as differences."""
    if isinstance(expected, Mapping) and isinstance(actual, dict):
        wanted = cast("Mapping[object, Any]", expected)
        return [found for key in wanted for found in _at_key(str(key), wanted[key], cast("MessageDict", actual), path)]
    if isinstance(expected, (list, tuple)) and isinstance(actual, list):
        items, others = cast("Sequence[Any]", expected), cast("Sequence[Any]", actual)
        if len(items) == len(others):
            pairs = zip(items, others, strict=True)
            return [found for i, pair in enumerate(pairs) for found in differences(*pair, f"{path}[{i}]")]
    if _as_sent(expected) == actual or expected == actual:
        return []
    return [Difference(path, f"expected {shown(expected)}, got {shown(actual)}", _distance(expected, actual))]


def _at_key(key: str, expected: Any, actual: MessageDict, path: str) -> list[Difference]:
    inner = f"{path}.{key}" if path else key
    if key in actual:
        return differences(expected, actual[key], inner)
    others = f"; the keys are {', '.join(actual)}" if path and actual else ""
    return [Difference(inner, f"expected {shown(expected)}, but it is missing{others}", 1.0)]


def _as_sent(value: Any) -> Any:
    try:
        return orjson.loads(messages.body_of({"value": value}))["value"]
    except MessageError:
        return value  # a matcher such as `mock.ANY`, which implements `==`


def _distance(expected: Any, actual: Any) -> float:
    if isinstance(expected, str) and isinstance(actual, str):
        return 1.0 - SequenceMatcher(None, expected, actual).ratio()
    return 1.0


def nearest(expected: MessageDict, events: list[MessageDict]) -> str:
    """The messages that differ least, compared by call and event first, with their differences."""
    if not events:
        return listed(events)
    compared = [(differences(expected, message), message) for message in events]
    compared.sort(key=lambda pair: (sum(d.distance for d in pair[0] if d.path in ("type", "event")), len(pair[0])))
    lines = [f"The most similar of {len(events)}:"]
    for found, message in compared[:_MAX_SHOWN]:
        lines.append(f"  {headline(message)}")
        lines.extend(f"    {difference.path}: {difference.text}" for difference in found)
    return "\n".join(lines)


def listed(events: list[MessageDict]) -> str:
    if not events:
        return "No messages were sent."
    return "\n".join(["Messages:", *(f"  {headline(message)}" for message in events)])


def headline(message: MessageDict) -> str:
    name = message.get("event") or message.get("name") or message.get("groupId")
    user = message.get("userId") or message.get("anonymousId")
    return " ".join([message["type"], *([shown(name)] if name else []), f"of {user}"])


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"
