"""Reads the files in which tracking plans are kept, and turns each format into rules.

Known shapes: Segment's Public API (the response, ``{"rules": [...]}`` or the bare list), Typewriter's `plan.json`, the
old Config API, and RudderStack. This file knows no validator.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final, cast

from ._rule import NOT_DEPRECATED, RULE_TYPES, JSONObject, PlanError, Problem, Rule, RuleType, as_list, as_object

PULL: Final = "Pull the plan as JSON: segment-async plan pull tp_… -o plan.json"
_KNOWN: Final = (
    "Known are the response of Segment's Public API, a list of its rules, {“rules”: […]}, Typewriter's plan.json, and "
    "the plans of the Config API and of RudderStack."
)

# As an integer in JSON has.
_VERSION_DIGITS: Final = 19

Read = tuple[list[Rule], list[Problem]]


def read(source: str | PathLike[str] | Mapping[str, Any] | list[Any]) -> Read:
    """The rules of a file or of decoded JSON, with what was skipped.

    Raises:
        OSError: the file cannot be read.
        PlanError: it contains no plan.
    """
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        return _read(_parsed(path.read_bytes(), str(path)), str(path))
    return _read(source, "plan")


def _parsed(content: bytes, name: str) -> object:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        place = f"{name}:{error.lineno}:{error.colno}"
        if _looks_like_csv(content, name):
            raise PlanError(
                f"{place}: CSV exports cannot be read, because they leave out most of a plan. {PULL}"
            ) from None
        raise PlanError(f"{place}: not JSON: {error.msg}. {_KNOWN} {PULL}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, nested too deeply
        raise PlanError(f"{name}:1:1: not JSON: {type(error).__name__}. {_KNOWN} {PULL}") from None


def _looks_like_csv(content: bytes, name: str) -> bool:
    first = content.lstrip(b"\xef\xbb\xbf").partition(b"\n")[0]
    return name.lower().endswith(".csv") or (b"," in first and first.lstrip()[:1] not in (b"{", b"["))


def _read(plan: object, name: str) -> Read:
    shape = as_object(plan)
    # The response of the Public API wraps everything in "data".
    inner = as_object(shape.get("data")) or shape
    rules: object = cast("list[object]", plan) if isinstance(plan, list) else inner.get("rules", inner.get("events"))
    if isinstance(rules, list):
        listed = cast("list[object]", rules)
        total = as_object(inner.get("pagination")).get("totalEntries")
        if isinstance(total, int) and total > len(listed):
            count = f"{len(listed)} of {total} rules"
            raise PlanError(f"{name}: this is one page of the API's answer, with {count}. {PULL}")
        found = _listed(listed)
    elif isinstance(rules, dict):
        found = _grouped(cast("JSONObject", rules))
    else:
        raise PlanError(f"{name}:1:1: JSON, but no tracking plan. {_KNOWN} {PULL}")
    if not found[0]:
        raise PlanError(f"{name}: the plan has no rules. {PULL}")
    return found


def _listed(entries: list[object]) -> Read:
    rules: list[Rule] = []
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        given = as_object(entry)
        has_no_schema = _rule_type(given.get("type")) is not None and not given.keys() & {"jsonSchema", "name", "rules"}
        rule = _public(given) if has_no_schema or "jsonSchema" in given else _event(given)
        if rule is None:
            problems.append(Problem("warning", f"rule {index + 1}", "", f"skipped: {_why_not(entry)}"))
            continue
        if has_no_schema:
            problems.append(Problem("warning", rule.label, "", "jsonSchema is missing, so that any content passes"))
        rules.append(rule)
    return rules, problems


def _why_not(entry: object) -> str:
    if not isinstance(entry, dict):
        return "it is no object"
    given = as_object(cast("object", entry))
    what = given.get("type", given.get("eventType"))
    return "it has neither a type nor a jsonSchema" if what is None else f"unknown type of rule {what!r}"


def _public(given: JSONObject) -> Rule | None:
    schema = as_object(given.get("jsonSchema"))
    if "eventMetadata" in given or "eventMetadata" in schema:
        schema = _wrapped(schema)
    kind = _rule_type(given.get("type", "TRACK"))
    deprecated = given.get("deprecatedAt") not in (None, "", NOT_DEPRECATED) or given.get("deprecated") is True
    return kind and Rule(kind, _name(given.get("key")), _version(given.get("version")), schema, deprecated, given)


def _event(given: JSONObject) -> Rule | None:
    """An event of Typewriter, the Config API or RudderStack: name, description, rules."""
    kind = _rule_type(given.get("eventType", given.get("type", "TRACK")))
    if "rules" not in given and "name" not in given:
        kind = None
    schema = as_object(given.get("rules"))
    if "eventMetadata" in given or "eventMetadata" in schema:
        schema = _wrapped(schema)
    if given.get("description") and "description" not in schema:
        schema = {**schema, "description": given["description"]}
    name = _name(given.get("name", given.get("key"))) if kind in ("TRACK", "PAGE", "SCREEN") else None
    return kind and Rule(kind, name, _version(given.get("version")), schema, False, given)


def _wrapped(schema: JSONObject) -> JSONObject:
    """Typewriter keeps the schema of the properties alone."""
    inner = {name: value for name, value in schema.items() if name not in ("eventMetadata", "$schema")}
    wrapped: JSONObject = {"type": "object", "properties": {"properties": inner}}
    if "description" in inner:
        wrapped["description"] = inner["description"]
    return wrapped


def _grouped(groups: JSONObject) -> Read:
    """The Config API's ``{global, identify, group, events}``, and RudderStack's ``{events}``."""
    rules, problems = _listed(as_list(groups.get("events")))
    singles: Iterable[tuple[str, RuleType]] = (("global", "COMMON"), ("identify", "IDENTIFY"), ("group", "GROUP"))
    for name, kind in singles:
        schema = as_object(groups.get(name))
        if schema:
            rules.append(Rule(kind, None, None, schema, False, {"type": kind, "jsonSchema": schema}))
    return rules, problems


def _rule_type(value: object) -> RuleType | None:
    word = value.upper() if isinstance(value, str) else value
    if word == "GLOBAL":
        word = "COMMON"
    return next((kind for kind in RULE_TYPES if kind == word), None)


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _version(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < _VERSION_DIGITS:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
