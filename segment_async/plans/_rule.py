"""One rule of a tracking plan, in the form of Segment's Public API, and what can be wrong with it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast, get_args

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
        """The schema of the properties or traits; empty if there is none."""
        return subschema(self.schema, self.section)

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
