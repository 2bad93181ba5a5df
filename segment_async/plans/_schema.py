"""Turns a rule's schema into a validator that decides as Segment's does.

Plans contain types that are no types of JSON Schema (“any”); a validator would refuse the whole rule for them, so they
are removed first. Nothing is ever fetched: a `$ref` to another document is an error. The validator is the extra
`plans`, imported when the first rule is compiled.
"""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from ._rule import JSONObject, PlanError

if TYPE_CHECKING:
    from jsonschema_rs import Draft7Validator

TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
# The keywords whose value is a schema, a list of schemas, or schemas by name.
_SCHEMAS: Final = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
)
_LISTS: Final = ("allOf", "anyOf", "items", "oneOf")
_BY_NAME: Final = ("$defs", "definitions", "dependencies", "patternProperties", "properties")
# Go's times, as Segment accepts them for “date-time”: a date and a time with its zone, a date alone, or a time alone.
# Wider than RFC 3339 in the hour, the fraction, the offset and the year 0; without its leap seconds and small letters.
_TIME: Final = r"(?:[01]?\d|2[0-3]):[0-5]\d:[0-5]\d(?:[.,]\d+)?"
_ZONE: Final = r"(?:Z|[+-](?:[01]\d|2[0-4]):(?:[0-5]\d|60))"
_DATE_TIME: Final = re.compile(rf"(?P<date>\d{{4}}-\d\d-\d\d)(?:T{_TIME}{_ZONE})?|{_TIME}(?:{_ZONE})?", re.ASCII)
# The validator wants a zone in “time”, and knows no “uuid” in draft 7; Go's knows small letters only.
_TIME_ALONE: Final = re.compile(rf"{_TIME}(?:{_ZONE})?", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class NoValidator(PlanError, ImportError):
    """The extra `plans` is not installed."""


def normalised(schema: object, pointer: str = "", found: list[tuple[str, str]] | None = None) -> Any:
    """A copy of the schema without types that JSON Schema does not know; `found` gets each with its JSON pointer."""
    if not isinstance(schema, dict):
        return schema
    result: JSONObject = {}
    for name, value in cast("JSONObject", schema).items():
        place = f"{pointer}/{escaped(name)}"
        if name == "type" and not is_type(value):
            if found is not None:
                found.append((place, f"{value!r} is no type of JSON Schema; any value passes"))
        elif name in _BY_NAME and isinstance(value, dict):
            inner = cast("JSONObject", value)
            result[name] = {key: normalised(each, f"{place}/{escaped(key)}", found) for key, each in inner.items()}
        elif name in _LISTS and isinstance(value, list):
            result[name] = [
                normalised(each, f"{place}/{index}", found) for index, each in enumerate(cast("list[object]", value))
            ]
        else:
            result[name] = normalised(value, place, found) if name in _SCHEMAS else value
    return result


def is_type(value: object) -> bool:
    """Whether a validator can check the type."""
    names = cast("list[object]", value) if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in TYPES for name in names)


def escaped(name: str) -> str:
    """The name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def require_validator() -> None:
    """Raises:
    NoValidator: the extra is missing.
    """
    compiled({})


def compiled(schema: JSONObject) -> Draft7Validator:
    """The validator.

    Raises:
        NoValidator: the extra is missing.
        PlanError: the schema is invalid, refers to another document, or has a pattern with look-ahead.
    """
    try:
        import jsonschema_rs
    except ModuleNotFoundError:
        raise NoValidator(
            'checking messages against a plan needs the extra "plans": pip install "segment-async[plans]"'
        ) from None
    plain = {name: value for name, value in normalised(schema).items() if name != "$schema"}
    try:
        return jsonschema_rs.Draft7Validator(
            plain,
            formats={"date-time": is_date_time, "time": _is_time, "uuid": _is_uuid},
            validate_formats=True,
            retriever=_refuse,
            pattern_options=jsonschema_rs.RegexOptions(),
        )
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise PlanError(str(error).partition("\n")[0]) from None


def is_date_time(text: str) -> bool:
    """Whether Segment takes the text for a `date-time`."""
    found = _DATE_TIME.fullmatch(text)
    return found is not None and (found["date"] is None or _is_day(found["date"]))


def _is_time(text: str) -> bool:
    return _TIME_ALONE.fullmatch(text) is not None


def _is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def _is_day(text: str) -> bool:
    try:
        # Python has no year 0. It is a leap year, as 2000.
        date.fromisoformat(f"2000{text[4:]}" if text.startswith("0000") else text)
    except ValueError:
        return False
    return True


def _refuse(uri: str) -> NoReturn:
    raise ValueError("other documents are not fetched")
