"""Values become JSON bytes here, once.

The fast way is one `orjson.dumps`, with `_convert` for the types that orjson leaves to us. What orjson refuses
altogether (integers beyond 64 bits, lone surrogates, keys that aren't text) and what can be read only once
(generators) goes the slow way: a walk that knows where it is, so that an error can name the path. Nothing is
imported to recognise pydantic, attrs, msgspec or numpy: they are known by what they have.

This file knows values, not messages.
"""

from __future__ import annotations

import base64
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from itertools import islice
from pathlib import PurePath
from types import GeneratorType
from typing import Any, NoReturn
from uuid import UUID

import orjson

from segment_async._exceptions import MessageError

_MASK = "**********"
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
# What orjson takes: nesting of 254, integers of 64 bits.
_DEEPEST = 254
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1
# A generator that yields more than this could not fit into the 32,768 bytes of a message.
_MOST_ITEMS = 16_384
# What can be read only once.
_ONCE = (GeneratorType, map, filter, zip)
# What orjson takes as it is, fragments (a converted Decimal's) included.
_FINAL = frozenset({bool, float, orjson.Fragment})

_log = logging.getLogger("segment_async")
_warned_of_naive = False


def encode(message: Mapping[str, Any]) -> bytes:
    """The message as JSON.

    Raises:
        MessageError: a value cannot become JSON; names its path and its type, never the value.
    """
    try:
        return orjson.dumps(message, _convert, _OPTIONS)
    except TypeError as error:
        _let_through(error.__cause__)
    return _encode_plain(plain(message))


def plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message in values that `encode` takes at once; generators are used up.

    Raises:
        MessageError: as `encode`.
    """
    problem = None
    try:
        walked = _walk(message, "", ())
    except RecursionError:
        problem = "nested too deep"
    if problem:
        raise MessageError("message", problem)
    return walked  # type: ignore[no-any-return]  # a mapping walks to a dict


def _encode_plain(message: dict[str, Any]) -> bytes:
    problem = None
    try:
        return orjson.dumps(message, _convert, _OPTIONS)
    except TypeError:
        # The text of orjson's own error may hold a value; it is dropped with its chain.
        problem = "holds a value that cannot become JSON"
    raise MessageError("message", problem)


def is_plain(message: Mapping[str, Any]) -> bool:
    """Whether the fast way takes the message without reading anything that can be read only once."""
    try:
        orjson.dumps(message, _convert, _OPTIONS)
    except TypeError as error:
        _let_through(error.__cause__)
        return False
    return True


def datetime_text(value: datetime) -> str:
    """ISO-8601 in UTC with milliseconds; what has no zone is taken as UTC (said once in a process's log)."""
    if value.tzinfo is None or value.utcoffset() is None:
        _warn_of_naive()
        value = value.replace(tzinfo=UTC)
    # datetime's own text: a subclass may write others.
    return datetime.isoformat(value.astimezone(UTC), timespec="milliseconds")[:-6] + "Z"


def _warn_of_naive() -> None:
    global _warned_of_naive
    if not _warned_of_naive:
        _warned_of_naive = True
        _log.warning("A datetime without a zone was taken as UTC; pass aware ones. This is said once.")


def _let_through(cause: BaseException | None) -> None:
    """Lets KeyboardInterrupt and its like through, which orjson wraps into its own error."""
    if cause is not None and not isinstance(cause, Exception):
        raise cause


class _Unknown(Exception):
    """No rule knows the value's type, or its own conversion failed."""


def _convert(value: Any) -> Any:
    """One step from a value that isn't JSON to one that is, or to one that is nearer to it."""
    rule = _RULES.get(type(value))
    if rule is None:
        rule = _rule_by_ancestry(value) or _rule_by_looks(value)
        if rule is None:
            raise _Unknown
    return rule(value)


def _rule_by_ancestry(value: Any) -> Callable[[Any], Any] | None:
    return next((rule for ancestor, rule in _ANCESTORS if isinstance(value, ancestor)), None)


def _rule_by_looks(value: Any) -> Callable[[Any], Any] | None:
    kind = type(value)
    if isinstance(value, type):
        return None
    if hasattr(kind, "get_secret_value") or kind.__name__ == "Secret":
        return _mask
    return next((rule for mark, rule in _LOOKS if hasattr(kind, mark)), None)


def _mask(_: Any) -> str:
    return _MASK


def _datetime(value: datetime) -> str | None:
    # pandas' NaT is a datetime that equals nothing, not even itself.
    return datetime_text(value) if value == value else None  # noqa: PLR0124


def _decimal(value: Decimal) -> orjson.Fragment | None:
    # Decimal's own text: a subclass may write "$3", which would spoil the whole batch.
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
    return {field.name: getattr(value, field.name) for field in type(value).__attrs_attrs__}


def _struct(value: Any) -> dict[str, Any]:
    names = zip(type(value).__struct_fields__, type(value).__struct_encode_fields__, strict=True)
    items = ((name, getattr(value, field)) for field, name in names)
    # As msgspec has it, what was never set is left out.
    return {name: item for name, item in items if type(item).__name__ != "UnsetType"}


def _model(value: Any) -> Any:
    return value.model_dump(warnings=False)


def _old_model(value: Any) -> Any:
    return value.dict()


def _numpy(value: Any) -> Any:
    if type(value).__module__ == "numpy" and value.dtype.kind in "mM":
        # Finer units than microseconds would come out as bare integers.
        return value.astype(f"{value.dtype.kind}8[us]").tolist()
    listed = value.tolist()
    return _float(listed) if type(listed) is type(value) else listed


_RULES: dict[type, Callable[[Any], Any]] = {
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
# In this order: a pandas Timestamp is a datetime and has numpy's looks, numpy's float64 is a float.
_ANCESTORS: tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...] = (
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
_LOOKS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("model_dump", _model),
    ("__attrs_attrs__", _attrs),
    ("__struct_encode_fields__", _struct),
    ("__dataclass_fields__", _dataclass),
    ("__fields_set__", _old_model),
    # pydantic's addresses, which its models keep as objects.
    ("unicode_string", str),
    ("tolist", _numpy),
)


def _walk(value: Any, path: str, holders: tuple[int, ...]) -> Any:
    """The value in JSON's own types (a finite Decimal stays one), with the path at hand for an error.

    What counts is the type, not the `__class__` that a proxy shows: that one runs the application's code.
    """
    kind = type(value)
    if value is None or kind in _FINAL or (kind is Decimal and value.is_finite()):
        return value
    if issubclass(kind, Enum):
        return _walk(value.value, path, holders)
    if issubclass(kind, str):
        return as_it_travels(value)
    if issubclass(kind, int):
        return _integer(value, path)
    if id(value) in holders:
        _refuse(path, value, "a cycle: it contains itself")
    if len(holders) >= _DEEPEST:
        _refuse(path, value, "nested too deep")
    holders = (*holders, id(value))
    if issubclass(kind, Mapping):
        return _walk_mapping(_read(value.items, value, path), path, holders)
    if issubclass(kind, (list, tuple)):
        return _walk_items(_read(lambda: value, value, path), path, holders)
    if issubclass(kind, _ONCE):
        return _walk_items(_read_out(value, path), path, holders)
    return _walk(_converted(value, path), path, holders)


def _walk_items(items: Iterable[Any], path: str, holders: tuple[int, ...]) -> list[Any]:
    return [_walk(item, f"{path}[{index}]", holders) for index, item in enumerate(items)]


def _read_out(value: Iterable[Any], path: str) -> list[Any]:
    """What a generator yields, up to more items than a message could ever hold."""
    items = _read(lambda: islice(value, _MOST_ITEMS + 1), value, path)
    if len(items) > _MOST_ITEMS:
        _refuse(path, value, "yields more items than a message can hold")
    return items


def _read(items: Callable[[], Iterable[Any]], value: Any, path: str) -> list[Any]:
    read: list[Any] | None = None
    try:
        read = list(items())
    except Exception:
        # What the value's own code raised may quote it: it ends here, with its chain.
        pass
    if read is None:
        _refuse(path, value, "raised while it was read")
    return read


def _walk_mapping(items: list[tuple[Any, Any]], path: str, holders: tuple[int, ...]) -> dict[str, Any]:
    walked: dict[str, Any] = {}
    for key, item in items:
        name = key if type(key) is str and key.isascii() else _key_text(key, path)
        place = f"{path}.{name}" if path else name
        if name in walked:
            raise MessageError(place, "two keys become the same text")
        walked[name] = _walk(item, place, holders)
    return walked


def _converted(value: Any, path: str) -> Any:
    converted: Any = _Unknown
    try:
        converted = _convert(value)
    except Exception:
        # What the value's own code raised may quote it: it ends here, with its chain.
        pass
    if converted is _Unknown:
        _refuse(path, value, "cannot become JSON")
    return converted


def _refuse(path: str, value: Any, problem: str) -> NoReturn:
    raise MessageError(path or "message", f"{problem} (type {type(value).__qualname__})")


def as_it_travels(value: str) -> str:
    """Exact `str`, lone surrogates replaced by U+FFFD."""
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
        # Python refuses to write out integers of more than a few thousand digits.
        pass
    if digits is None:
        _refuse(path, value, "has too many digits")
    return digits


def _key_text(key: Any, path: str) -> str:
    text: str | None = None
    try:
        text = _key_as_text(key)
    except Exception:
        # As in `_converted`: the key's own code may quote it.
        pass
    if text is None:
        _refuse(path, key, "has a key that cannot become text")
    return text


def _key_as_text(key: Any) -> str:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, str):
        return as_it_travels(key)
    if isinstance(key, datetime):
        return datetime_text(key)
    if isinstance(key, (date, time)):
        return key.isoformat()
    if isinstance(key, bytes):
        return _bytes(key)
    if _rule_by_looks(key) is _mask:
        return _MASK
    return as_it_travels(str(key))
