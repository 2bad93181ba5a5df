"""Builds the message dict from a call's arguments and checks each field.

One function per call, with its arguments in the order of the official Python SDK. The rules come from Segment's spec
(https://segment.com/docs/connections/spec/common/): a message that Segment would answer with 200 and then drop is
refused here. Two things are left to the caller: the identity, which bound fields may still supply, and the
`messageId`, which depends on whether the process was forked.

This file knows messages, not clients.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

from segment_async._exceptions import MessageError
from segment_async.events import PlannedTraits, TrackEvent

from .encode import wire_text
from .timestamps import clock_text, datetime_text

MAX_MESSAGE_ID: Final = 99
"""The most characters that a message id may have: Segment drops messages whose id has 100 or more."""

Fields = dict[str, Any]
UserID = str | int | UUID
Timestamp = datetime | str


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
        "timestamp": clock_text(time.time()) if timestamp is None else _given_timestamp(timestamp),
    }
    if message_id is not None:
        message["messageId"] = _message_id(message_id)
    if user_id is not None:
        message["userId"] = user_id if type(user_id) is str and user_id else identifier("userId", user_id)
    if anonymous_id is not None:
        message["anonymousId"] = identifier("anonymousId", anonymous_id)
    # `_put_mapping`, written out for speed.
    if context is not None and (context if type(context) is dict else mapping("context", context)):
        message["context"] = context
    if integrations is not None:
        _put_mapping(message, "integrations", integrations)
    return message


def track(
    user_id: UserID | None = None,
    event: str | TrackEvent | None = None,
    properties: Mapping[str, Any] | None = None,
    *,
    anonymous_id: UserID | None = None,
    context: Mapping[str, Any] | None = None,
    integrations: Mapping[str, Any] | None = None,
    timestamp: Timestamp | None = None,
    message_id: UserID | None = None,
) -> Fields:
    if type(event) is not str and isinstance(event, TrackEvent):
        if properties is not None:
            raise MessageError("properties", f"must be left out, because {_type_name(event)} holds them")
        context, properties, event = _with_version(context, event.VERSION), event, event.EVENT
    message = _common("track", user_id, anonymous_id, context, integrations, timestamp, message_id)
    message["event"] = event if type(event) is str and event else _event(event)
    # `_put_mapping`, written out for speed.
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
    if isinstance(traits, PlannedTraits):
        context = _with_version(context, traits.VERSION)
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
    if isinstance(traits, PlannedTraits):
        context = _with_version(context, traits.VERSION)
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
    """A copy of a ready-made message, with the same checks and defaults; unknown fields pass unchecked.

    Raises:
        MessageError: a field is wrong, or a required one is missing.
    """
    if not isinstance(message, Mapping):
        raise MessageError("message", f"must be a mapping, not {_type_name(message)}")
    kind = message.get("type")
    required = _REQUIRED.get(kind) if isinstance(kind, str) else None
    if required is None:
        raise MessageError("type", f"must be one of {', '.join(_REQUIRED)}")
    fields = {"type": kind, "timestamp": clock_text(time.time())}
    for name, value in message.items():
        if value is not None:
            check = _CHECKS.get(name, _unchecked)
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


def _with_version(context: Mapping[str, Any] | None, version: int | None) -> Mapping[str, Any] | None:
    """The context with the version of the planned event; without one, Segment checks against the oldest."""
    if version is None:
        return context
    given: Mapping[str, Any] = {} if context is None else mapping("context", context)
    protocols: Any = given.get("protocols")
    kept: Mapping[str, Any] = cast("Fields", protocols) if isinstance(protocols, Mapping) else {}
    return {**given, "protocols": {**kept, "event_version": version}}


def _put_mapping(message: Fields, name: str, value: Any) -> None:
    """Set the field, unless the mapping is empty: neither `null` nor `{}` is sent."""
    if value if type(value) is dict else mapping(name, value):
        message[name] = value


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise MessageError(name, f"must be a dict, not {_type_name(value)}")
    return cast("Mapping[str, Any]", value)


def identifier(name: str, value: Any) -> str:
    """The id as text: large integers would lose digits in JavaScript."""
    if isinstance(value, str):
        if not value:
            raise MessageError(name, "must not be empty; leave it out or pass None if there is no id")
        return value
    if isinstance(value, UUID):
        return str(value)
    text = None
    if not isinstance(value, bool):
        try:
            text = str(operator.index(value))
        except (TypeError, ValueError):
            # Not an integer, or one with more digits than Python converts to text.
            pass
    if text is None:
        raise MessageError(name, f"must be a str, an int or a UUID, not {_type_name(value)}")
    return text


def _required(name: str, value: Any) -> str:
    if value is None:
        raise MessageError(name, "is required")
    return identifier(name, value)


def _message_id(value: Any, name: str = "messageId") -> str:
    text = identifier(name, value)
    if len(text) > MAX_MESSAGE_ID:
        raise MessageError(
            name, f"has {len(text)} characters; Segment drops messages whose id has more than {MAX_MESSAGE_ID}"
        )
    # `Delivery` and `Outcome` show the id exactly as it is sent.
    return text if text.isascii() else wire_text(text)


def _event(value: Any) -> str:
    if value is None:
        raise MessageError("event", "is required: the name of the event")
    text = _text("event", value)
    if not text:
        raise MessageError("event", "must not be empty")
    return text


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise MessageError(name, f"must be a str, not {_type_name(value)}")
    return value


def _given_timestamp(value: Any) -> str:
    """The given timestamp. Reads the clock all the same, because the message id begins with the time of the call."""
    clock_text(time.time())
    return _timestamp(value)


def _timestamp(value: Any) -> str:
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
    # pandas' NaT is a datetime that does not equal itself.
    if not isinstance(moment, datetime) or moment != moment:  # noqa: PLR0124
        raise MessageError("timestamp", f"must be a datetime or ISO-8601 text, not this {_type_name(value)}")
    problem = None
    try:
        return datetime_text(moment)
    except (OverflowError, ValueError):
        # The conversion to UTC leads to the year 0 or 10000.
        problem = "is outside the years 1 to 9999 in UTC"
    raise MessageError("timestamp", problem)


def _type_name(value: Any) -> str:
    return type(value).__qualname__


def _unchecked(_: str, value: Any) -> Any:
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
