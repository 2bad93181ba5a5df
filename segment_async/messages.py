"""Messages as plain dicts, for code that cannot await: `client.enqueue_nowait(messages.track(...))`.

Each function takes the same arguments as the client's method of that name and returns the message dict. Everything is
checked except the identity, which `bound` fields may supply and which is checked when the message is enqueued. Values
of other types than JSON's stay as they are until the message is encoded, except for generators, which are read here.

A value of a type of your own is refused here, whatever `Client(default=...)` can do with it: use `Builders`, or
``client.nowait.track(...)``, which builds and queues in one step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import wraps
from typing import Any, Final, Literal, ParamSpec, Required, TypedDict, TypeVar, cast

from ._exceptions import MessageTooLarge
from ._message import build as _build
from ._message.conversions import Conversion, convert, converting
from ._message.encode import encode, is_plain, plain

__all__ = [
    "MAX_MESSAGE_BYTES",
    "AliasMessage",
    "Builders",
    "Defaults",
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
"""The most bytes of JSON that a message may have
(https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/#max-request-size)."""

Parameters = ParamSpec("Parameters")
MessageT = TypeVar("MessageT")


class Defaults(TypedDict, total=False):
    """What `Client(defaults=...)` adds to every message."""

    context: Mapping[str, Any]
    integrations: Mapping[str, Any]
    properties: Mapping[str, Any]


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


def body_of(message: Mapping[str, Any], convert: Conversion = convert) -> bytes:
    """The message's JSON. `convert` converts values of other types than JSON's.

    Raises:
        MessageError: a value cannot be encoded.
        MessageTooLarge: the JSON has more bytes than Segment accepts.
    """
    body = encode(message, convert)
    if len(body) > MAX_MESSAGE_BYTES:
        raise too_large(body, MAX_MESSAGE_BYTES)
    return body


def too_large(body: bytes, limit: int) -> MessageTooLarge:
    return MessageTooLarge(len(body), limit, _largest_fields(body))


def _largest_fields(body: bytes) -> dict[str, int]:
    """The three fields with the most bytes, by path, the largest first.

    Reads the JSON and not the message, whose generators may be consumed already.
    """
    sizes: dict[str, int] = {}
    message: dict[str, Any] = json.loads(body, parse_float=Decimal)
    for name, value in message.items():
        inner = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        sizes |= {f"{name}.{key}": len(encode({key: item})) for key, item in inner.items()}
        if not inner:
            sizes[name] = len(encode({name: value}))
    return dict(sorted(sizes.items(), key=lambda size: -size[1])[:3])


def _checking(
    build: Callable[Parameters, dict[str, Any]], kind: Callable[..., MessageT], convert: Conversion
) -> Callable[Parameters, MessageT]:
    """`build`, followed by the checks of the values and the size; `kind` gives type checkers the returned type."""

    @wraps(build)
    def build_and_check(*args: Parameters.args, **kwargs: Parameters.kwargs) -> MessageT:
        message = build(*args, **kwargs)
        complete = message if is_plain(message) else plain(message, convert)
        body_of(complete)
        return cast("MessageT", complete)

    build_and_check.__doc__ = f"""Build a `{kind.__name__}` for `Client.enqueue` or `Client.enqueue_nowait`.

    Raises:
        MessageError: a field or a value is wrong; names it.
        MessageTooLarge: the message has more than 32,768 bytes of JSON.
    """
    return build_and_check


class Builders:
    """The functions of this module, for messages with values of your own types.

    ``build = Builders(default=...)``, then ``build.track(...)`` and so on. A message that needs `default` holds only
    JSON's own types, so that any client takes it.

    Args:
        default: as in `json.dumps`, and as `Client(default=...)`: gets a value of a type that has no conversion, and
            returns one that has; it raises `TypeError` for what it does not know.

    Raises:
        ValueError: `default` is no plain function.
    """

    def __init__(self, *, default: Callable[[Any], Any] | None = None) -> None:
        convert = converting(default)
        self.track = _checking(_build.track, TrackMessage, convert)
        self.identify = _checking(_build.identify, IdentifyMessage, convert)
        self.page = _checking(_build.page, PageMessage, convert)
        self.screen = _checking(_build.screen, ScreenMessage, convert)
        self.group = _checking(_build.group, GroupMessage, convert)
        self.alias = _checking(_build.alias, AliasMessage, convert)


_builders: Final = Builders()
track = _builders.track
identify = _builders.identify
page = _builders.page
screen = _builders.screen
group = _builders.group
alias = _builders.alias
