"""Builds the message dict from a call's arguments and checks each field.

One function per call, with its arguments in the order of the official Python SDK. The rules come from Segment's spec
(https://segment.com/docs/connections/spec/common/): a message that Segment would answer with 200 and then drop is
refused here. The identity is left to the caller, as bound fields may still supply it.

This file knows messages, not clients.
"""

from __future__ import annotations

import operator
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar, Final, Protocol, cast
from uuid import UUID

from segment_async._exceptions import MessageError
from segment_async.events import PlannedTraits, TrackEvent

from .conversions import convert, is_text, wire_text
from .encode import as_dict
from .ids import stamp
from .timestamps import datetime_text

# As seconds since the epoch, this is in the year 5138; as milliseconds, in 1973.
_LEAST_MILLISECONDS: Final = 1e11
# What `datetime_text` makes, so that there is nothing to convert.
_FINAL_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z", re.ASCII)
_LEAP_SECOND: Final = re.compile(r"(.{1,12}[Tt ][0-9]{2}:?[0-9]{2}:?)60((?:[.,][0-9]{1,9})?(?:[Zz]|[+-][0-9:]{2,8})?)")
MAX_MESSAGE_ID: Final = 99
"""The most characters that a message id may have: Segment drops messages whose id has 100 or more."""


class _ObjectId(Protocol):
    """Like MongoDB's."""

    @property
    def generation_time(self) -> datetime: ...


class _ULID(Protocol):
    def to_uuid(self) -> UUID: ...


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


class _Attrs(Protocol):
    __attrs_attrs__: ClassVar[Any]


class _Struct(Protocol):
    """Like msgspec's."""

    __struct_fields__: ClassVar[tuple[str, ...]]


class _Model(Protocol):
    """Like pydantic's."""

    def model_dump(self) -> dict[str, Any]: ...


class _OldModel(Protocol):
    """Like pydantic 1's."""

    __fields_set__: set[str]


Fields = dict[str, Any]
UserID = str | int | UUID | _ObjectId | _ULID
Timestamp = datetime | date | str
ObjectLike = Mapping[str, Any] | _Dataclass | _Attrs | _Struct | _Model | _OldModel
"""What may be given as `properties`, `traits` and `context`."""


def _common(
    kind: str,
    user_id: UserID | None,
    anonymous_id: UserID | None,
    context: ObjectLike | None,
    integrations: Mapping[str, Any] | None,
    timestamp: Timestamp | None,
    message_id: UserID | None,
) -> Fields:
    now, new_id = stamp(time.time())
    message: Fields = {
        "type": kind,
        "timestamp": now if timestamp is None else _timestamp(timestamp),
        "messageId": new_id if message_id is None else _message_id(message_id),
    }
    if user_id is not None:
        message["userId"] = user_id if type(user_id) is str and user_id else identifier("userId", user_id)
    if anonymous_id is not None:
        message["anonymousId"] = identifier("anonymousId", anonymous_id)
    if context is not None:
        _put_mapping(message, "context", context)
    if integrations is not None:
        _put_mapping(message, "integrations", integrations)
    return message


def track(
    user_id: UserID | None = None,
    event: str | TrackEvent | None = None,
    properties: ObjectLike | None = None,
    *,
    anonymous_id: UserID | None = None,
    context: ObjectLike | None = None,
    integrations: Mapping[str, Any] | None = None,
    timestamp: Timestamp | None = None,
    message_id: UserID | None = None,
) -> Fields:
    if type(event) is not str and isinstance(event, TrackEvent):
        if properties is not None:
            raise MessageError("properties", f"must be left out, because {_type_name(event)} holds them")
        context, properties, event = _with_version(context, event.VERSION), event, event.EVENT
    if (
        type(user_id) is str
        and type(event) is str
        and user_id
        and event
        and anonymous_id is None
        and integrations is None
        and timestamp is None
        and message_id is None
    ):
        # The ordinary case, written out for speed.
        now, new_id = stamp(time.time())
        message: Fields = {"type": "track", "timestamp": now, "messageId": new_id, "userId": user_id, "event": event}
    else:
        message = _common("track", user_id, anonymous_id, None, integrations, timestamp, message_id)
        message["event"] = event if type(event) is str and event else _event(event)
    # `_put_mapping`, twice.
    if context is not None:
        if type(context) is not dict:
            _put_mapping(message, "context", context)
        elif context:
            message["context"] = context
    if properties is not None:
        if type(properties) is not dict:
            _put_mapping(message, "properties", properties)
        elif properties:
            message["properties"] = properties
    return message


def identify(
    user_id: UserID | None = None,
    traits: ObjectLike | None = None,
    *,
    anonymous_id: UserID | None = None,
    context: ObjectLike | None = None,
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
    properties: ObjectLike | None = None,
    *,
    anonymous_id: UserID | None = None,
    context: ObjectLike | None = None,
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
    properties: ObjectLike | None = None,
    *,
    anonymous_id: UserID | None = None,
    context: ObjectLike | None = None,
    integrations: Mapping[str, Any] | None = None,
    timestamp: Timestamp | None = None,
    message_id: UserID | None = None,
) -> Fields:
    message = _common("screen", user_id, anonymous_id, context, integrations, timestamp, message_id)
    return _view(message, category, name, properties)


def group(
    user_id: UserID | None = None,
    group_id: UserID | None = None,
    traits: ObjectLike | None = None,
    *,
    anonymous_id: UserID | None = None,
    context: ObjectLike | None = None,
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
    context: ObjectLike | None = None,
    integrations: Mapping[str, Any] | None = None,
    timestamp: Timestamp | None = None,
    message_id: UserID | None = None,
) -> Fields:
    message = _common("alias", user_id, anonymous_id, context, integrations, timestamp, message_id)
    message["previousId"] = _required("previousId", previous_id)
    return message


def checked(message: Mapping[str, Any], message_id: str | None = None) -> Fields:
    """A copy of a ready-made message, with the same checks and defaults; unknown fields pass unchecked.

    `message_id`: for a message that has none; `None`: a new one.

    Raises:
        MessageError: a field is wrong, or a required one is missing.
    """
    given = as_dict("message", message)
    if given is None:
        raise MessageError("message", f"must be a mapping, not {_type_name(message)}")
    kind = given.get("type")
    required = _REQUIRED.get(kind) if isinstance(kind, str) else None
    if required is None:
        raise MessageError("type", f"must be one of {', '.join(_REQUIRED)}")
    # Here, so that they come before the others, as in the messages of calls.
    fields: Fields = {"type": kind, "timestamp": None, "messageId": message_id}
    for name, value in given.items():
        # Most values are what they have to be already.
        if type(value) is _PLAIN.get(name) and value:
            fields[name] = value
        elif value is not None:
            final = _checked_field(kind, name, value)
            # As in `_put_mapping`.
            if name not in _MAPPINGS or final:
                fields[name] = final
    if not (fields["timestamp"] and fields["messageId"]):
        now, new_id = stamp(time.time())
        fields["timestamp"] = fields["timestamp"] or now
        fields["messageId"] = fields["messageId"] or new_id
    for name in required:
        if name not in fields:
            raise MessageError(name, "is required")
    return fields


def _checked_field(kind: Any, name: str, value: Any) -> Any:
    if name == "properties" and kind != "track":
        _refuse_event(name, value)
    return _CHECKS.get(name, _unchecked)(name, value)


def given(kind: str, arguments: Mapping[str, Any]) -> Fields:
    """What a refused call was given, by its names on the wire; unchecked, but for the `messageId`."""
    fields = {wire: arguments[name] for name, wire in _ARGUMENTS.items() if arguments.get(name) is not None}
    event = fields.get("event")
    if isinstance(event, TrackEvent):
        fields |= {"event": event.EVENT, "properties": event}
    return _with_message_id({"type": kind, **fields})


def given_message(message: object) -> Fields:
    """What a refused ready-made message has, as `given`."""
    try:
        return _with_message_id(dict(as_dict("message", message) or {}))
    except MessageError:
        return {}


def _with_message_id(fields: Fields) -> Fields:
    """The fields, without the `messageId` if it cannot be one."""
    try:
        return {**fields, "messageId": _message_id(fields.pop("messageId", None))}
    except MessageError:
        return fields


def _view(message: Fields, category: Any, name: Any, properties: Any) -> Fields:
    if category is not None:
        message["category"] = _text("category", category)
    if name is not None:
        message["name"] = _text("name", name)
    if properties is not None:
        _refuse_event("properties", properties)
        _put_mapping(message, "properties", properties)
    return message


def _with_version(context: ObjectLike | None, version: int | None) -> ObjectLike | None:
    """The context with the version of the planned event; without one, Segment checks against the oldest."""
    if version is None:
        return context
    given: Mapping[str, Any] = {} if context is None else mapping("context", context)
    protocols: Any = given.get("protocols")
    kept: Mapping[str, Any] = cast("Fields", protocols) if isinstance(protocols, Mapping) else {}
    return {**given, "protocols": {**kept, "event_version": version}}


def _put_mapping(message: Fields, name: str, value: Any) -> None:
    """Set the field, unless the mapping is empty: neither `null` nor `{}` is sent."""
    given = mapping(name, value)
    if given:
        message[name] = given


def _refuse_event(name: str, value: Any) -> None:
    """A planned event is a dict of its properties, so that it would be taken for any other dict, or for nothing."""
    if isinstance(value, TrackEvent):
        raise MessageError(name, f"must not be {_type_name(value)}, which is an event: pass it to track")


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """The value as a dict; its own code runs here and not later."""
    if name != "properties":
        _refuse_event(name, value)
    given = as_dict(name, value)
    if given is None:
        raise MessageError(name, f"must be a dict, not {_type_name(value)}")
    return given


def identifier(name: str, value: Any) -> str:
    """The id as text: large integers would lose digits in JavaScript."""
    text = _id_text(value)
    if text is None:
        raise MessageError(name, f"must be a str, an int, a UUID, an ObjectId or a ULID, not {_type_name(value)}")
    if not text:
        raise MessageError(name, "must not be empty; leave it out or pass None if there is no id")
    return text


def _id_text(value: Any) -> str | None:
    if type(value) is str:
        plain_text: str = value
        return plain_text
    if type(value) is bool:
        return None
    text = _text_of(value)
    if text is not None:
        return text
    try:
        return str(operator.index(value))
    except Exception:
        # It is no integer, or one with more digits than Python converts to text.
        return None


def _text_of(value: Any) -> str | None:
    """The plain text of a str, a UUID, or a value whose `str` is its text; `None` for others, and if it fails."""
    kind = cast("type[object]", type(value))
    try:
        if issubclass(kind, str):
            return wire_text(value)
        return wire_text(str(value)) if issubclass(kind, UUID) or is_text(kind) else None
    except Exception:
        # The exception may quote the value.
        return None


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
    text = value if type(value) is str else None if isinstance(value, UUID) else _text_of(value)
    if text is None:
        raise MessageError(name, f"must be a str, not {_type_name(value)}")
    return text


def _timestamp(value: Any) -> str:
    if type(value) is str and _FINAL_TIME.fullmatch(value) and _is_date(value):
        final: str = value
        return final
    moment = _moment(value)
    if moment is None:
        raise MessageError("timestamp", _timestamp_problem(value))
    problem = None
    try:
        return datetime_text(moment)
    except Exception:
        # The conversion to UTC leads to the year 0 or 10000, or the time zone's own code failed.
        problem = "is outside the years 1 to 9999 in UTC"
    raise MessageError("timestamp", problem)


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _moment(value: Any) -> datetime | None:
    kind = cast("type[object]", type(value))
    try:
        if issubclass(kind, str):
            return _parsed_moment(str.__str__(value))
        if not issubclass(kind, date):
            # Arrow's and numpy's become one; others do not.
            value = convert(value)
        if isinstance(value, datetime):
            # pandas' NaT is a datetime that does not equal itself.
            return value if value == value else None  # noqa: PLR0124
        # A day becomes its first moment.
        return datetime(value.year, value.month, value.day, tzinfo=UTC) if isinstance(value, date) else None
    except Exception:
        # The exception may quote the value.
        return None


def _parsed_moment(text: str) -> datetime:
    """The moment of ISO-8601 text.

    Raises:
        ValueError: it is something else.
    """
    leap = _LEAP_SECOND.fullmatch(text)
    if leap is not None:
        # The last second of a minute of 61: as on most clocks, the first of the next one.
        return datetime.fromisoformat(f"{leap[1]}59{leap[2].upper()}") + timedelta(seconds=1)
    return datetime.fromisoformat(text.upper())


def _timestamp_problem(value: Any) -> str:
    form = 'must be a datetime or ISO-8601 text such as "2026-01-31T09:30:00.000Z"'
    number: float | None = None
    try:
        number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
    except (OverflowError, ValueError):
        pass
    if number is None:
        return f"{form}, not this {_type_name(value)}"
    seconds = "milliseconds / 1000" if abs(number) >= _LEAST_MILLISECONDS else "seconds"
    return f"{form}; for a number, pass datetime.fromtimestamp({seconds}, UTC)"


def _type_name(value: Any) -> str:
    return type(value).__qualname__


def _unchecked(_: str, value: Any) -> Any:
    return value


_MAPPINGS: Final = ("context", "integrations", "properties", "traits")
# The arguments of the six calls, and the fields that they become.
_ARGUMENTS: Final = {
    "user_id": "userId",
    "anonymous_id": "anonymousId",
    "group_id": "groupId",
    "previous_id": "previousId",
    "message_id": "messageId",
    **{name: name for name in ("event", "category", "name", "timestamp", *_MAPPINGS)},
}
_CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    **dict.fromkeys(("userId", "anonymousId", "groupId", "previousId"), identifier),
    **dict.fromkeys(_MAPPINGS, mapping),
    **dict.fromkeys(("name", "category"), _text),
    "event": lambda _, value: _event(value),
    "messageId": lambda _, value: _message_id(value),
    "timestamp": lambda _, value: _timestamp(value),
}
_PLAIN: Final[dict[Any, type]] = {
    **dict.fromkeys(("type", "userId", "anonymousId", "groupId", "previousId", "name", "category", "event"), str),
    **dict.fromkeys(_MAPPINGS, dict),
}
_REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "track": ("event",),
    "identify": (),
    "page": (),
    "screen": (),
    "group": ("groupId",),
    "alias": ("previousId",),
}
