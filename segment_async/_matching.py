"""Compares messages with what a test expects, finds the most similar ones, and describes the differences.

Messages are plain dicts, as they are sent. This file does not know the client; `testing` uses it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
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
    fields |= {"userId": user_id, "anonymousId": anonymous_id}
    fields |= {name: _id(fields[name]) for name in _IDS if name in fields}
    return {"type": kind} | {name: value for name, value in fields.items() if value is not None}


_IDS: Final = ("userId", "anonymousId", "groupId", "previousId")


def _id(value: Any) -> Any:
    """The id as text, as it is sent."""
    return str(value) if isinstance(value, (int, UUID)) else value


def matching(expected: MessageDict, events: Iterable[MessageDict]) -> list[MessageDict]:
    return [message for message in events if not differences(expected, message)]


def differences(expected: Any, actual: Any, path: str = "") -> list[Difference]:
    """Where `actual` differs from `expected`. Keys that are not expected do not count as differences."""
    if isinstance(expected, Mapping) and isinstance(actual, dict):
        wanted = cast("Mapping[object, Any]", expected)
        return [
            found for key in wanted for found in _at_key(_name(key), wanted[key], cast("MessageDict", actual), path)
        ]
    if isinstance(expected, (list, tuple)) and isinstance(actual, list):
        items, others = cast("Sequence[Any]", expected), cast("Sequence[Any]", actual)
        if len(items) == len(others):
            pairs = zip(items, others, strict=True)
            return [found for i, pair in enumerate(pairs) for found in differences(*pair, f"{path}[{i}]")]
    sent = _as_sent(expected)
    # A matcher has its own `==`. For Python, `True == 1`.
    if _is_equal(sent, actual) or (not isinstance(sent, (int, float, Decimal)) and _is_matched(expected, actual)):
        return []
    return [Difference(path, f"expected {shown(expected)}, got {shown(actual)}", _distance(expected, actual))]


def _name(key: object) -> str:
    """The key as text, as it is sent."""
    try:
        sent = cast("MessageDict", read_json(messages.body_of({"value": {key: None}})))
    except MessageError:
        return str(key)
    (name,) = sent["value"]
    return cast("str", name)


def _at_key(key: str, expected: Any, actual: MessageDict, path: str) -> list[Difference]:
    inner = f"{path}.{key}" if path else key
    if key in actual:
        return differences(expected, actual[key], inner)
    if not path and isinstance(expected, Mapping) and not expected:
        # Empty properties, traits and contexts are not sent.
        return []
    others = f"; the keys are {', '.join(actual)}" if path and actual else ""
    return [Difference(inner, f"expected {shown(expected)}, but it is missing{others}", 1.0)]


def _as_sent(value: Any) -> Any:
    try:
        return read_json(messages.body_of({"value": value}))["value"]
    except MessageError:
        return value  # a matcher such as `mock.ANY`, which implements `==`


def _is_matched(expected: Any, actual: Any) -> bool:
    try:
        return bool(expected == actual)
    except ValueError:
        return False  # two arrays compared with `==` give an array, which has no truth value


def _is_equal(one: Any, other: Any) -> bool:
    """Whether both are the same JSON value; numbers may be written in different ways."""
    if isinstance(one, dict) and isinstance(other, dict):
        members, others = cast("MessageDict", one), cast("MessageDict", other)
        return members.keys() == others.keys() and all(_is_equal(members[key], others[key]) for key in members)
    if isinstance(one, list) and isinstance(other, list):
        items, their = cast("Sequence[Any]", one), cast("Sequence[Any]", other)
        return len(items) == len(their) and all(map(_is_equal, items, their))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def number(text: str) -> float | Decimal:
    """The number as a float, or as a `Decimal` if no float holds it."""
    nearest_float = float(text)
    return nearest_float if math.isfinite(nearest_float) else Decimal(text)


def read_json(body: bytes, large: Callable[[str], Any] = number) -> Any:
    """Parse what is sent. `large` reads the numbers that orjson does not: production sends all digits of a `Decimal`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body, parse_float=large, parse_int=lambda text: int(text) if len(text) < 20 else large(text))


def slips(name: str, events: Iterable[MessageDict]) -> list[str]:
    """The event names that differ from `name` by a typing error: its case, its separators, or one letter."""
    others = {event["event"] for event in events if isinstance(event.get("event"), str)} - {name}
    return sorted(other for other in others if _is_slip(_letters(name), _letters(other)))


def _letters(name: str) -> str:
    return "".join(char for char in name.casefold() if char.isalnum())


def _is_slip(one: str, other: str) -> bool:
    """Whether one letter at most is missing, added or different. Digits count: `Step 1` and `Step 2` are two names."""
    shorter, longer = sorted((one, other), key=len)
    if len(longer) - len(shorter) > 1:
        return False
    at = next((i for i, letter in enumerate(shorter) if letter != longer[i]), len(shorter))
    after = at if len(shorter) < len(longer) else at + 1
    changed = shorter[at:after] + longer[at : at + 1]
    return shorter[after:] == longer[at + 1 :] and not any(map(str.isdigit, changed))


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
        return "No messages were sent with this recording's client."
    return "\n".join(["Messages:", *(f"  {headline(message)}" for message in events)])


def headline(message: MessageDict) -> str:
    name = message.get("event") or message.get("name") or message.get("groupId")
    user = message.get("userId") or message.get("anonymousId")
    return " ".join([message["type"], *([shown(name)] if name else []), f"of {user}"])


def shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (TypeError, ValueError):
        # A key that JSON has not, or a value that contains itself.
        text = repr(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"
