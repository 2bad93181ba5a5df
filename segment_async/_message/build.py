"""The dict that travels: built from a call's arguments, each field checked.

One function a call, in the official Python SDK's order of arguments. The rules are those of Segment's spec
(https://segment.com/docs/connections/spec/common/): what Segment would answer with 200 and then drop is refused
here. The identity is not: fields bound around the caller may still supply it. Nor is a `messageId` made: whoever
queues the message knows whether the process is a forked child.

This file knows messages, not clients.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from os import urandom
from random import Random
from typing import Any, Final
from uuid import UUID

from segment_async._exceptions import MessageError

from .encode import as_it_travels, datetime_text

MAX_MESSAGE_ID: Final = 99
"""Characters that a message id may have: Segment drops what has 100 or more."""

Fields = dict[str, Any]
UserID = str | int | UUID
Timestamp = datetime | str

# A second and a millisecond with their texts, and how ids of that millisecond begin, each read and written as one:
# another thread may come in between any two steps. Many calls fall into one millisecond.
_latest_second = (0, "1970-01-01T00:00:00")
_latest = (0, "1970-01-01T00:00:00.000Z", "0" * 12)
# How each millisecond is written: to format a number takes as long as all else here, 0.3 µs.
_MILLISECONDS: Final = tuple(f".{millisecond:03d}Z" for millisecond in range(1000))
# Seeded with the system's randomness, of which 16 bytes at each call would cost 0.25 µs more.
_chance: Final = Random()  # noqa: S311  # ids need to differ, nobody has to be unable to guess them
# What was drawn of it for the ids to come, as many as the messages of a default batch, and some.
_drawn: Final[list[str]] = []
_MOST_DRAWN: Final = 128


def clock_text(now: float) -> str:
    """Seconds since the epoch as Segment wants them: ISO-8601, UTC, milliseconds."""
    global _latest
    latest, text, _ = _latest
    millisecond = int(now * 1000)
    if millisecond != latest:
        text = _second_text(millisecond // 1000) + _MILLISECONDS[millisecond % 1000]
        _latest = (millisecond, text, "%012x" % (millisecond & 0xFFFF_FFFF_FFFF))  # as below
    return text


def _second_text(second: int) -> str:
    global _latest_second
    latest, text = _latest_second
    if second != latest:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _latest_second = (second, text)
    return text


def new_message_id() -> str:
    """The time, to the millisecond, in which a message was last built, and 80 bits of chance.

    Ids that sort by their time grow a spool's index at its end and not all over (5 µs a message against 15), and what
    a batch's ids have in common need not be sent. Only for a process in which `renew_chance` was called.
    """
    if _drawn:
        try:
            return _latest[2] + _drawn.pop()
        except IndexError:
            # Another thread has just taken it.
            pass
    return _latest[2] + "%020x" % _chance.getrandbits(80)  # noqa: UP031  # half as long as the other ways


def draw_ahead() -> None:
    """What the next ids need, drawn while nobody waits: many in a row cost 0.2 µs each, and one on its own 1.4."""
    draw = _chance.getrandbits
    _drawn.extend(["%020x" % draw(80) for _ in range(_MOST_DRAWN - len(_drawn))])  # noqa: UP031  # as above


def message_id_of_the_system() -> str:
    """As `new_message_id`, for whoever knows nothing of the process: 0.3 µs more."""
    return _latest[2] + urandom(10).hex()


def renew_chance() -> None:
    """A forked child would draw the same ids as its parent and its siblings."""
    _chance.seed()
    _drawn.clear()


def _common(
    kind: str,
    user_id: UserID | None,
    anonymous_id: UserID | None,
    context: Mapping[str, Any] | None,
    integrations: Mapping[str, Any] | None,
    timestamp: Timestamp | None,
    message_id: UserID | None,
) -> Fields:
    message: Fields = {
        "type": kind,
        "timestamp": clock_text(time.time()) if timestamp is None else _timestamp(timestamp),
    }
    if message_id is not None:
        message["messageId"] = _message_id(message_id)
    if user_id is not None:
        message["userId"] = user_id if type(user_id) is str and user_id else identifier("userId", user_id)
    if anonymous_id is not None:
        message["anonymousId"] = identifier("anonymousId", anonymous_id)
    # As `_put_mapping` does.
    if context is not None and (context if type(context) is dict else mapping("context", context)):
        message["context"] = context
    if integrations is not None:
        _put_mapping(message, "integrations", integrations)
    return message


def track(
    user_id: UserID | None = None,
    event: str | None = None,
    properties: Mapping[str, Any] | None = None,
    *,
    anonymous_id: UserID | None = None,
    context: Mapping[str, Any] | None = None,
    integrations: Mapping[str, Any] | None = None,
    timestamp: Timestamp | None = None,
    message_id: UserID | None = None,
) -> Fields:
    message = _common("track", user_id, anonymous_id, context, integrations, timestamp, message_id)
    message["event"] = event if type(event) is str and event else _event(event)
    # As `_put_mapping` does.
    if properties is not None and (properties if type(properties) is dict else mapping("properties", properties)):
        message["properties"] = properties
    return message


def identify(
    user_id: UserID | None = None,
    traits: Mapping[str, Any] | None = None,
    *,
    anonymous_id: UserID | None = None,
    context: Mapping[str, Any] | None = None,
    integrations: Mapping[str, Any] | None = None,
    timestamp: Timestamp | None = None,
    message_id: UserID | None = None,
) -> Fields:
    message = _common("identify", user_id, anonymous_id, context, integrations, timestamp, message_id)
    if traits is not None:
        _put_mapping(message, "traits", traits)
    return message


def page(
    user_id: UserID | None = None,
    category: str | None = None,
    name: str | None = None,
    properties: Mapping[str, Any] | None = None,
    *,
    anonymous_id: UserID | None = None,
    context: Mapping[str, Any] | None = None,
    integrations: Mapping[str, Any] | None = None,
    timestamp: Timestamp | None = None,
    message_id: UserID | None = None,
) -> Fields:
    message = _common("page", user_id, anonymous_id, context, integrations, timestamp, message_id)
    return _view(message, category, name, properties)


def screen(
    user_id: UserID | None = None,
    category: str | None = None,
    name: str | None = None,
    properties: Mapping[str, Any] | None = None,
    *,
    anonymous_id: UserID | None = None,
    context: Mapping[str, Any] | None = None,
    integrations: Mapping[str, Any] | None = None,
    timestamp: Timestamp | None = None,
    message_id: UserID | None = None,
) -> Fields:
    message = _common("screen", user_id, anonymous_id, context, integrations, timestamp, message_id)
    return _view(message, category, name, properties)


def group(
    user_id: UserID | None = None,
    group_id: UserID | None = None,
    traits: Mapping[str, Any] | None = None,
    *,
    anonymous_id: UserID | None = None,
    context: Mapping[str, Any] | None = None,
    integrations: Mapping[str, Any] | None = None,
    timestamp: Timestamp | None = None,
    message_id: UserID | None = None,
) -> Fields:
    message = _common("group", user_id, anonymous_id, context, integrations, timestamp, message_id)
    message["groupId"] = _required("groupId", group_id)
    if traits is not None:
        _put_mapping(message, "traits", traits)
    return message


def alias(
    previous_id: UserID | None = None,
    user_id: UserID | None = None,
    *,
    anonymous_id: UserID | None = None,
    context: Mapping[str, Any] | None = None,
    integrations: Mapping[str, Any] | None = None,
    timestamp: Timestamp | None = None,
    message_id: UserID | None = None,
) -> Fields:
    message = _common("alias", user_id, anonymous_id, context, integrations, timestamp, message_id)
    message["previousId"] = _required("previousId", previous_id)
    return message


def checked(message: Mapping[str, Any]) -> Fields:
    """A message that somebody else built, with the same checks and defaults; unknown fields pass.

    Raises:
        MessageError: a field is wrong, or the call's own required field is missing.
    """
    if not isinstance(message, Mapping):
        raise MessageError("message", f"must be a mapping, not {_kind(message)}")
    kind = message.get("type")
    required = _REQUIRED.get(kind) if isinstance(kind, str) else None
    if required is None:
        raise MessageError("type", f"must be one of {', '.join(_REQUIRED)}")
    fields = {"type": kind, "timestamp": clock_text(time.time())}
    for name, value in message.items():
        if value is not None:
            check = _CHECKS.get(name, _as_it_is)
            fields[name] = check(name, value)
    for name in _MAPPINGS:
        if name in fields and not fields[name]:
            del fields[name]
    for name in required:
        if name not in fields:
            raise MessageError(name, "is required")
    return fields


def _view(message: Fields, category: Any, name: Any, properties: Any) -> Fields:
    if category is not None:
        message["category"] = _text("category", category)
    if name is not None:
        message["name"] = _text("name", name)
    if properties is not None:
        _put_mapping(message, "properties", properties)
    return message


def _put_mapping(message: Fields, name: str, value: Any) -> None:
    """Empty mappings are left out, as absent ones are: neither `null` nor `{}` travels."""
    if value if type(value) is dict else mapping(name, value):
        message[name] = value


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise MessageError(name, f"must be a dict, not {_kind(value)}")
    return value


def identifier(name: str, value: Any) -> str:
    """Ids travel as text: large integers lose digits in JavaScript."""
    if isinstance(value, str):
        if not value:
            raise MessageError(name, "is empty; leave it out, or pass None, where there is no id")
        return value
    if isinstance(value, UUID):
        return str(value)
    text = None
    if not isinstance(value, bool):
        try:
            text = str(operator.index(value))
        except (TypeError, ValueError):
            # No integer, or one of so many digits that Python refuses to write them out.
            pass
    if text is None:
        raise MessageError(name, f"must be a str, an int or a UUID, not {_kind(value)}")
    return text


def _required(name: str, value: Any) -> str:
    if value is None:
        raise MessageError(name, "is required")
    return identifier(name, value)


def _message_id(value: Any, name: str = "messageId") -> str:
    text = identifier(name, value)
    if len(text) > MAX_MESSAGE_ID:
        raise MessageError(name, f"has {len(text)} characters; Segment drops what has more than {MAX_MESSAGE_ID}")
    # The delivery and its outcome have it too, and must say what Segment is told.
    return text if text.isascii() else as_it_travels(text)


def _event(value: Any) -> str:
    if value is None:
        raise MessageError("event", "is required: the name of what happened")
    text = _text("event", value)
    if not text:
        raise MessageError("event", "is empty")
    return text


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise MessageError(name, f"must be a str, not {_kind(value)}")
    return value


def _timestamp(value: Any) -> str:
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
    # pandas' NaT is a datetime that equals nothing, not even itself.
    if not isinstance(moment, datetime) or moment != moment:  # noqa: PLR0124
        raise MessageError("timestamp", f"must be a datetime or ISO-8601 text; this {_kind(value)} is neither")
    problem = None
    try:
        return datetime_text(moment)
    except (OverflowError, ValueError):
        # The year after 9999, or the one before 1, once the zone is taken off.
        problem = "is beyond the calendar in UTC"
    raise MessageError("timestamp", problem)


def _kind(value: Any) -> str:
    return type(value).__qualname__


def _as_it_is(_: str, value: Any) -> Any:
    return value


_MAPPINGS: Final = ("context", "integrations", "properties", "traits")
_CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    **dict.fromkeys(("userId", "anonymousId", "groupId", "previousId"), identifier),
    **dict.fromkeys(_MAPPINGS, mapping),
    **dict.fromkeys(("name", "category"), _text),
    "event": lambda _, value: _event(value),
    "messageId": lambda _, value: _message_id(value),
    "timestamp": lambda _, value: _timestamp(value),
}
_REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "track": ("event",),
    "identify": (),
    "page": (),
    "screen": (),
    "group": ("groupId",),
    "alias": ("previousId",),
}
