"""What is wrong with a plan itself."""

from typing import Any

import pytest

from segment_async.plans import Plan, lint
from tests.plans.samples import rule


def found(**properties: Any) -> list[tuple[str, str, str]]:
    problems = lint(Plan.load([rule(properties=properties)]))
    return [(problem.severity, problem.pointer, problem.text) for problem in problems]


@pytest.mark.parametrize(
    "schema",
    [{"pattern": "(?!x)"}, {"$ref": "http://127.0.0.1:9/schema.json"}, {"$ref": "file:///etc/hosts"}, {"minimum": "3"}],
    ids=["look-ahead", "remote", "file", "invalid"],
)
def test_a_rule_that_cannot_be_judged(schema: dict[str, Any]) -> None:
    ((severity, _, text),) = found(p=schema)
    assert severity == "error"
    assert text.startswith("cannot be judged: ")


@pytest.mark.parametrize("given", ["any", [], ["string", "text"], 3, None])
def test_a_type_that_is_none(given: Any) -> None:
    ((severity, pointer, text),) = found(**{"a/b~c": {"items": {"type": given}}})
    assert (severity, pointer) == ("warning", "/properties/properties/properties/a~1b~0c/items/type")
    assert text == f"{given!r} is no type of JSON Schema; any value passes"


@pytest.mark.parametrize("keyword", ["definitions", "$defs"])
def test_a_type_that_is_none_within_a_definition(keyword: str) -> None:
    referring = rule(properties={"p": {"$ref": f"#/{keyword}/name"}, "q": {"type": "string"}})
    referring["jsonSchema"][keyword] = {"name": {"type": "any"}}
    plan = Plan.load([referring])
    assert [(problem.severity, problem.pointer) for problem in lint(plan)] == [("warning", f"/{keyword}/name/type")]
    (verdict,) = plan.judge({"type": "track", "event": "Signed Up", "properties": {"p": 1, "q": 1}})
    assert verdict.path == "properties.q"


def test_a_track_rule_without_a_key() -> None:
    (problem,) = lint(Plan.load([rule(None), rule(None, kind="IDENTIFY")]))
    assert str(problem) == "warning: TRACK version 1: has no key, so that no event is checked against it"


@pytest.mark.parametrize("schema", [{}, None, True, "{}"])
def test_a_rule_without_a_schema(schema: object) -> None:
    plan = Plan.load([{**rule(), "jsonSchema": schema}])
    assert plan.judge({"type": "track", "event": "Signed Up", "properties": {"a": 1}}) == []
    (problem,) = lint(plan)
    assert str(problem) == "note: TRACK “Signed Up” version 1: has no schema, so that any content passes"


def test_an_event_of_typewriter_without_a_schema() -> None:
    (problem,) = lint(Plan.load({"rules": {"events": [{"name": "Signed Up"}]}}))
    assert str(problem) == "note: TRACK “Signed Up”: has no schema, so that any content passes"


def test_what_was_skipped_and_a_good_plan() -> None:
    assert found(p={"type": "string"}) == []
    (problem,) = lint(Plan.load([rule(), rule(kind="SMELL")]))
    assert str(problem) == "warning: rule 2: skipped: unknown type of rule 'SMELL'"


@pytest.mark.parametrize(
    ("name", "schema", "pointer"),
    [
        ("a/b", {}, "/a~1b"),
        ("items", {"type": "array"}, "/items/items"),
    ],
)
def test_the_pointer_of_names_that_collide(name: str, schema: dict[str, Any], pointer: str) -> None:
    fields = {"properties": {"c d": {}, "c_d": {}}}
    ((severity, found_at, _),) = found(**{name: {**schema, "items": fields} if schema else fields})
    assert (severity, found_at) == ("note", f"/properties/properties/properties{pointer}")
