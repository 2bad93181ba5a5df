"""Turns the values of a message into JSON bytes.

The fast path is one call of `orjson.dumps`, or a second one with `conversions.convert` for the types that orjson does
not know. The slow path is a walk over the values that keeps track of the path, so that an error can name it. It takes
what orjson refuses (integers beyond 64 bits, lone surrogates, keys that are not text) and iterators that can be read
only once. Both give the same JSON, so that a value does not change with its neighbours.

This file knows values, not messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from itertools import islice
from sys import getrefcount
from typing import Any, Final, NoReturn, cast
from uuid import UUID

import orjson
from orjson import Fragment

from segment_async._exceptions import MessageError

from .conversions import (
    ONE_SHOT,
    Conversion,
    ExactNumber,
    convert,
    decimal_digits,
    fits_float,
    fragment_content,
    is_object,
    key_text,
    pairs,
    wire_text,
)

_OPTIONS: Final = (
    orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    # A dict that keeps several values for a key has other items than orjson would see.
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
# The limits of orjson: containers nested 254 deep, integers of 64 bits.
_MAX_DEPTH: Final = 254
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1
# More items than this cannot fit into the 32,768 bytes of a message.
_MAX_ITEMS: Final = 16_384
# Types that need at most one step.
_LEAVES: Final = frozenset({str, int, float, bool, type(None), ExactNumber})
# Types that cannot contain a fragment.
_SIMPLE: Final = _LEAVES | {Decimal, datetime, date, UUID}
# Types that the fast path copies.
_CONTAINERS: Final = frozenset({dict, list, tuple})
_LOOKED_AT: Final = _CONTAINERS | {Fragment}
_FAILED: Final = object()


def encode(message: Mapping[str, Any], convert: Conversion = convert) -> bytes:
    """The message as JSON.

    Raises:
        MessageError: a value cannot be encoded; names its path and its type, never the value.
    """
    # The condition of `may_be_in`, written out for speed.
    if getrefcount(Fragment) == _fragments.references or not _fragments.may_be_in(message):
        try:
            return orjson.dumps(message, None, _OPTIONS)
        except TypeError:
            # It has values to convert, or some that orjson refuses.
            pass
        body = _encode_copy(message, convert)
        if body is not None:
            return body
    return _encode_plain(plain(message, convert))


def _encode_copy(message: Mapping[str, Any], convert: Conversion) -> bytes | None:
    """As `encode`, with conversions; `None`: the fast path does not take the message.

    A conversion runs Python, and with it perhaps other threads. orjson crashes if a list or dict that it is in the middle
    of is changed, so it gets copies.
    """

    def converted(value: Any) -> Any:
        made = convert(value)
        return _copied(made) if type(made) in _CONTAINERS else made

    try:
        return orjson.dumps(_copied(message), converted, _OPTIONS)
    except TypeError as error:
        _reraise_exit(error.__cause__)
    except Exception:
        # It contains itself or is nested too deeply, and the slow path says where; or a key cannot be found again.
        pass
    return None


def _copied(value: Any) -> Any:
    """The value with copies of its dicts and lists, each taken in one step."""
    kind = cast("type[object]", type(value))
    if kind is dict:
        copy = value.copy()
        for key, item in copy.items():
            if type(item) in _LOOKED_AT:
                copy[key] = _copied(item)
        return copy
    if kind in _CONTAINERS:
        return [_copied(item) if type(item) in _LOOKED_AT else item for item in list(value)]
    if kind is Fragment and not _fragments.has(value):
        # The application's `default` made it. The slow path reads it.
        raise TypeError
    return value


def plain(message: Mapping[str, Any], convert: Conversion = convert) -> dict[str, Any]:
    """A copy of the message in JSON's own types; generators are consumed.

    A Decimal becomes a float that remembers its digits.

    Raises:
        MessageError: as `encode`.
    """
    walked = None
    try:
        walked = _Walk(convert).value(message, "", ())
    except RecursionError:
        # Raise the error outside of this handler, where the stack is short again.
        pass
    if walked is None:
        raise MessageError("message", "is nested too deeply")
    return cast("dict[str, Any]", walked)


def snapshot(message: Mapping[str, Any], convert: Conversion) -> dict[str, Any]:
    """A copy that later changes to the message's objects do not reach; generators are consumed.

    Raises:
        MessageError: as `encode`.
    """
    if not _fragments.may_be_in(message):
        try:
            orjson.dumps(message, None, _OPTIONS)
            return cast("dict[str, Any]", _copied(message))
        except (TypeError, RecursionError):
            # As in `encode`.
            pass
    return plain(message, convert)


def _encode_plain(message: dict[str, Any]) -> bytes:
    problem = None
    try:
        return orjson.dumps(message, convert, _OPTIONS)
    except TypeError:
        # orjson's error may quote the value: raise a new one outside of this handler, so that it has no context.
        problem = "holds a value that cannot be encoded as JSON"
    raise MessageError("message", problem)


def encode_leniently(message: Mapping[str, Any], convert: Conversion) -> bytes:
    """The message as JSON, with `null` in place of each value that cannot be encoded."""
    try:
        return encode(message, convert)
    except MessageError:
        pass
    walked = None
    try:
        walked = _LenientWalk(convert).value(message, "", ())
    except RecursionError:
        pass
    return _encode_plain(walked or {"messageId": message["messageId"]})


def is_plain(message: Mapping[str, Any]) -> bool:
    """Whether the fast path can encode the message without consuming a generator."""
    if _fragments.may_be_in(message):
        return False
    try:
        orjson.dumps(message, None, _OPTIONS)
    except TypeError:
        # As in `encode`.
        return _encode_copy(message, convert) is not None
    return True


def own_fragment(content: bytes) -> Fragment:
    """JSON of this library's, encoded once for all messages."""
    return _fragments.add(content)


class _Fragments:
    """Finds fragments of the application's, which may end the message and begin further ones.

    orjson writes a fragment as it is. Looking for them in each message would take as long as encoding it. But each one
    counts as a reference to its type, so that the number of references tells whether there can be any.

    Attributes:
        references: how many there are as long as the application has none.
    """

    def __init__(self) -> None:
        self._own: list[Fragment] = []
        self.references = getrefcount(Fragment)
        self._own.append(Fragment(b"0"))
        if getrefcount(Fragment) != self.references + 1:
            # Some builds of Python, such as free-threaded ones, do not count at once: look into each message.
            self.references = -1
        self._own.clear()

    def add(self, content: bytes) -> Fragment:
        own = Fragment(content)
        self._own.append(own)
        if self.references >= 0:
            self.references += 1
        return own

    def has(self, fragment: Fragment) -> bool:
        """Whether it is ours."""
        return any(fragment is own for own in self._own)

    def may_be_in(self, message: Mapping[str, Any]) -> bool:
        """Whether the message may hold one that is not ours."""
        if getrefcount(Fragment) == self.references:
            return False
        try:
            return not self._is_simple(message)
        except RuntimeError:
            # It contains itself, or another thread changes it.
            return True

    def _is_simple(self, value: Any) -> bool:
        kind = cast("type[object]", type(value))
        if kind in _SIMPLE:
            return True
        if kind is dict:
            return all(map(self._is_simple, value.values()))
        if kind is list or kind is tuple:
            return all(map(self._is_simple, value))
        return kind is Fragment and self.has(value)


_fragments: Final = _Fragments()


def _reraise_exit(cause: BaseException | None) -> None:
    """Raise the KeyboardInterrupt or SystemExit that orjson wrapped in its own error."""
    if cause is not None and not isinstance(cause, Exception):
        raise cause


class _Walk:
    """The slow path over one message.

    Looks at `type(value)` and not at `__class__`: a proxy's `__class__` runs the application's code.
    """

    __slots__ = ("_convert",)

    def __init__(self, convert: Conversion) -> None:
        self._convert = convert

    def value(self, value: Any, path: str, parents: tuple[int, ...]) -> Any:
        """The value in JSON's own types. `path` is where it is, for errors."""
        kind = cast("type[object]", type(value))  # for pyright: the type of an Any is unknown to it
        if kind in _LEAVES or issubclass(kind, Decimal):
            return _leaf(value, path)
        if id(value) in parents:
            _refuse(path, value, "contains itself")
        if len(parents) >= _MAX_DEPTH:
            _refuse(path, value, "is nested too deeply")
        parents = (*parents, id(value))
        if kind is dict or (issubclass(kind, Mapping) and not issubclass(kind, Enum)):
            return self._mapping(_read(lambda: pairs(value), value, path), path, parents)
        if kind is list or kind is tuple:
            return self._items(_read(lambda: value, value, path), path, parents)
        if issubclass(kind, ONE_SHOT):
            return self._items(_consume(value, path), path, parents)
        if kind is Fragment:
            return self.value(_parsed(value, path), path, parents)
        return self.value(self._converted(value, path), path, parents)

    def _items(self, items: Iterable[Any], path: str, parents: tuple[int, ...]) -> list[Any]:
        return [self.value(item, f"{path}[{index}]", parents) for index, item in enumerate(items)]

    def _mapping(self, items: list[tuple[Any, Any]], path: str, parents: tuple[int, ...]) -> dict[str, Any]:
        walked: dict[str, Any] = {}
        for key, item in items:
            name = key if type(key) is str and key.isascii() else _key_text(key, path)
            inner = f"{path}.{name}" if path else name
            if name in walked:
                raise MessageError(inner, "two keys have the same text")
            walked[name] = self.value(item, inner, parents)
        return walked

    def _converted(self, value: Any, path: str) -> Any:
        converted: Any = _FAILED
        try:
            converted = self._convert(value)
        except Exception:
            # The exception may quote the value: raise another one outside of this handler, so that it has no context.
            pass
        if converted is _FAILED:
            _refuse(path, value, "cannot be encoded as JSON")
        return converted


class _LenientWalk(_Walk):
    """The same, with `None` in place of what cannot be encoded."""

    __slots__ = ()

    def value(self, value: Any, path: str, parents: tuple[int, ...]) -> Any:
        try:
            return super().value(value, path, parents)
        except MessageError:
            return None


def _consume(value: Iterable[Any], path: str) -> list[Any]:
    """The items of an iterator, which may be endless."""
    items = _read(lambda: islice(value, _MAX_ITEMS + 1), value, path)
    if len(items) > _MAX_ITEMS:
        _refuse(path, value, "yields more items than fit in a message")
    return items


def _read(items: Callable[[], Iterable[Any]], value: Any, path: str) -> list[Any]:
    read: list[Any] | None = None
    try:
        read = list(items())
    except Exception:
        # As in `_Walk._converted`.
        pass
    if read is None:
        _refuse(path, value, "raised an exception when it was read")
    return read


def _parsed(fragment: Fragment, path: str) -> Any:
    """The JSON of a fragment of the application's, with all digits of its numbers."""
    try:
        return fragment_content(fragment)
    except (TypeError, ValueError):
        # As in `_Walk._converted`.
        pass
    return _refuse(path, fragment, "does not hold valid JSON")


def as_dict(name: str, value: Any) -> dict[Any, Any] | None:
    """The items of a mapping, a dataclass, or a model of pydantic, attrs or msgspec; `None` if it is none of these.

    Raises:
        MessageError: its own code failed.
    """
    if type(value) is dict:
        return cast("dict[str, Any]", value)
    read: list[tuple[Any, Any]] | None = None
    try:
        kind = cast("type[object]", type(value))
        if not is_object(kind) and not isinstance(value, Mapping):
            return None
        converted = convert(cast("object", value))
        if not isinstance(converted, Mapping):
            return None
        read = list(pairs(cast("Mapping[object, Any]", converted)))
    except Exception:
        # As in `_Walk._converted`.
        pass
    if read is None:
        _refuse(name, value, "raised an exception when it was read")
    return dict(read)


def _refuse(path: str, value: Any, problem: str) -> NoReturn:
    raise MessageError(path or "message", f"{problem} (type {type(value).__qualname__})")


def _leaf(value: Any, path: str) -> Any:
    if isinstance(value, str):
        return wire_text(value)
    if isinstance(value, Decimal):
        return _exact_number(value)
    if type(value) is int:
        return _integer(value, path)
    if type(value) is float and not math.isfinite(value):
        return None
    return value


def _integer(value: int, path: str) -> int | str:
    if _SMALLEST <= value <= _LARGEST:
        return value
    digits = None
    try:
        digits = str(value)
    except ValueError:
        # Python does not convert integers of more than a few thousand digits.
        pass
    if digits is None:
        _refuse(path, value, "has too many digits")
    return digits


def _exact_number(value: Decimal) -> ExactNumber | str | None:
    digits = decimal_digits(value)
    return ExactNumber.of(digits) if digits is not None and fits_float(digits) else digits


def _key_text(key: Any, path: str) -> str:
    text: str | None = None
    try:
        text = key_text(key)
    except Exception:
        # As in `_Walk._converted`.
        pass
    if text is None:
        _refuse(path, key, "has a key that cannot be converted to text")
    return text
