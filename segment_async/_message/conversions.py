"""Converts a value one step towards JSON, by its type.

Objects of pydantic, attrs, msgspec, numpy and others are recognised by their attributes and names, without importing
these packages. A conversion may return something that needs a further conversion.

The tables are at the end, and a new type is a line in one of them: `_BASE_TYPES` with subclasses, `_CONVERSIONS` by the
exact type (found faster; it may be in both), `_OBJECTS` and `_DUCK_TYPES` by an attribute, `_NAMED` and `_TEXT_NAMES` by
the type's name (of `_TEXT_NAMES` also as ids). Only `key_text` has a chain of its own, for the keys of dicts.

This file knows single values: neither paths nor messages.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from os import fspath
from types import GeneratorType
from typing import Any, Final, cast
from uuid import UUID

import orjson

from segment_async._hooks import check_plain

from .timestamps import datetime_text

_MASK: Final = "**********"
_LARGEST_EXPONENT: Final = 307
# Classes whose `str` is the value: ids, URLs, and texts that are translated late.
_TEXT_NAMES: Final = frozenset({"ObjectId", "ULID", "KSUID", "Ksuid", "UUID", "URL", "furl"}) | frozenset(
    {"Promise", "LazyString", "_LazyString", "LazyProxy"}
)

# Iterators, which can be read only once, and become lists.
ONE_SHOT: Final = (GeneratorType, map, filter, zip)

Conversion = Callable[[Any], Any]


class Unsupported(Exception):
    """There is no conversion for the value's type."""


class ExactNumber(float):
    """A Decimal as a float that `before_send` can calculate with; unchanged, it travels with all its digits."""

    __slots__ = ("digits",)

    digits: str

    @classmethod
    def of(cls, digits: str) -> ExactNumber:
        number = cls(digits)
        number.digits = digits
        return number


def convert(value: object, within: Conversion | None = None) -> Any:
    """Convert a value one step towards JSON.

    `within`: converts what is in a model of pydantic, which dumps all of it at once. `None`: as this does.

    Raises:
        Unsupported: there is no conversion. Any other exception comes from the value's own code.
    """
    kind = type(value)
    conversion = _CONVERSIONS.get(kind) or _conversion_of(kind) or _conversion_by_class(value)
    if conversion is None:
        raise Unsupported
    if within is not None and conversion in _OF_PYDANTIC:
        return cast("Any", conversion)(value, within)
    return conversion(value)


def converting(default: Conversion | None) -> Conversion:
    """`convert`, followed by the application's own function for types that have no conversion.

    Raises:
        ValueError: `default` is no plain function.
    """
    if default is None:
        return convert
    check_plain("default", default)

    def convert_or_default(value: object) -> Any:
        try:
            return convert(value, convert_or_default)
        except Unsupported:
            # Call it outside of this handler, so that its exceptions have no context.
            pass
        if isinstance(value, ONE_SHOT):
            # The walk over the message reads it.
            raise Unsupported
        made = default(value)
        return fragment_content(made) if type(made) is orjson.Fragment else made

    return convert_or_default


def fragment_content(fragment: orjson.Fragment) -> Any:
    """What its JSON says, with all digits of its numbers.

    Raises:
        TypeError, ValueError: it does not hold valid JSON.
    """
    content = orjson.dumps(fragment)
    # Refuses what the standard library takes, such as NaN.
    orjson.loads(content)
    return json.loads(content, parse_float=Decimal)


def _found_conversion(kind: type[Any]) -> Conversion | None:
    # Of the types themselves, only the instances are values.
    if issubclass(kind, type):
        return None
    if hasattr(kind, "get_secret_value") or kind.__name__ == "Secret":
        return _mask
    for attribute, conversion in _BEFORE_BASE_TYPES:
        if hasattr(kind, attribute):
            return conversion
    for base, conversion in _BASE_TYPES:
        if issubclass(kind, base):
            return conversion
    for attribute, conversion in (_OBJECTS | _DUCK_TYPES).items():
        if hasattr(kind, attribute):
            return conversion
    return _conversion_by_name(kind)


_conversion_of = cast("Callable[[type[Any]], Conversion | None]", lru_cache(maxsize=512)(_found_conversion))


def _conversion_by_name(kind: type[Any]) -> Conversion | None:
    return str if is_text(kind) else _NAMED.get(kind.__name__)


def _conversion_by_class(value: object) -> Conversion | None:
    """For proxies, whose `__class__` is that of their target."""
    if isinstance(value, type):
        return None
    return next((conversion for base, conversion in _BASE_TYPES if isinstance(value, base)), None)


def is_text(kind: type[Any]) -> bool:
    """Whether `str` of an instance is its value: an id such as ObjectId or ULID, a URL, a text that is translated late."""
    has_text = "__str__" in {name for base in kind.__mro__[:-1] for name in vars(base)}
    return has_text and not _TEXT_NAMES.isdisjoint([base.__name__ for base in kind.__mro__])


def is_object(kind: type[Any]) -> bool:
    """Whether an instance becomes a JSON object: a mapping, a dataclass, or a model of pydantic, attrs or msgspec."""
    return _conversion_of(kind) in (_mapping, *_OBJECTS.values())


def pairs(value: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    """The items of a mapping. Where a multi-valued mapping has several values for a key, the value is their list."""
    kind = type(value)
    if kind is dict:
        return value.items()
    if hasattr(kind, "getlist"):
        # Django's, Werkzeug's and Starlette's, whose `items` have one value for each key.
        many = cast("Any", value)
        return [(key, _single(list(many.getlist(key)))) for key in many.keys()]  # noqa: SIM118  # not all of them iterate over keys
    grouped: dict[Any, list[Any]] = {}
    for key, item in cast("Any", value).multi_items() if hasattr(kind, "multi_items") else value.items():
        grouped.setdefault(key, []).append(item)
    return [(key, _single(items)) for key, items in grouped.items()]


def _single(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else items


def decimal_digits(value: Decimal) -> str | None:
    """The digits of a Decimal; `None` if it is not finite."""
    # Call Decimal's own methods: a subclass may return "$3", which would make the whole batch invalid JSON.
    return Decimal.__str__(value) if Decimal.is_finite(value) else None


def fits_float(digits: str) -> bool:
    """Whether a number is in the range of a float: JSON readers refuse numbers beyond it, or read infinity."""
    return (len(digits) < _LARGEST_EXPONENT and "E" not in digits) or math.isfinite(float(digits))


def key_text(key: Any) -> str:
    """A dict's key as text: `None` and booleans as JSON writes them, dates in ISO format, else `str`."""
    kind = cast("type[object]", type(key))
    if issubclass(kind, Enum):
        return key_text(key.value)
    if issubclass(kind, str):
        return wire_text(key)
    if key is None:
        return "null"
    if kind is bool:
        return "true" if key else "false"
    if issubclass(kind, datetime):
        return datetime_text(key)
    if issubclass(kind, (date, time)):
        return cast("str", key.isoformat())
    if issubclass(kind, bytes):
        return _bytes(key)
    conversion = _conversion_of(kind)
    if conversion is _mask:
        return _MASK
    return key_text(_numpy(key)) if conversion is _numpy else wire_text(str(key))


def wire_text(value: str) -> str:
    """The text as a plain `str`, with each lone surrogate replaced by U+FFFD."""
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _mask(_: Any) -> str:
    return _MASK


def _nothing(_: Any) -> None:
    return None


def _datetime(value: datetime) -> str | None:
    # pandas' NaT is a datetime that does not equal itself.
    return datetime_text(value) if value == value else None  # noqa: PLR0124


def _decimal(value: Decimal) -> orjson.Fragment | str | None:
    digits = decimal_digits(value)
    # Text beyond the range of a float, as an integer beyond 64 bits.
    return orjson.Fragment(digits) if digits is not None and fits_float(digits) else digits


def _exact_number(value: ExactNumber) -> orjson.Fragment | float:
    digits = getattr(value, "digits", None)
    return orjson.Fragment(digits) if digits is not None else float(value)


def _isoformat(value: date | time) -> str:
    return value.isoformat()


def _arrow(value: Any) -> Any:
    return value.datetime


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


def _mapping(value: Any) -> dict[Any, Any]:
    return dict(pairs(value))


def _url_parts(value: Any) -> Any:
    return value.geturl()


def _database_url(value: Any) -> Any:
    return value.render_as_string(hide_password=True)


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


def _model(value: Any, within: Conversion = convert) -> Any:
    """As the application's own JSON: a serializer of the model may mask a value only there."""
    return _as_elsewhere(_dumped(value.model_dump, within), value.model_dump(warnings=False))


def _pydantic_dataclass(value: Any, within: Conversion = convert) -> Any:
    dump: Callable[..., Any] = cast("Any", type(value)).__pydantic_serializer__.to_python

    def dump_value(**options: Any) -> Any:
        return dump(value, **options)

    return _as_elsewhere(_dumped(dump_value, within), dump_value(warnings=False))


def _dumped(dump: Callable[..., Any], within: Conversion) -> Any:
    try:
        return dump(mode="json", warnings=False, fallback=within)
    except TypeError:
        # Before pydantic 2.11, models do not know `fallback`.
        return dump(mode="json", warnings=False)


def _as_elsewhere(dumped: Any, given: Any) -> Any:
    """What pydantic dumped as JSON, with Decimals, dates and durations in the form that they have outside of models.

    A value that a serializer of the application's replaced stays as that serializer wrote it.
    """
    if isinstance(given, (Decimal, datetime, timedelta)):
        is_default: bool = dumped == sys.modules["pydantic_core"].to_jsonable_python(given)
        return given if is_default else dumped
    if isinstance(dumped, dict) and isinstance(given, dict):
        written, kept = cast("dict[str, object]", dumped), cast("dict[object, object]", given)
        if len(written) == len(kept):
            both = zip(written.items(), kept.values(), strict=True)
            return {key: _as_elsewhere(item, before) for (key, item), before in both}
    elif isinstance(dumped, list) and isinstance(given, (list, tuple)):
        items, kept_items = cast("list[object]", dumped), list(cast("Iterable[object]", given))
        if len(items) == len(kept_items):
            return [_as_elsewhere(item, before) for item, before in zip(items, kept_items, strict=True)]
    return cast("object", dumped)


def _model_v1(value: Any) -> Any:
    return json.loads(value.json())


def _numpy(value: Any) -> Any:
    if type(value).__module__ == "numpy" and value.dtype.kind in "mM":
        # With units finer than microseconds, `tolist` would return bare integers.
        return value.astype(f"{value.dtype.kind}8[us]").tolist()
    listed = value.tolist()
    return _float(listed) if type(listed) is type(value) else listed


_CONVERSIONS: Final[dict[type, Conversion]] = {
    datetime: _datetime,
    Decimal: _decimal,
    ExactNumber: _exact_number,
    date: _isoformat,
    time: _isoformat,
    timedelta: timedelta.total_seconds,
    UUID: str,
    set: list,
    frozenset: list,
    deque: list,
    bytes: _bytes,
}
# Named tuples that are URLs.
_BEFORE_BASE_TYPES: Final[tuple[tuple[str, Conversion], ...]] = (
    ("render_as_string", _database_url),
    ("geturl", _url_parts),
)
# The first match wins, and base types go before duck types: a pandas Timestamp is a datetime and looks like a numpy
# scalar; numpy's float64 is a float.
_BASE_TYPES: Final[tuple[tuple[type | tuple[type, ...], Conversion], ...]] = (
    (Enum, _enum),
    (str, wire_text),
    (int, int.__index__),
    (datetime, _datetime),
    (Decimal, _decimal),
    ((date, time), _isoformat),
    (timedelta, timedelta.total_seconds),
    (float, _float),
    (UUID, str),
    ((bytes, bytearray, memoryview), _bytes),
    ((set, frozenset, deque, tuple, list), list),
    (Mapping, _mapping),
)
# The attribute that shows what a type is, in this order; these become JSON objects.
_OBJECTS: Final[dict[str, Conversion]] = {
    "model_dump": _model,
    "__attrs_attrs__": _attrs,
    "__struct_encode_fields__": _struct,
    "__pydantic_serializer__": _pydantic_dataclass,
    "__dataclass_fields__": _dataclass,
    "__fields_set__": _model_v1,
}
# They take `within` as well.
_OF_PYDANTIC: Final = (_model, _pydantic_dataclass)
_DUCK_TYPES: Final[dict[str, Conversion]] = {
    # pydantic's URL types, which `model_dump` leaves as objects.
    "unicode_string": str,
    # Paths, whose module takes 1 ms to import.
    "__fspath__": fspath,
    "tolist": _numpy,
}
# The name of the type: pandas' missing value, Arrow's date and time, and those of `ipaddress`, which takes 1 ms to import.
_NAMED: Final[dict[str, Conversion]] = {
    "NAType": _nothing,
    "Arrow": _arrow,
    **{f"IPv{version}{kind}": str for version in (4, 6) for kind in ("Address", "Interface", "Network")},
}
