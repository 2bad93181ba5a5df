"""Finds what is wrong with a plan itself. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ._generate import named
from ._names import property_name
from ._plan import Plan
from ._rule import JSONObject, PlanError, Problem, Rule, as_object
from ._schema import compiled, escaped, normalised
from ._types import fields_of


def lint(plan: Plan, *, names: Mapping[str, str] | None = None) -> list[Problem]:
    """All problems, errors first. `names` is that of `generate`.

    Raises:
        NoValidator: the extra `plans` is not installed.
    """
    found = [*plan.problems]
    for rule in plan.rules:
        found.extend(_of_rule(rule))
    try:
        named(plan, names)
    except PlanError as error:
        found.append(Problem("error", "", "", str(error)))
    return sorted(found, key=lambda problem: ("error", "warning", "note").index(problem.severity))


def _of_rule(rule: Rule) -> Iterator[Problem]:
    # Without the field there is a problem of the plan already.
    if not rule.schema and rule.source.keys() & {"jsonSchema", "name", "rules"}:
        yield Problem("note", rule.label, "", "has no schema, so that any content passes")
    types: list[tuple[str, str]] = []
    normalised(rule.schema, "", types)
    for pointer, text in types:
        yield Problem("warning", rule.label, pointer, text)
    try:
        compiled(rule.schema)
    except ImportError:
        raise
    except PlanError as error:
        yield Problem("error", rule.label, "", f"cannot be judged: {error}")
    yield from _collisions(rule, rule.fields, f"/properties/{rule.section}")


def _collisions(rule: Rule, schema: JSONObject, pointer: str) -> Iterator[Problem]:
    """The properties whose argument another one has taken."""
    for each in fields_of(schema):
        if each.argument != property_name(each.name):
            text = f"“{each.name}” is the argument {each.argument}, because its own name is taken"
            yield Problem("note", rule.label, pointer, text)
        place = f"{pointer}/properties/{escaped(each.name)}"
        for inner, inside in ((each.schema, place), (as_object(each.schema.get("items")), f"{place}/items")):
            if inner:
                yield from _collisions(rule, inner, inside)
