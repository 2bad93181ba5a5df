"""The Python type of a property's schema, as far as it is certain; the rest is `Any`, and the validator decides. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ._names import property_names
from ._rule import JSONObject, as_list, as_object
from ._schema import is_type

# Segment's editor stores a list of allowed values as such a pattern.
_ALTERNATIVES: Final = re.compile(r"\^?\(?([\w -]+(?:\|[\w -]+)+)\)?\$?")
_ANCHORED: Final = re.compile(r"\^\(?([\w -]+)\)?\$")
MAX_DEPTH: Final = 20
_SIMPLE: Final = {"boolean": "bool", "integer": "int", "number": "float", "null": "None"}
_TIMES: Final = {"date-time": "str | datetime", "date": "str | date"}

DefineObject = Callable[[JSONObject, bool], str]
"""Defines the class of an object's schema, and returns its name; the flag says that it is the item of a list."""


class Type(NamedTuple):
    """A type without `None`, and whether null is allowed. No text: null is all that is allowed."""

    text: str
    is_nullable: bool

    @property
    def required(self) -> str:
        if self.text == "Any" or not self.is_nullable:
            return self.text or "None"
        return f"{self.text} | None" if self.text else "None"

    @property
    def optional(self) -> str:
        if self.text == "Any":
            return "Any"
        null = "Null | None" if self.is_nullable else "None"
        return f"{self.text} | {null}" if self.text else null


class Field(NamedTuple):
    """A property: its planned name, its argument, its schema, and whether it is required."""

    name: str
    argument: str
    schema: JSONObject
    is_required: bool


def fields_of(schema: JSONObject) -> list[Field]:
    """The properties of an object's schema, sorted; also those that are required but not described."""
    described = as_object(schema.get("properties"))
    required = {name for name in as_list(schema.get("required")) if isinstance(name, str)}
    if not described and not required:
        return []
    names = property_names([*described, *required])
    return [Field(name, names[name], as_object(described.get(name)), name in required) for name in names]


def type_of(schema: JSONObject, define: DefineObject, depth: int = 0) -> Type:
    """The type of a value."""
    allowed = _allowed(schema)
    if allowed is not None:
        return allowed
    given = schema.get("type")
    if given is None or not is_type(given):
        return Type("Any", True)
    names: list[str] = [given] if isinstance(given, str) else as_list(given)
    texts: dict[str, None] = {}
    for name in names:
        if name != "null" and not (name == "integer" and "number" in names):
            texts[_text(name, schema, define, depth)] = None
    return Type(" | ".join(texts), "null" in names)


def _text(name: str, schema: JSONObject, define: DefineObject, depth: int) -> str:
    if name == "string":
        time = schema.get("format")
        return _TIMES.get(time, "str") if isinstance(time, str) else "str"
    if name == "array":
        items = as_object(schema.get("items"))
        if not items or depth > MAX_DEPTH:
            return "Sequence[Any]"
        return f"Sequence[{type_of(items, lambda each, _: define(each, True), depth + 1).required}]"
    if name == "object":
        if not as_object(schema.get("properties")) or depth > MAX_DEPTH:
            return "Mapping[str, Any]"
        return define(schema, False)
    return _SIMPLE[name]


def _allowed(schema: JSONObject) -> Type | None:
    """The type of a value that the plan lists; `None` if it lists none, or some that no `Literal` can name."""
    values = as_list(schema["enum"]) if isinstance(schema.get("enum"), list) else None
    if values is None and "const" in schema:
        values = [schema["const"]]
    if values is None and "string" in _types(schema):
        texts = _from_pattern(schema.get("pattern"))
        if not texts or not _types(schema) <= {"string", "null"}:
            return None
        return Type(f"Literal[{', '.join(map(literal, texts))}]", "null" in _types(schema))
    if not values or not all(value is None or isinstance(value, str) or _is_integer(value) for value in values):
        return None
    fitting = [value for value in values if _fits(value, schema)]
    if not fitting:
        return None
    shown = dict.fromkeys(literal(value) for value in fitting if value is not None)
    return Type(f"Literal[{', '.join(shown)}]" if shown else "", None in fitting)


def _is_integer(value: object) -> bool:
    """Whether it is an integer that mypy takes in a `Literal`; larger ones are sent as text anyway."""
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _types(schema: JSONObject) -> set[str]:
    given = schema.get("type")
    if not is_type(given):
        return set()
    return {given} if isinstance(given, str) else set(as_list(given))


def _fits(value: object, schema: JSONObject) -> bool:
    """Whether the schema's type allows the value, too."""
    names = _types(schema)
    if not names:
        return True
    if value is None:
        return "null" in names
    if isinstance(value, bool):
        return "boolean" in names
    return bool(names & ({"integer", "number"} if isinstance(value, int) else {"string"}))


def _from_pattern(pattern: object) -> list[str]:
    if not isinstance(pattern, str):
        return []
    found = _ALTERNATIVES.fullmatch(pattern) or _ANCHORED.fullmatch(pattern)
    return list(dict.fromkeys(found[1].split("|"))) if found and pattern.count("(") == pattern.count(")") else []


def literal(value: Any) -> str:
    """The value as Python source, with double quotes where they need no escape."""
    text = repr(value)
    if not isinstance(value, str) or '"' in value or "'" in value:
        return text
    return f'"{text[1:-1]}"'
