"""Compares two versions of a plan. Pure.

A change is breaking if a message that followed the old plan may violate the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ._plan import Plan
from ._rule import JSONObject, Rule, as_list, as_object
from ._schema import TYPES, is_type


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `path` is that of the property within the message; "" is the rule itself."""

    is_breaking: bool
    rule: str
    path: str
    text: str

    def __str__(self) -> str:
        place = f"{self.rule} {self.path}".strip()
        return f"{'breaking' if self.is_breaking else 'compatible'}: {place}: {self.text}"


_PROSE: Final = frozenset({"$id", "$schema", "id", "title", "examples", "labels"})
_COMPARED: Final = frozenset({"type", "enum", "properties", "required", "items", "description"})


def diff(old: Plan, new: Plan) -> list[Change]:
    """All changes, breaking ones first."""
    before, after = _by_label(old), _by_label(new)
    found: list[Change] = []
    for label in sorted({**before, **after}):
        if label not in after:
            found.append(Change(True, label, "", "removed"))
        elif label not in before:
            found.append(Change(after[label].type == "COMMON", label, "", "added"))
        else:
            found.extend(_of_rule(before[label], after[label]))
    return sorted(found, key=lambda change: not change.is_breaking)


def _by_label(plan: Plan) -> dict[str, Rule]:
    return {rule.label: rule for rule in plan.rules}


def _of_rule(old: Rule, new: Rule) -> Iterator[Change]:
    if old.is_deprecated != new.is_deprecated:
        yield Change(False, new.label, "", "deprecated" if new.is_deprecated else "no longer deprecated")
    yield from _of_schema(old.schema, new.schema, "", new)


def _of_schema(old: JSONObject, new: JSONObject, path: str, rule: Rule) -> Iterator[Change]:
    yield from _of_types(old, new, path, rule)
    yield from _of_values(old, new, path, rule)
    yield from _of_properties(old, new, path, rule)
    for keyword in sorted({*old, *new} - _COMPARED - _PROSE):
        if old.get(keyword) != new.get(keyword):
            what = "added" if keyword not in old else "removed" if keyword not in new else "changed"
            yield Change(keyword in new, rule.label, path, f"{keyword} {what}")
    if old.get("description", "") != new.get("description", ""):
        yield Change(False, rule.label, path, "description changed")
    yield from _of_items(old, new, f"{path}[]", rule)


def _of_items(old: JSONObject, new: JSONObject, path: str, rule: Rule) -> Iterator[Change]:
    before, after = old.get("items", True), new.get("items", True)
    if before == after:
        return
    if isinstance(before, list) or isinstance(after, list):  # a schema for each place
        yield Change(after is not True, rule.label, path, "items changed")
    else:
        yield from _of_value(before, after, path, rule)


def _of_value(old: object, new: object, path: str, rule: Rule) -> Iterator[Change]:
    """The changes of the schema of a property or of items, which may be `true` or `false`."""
    if (old is False) != (new is False):
        text = "no value is allowed now" if new is False else "is allowed now"
        yield Change(new is False, rule.label, path, text)
    else:
        yield from _of_schema(as_object(old), as_object(new), path, rule)


def _of_types(old: JSONObject, new: JSONObject, path: str, rule: Rule) -> Iterator[Change]:
    before, after = _types(old), _types(new)
    if before != after:
        # Every integer is a number.
        narrower = before - after - ({"integer"} if "number" in after else set())
        yield Change(bool(narrower), rule.label, path, f"type was {_shown(before)}, is {_shown(after)}")


def _types(schema: JSONObject) -> frozenset[str]:
    given = schema.get("type")
    if not is_type(given):
        return TYPES
    return frozenset([given] if isinstance(given, str) else as_list(given))


def _shown(types: frozenset[str]) -> str:
    return "anything" if types == TYPES else " or ".join(sorted(types))


def _of_values(old: JSONObject, new: JSONObject, path: str, rule: Rule) -> Iterator[Change]:
    if old.get("enum") == new.get("enum"):
        return
    before, after = as_list(old.get("enum")), as_list(new.get("enum"))
    if "enum" not in new:
        yield Change(False, rule.label, path, "the list of values removed")
    elif "enum" not in old:
        yield Change(True, rule.label, path, f"only these values: {_values(after)}")
    else:
        gone = [value for value in before if value not in after]
        come = [value for value in after if value not in before]
        if gone:
            yield Change(True, rule.label, path, f"values removed: {_values(gone)}")
        if come:
            yield Change(False, rule.label, path, f"values added: {_values(come)}")


def _values(values: list[Any]) -> str:
    return ", ".join(map(repr, values))


def _of_properties(old: JSONObject, new: JSONObject, path: str, rule: Rule) -> Iterator[Change]:
    before, after = as_object(old.get("properties")), as_object(new.get("properties"))
    needed_before, needed_after = _required(old), _required(new)
    for name in sorted({*before, *after, *needed_before, *needed_after}):
        inner = f"{path}.{name}" if path else name
        if name in before and name not in after:
            # No message that followed the old plan had a property without any allowed value.
            yield Change(before[name] is not False, rule.label, inner, "removed")
        elif name not in before and name in after:
            is_ruled_out = after[name] is False
            yield Change(is_ruled_out, rule.label, inner, "no value is allowed now" if is_ruled_out else "added")
        elif name in before:
            yield from _of_value(before[name], after[name], inner, rule)
        if (name in needed_before) != (name in needed_after):
            is_required = name in needed_after
            yield Change(is_required, rule.label, inner, "is required now" if is_required else "is optional now")


def _required(schema: JSONObject) -> set[str]:
    return {name for name in as_list(schema.get("required")) if isinstance(name, str)}
