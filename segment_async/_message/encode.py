"""Turns the values of a message into JSON bytes.

The fast path is one call of `orjson.dumps`, with `_convert` for the types that orjson does not know. The slow path is
a walk over the values that keeps track of the path, so that an error can name it. It takes what orjson refuses
(integers beyond 64 bits, lone surrogates, keys that are not text) and iterators that can be read only once. Objects of
pydantic, attrs, msgspec and numpy are recognised by their attributes, without importing these packages.

This file knows values, not messages.
"""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from itertools import islice
from pathlib import PurePath
from types import GeneratorType
from typing import Any, Final, NoReturn, cast
from uuid import UUID

import orjson

from segment_async._exceptions import MessageError

from .timestamps import datetime_text

_MASK: Final = "**********"
_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
# The limits of orjson: containers nested 254 deep, integers of 64 bits.
_MAX_DEPTH: Final = 254
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1
# More items than this cannot fit into the 32,768 bytes of a message.
_MAX_ITEMS: Final = 16_384
# Iterators, which can be read only once.
_ONE_SHOT: Final = (GeneratorType, map, filter, zip)
# Types that the walk leaves to orjson; a converted Decimal is a Fragment.
_NATIVE: Final = frozenset({bool, float, orjson.Fragment})


def encode(message: Mapping[str, Any]) -> bytes:
    """The message as JSON.

    Raises:
        MessageError: a value cannot be encoded; names its path and its type, never the value.
    """
    try:
        return orjson.dumps(message, _convert, _OPTIONS)
    except TypeError as error:
        _reraise_exit(error.__cause__)
    return _encode_plain(plain(message))


def plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the message in JSON's own types; generators are consumed.

    Raises:
        MessageError: as `encode`.
    """
    walked = None
    try:
        walked = _walk(message, "", ())
    except RecursionError:
        # Raise the error outside of this handler, where the stack is short again.
        pass
    if walked is None:
        raise MessageError("message", "is nested too deeply")
    return cast("dict[str, Any]", walked)


def _encode_plain(message: dict[str, Any]) -> bytes:
    problem = None
    try:
        return orjson.dumps(message, _convert, _OPTIONS)
    except TypeError:
        # orjson's error may quote the value: raise a new one outside of this handler, so that it has no context.
        problem = "holds a value that cannot be encoded as JSON"
    raise MessageError("message", problem)


def is_plain(message: Mapping[str, Any]) -> bool:
    """Whether the fast path can encode the message without consuming a generator."""
    try:
        orjson.dumps(message, _convert, _OPTIONS)
    except TypeError as error:
        _reraise_exit(error.__cause__)
        return False
    return True


def _reraise_exit(cause: BaseException | None) -> None:
    """Raise the KeyboardInterrupt or SystemExit that orjson wrapped in its own error."""
    if cause is not None and not isinstance(cause, Exception):
        raise cause


class _Unsupported(Exception):
    """There is no conversion for the value's type, or the conversion failed."""


def _convert(value: object) -> Any:
    """Convert a value one step towards JSON; the result may need further steps."""
    conversion = _CONVERSIONS.get(type(value))
    if conversion is None:
        conversion = _inherited_conversion(value) or _duck_typed_conversion(value)
        if conversion is None:
            raise _Unsupported
    return conversion(value)


def _inherited_conversion(value: object) -> Callable[[Any], Any] | None:
    return next((conversion for base, conversion in _BASE_TYPES if isinstance(value, base)), None)


def _duck_typed_conversion(value: object) -> Callable[[Any], Any] | None:
    kind = type(value)
    if isinstance(value, type):
        return None
    if hasattr(kind, "get_secret_value") or kind.__name__ == "Secret":
        return _mask
    return next((conversion for attribute, conversion in _DUCK_TYPES if hasattr(kind, attribute)), None)


def _mask(_: Any) -> str:
    return _MASK


def _datetime(value: datetime) -> str | None:
    # pandas' NaT is a datetime that does not equal itself.
    return datetime_text(value) if value == value else None  # noqa: PLR0124


def _decimal(value: Decimal) -> orjson.Fragment | None:
    # Call Decimal's own method: a subclass may return "$3", which would make the whole batch invalid JSON.
    return orjson.Fragment(Decimal.__str__(value)) if Decimal.is_finite(value) else None


def _isoformat(value: date | time) -> str:
    return value.isoformat()


def _float(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _bytes(value: Any) -> str:
    raw = bytes(value)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return base64.b64encode(raw).decode()


def _enum(value: Enum) -> Any:
    return value.value


def _dataclass(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _attrs(value: Any) -> dict[str, Any]:
    kind = cast("Any", type(value))
    names: list[str] = [field.name for field in kind.__attrs_attrs__]
    return {name: getattr(value, name) for name in names}


def _struct(value: Any) -> dict[str, Any]:
    kind = cast("Any", type(value))
    attributes: tuple[str, ...] = kind.__struct_fields__
    names: tuple[str, ...] = kind.__struct_encode_fields__
    items = zip(names, [getattr(value, attribute) for attribute in attributes], strict=True)
    # Leave out unset fields, as msgspec does.
    return {name: item for name, item in items if type(item).__name__ != "UnsetType"}


def _model(value: Any) -> Any:
    return value.model_dump(warnings=False)


def _model_v1(value: Any) -> Any:
    return value.dict()


def _numpy(value: Any) -> Any:
    if type(value).__module__ == "numpy" and value.dtype.kind in "mM":
        # With units finer than microseconds, `tolist` would return bare integers.
        return value.astype(f"{value.dtype.kind}8[us]").tolist()
    listed = value.tolist()
    return _float(listed) if type(listed) is type(value) else listed


_CONVERSIONS: Final[dict[type, Callable[[Any], Any]]] = {
    datetime: _datetime,
    Decimal: _decimal,
    date: _isoformat,
    time: _isoformat,
    timedelta: timedelta.total_seconds,
    UUID: str,
    set: list,
    frozenset: list,
    deque: list,
    bytes: _bytes,
    **dict.fromkeys((IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network), str),
}
# The first match wins, and base types go before duck types: a pandas Timestamp is a datetime and looks like a numpy
# scalar; numpy's float64 is a float.
_BASE_TYPES: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...]] = (
    (Enum, _enum),
    (datetime, _datetime),
    (Decimal, _decimal),
    ((date, time), _isoformat),
    (timedelta, timedelta.total_seconds),
    (float, _float),
    (UUID, str),
    (PurePath, str),
    ((bytes, bytearray, memoryview), _bytes),
    ((set, frozenset, deque, tuple), list),
    (Mapping, dict),
)
# The attribute that shows what a type is, in this order.
_DUCK_TYPES: Final[tuple[tuple[str, Callable[[Any], Any]], ...]] = (
    ("model_dump", _model),
    ("__attrs_attrs__", _attrs),
    ("__struct_encode_fields__", _struct),
    ("__dataclass_fields__", _dataclass),
    ("__fields_set__", _model_v1),
    # pydantic's URL types, which `model_dump` leaves as objects.
    ("unicode_string", str),
    ("tolist", _numpy),
)


def _walk(value: Any, path: str, parents: tuple[int, ...]) -> Any:
    """The value in JSON's own types; a finite Decimal stays one. `path` is where it is, for errors.

    Looks at `type(value)` and not at `__class__`: a proxy's `__class__` runs the application's code.
    """
    kind = cast("type[object]", type(value))  # for pyright: the type of an Any is unknown to it
    if value is None or kind in _NATIVE or (kind is Decimal and value.is_finite()):
        return value
    if issubclass(kind, Enum):
        return _walk(value.value, path, parents)
    if issubclass(kind, str):
        return wire_text(value)
    if issubclass(kind, int):
        return _integer(value, path)
    if id(value) in parents:
        _refuse(path, value, "contains itself")
    if len(parents) >= _MAX_DEPTH:
        _refuse(path, value, "is nested too deeply")
    parents = (*parents, id(value))
    if issubclass(kind, Mapping):
        return _walk_mapping(_read(value.items, value, path), path, parents)
    if issubclass(kind, (list, tuple)):
        return _walk_items(_read(lambda: value, value, path), path, parents)
    if issubclass(kind, _ONE_SHOT):
        return _walk_items(_consume(value, path), path, parents)
    return _walk(_converted(value, path), path, parents)


def _walk_items(items: Iterable[Any], path: str, parents: tuple[int, ...]) -> list[Any]:
    return [_walk(item, f"{path}[{index}]", parents) for index, item in enumerate(items)]


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
        # The exception may quote the value: raise another one outside of this handler, so that it has no context.
        pass
    if read is None:
        _refuse(path, value, "raised an exception when it was read")
    return read


def _walk_mapping(items: list[tuple[Any, Any]], path: str, parents: tuple[int, ...]) -> dict[str, Any]:
    walked: dict[str, Any] = {}
    for key, item in items:
        name = key if type(key) is str and key.isascii() else _key_text(key, path)
        inner = f"{path}.{name}" if path else name
        if name in walked:
            raise MessageError(inner, "two keys have the same text")
        walked[name] = _walk(item, inner, parents)
    return walked


def _converted(value: Any, path: str) -> Any:
    converted: Any = _Unsupported
    try:
        converted = _convert(value)
    except Exception:
        # The exception may quote the value: raise another one outside of this handler, so that it has no context.
        pass
    if converted is _Unsupported:
        _refuse(path, value, "cannot be encoded as JSON")
    return converted


def _refuse(path: str, value: Any, problem: str) -> NoReturn:
    raise MessageError(path or "message", f"{problem} (type {type(value).__qualname__})")


def wire_text(value: str) -> str:
    """The text as a plain `str`, with each lone surrogate replaced by U+FFFD."""
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _integer(value: int, path: str) -> int | str:
    if _SMALLEST <= value <= _LARGEST:
        return int(value)
    digits = None
    try:
        digits = int.__str__(value)
    except ValueError:
        # Python does not convert integers of more than a few thousand digits.
        pass
    if digits is None:
        _refuse(path, value, "has too many digits")
    return digits


def _key_text(key: Any, path: str) -> str:
    text: str | None = None
    try:
        text = _key_as_text(key)
    except Exception:
        # As in `_converted`.
        pass
    if text is None:
        _refuse(path, key, "has a key that cannot be converted to text")
    return text


def _key_as_text(key: Any) -> str:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, str):
        return wire_text(key)
    if isinstance(key, datetime):
        return datetime_text(key)
    if isinstance(key, (date, time)):
        return key.isoformat()
    if isinstance(key, bytes):
        return _bytes(key)
    if _duck_typed_conversion(key) is _mask:
        return _MASK
    return wire_text(str(key))
