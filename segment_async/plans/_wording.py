"""Says what violates a rule in the words of Segment's validator, which is Go's gojsonschema. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

Kind = Mapping[str, Any]


class Violation(Protocol):
    """An error of the validator."""

    @property
    def instance(self) -> Any: ...
    @property
    def instance_path(self) -> Sequence[str | int]: ...
    @property
    def schema_path(self) -> Sequence[str | int]: ...
    @property
    def kind(self) -> Any: ...


def described(violation: Violation, schema: Kind) -> list[tuple[str, str]]:
    """The path as on the wire, such as ``properties.products[0].price``, and Segment's description.

    Several of them only for additional properties, each of which is a violation of its own at Segment.
    """
    path, kind, name = list(violation.instance_path), violation.kind.as_dict(), violation.kind.name
    if name == "required":
        path.append(kind["property"])
        return [(wire_path(path), f"{_dotted(path)} is required")]
    if name == "additionalProperties":
        return [(wire_path([*path, each]), f"Additional property {each} is not allowed") for each in kind["unexpected"]]
    if name == "type":
        kind = {"types": _given_types(violation, schema) or kind["types"]}
    say = _TEXTS.get(name)
    return [(wire_path(path), say(violation, kind) if say else f"Does not match “{name}”")]


def wire_path(parts: Sequence[str | int]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _dotted(parts: Sequence[str | int]) -> str:
    return ".".join(map(str, parts)) or "(root)"


def _given_types(violation: Violation, schema: Any) -> list[str]:
    """The types in the order of the plan, which the validator does not keep."""
    for part in violation.schema_path:
        try:
            schema = schema[part]
        except (KeyError, IndexError, TypeError):
            return []  # the path leads through a $ref
    return cast("list[str]", schema) if isinstance(schema, list) else []


def _type(violation: Violation, kind: Kind) -> str:
    expected = kind["types"]
    shown = expected[0] if len(expected) == 1 else f"[{','.join(expected)}]"
    return f"Invalid type. Expected: {shown}, given: {given_type(violation.instance)}"


def given_type(value: object) -> str:
    """The name of a value's type; a number without a fraction is an integer."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list() | tuple():
            return "array"
        case _:
            return "object"


def _enum(violation: Violation, kind: Kind) -> str:
    options = ", ".join(_json(option) for option in kind["options"])
    return f"{_dotted(violation.instance_path)} must be one of the following: {options}"


def _const(violation: Violation, kind: Kind) -> str:
    return f"{_dotted(violation.instance_path)} does not match: {_json(kind['expected_value'])}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _limit(text: str, name: str = "limit") -> Callable[[Violation, Kind], str]:
    return lambda _, kind: text.format(_number(kind[name]))


def _always(text: str) -> Callable[[Violation, Kind], str]:
    return lambda _, __: text


def _name_of(violation: Violation, kind: Kind) -> str:
    return f"Property name of {_json(kind['error'].instance)} does not match"


_TEXTS: Final[dict[str, Callable[[Violation, Kind], str]]] = {
    "additionalItems": _always("No additional items allowed on array"),
    "allOf": _always("Must validate all the schemas (allOf)"),
    "anyOf": _always("Must validate at least one schema (anyOf)"),
    "const": _const,
    "contains": _always("At least one of the items must match"),
    "enum": _enum,
    "exclusiveMaximum": _limit("Must be less than {}"),
    "exclusiveMinimum": _limit("Must be greater than {}"),
    "falseSchema": _always("False always fails validation"),
    "format": _limit("Does not match format '{}'", "format"),
    "maxItems": _limit("Array must have at most {} items"),
    "maxLength": _limit("String length must be less than or equal to {}"),
    "maxProperties": _limit("Must have at most {} properties"),
    "maximum": _limit("Must be less than or equal to {}"),
    "minItems": _limit("Array must have at least {} items"),
    "minLength": _limit("String length must be greater than or equal to {}"),
    "minProperties": _limit("Must have at least {} properties"),
    "minimum": _limit("Must be greater than or equal to {}"),
    "multipleOf": _limit("Must be a multiple of {}", "multiple_of"),
    "not": _always("Must not validate the schema (not)"),
    "oneOf": _always("Must validate one and only one schema (oneOf)"),
    "pattern": _limit("Does not match pattern '{}'", "pattern"),
    "propertyNames": _name_of,
    "type": _type,
    "uniqueItems": _always("array items must be unique"),
}
