"""Ready-made steps for `before_send`, which takes one function or a list of them.

    client = Client("WRITE_KEY", before_send=[drop_bots(), redact("password", "context.ip"), hash_fields("email", key=SECRET)])

Each function here returns a step: it takes a message as it travels, and returns it, changed, or `None` to drop it. If a
step raises, the message is dropped, so nothing is sent that should have been redacted. A field is given in one of two
ways: a bare name such as ``"email"`` is every key of that name in ``properties``, ``traits`` and ``context``, at any
depth, whatever its case; a path such as ``"context.ip"`` or ``"properties.products.*.coupon"`` starts at the message,
with ``properties``, ``traits``, ``context`` or ``integrations``, and ``*`` is any key or any place in a list. Pure:
nothing here knows the client.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Final, cast

from ._web.bots import is_bot

__all__ = ["Step", "drop_bots", "hash_fields", "redact", "sample"]

Step = Callable[[dict[str, Any]], dict[str, Any] | None]
"""What `before_send` is: takes a message, and returns it, or `None` to drop it."""

_SEARCHED: Final = ("properties", "traits", "context")
_OBJECTS: Final = (*_SEARCHED, "integrations")
_IDS: Final = ("userId", "anonymousId", "previousId", "groupId")
# Segment needs them as they are.
_FIXED: Final = ("type", "event", "messageId", "timestamp", "properties", "traits", "context", "integrations")
_REMOVED: Final = object()

_Members = dict[str, Any]
_Items = Sequence[Any]


def redact(*fields: str, text: str | None = "[redacted]") -> Step:
    """A step that replaces the values of fields.

    Args:
        fields: names or paths.
        text: what they become. `None`: they are removed.

    Raises:
        ValueError: there is no field, or one that is not text or that a message needs as it is, or a path that begins
            with no object of a message.
    """
    replacement = _REMOVED if text is None else text
    return _changing(fields, lambda: lambda _: replacement)


def hash_fields(*fields: str, key: str | bytes | None) -> Step:
    """A step that replaces values with a hash: 64 hexadecimal digits, the same for the same value.

    Objects and lists keep their shape; each value in them is hashed. `None` stays.

    Args:
        fields: names or paths, ``"userId"`` and ``"anonymousId"`` included. With either, the ``previousId`` of an alias
            is hashed as well: it is a user id or an anonymous id that other messages have.
        key: a secret for HMAC-SHA256. `None`: plain SHA-256 of the text in lower case and without surrounding white
            space, which advertising destinations expect of an email address. Anyone can find the address for such a
            hash by trying, so it is no anonymisation.

    Raises:
        ValueError: there is no field, or one that is not text or that a message needs as it is, or a path that begins
            with no object of a message; or the key is empty, or neither text nor bytes.
    """
    secret = key.encode() if isinstance(key, str) else key
    if not isinstance(secret, (bytes, bytearray, type(None))):
        # It would fail with each message, which is dropped then.
        raise ValueError("key must be text, bytes or None; of a SecretStr, its get_secret_value()")  # noqa: TRY004  # as other options
    if secret == b"":
        raise ValueError("key must not be empty")

    def digest(value: Any) -> str:
        text = value if isinstance(value, str) else _number_text(value)
        if secret is None:
            return hashlib.sha256(text.strip().lower().encode()).hexdigest()
        return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()

    def hashing() -> Callable[[Any], Any]:
        # Two fields may lead to the same value: its hash must not be hashed again. The hashes are kept so that no other
        # object can get the id of one.
        made: dict[int, str] = {}

        def hashed(value: Any) -> Any:
            if value is None or id(value) in made:
                return value
            if isinstance(value, dict):
                return {name: hashed(each) for name, each in cast("_Members", value).items()}
            if isinstance(value, list):
                return [hashed(each) for each in cast("_Items", value)]
            result = digest(value)
            made[id(result)] = result
            return result

        return hashed

    repeats_an_id = "userId" in fields or "anonymousId" in fields
    return _changing((*fields, "previousId") if repeats_an_id else fields, hashing)


def _number_text(value: Any) -> str:
    """A value that is not text, as JSON; a `Decimal` with all its digits, unless a float has the same value."""
    text = json.dumps(value)
    digits: str | None = getattr(value, "digits", None)
    if digits is None:
        return text
    number = Decimal(digits)
    # One value has one text: zero with eight places is written 0E-8, and a hundred may be 1E+2.
    if cast("int", number.as_tuple().exponent) < 0:
        # Not in the form "f", which writes all places: there may be millions.
        return text if number == Decimal(text) else digits
    return f"{number:f}"


def sample(rate: float, *, events: Iterable[str] | None = None) -> Step:
    """A step that keeps the events of a share of the users, and drops the rest.

    A user's events are kept or dropped together, in every process: the user id decides, or the anonymous id without
    one. Identify, group and alias messages always pass, as the users that are kept need them.

    Args:
        rate: the share to keep, from 0.0 to 1.0.
        events: only `track` messages with these names are sampled. `None`: all track, page and screen messages.

    Raises:
        ValueError: `rate` is not between 0 and 1, or `events` is a single name.
    """
    if isinstance(rate, (bool, str, type(None))) or not 0 <= rate <= 1:
        raise ValueError("rate must be a number from 0.0 to 1.0")
    if isinstance(events, str):
        # It would be taken for a list of its characters.
        raise ValueError(f"events must be a list of names, such as [{events!r}]")  # noqa: TRY004  # as other options
    names = None if events is None else frozenset(events)

    def step(message: dict[str, Any]) -> dict[str, Any] | None:
        if names is None:
            is_sampled = message["type"] in ("track", "page", "screen")
        else:
            is_sampled = message["type"] == "track" and message["event"] in names
        if not is_sampled:
            return message
        identity = message.get("userId") or message.get("anonymousId") or ""
        place = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
        return message if place < rate else None

    return step


def drop_bots() -> Step:
    """A step that drops messages whose ``context.userAgent`` is that of a program; without one, they pass.

    The extra ``bots`` adds a maintained list of crawlers.
    """

    def step(message: dict[str, Any]) -> dict[str, Any] | None:
        agent = message.get("context", {}).get("userAgent")
        return None if isinstance(agent, str) and is_bot(agent) else message

    return step


def _changing(fields: tuple[str, ...], changing: Callable[[], Callable[[Any], Any]]) -> Step:
    """A step that changes these fields. For each message, `changing` makes the function that changes a value."""
    for field in fields:
        if not isinstance(field, str):
            raise ValueError("give each field by itself, as text: 'email', 'phone', not as a list")  # noqa: TRY004  # as other options
    names, paths = _parsed(dict.fromkeys(fields))

    def step(message: dict[str, Any]) -> dict[str, Any]:
        change = changing()
        for name in _SEARCHED if names else ():
            _change_named(message.get(name), names, change)
        for path in paths:
            _change_at(message, path, change)
        return message

    return step


def _parsed(fields: Iterable[str]) -> tuple[frozenset[str], list[list[str]]]:
    """The bare names, in lower case, and the paths.

    Raises:
        ValueError: there is none, or one of them names what a message needs, or begins with no object of a message.
    """
    if not fields:
        raise ValueError("name at least one field")
    names: set[str] = set()
    paths: list[list[str]] = []
    for field in fields:
        parts = field.split(".")
        if "" in parts or field == "*" or field in _FIXED:
            raise ValueError(f"{field!r} is not a field that can be changed")
        # What an application adds to a message itself, such as `_metadata`, begins with an underscore.
        if len(parts) > 1 and parts[0] not in (*_OBJECTS, "*") and not parts[0].startswith("_"):
            raise ValueError(
                f"{field!r} begins with no object of a message; a path starts there, such as 'properties.{field}', or "
                "with '*' for any of them; a bare name, without dots, is found anywhere in properties, traits and context"
            )
        if len(parts) > 1 or field in _IDS:
            paths.append(parts)
        else:
            names.add(field.lower())
    return frozenset(names), paths


def _change_named(value: Any, names: frozenset[str], change: Callable[[Any], Any]) -> None:
    """Change the members of these names, wherever they are in a value."""
    if isinstance(value, list):
        for each in cast("_Items", value):
            _change_named(each, names, change)
    elif isinstance(value, dict):
        members = cast("_Members", value)
        for name in list(members):
            if name.lower() in names:
                _put(members, name, change(members[name]))
            else:
                _change_named(members[name], names, change)


def _change_at(value: Any, path: list[str], change: Callable[[Any], Any]) -> None:
    """Change what is at a path within a value, if anything is."""
    part, *rest = path
    places: list[Any]
    if isinstance(value, dict):
        members = cast("_Members", value)
        places = list(members) if part == "*" else [part] if part in members else []
    elif isinstance(value, list) and part == "*":
        # From the end, as the earlier ones keep their places when one is removed.
        places = list(reversed(range(len(cast("_Items", value)))))
    else:
        return
    for place in places:
        if rest:
            _change_at(value[place], rest, change)
        else:
            _put(value, place, change(value[place]))


def _put(container: Any, place: Any, value: Any) -> None:
    if value is _REMOVED:
        del container[place]
    else:
        container[place] = value
