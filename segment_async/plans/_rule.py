"""One rule of a tracking plan, in the form of Segment's Public API, and what can be wrong with it. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast, get_args
from urllib.parse import unquote

RuleType = Literal["COMMON", "GROUP", "IDENTIFY", "PAGE", "SCREEN", "TRACK"]
RULE_TYPES: Final[tuple[RuleType, ...]] = get_args(RuleType)
NOT_DEPRECATED: Final = "0001-01-01T00:00:00.000Z"

JSONObject = dict[str, Any]


class PlanError(ValueError):
    """The plan cannot be used. The text says where and why."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding about the plan itself. `pointer` is the JSON pointer within the rule's schema; "" is the rule."""

    severity: Literal["error", "warning", "note"]
    rule: str
    pointer: str
    text: str

    def __str__(self) -> str:
        place = f"{self.rule} {self.pointer}".strip()
        return f"{self.severity}: {place}: {self.text}" if place else f"{self.severity}: {self.text}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        key: the event's name; `None` if there is one rule for all calls of the type.
        version: `None` if the format has no versions.
        schema: JSON Schema of the whole message, draft 7.
        source: the rule as it was read, with all fields.
    """

    type: RuleType
    key: str | None
    version: int | None
    schema: JSONObject = field(repr=False)
    is_deprecated: bool = False
    source: JSONObject = field(default_factory=dict[str, Any], repr=False)

    @property
    def section(self) -> str:
        """The field of the message that holds what the caller passes."""
        return "traits" if self.type in ("IDENTIFY", "GROUP") else "properties"

    @property
    def fields(self) -> JSONObject:
        """The schema of the properties or traits; empty if there is none.

        It has the properties of all parts: of local references and of the branches of keywords such as `allOf`.
        """
        return section_of(self.schema, self.section)

    @property
    def label(self) -> str:
        """The rule's name in texts."""
        name = self.type if self.key is None else f"{self.type} “{self.key}”"
        return name if self.version is None else f"{name} version {self.version}"

    @property
    def description(self) -> str:
        """The event's description; empty if there is none."""
        return text_of(self.schema.get("description"))

    @property
    def labels(self) -> dict[str, str]:
        """The labels that group events, such as ``{"area": "checkout"}``."""
        labels = as_object(self.schema.get("labels")) or as_object(self.source.get("labels"))
        return {name: str(value) for name, value in labels.items()}


def as_object(value: object) -> JSONObject:
    """The JSON object, or an empty one in place of anything else."""
    return cast("JSONObject", value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """The JSON array, or an empty one in place of anything else."""
    return cast("list[object]", value) if isinstance(value, list) else []


def text_of(value: object) -> str:
    """The text, or an empty one in place of anything else."""
    return value if isinstance(value, str) else ""


def is_deeper(value: object, levels: int) -> bool:
    """Whether objects and arrays are nested deeper than that; without recursion."""
    inner: list[object] = [value]
    for _ in range(levels):
        inner = [each for outer in inner for each in _children(outer)]
        if not inner:
            return False
    return True


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return [*cast("JSONObject", value).values()]
    return as_list(value)


def subschema(schema: Mapping[str, Any], name: str) -> JSONObject:
    """The schema of one property; empty if there is none."""
    return as_object(as_object(schema.get("properties")).get(name))


# -- the parts of a schema

# Keywords whose branches always apply, and those of which one may.
_CERTAIN: Final = ("allOf",)
_POSSIBLE: Final = ("anyOf", "oneOf", "if", "then", "else", "dependencies")


def section_of(schema: JSONObject, section: str) -> JSONObject:
    """The schema of a field of the message, with the properties of all its parts.

    What only a branch asks for has no type and is not required; nor has a type what two parts describe differently.
    """
    fields = subschema(schema, section)
    if not _has_parts(schema) and not _has_parts(fields):
        return fields
    certain = _sections(schema, section, _CERTAIN)
    possible = _sections(schema, section, (*_CERTAIN, *_POSSIBLE))
    properties: JSONObject = {}
    for part in certain:
        for name, described in as_object(part.get("properties")).items():
            is_other = name in properties and properties[name] != described
            properties[name] = _untyped(described) if is_other else described
    for part in possible:
        for name, described in as_object(part.get("properties")).items():
            properties.setdefault(name, _untyped(described))
    patterns = {name: value for part in possible for name, value in as_object(part.get("patternProperties")).items()}
    required = dict.fromkeys(
        name for part in certain for name in as_list(part.get("required")) if isinstance(name, str)
    )
    return {**fields, "properties": properties, "patternProperties": patterns, "required": [*required]}


def _has_parts(schema: JSONObject) -> bool:
    return "$ref" in schema or any(name in schema for name in (*_CERTAIN, *_POSSIBLE))


def _untyped(described: object) -> JSONObject:
    about = as_object(described).get("description")
    return {} if about is None else {"description": about}


def _sections(schema: JSONObject, section: str, keywords: tuple[str, ...]) -> list[JSONObject]:
    of_message = _parts(schema, [schema], keywords)
    return _parts(schema, [subschema(part, section) for part in of_message], keywords)


def _parts(schema: JSONObject, parts: list[JSONObject], keywords: tuple[str, ...]) -> list[JSONObject]:
    """These parts with all that they refer to and branch into, each once; without recursion."""
    found: dict[int, JSONObject] = {}
    waiting = deque(parts)
    while waiting:
        part = waiting.popleft()
        if not part or id(part) in found:
            continue
        found[id(part)] = part
        waiting.append(_referred(schema, part.get("$ref")))
        for keyword in keywords:
            value: object = part.get(keyword)
            branches = as_list(value) or ([*as_object(value).values()] if keyword == "dependencies" else [value])
            waiting.extend(map(as_object, branches))
    return [*found.values()]


def _referred(schema: JSONObject, reference: object) -> JSONObject:
    """What a reference within the document leads to; empty if it leads nowhere, which the validator reports."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return {}
    found: object = schema
    for escaped in unquote(reference[1:]).split("/")[1:]:
        name = escaped.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            listed = cast("list[object]", found)
            # No list has a place of ten digits, and of thousands no integer is made.
            is_place = name.isdecimal() and len(name) < 10 and int(name) < len(listed)
            found = listed[int(name)] if is_place else None
        else:
            found = as_object(found).get(name)
    return as_object(found)
