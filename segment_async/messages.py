"""Messages as plain dicts, for code that cannot await: `client.enqueue_nowait(messages.track(...))`.

Each function takes what the client's call of the same name takes and gives the dict that travels, checked but for
the identity: that may come from `bound` fields, and is checked when the message is enqueued. Values that are not
JSON's own are left for the encoder, but for what can be read only once (generators), which is read here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import wraps
from typing import Any, Final, Literal, ParamSpec, Required, TypedDict, TypeVar, cast

from ._exceptions import MessageTooLarge
from ._message import build as _build
from ._message.encode import encode, is_plain, plain

__all__ = [
    "MAX_MESSAGE_BYTES",
    "AliasMessage",
    "GroupMessage",
    "IdentifyMessage",
    "Message",
    "PageMessage",
    "ScreenMessage",
    "TrackMessage",
    "alias",
    "body_of",
    "group",
    "identify",
    "page",
    "screen",
    "track",
]

MAX_MESSAGE_BYTES: Final = 32_768
"""Bytes of JSON that Segment takes of one message
(https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/#max-request-size)."""

Parameters = ParamSpec("Parameters")
Kind = TypeVar("Kind")


class _Common(TypedDict, total=False):
    messageId: str
    timestamp: str
    userId: str
    anonymousId: str
    context: Mapping[str, Any]
    integrations: Mapping[str, Any]


class TrackMessage(_Common, total=False):
    type: Required[Literal["track"]]
    event: Required[str]
    properties: Mapping[str, Any]


class IdentifyMessage(_Common, total=False):
    type: Required[Literal["identify"]]
    traits: Mapping[str, Any]


class PageMessage(_Common, total=False):
    type: Required[Literal["page"]]
    name: str
    category: str
    properties: Mapping[str, Any]


class ScreenMessage(_Common, total=False):
    type: Required[Literal["screen"]]
    name: str
    category: str
    properties: Mapping[str, Any]


class GroupMessage(_Common, total=False):
    type: Required[Literal["group"]]
    groupId: Required[str]
    traits: Mapping[str, Any]


class AliasMessage(_Common, total=False):
    type: Required[Literal["alias"]]
    previousId: Required[str]


Message = TrackMessage | IdentifyMessage | PageMessage | ScreenMessage | GroupMessage | AliasMessage


def body_of(message: Mapping[str, Any]) -> bytes:
    """The message's JSON, checked for its size.

    Raises:
        MessageError: a value cannot become JSON.
        MessageTooLarge: it has more bytes than Segment takes.
    """
    body = encode(message)
    if len(body) > MAX_MESSAGE_BYTES:
        raise too_large(body, MAX_MESSAGE_BYTES)
    return body


def too_large(body: bytes, limit: int) -> MessageTooLarge:
    return MessageTooLarge(len(body), limit, _largest_fields(body))


def _largest_fields(body: bytes) -> dict[str, int]:
    """The three fields with the most bytes, by path, the largest first.

    Read from the JSON: of the message itself, what comes only once may be used up.
    """
    sizes: dict[str, int] = {}
    for name, value in json.loads(body, parse_float=Decimal).items():
        inner = value.items() if isinstance(value, dict) else ()
        sizes |= {f"{name}.{key}": len(encode({key: item})) for key, item in inner}
        if not inner:
            sizes[name] = len(encode({name: value}))
    return dict(sorted(sizes.items(), key=lambda size: -size[1])[:3])


def _door(build: Callable[Parameters, dict[str, Any]], kind: Callable[..., Kind]) -> Callable[Parameters, Kind]:
    """`build`, with the values and the size checked as well; `kind` is there for the type checkers."""

    @wraps(build)
    def door(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Kind:
        message = build(*args, **kwargs)
        if "messageId" not in message:
            # Nothing here knows of a fork without hooks.
            message["messageId"] = _build.message_id_of_the_system()
        complete = message if is_plain(message) else plain(message)
        body_of(complete)
        return cast("Kind", complete)

    door.__doc__ = f"""A `{kind.__name__}`, ready for `Client.enqueue` and `Client.enqueue_nowait`.

    Raises:
        MessageError: a field or a value is wrong; names it.
        MessageTooLarge: more than 32,768 bytes of JSON.
    """
    return door


track = _door(_build.track, TrackMessage)
identify = _door(_build.identify, IdentifyMessage)
page = _door(_build.page, PageMessage)
screen = _door(_build.screen, ScreenMessage)
group = _door(_build.group, GroupMessage)
alias = _door(_build.alias, AliasMessage)
