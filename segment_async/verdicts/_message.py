"""All rules about one message, and those that hold for every message."""

import json
import re
from decimal import Decimal
from typing import Final, cast

from ._destinations import check_customer_io, check_integrations
from ._field_types import TEXT, check_type, describe
from ._fields import check_context, check_properties, check_traits
from ._naming import check_event_name
from ._times import check_time
from ._verdict import MESSAGE_BYTES, MESSAGE_ID_CHARACTERS, SEVERITIES, Found, JSONObject, Verdict


def judge(message: object, *, size: int | None = None) -> list[Verdict]:
    """All findings about one message, the most severe first.

    `size` is the length of the message's JSON in bytes; `None` measures it, which takes longer than all other rules.

    Raises:
        TypeError: a key is not text; or the message is measured and contains more than JSON, such as a `datetime`.
        RecursionError: the message is measured and is nested more deeply than `json` allows.
    """
    if not isinstance(message, dict):
        return [Verdict("dropped", "not-an-object", "", f"Must be an object, but is {describe(message)}.")]
    fields = cast("JSONObject", message)
    found: Found = []
    _size(found, _json_bytes(fields) if size is None else size)
    _call(found, fields)
    _identity(found, fields)
    _message_id(found, fields.get("messageId"))
    for name in ("timestamp", "originalTimestamp", "sentAt"):
        if name in fields:
            check_time(found, fields[name], name)
    check_properties(found, fields)
    check_traits(found, fields)
    check_context(found, fields.get("context"))
    check_integrations(found, fields.get("integrations"))
    check_customer_io(found, fields)
    if len(found) > 1:
        found.sort(key=lambda verdict: SEVERITIES.index(verdict.severity))
    return found


# --- what Segment requires of every message


def _json_bytes(message: JSONObject) -> int:
    numbers = 0

    def digits(value: object) -> str:
        nonlocal numbers
        if not isinstance(value, Decimal):
            raise TypeError(f"Must be plain JSON, but holds {type(value).__name__}.")
        numbers += 1
        return str(value)

    content = json.dumps(message, ensure_ascii=False, separators=(",", ":"), default=digits)
    # `json` writes the digits as text, in quotes.
    return len(content.encode("utf-8", "replace")) - 2 * numbers


def _size(found: Found, size: int) -> None:
    if size > MESSAGE_BYTES:
        text = f"{size:,} bytes of JSON; above {MESSAGE_BYTES:,} bytes, Segment refuses the whole request with 400."
        found.append(Verdict("dropped", "message-too-large", "", text))


def _call(found: Found, message: JSONObject) -> None:
    match message.get("type"):
        case "track":
            _required(found, message, "event", "event-missing", "A track call needs an event name.")
            check_event_name(found, message.get("event"))
        case "group":
            _required(found, message, "groupId", "group-id-missing", "A group call needs a groupId.")
        case "alias":
            _required(
                found, message, "previousId", "previous-id-missing", "An alias call needs the id that it replaces."
            )
        case "page" | "screen":
            check_type(found, message.get("name"), TEXT, "name")
            check_type(found, message.get("category"), TEXT, "category")
        case "identify":
            pass
        case _:
            text = "Must be one of track, identify, page, screen, group and alias."
            found.append(Verdict("spec", "type-unknown", "type", text))


def _required(found: Found, message: JSONObject, field: str, rule: str, text: str) -> None:
    if message.get(field) in (None, ""):
        found.append(Verdict("dropped", rule, field, text))


_IDS: Final = ("userId", "anonymousId", "groupId", "previousId")
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
# Texts that programs produce for a missing id. "0" may be a real one.
_PLACEHOLDERS: Final = frozenset({"null", "none", "nil", "undefined", "nan", "anonymous", "unknown", "-1"})


def _identity(found: Found, message: JSONObject) -> None:
    if message.get("userId") in (None, ""):
        if message.get("type") == "alias":
            found.append(Verdict("dropped", "id-missing", "userId", "An alias call needs the new userId."))
        elif message.get("anonymousId") in (None, ""):
            text = "A call needs a userId or an anonymousId."
            found.append(Verdict("dropped", "id-missing", "userId", text))
    for field in _IDS:
        if field in message:
            _id(found, message[field], field)


def _id(found: Found, value: object, path: str) -> None:
    if isinstance(value, str):
        if "@" in value and _EMAIL.fullmatch(value):
            text = "Looks like an email address, which may change and is personal data."
            found.append(Verdict("style", "id-email", path, text))
        elif value.lower() in _PLACEHOLDERS:
            text = "Looks like a placeholder for a missing id; Segment merges all users with it into one."
            found.append(Verdict("style", "id-placeholder", path, text))
    elif value is not None:
        text = f"An id must be text, but is {describe(value)}."
        found.append(Verdict("spec", "id-type", path, text))


def _message_id(found: Found, value: object) -> None:
    if value is None or value == "":
        text = "Without an id, a retry creates a second event."
        found.append(Verdict("style", "message-id-missing", "messageId", text))
    elif not isinstance(value, str):
        _id(found, value, "messageId")
    elif len(value) >= MESSAGE_ID_CHARACTERS:
        text = f"{len(value)} characters; Segment drops messages whose id has {MESSAGE_ID_CHARACTERS} or more."
        found.append(Verdict("dropped", "message-id-long", "messageId", text))
