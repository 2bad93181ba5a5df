"""What changed between two plans, and what of it breaks."""

from typing import Any

import pytest

from segment_async.plans import Plan, diff
from tests.plans.samples import COMMON, ORDER_COMPLETED, rule

STRING: dict[str, Any] = {"type": "string"}


def changes(old: list[Any], new: list[Any]) -> list[str]:
    return [str(change).replace("TRACK “Signed Up” version 1", "…") for change in diff(Plan.load(old), Plan.load(new))]


def of(old: dict[str, Any] | bool, new: dict[str, Any] | bool) -> list[str]:
    return changes([rule(properties={"p": old})], [rule(properties={"p": new})])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (STRING, {"type": "integer"}, "breaking: … properties.p: type was string, is integer"),
        (STRING, {"type": ["string", "null"]}, "compatible: … properties.p: type was string, is null or string"),
        ({"type": "integer"}, {"type": "number"}, "compatible: … properties.p: type was integer, is number"),
        (STRING, {}, "compatible: … properties.p: type was string, is anything"),
        ({"enum": ["a", "b"]}, {"enum": ["a"]}, "breaking: … properties.p: values removed: 'b'"),
        ({"enum": ["a"]}, {"enum": ["a", "b"]}, "compatible: … properties.p: values added: 'b'"),
        ({}, {"enum": ["a"]}, "breaking: … properties.p: only these values: 'a'"),
        ({"enum": ["a"]}, {}, "compatible: … properties.p: the list of values removed"),
        (STRING, {**STRING, "pattern": "x"}, "breaking: … properties.p: pattern added"),
        ({**STRING, "pattern": "x"}, STRING, "compatible: … properties.p: pattern removed"),
        (STRING, {**STRING, "description": "d"}, "compatible: … properties.p: description changed"),
        (
            {"items": {"properties": {"a": STRING}}},
            {"items": {"properties": {}}},
            "breaking: … properties.p[].a: removed",
        ),
        (STRING, False, "breaking: … properties.p: no value is allowed now"),
        (True, False, "breaking: … properties.p: no value is allowed now"),
        (False, STRING, "compatible: … properties.p: is allowed now"),
        ({"properties": {}}, {"properties": {"a": False}}, "breaking: … properties.p.a: no value is allowed now"),
        ({"properties": {"a": False}}, {"properties": {}}, "compatible: … properties.p.a: removed"),
        ({"properties": {}}, {"properties": {"a": True}}, "compatible: … properties.p.a: added"),
        ({"items": STRING}, {"items": False}, "breaking: … properties.p[]: no value is allowed now"),
        ({"items": [STRING]}, {"items": [{"type": "integer"}]}, "breaking: … properties.p[]: items changed"),
        ({"items": [STRING]}, {}, "compatible: … properties.p[]: items changed"),
    ],
)
def test_a_property(old: dict[str, Any] | bool, new: dict[str, Any] | bool, said: str) -> None:
    assert of(old, new) == [said]


def test_rules_and_required_properties() -> None:
    old = [ORDER_COMPLETED, rule(properties={"a": STRING, "b": STRING}, required=("b",))]
    new = [COMMON, rule("Signed Out"), rule(properties={"a": STRING, "b": STRING, "c": STRING}, required=("a",))]
    assert changes(old, new) == [
        "breaking: COMMON version 1: added",
        "breaking: TRACK “Order Completed” version 2: removed",
        "breaking: … properties.a: is required now",
        "compatible: TRACK “Signed Out” version 1: added",
        "compatible: … properties.b: is optional now",
        "compatible: … properties.c: added",
    ]


def test_the_same_plan() -> None:
    assert changes([ORDER_COMPLETED, COMMON], [COMMON, ORDER_COMPLETED]) == []
