"""Every format of a plan, and every kind of bad input."""

import json
from pathlib import Path
from typing import Any

import pytest

from segment_async.plans import Plan, PlanError, lint
from tests.plans.samples import COMMON, ORDER_COMPLETED, rule

SCHEMA = ORDER_COMPLETED["jsonSchema"]
PROPERTIES = SCHEMA["properties"]["properties"]
EVENT = {"name": "Order Completed", "description": "d", "rules": SCHEMA}


@pytest.mark.parametrize(
    ("plan", "labels"),
    [
        (
            {"data": {"rules": [ORDER_COMPLETED, COMMON], "pagination": {"current": "MA=="}}},
            ["COMMON version 1", "TRACK “Order Completed” version 2"],
        ),
        ({"rules": [ORDER_COMPLETED]}, ["TRACK “Order Completed” version 2"]),
        ([ORDER_COMPLETED], ["TRACK “Order Completed” version 2"]),
        (
            {"rules": {"global": SCHEMA, "identify": SCHEMA, "group": SCHEMA, "events": [{**EVENT, "version": 3}]}},
            ["COMMON", "GROUP", "IDENTIFY", "TRACK “Order Completed” version 3"],
        ),
        (
            {"rules": {"events": [{**EVENT, "eventType": "track"}, {**EVENT, "eventType": "identify"}]}},
            ["IDENTIFY", "TRACK “Order Completed”"],
        ),
        (
            {"rules": {"events": [{"name": "Order Completed", "rules": PROPERTIES, "eventMetadata": {}}]}},
            ["TRACK “Order Completed”"],
        ),
        (
            {"rules": [{"key": "Order Completed", "type": "TRACK", "jsonSchema": {**PROPERTIES, "eventMetadata": {}}}]},
            ["TRACK “Order Completed”"],
        ),
    ],
    ids=["Public API", "rules", "list", "Config API", "RudderStack", "Typewriter events", "Typewriter rules"],
)
def test_a_format(plan: Any, labels: list[str], tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    for source in (plan, path, str(path)):
        loaded = Plan.load(source)
        assert [each.label for each in loaded.rules] == labels
        tracked = next(each for each in loaded.rules if each.type == "TRACK")
        assert "order_id" in tracked.fields["properties"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"rules": [}', "plan.json:1:12: not JSON"),
        ("Event,Property\nA,b\n", "plan.json:1:1: CSV exports cannot be read"),
        ('{"a": 1}', "plan.json:1:1: JSON, but no tracking plan. Known are"),
        ('"text"', "plan.json:1:1: JSON, but no tracking plan"),
        ("[]", "plan.json: the plan has no rules"),
        ('{"rules": {"events": []}}', "plan.json: the plan has no rules"),
        ("\xff", "plan.json:1:1: not JSON"),
        ('[{"type": "TRACK", "key": "A", "version": ' + "1" * 5_000 + "}]", "plan.json:1:1: not JSON"),
    ],
)
def test_what_is_no_plan(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(PlanError) as raised:
        Plan.load(path)
    assert said in str(raised.value)
    assert "segment-async plan pull tp_… -o plan.json" in str(raised.value)


def test_an_unknown_type_is_skipped_with_a_warning() -> None:
    plan = Plan.load([rule(kind="SMELL"), rule()])
    assert [each.key for each in plan.rules] == ["Signed Up"]
    assert [str(problem) for problem in plan.problems] == ["warning: rule 1: skipped: unknown type of rule 'SMELL'"]


@pytest.mark.parametrize("kind", ["TRACK", "track", "IDENTIFY"])
def test_a_rule_without_a_schema_plans_its_event(kind: str) -> None:
    given = {name: value for name, value in rule(kind=kind).items() if name != "jsonSchema"}
    plan = Plan.load([given])
    assert [(each.type, each.schema) for each in plan.rules] == [(kind.upper(), {})]
    (problem,) = plan.problems
    assert problem.severity == "warning"
    assert problem.text == "jsonSchema is missing, so that any content passes"
    assert lint(plan) == [problem]
    assert plan.judge({"type": kind.lower(), "userId": "u", "event": "Signed Up", "properties": {"a": 1}}) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (7, "skipped: it is no object"),
        ({"key": "Signed Up", "version": 1}, "skipped: it has neither a type nor a jsonSchema"),
        ({"type": ["TRACK"], "key": "Signed Up"}, "skipped: unknown type of rule ['TRACK']"),
        ({"eventType": "smell", "name": "Signed Up"}, "skipped: unknown type of rule 'smell'"),
    ],
)
def test_what_is_no_rule(given: Any, said: str) -> None:
    assert [str(problem) for problem in Plan.load([rule(), given]).problems] == [f"warning: rule 2: {said}"]


def test_one_page_of_a_long_answer_is_an_error() -> None:
    """What is on the other pages would be unplanned."""
    answer = {"data": {"rules": [rule()], "pagination": {"current": "MA==", "next": "MQ==", "totalEntries": 2}}}
    with pytest.raises(PlanError, match=r"one page of the API's answer, with 1 of 2 rules\. Pull the plan"):
        Plan.load(answer)
    answer["data"]["pagination"]["totalEntries"] = 1
    assert len(Plan.load(answer).rules) == 1


def test_the_same_rule_twice_is_an_error() -> None:
    with pytest.raises(PlanError, match="TRACK “Signed Up” version 1 is in the plan twice"):
        Plan.load([rule(), rule()])


@pytest.mark.parametrize(
    ("given", "version"), [(3, 3), ("3", 3), (3.0, 3), (-1, None), (1.5, None), (True, None), ("٣", None), ("x", None)]
)
def test_a_version(given: Any, version: int | None) -> None:
    assert [each.version for each in Plan.load([{**rule(), "version": given}]).rules] == [version]


def test_a_rule_without_end_is_an_error() -> None:
    schema: dict[str, Any] = {}
    for _ in range(3_000):
        schema = {"items": schema}
    with pytest.raises(PlanError, match="TRACK “Signed Up” version 1 is nested more than 100 levels deep"):
        Plan.load([rule(properties={"a": schema})])


def test_what_is_deprecated_and_labelled() -> None:
    plan = Plan.load([{**rule(), "deprecatedAt": "2025-01-01T00:00:00.000Z"}, ORDER_COMPLETED])
    assert [(each.is_deprecated, each.labels) for each in plan.rules] == [(False, {"area": "checkout"}), (True, {})]
