"""What violates a plan, in Segment's words and order, and what Segment does with it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segment_async.plans import Plan, PlanError, Settings
from segment_async.plans._near import MAX_COMPARED, NearNames
from tests.plans.samples import COMMON, ORDER_COMPLETED, rule, track

GOOD: dict[str, Any] = {"order_id": "o-1", "plan": None}
PLAN = Plan.load([ORDER_COMPLETED])


def found(plan: Plan, message: dict[str, Any]) -> list[tuple[str, str, str]]:
    verdicts = plan.judge(message)
    assert {verdict.severity for verdict in verdicts} <= {"plan"}
    return [(verdict.rule, verdict.path, verdict.text) for verdict in verdicts]


@pytest.mark.parametrize(
    ("properties", "path", "text"),
    [
        ({"integer": 1.5}, "properties.integer", "Invalid type. Expected: integer, given: number"),
        ({"integer": "1"}, "properties.integer", "Invalid type. Expected: integer, given: string"),
        ({"coupon": 1}, "properties.coupon", "Invalid type. Expected: [string,null], given: integer"),
        ({"season": "spring"}, "properties.season", "Does not match pattern 'fall|winter'"),
        (
            {"kind": "old"},
            "properties.kind",
            'properties.kind must be one of the following: "new", "repeat"',
        ),
        ({"paid_at": "yesterday"}, "properties.paid_at", "Does not match format 'date-time'"),
        (
            {"products": [{"price": 1}, {"price": None}]},
            "properties.products[1].price",
            "Invalid type. Expected: number, given: null",
        ),
        ({"products": {}}, "properties.products", "Invalid type. Expected: array, given: object"),
    ],
)
def test_a_property_that_violates_its_rule(properties: dict[str, Any], path: str, text: str) -> None:
    assert found(PLAN, track(properties=GOOD | properties)) == [("plan-violation", path, text)]


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"integer": 1.0},
        {"paid_at": "2026-11-21"},
        {"paid_at": "2026-11-21T19:20:03.047Z"},
        {"odd": {"anything": []}},
        {"coupon": None, "season": "fall", "kind": "new", "products": [{"price": 1.5}, {}]},
    ],
)
def test_what_passes(properties: dict[str, Any]) -> None:
    assert found(PLAN, track(properties=GOOD | properties)) == []


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("2026-11-21T19:20:03Z", True),
        ("2026-11-21T19:20:03.047123+05:30", True),
        ("2024-02-29", True),
        ("19:20:03", True),
        ("19:20:03.5-08:00", True),
        ("2026-11-21T9:20:03Z", True),
        ("2026-11-21T19:20:03,5Z", True),
        ("2026-11-21T19:20:03.0123456789012Z", True),
        ("2026-11-21T19:20:03+24:60", True),
        ("2026-11-21T19:20:03-00:00", True),
        ("0000-02-29", True),
        ("0001-01-01T00:00:00Z", True),
        ("2026-11-21T19:20:60Z", False),
        ("2026-11-21t19:20:03z", False),
        ("2026-11-21T19:20:03.Z", False),
        ("2026-11-21T19:20:03+25:00", False),
        ("2026-11-21T19:20:03+0000", False),
        ("0000-02-30", False),
        ("2026-11-21T19:20:03", False),
        ("2026-11-21 19:20:03Z", False),
        ("2026-02-29", False),
        ("2026-13-01T19:20:03Z", False),
        ("2026-11-21T24:00:00Z", False),
        ("2026-11-21T19:20:03+99:99", False),
        ("2026-11-21T19:20Z", False),
        ("\u0662026-11-21", False),
    ],
)
def test_a_date_time_is_what_go_takes_for_one(text: str, passes: bool) -> None:
    assert (found(PLAN, track(properties=GOOD | {"paid_at": text})) == []) == passes


@pytest.mark.parametrize(
    ("name", "text", "passes"),
    [
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", True),
        ("uuid", "order-1", False),
        ("uuid", "123E4567-E89B-12D3-A456-426614174000", False),
        ("time", "19:20:03", True),
        ("time", "19:20:03.5-08:00", True),
        ("time", "19:20", False),
        ("time", "2026-11-21T19:20:03Z", False),
    ],
)
def test_formats_that_the_validator_takes_otherwise(name: str, text: str, passes: bool) -> None:
    plan = Plan.load([rule("A", {"x": {"type": "string", "format": name}})])
    expected = [] if passes else [("plan-violation", "properties.x", f"Does not match format '{name}'")]
    assert found(plan, track("A", properties={"x": text})) == expected


@pytest.mark.parametrize(
    ("schema", "value", "text"),
    [
        ({"const": 1}, 2, "properties.p does not match: 1"),
        ({"minimum": 5}, 4, "Must be greater than or equal to 5"),
        ({"exclusiveMinimum": 5}, 5, "Must be greater than 5"),
        ({"maximum": 5}, 6, "Must be less than or equal to 5"),
        ({"exclusiveMaximum": 5}, 5, "Must be less than 5"),
        ({"multipleOf": 2}, 3, "Must be a multiple of 2"),
        ({"minLength": 2}, "a", "String length must be greater than or equal to 2"),
        ({"maxLength": 2}, "abc", "String length must be less than or equal to 2"),
        ({"minItems": 1}, [], "Array must have at least 1 items"),
        ({"maxItems": 1}, [1, 2], "Array must have at most 1 items"),
        ({"minProperties": 1}, {}, "Must have at least 1 properties"),
        ({"maxProperties": 0}, {"a": 1}, "Must have at most 0 properties"),
        ({"anyOf": [{"type": "string"}]}, 1, "Must validate at least one schema (anyOf)"),
        ({"oneOf": [{"type": "string"}]}, 1, "Must validate one and only one schema (oneOf)"),
        ({"not": {"type": "integer"}}, 1, "Must not validate the schema (not)"),
        ({"contains": {"const": 1}}, [2], "At least one of the items must match"),
        ({"items": [{}], "additionalItems": False}, [1, 2], "No additional items allowed on array"),
        ({"propertyNames": {"maxLength": 1}}, {"ab": 1}, 'Property name of "ab" does not match'),
        ({"enum": [1, None]}, 2, "properties.p must be one of the following: 1, null"),
    ],
)
def test_a_keyword(schema: dict[str, Any], value: object, text: str) -> None:
    plan = Plan.load([rule(properties={"p": schema})])
    assert found(plan, track("Signed Up", {"p": value})) == [("plan-violation", "properties.p", text)]


def test_what_is_required() -> None:
    assert found(PLAN, track(properties={"plan": "pro"})) == [
        ("plan-violation", "properties.order_id", "properties.order_id is required")
    ]
    assert found(PLAN, {"type": "track", "userId": "u", "event": "Order Completed"}) == [
        ("plan-violation", "properties", "properties is required")
    ]


def test_an_unplanned_event_is_found_by_its_exact_name() -> None:
    assert found(PLAN, track("order completed")) == [
        (
            "plan-unplanned-event",
            "event",
            "order completed is not in the tracking plan. Did you mean “Order Completed”?",
        )
    ]


class Looked(list[str]):
    """Names that count how often they were gone through."""

    looks = 0

    def __iter__(self) -> Iterator[str]:
        self.looks += 1
        return super().__iter__()


def test_a_name_is_compared_with_the_planned_ones_once() -> None:
    names = Looked(["Order Completed"])
    near, looks = NearNames(names), names.looks
    assert {near.hint("order completed") for _ in range(3)} == {" Did you mean “Order Completed”?"}
    assert {near.hint("Something Else") for _ in range(3)} == {""}
    assert names.looks == looks + 2


def test_names_that_are_made_up_without_end_are_compared_no_more_after_some() -> None:
    names = Looked(["Order Completed"])
    near, looks = NearNames(names), names.looks
    for number in range(MAX_COMPARED + 100):
        near.hint(f"Order {number} Completed")
    assert names.looks == looks + MAX_COMPARED
    assert near.hint("Order 0 Completed") == " Did you mean “Order Completed”?"
    assert near.hint("x" * 30_000) == ""


def test_long_names_are_compared_with_few_planned_ones_only() -> None:
    long = "Order Completed by a Customer Who Came Back After a Reminder"
    assert long in NearNames([long]).hint(long.lower())
    names = Looked([*map(f"{long} {{}}".format, range(1_000)), "Order Completed"])
    near, looks = NearNames(names), names.looks
    assert near.hint(long.lower()) == ""
    assert names.looks == looks
    assert near.hint("order completed") == " Did you mean “Order Completed”?"


def test_of_many_unplanned_properties_the_first_ones_have_a_hint() -> None:
    unplanned = {f"ordr_id{number}": 1 for number in range(1_000)}
    texts = [text for _, _, text in found(PLAN, track(properties=GOOD | unplanned))]
    assert len(texts) == 1_000
    assert [" Did you mean “order_id”?" in text for text in texts[:6]] == [True] * 5 + [False]
    assert not any("mean" in text for text in texts[6:])


@pytest.mark.parametrize("kind", [["track"], {}, 5, None, "smell"])
def test_a_message_of_no_type_is_left_to_the_verdicts(kind: object) -> None:
    assert found(PLAN, {"type": kind, "event": "X"}) == []
    assert PLAN.outcome({"type": kind, "event": "X"}, Settings()).is_kept


def test_the_order_is_segments() -> None:
    plan = Plan.load([ORDER_COMPLETED, COMMON])
    message = track(properties={"ordr_id": "o-1", "plan": 1}, context={"userAgent": "a bot"})
    assert [(verdict, path) for verdict, path, _ in found(plan, message)] == [
        ("plan-unplanned-property", "properties.ordr_id"),
        ("plan-violation", "properties.order_id"),
        ("plan-violation", "properties.plan"),
        ("plan-common", "context.userAgent"),
    ]
    assert "Did you mean “order_id”?" in found(plan, message)[0][2]


def test_the_common_rule_is_for_every_call() -> None:
    plan = Plan.load([COMMON])
    assert found(plan, {"type": "alias", "userId": "u", "previousId": "p"}) == [
        ("plan-common", "context", "context is required")
    ]


class TestVersions:
    plan = Plan.load(
        [rule(properties={"a": {"type": "string"}}), rule(properties={"b": {"type": "string"}}, version=2)]
    )

    def test_without_one_the_oldest_judges(self) -> None:
        assert found(self.plan, track("Signed Up", {"a": "x"})) == []
        assert [path for _, path, _ in found(self.plan, track("Signed Up", {"b": "x"}))] == ["properties.b"]
        assert found(self.plan, track("Signed Up", {"a": "x"}, context={})) == []

    def test_the_one_that_is_named_judges(self) -> None:
        context = {"protocols": {"event_version": 2}}
        assert found(self.plan, track("Signed Up", {"b": "x"}, context=context)) == []
        assert [path for _, path, _ in found(self.plan, track("Signed Up", {"a": "x"}, context=context))] == [
            "properties.a"
        ]

    def test_one_that_is_not_in_the_plan(self) -> None:
        context = {"protocols": {"event_version": 3}}
        assert [verdict for verdict, _, _ in found(self.plan, track("Signed Up", {}, context=context))] == [
            "plan-unplanned-event"
        ]


@pytest.mark.parametrize(("call", "event"), [("page", "Page Viewed"), ("screen", "Screen Viewed")])
def test_views_are_checked_as_events(call: str, event: str) -> None:
    message = {"type": call, "userId": "u", "name": "Home", "properties": {"path": 1}}
    plan = Plan.load([rule(event, {"path": {"type": "string"}})])
    assert [verdict for verdict, _, _ in found(plan, message)] == ["plan-violation"]
    assert found(PLAN, message) == [("plan-unplanned-event", "type", f"{event} is not in the tracking plan.")]
    own = Plan.load([rule(None, {"path": {"type": "integer"}}, kind=call.upper())])
    assert found(own, message) == []


@pytest.mark.parametrize("call", ["identify", "group"])
def test_traits(call: str) -> None:
    plan = Plan.load([rule(None, {"age": {"type": "number"}}, kind=call.upper())])
    message = {"type": call, "userId": "u", "groupId": "g", "traits": {"age": "3", "agee": 3}}
    assert [(verdict, path) for verdict, path, _ in found(plan, message)] == [
        ("plan-unplanned-property", "traits.agee"),
        ("plan-violation", "traits.age"),
    ]
    assert found(PLAN, message) == []


def test_property_patterns_are_planned() -> None:
    plan = Plan.load([rule(patternProperties={"^x_": {"type": "string"}})])
    assert found(plan, track("Signed Up", {"x_a": "a"})) == []
    assert [path for _, path, _ in found(plan, track("Signed Up", {"y_a": "a"}))] == ["properties.y_a"]


@pytest.mark.parametrize(
    "schema",
    [{"pattern": "(?!x)"}, {"$ref": "http://127.0.0.1:9/schema.json"}, {"$ref": "file:///etc/hosts"}, {"minimum": "3"}],
    ids=["look-ahead", "remote", "file", "invalid"],
)
def test_a_rule_that_cannot_be_judged_is_logged_once(schema: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    plan = Plan.load([rule(properties={"p": schema}), ORDER_COMPLETED])
    with caplog.at_level(logging.WARNING, "segment_async"):
        for _ in range(2):
            assert found(plan, track("Signed Up", {"p": "x"})) == []
    (record,) = caplog.records
    assert "Rule cannot be judged: TRACK “Signed Up” version 1" in record.getMessage()
    assert found(plan, track("Order Completed", {})) != []


class TestOutcome:
    BAD = track(properties={"order_id": 1, "plan": None, "extra": 1})

    @pytest.mark.parametrize(
        ("settings", "message", "is_kept", "omitted"),
        [
            ({}, BAD, True, ()),
            ({"track": {"allowUnplannedEventProperties": False}}, BAD, True, ("properties.extra",)),
            ({"track": {"allowEventOnViolations": False}}, BAD, False, ()),
            ({"track": {"allowPropertiesOnViolations": False}}, BAD, True, ("properties.order_id",)),
            ({"track": {"allowUnplannedEvents": False}}, track("Other"), False, ()),
            ({"track": {"allowUnplannedEvents": True}}, track("Other"), True, ()),
            ({"track": {"allowUnplannedEvents": False}}, {"type": "page", "userId": "u"}, False, ()),
            (
                {"identify": {"allowUnplannedTraits": False}},
                {"type": "identify", "traits": {"a": 1}},
                True,
                ("traits.a",),
            ),
            ({"group": {"allowUnplannedTraits": False}}, {"type": "identify", "traits": {"a": 1}}, True, ()),
            ({"group": {"allowTraitsOnViolations": False}}, {"type": "group", "traits": {"b": 1}}, True, ("traits.b",)),
        ],
    )
    def test_a_setting(
        self, settings: dict[str, Any], message: dict[str, Any], is_kept: bool, omitted: tuple[str, ...]
    ) -> None:
        traits = {"b": {"type": "string"}}
        plan = Plan.load([ORDER_COMPLETED, rule(None, {}, kind="IDENTIFY"), rule(None, traits, kind="GROUP")])
        decision = plan.outcome(message, Settings.load(settings))
        assert (decision.is_kept, decision.omitted) == (is_kept, omitted)

    @pytest.mark.parametrize(
        ("word", "is_kept", "omitted"),
        [("ALLOW", True, ()), ("BLOCK", False, ()), ("OMIT_PROPERTIES", True, ("properties.x.y",))],
    )
    def test_the_common_rule(self, word: str, is_kept: bool, omitted: tuple[str, ...]) -> None:
        schema = {"properties": {"properties": {"properties": {"x.y": {"type": "string"}}}}}
        plan = Plan.load(
            [rule(properties={"x.y": {}}), {"key": None, "type": "COMMON", "version": 1, "jsonSchema": schema}]
        )
        settings = Settings.load({"track": {"commonEventOnViolations": word}})
        decision = plan.outcome(track("Signed Up", {"x.y": 1}), settings)
        assert (decision.is_kept, decision.omitted) == (is_kept, omitted)
        assert [verdict.rule for verdict in decision.verdicts] == ["plan-common"]

    def test_each_additional_property_is_a_violation_of_its_own(self) -> None:
        plan = Plan.load([rule(properties={"a": {}}, additionalProperties=False)])
        settings = Settings.load({"track": {"allowPropertiesOnViolations": False}})
        decision = plan.outcome(track("Signed Up", {"a": 1, "b": 2, "c": 3}), settings)
        assert decision.omitted == ("properties.b", "properties.c")
        violations = [verdict.text for verdict in decision.verdicts if verdict.rule == "plan-violation"]
        assert violations == ["Additional property b is not allowed", "Additional property c is not allowed"]

    @pytest.mark.parametrize("settings", [{"commonEventOnViolations": "x"}, {"allowUnplannedEvents": 1}])
    def test_a_setting_that_segment_does_not_know(self, settings: dict[str, Any]) -> None:
        with pytest.raises(PlanError, match="must be"):
            Settings.load({"track": settings})


@pytest.mark.parametrize("given", [[], None, "settings.json", Path("settings.json"), 5])
def test_settings_that_are_none(given: Any) -> None:
    with pytest.raises(PlanError, match=r"settings must be a mapping with track, identify and group"):
        Settings.load(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"track": 5}, "track must be a mapping"),
        ({"identify": None}, "identify must be a mapping"),
        ({"trak": {}}, "unknown setting 'trak'; did you mean 'track'?"),
        ({"data": {"track": {}}}, "unknown setting 'data'; known are track, identify, group"),
        ({"track": {"allowUnplanedEvents": False}}, "unknown setting 'allowUnplanedEvents' of track; did you mean"),
        ({"track": {"allowUnplannedTraits": False}}, "unknown setting 'allowUnplannedTraits' of track"),
        ({"group": {"allowEventOnViolations": False}}, "unknown setting 'allowEventOnViolations' of group"),
        ({"track": {5: False}}, "unknown setting 5 of track"),
    ],
)
def test_settings_that_would_allow_everything(given: Any, said: str) -> None:
    with pytest.raises(PlanError) as raised:
        Settings.load(given)
    assert said in str(raised.value)


def test_settings_for_other_things_than_a_plan() -> None:
    assert Settings.load({"forwardingViolationsTo": "a", "forwardingBlockedEventsTo": "b"}) == Settings()


TEXT: dict[str, Any] = {"properties": {"a": {"type": "string"}}}
NUMBER: dict[str, Any] = {"properties": {"b": {"type": "number"}}}


class TestPartsOfASchema:
    """Names that a schema has through references and branches are planned; the validator decides about the values."""

    @staticmethod
    def found(section: dict[str, Any], properties: dict[str, Any], **root: Any) -> list[tuple[str, str]]:
        schema = {"type": "object", "properties": {"properties": section}, **root}
        plan = Plan.load([{**rule(), "jsonSchema": schema}])
        return [(verdict.rule, verdict.path) for verdict in plan.judge(track("Signed Up", properties))]

    @pytest.mark.parametrize(
        "section",
        [
            {"$ref": "#/definitions/both"},
            {"$ref": "#/definitions/a~1b%20c"},
            {"allOf": [TEXT, NUMBER]},
            {"anyOf": [TEXT, NUMBER]},
            {"oneOf": [TEXT, {**NUMBER, "required": ["d"]}]},
            {"if": TEXT, "then": NUMBER},
            {"if": TEXT, "else": NUMBER},
            {"properties": TEXT["properties"], "dependencies": {"a": NUMBER, "b": ["a"]}},
            {"allOf": [{"anyOf": [{"$ref": "#/definitions/both"}]}]},
            {"properties": TEXT["properties"], "patternProperties": {"^b$": {}}},
            {"allOf": [TEXT, {"patternProperties": {"^b$": {}}}]},
        ],
    )
    def test_what_they_name_is_planned(self, section: dict[str, Any]) -> None:
        both = {"allOf": [TEXT, {"$ref": "#/definitions/number"}, {"$ref": "#/definitions/both"}]}
        chain = {"$ref": "#/definitions/both"}
        definitions = {"both": both, "number": NUMBER, "a/b c": chain}
        # A reference to itself is valid only where the validator never goes round with the same value.
        if "$ref" in str(section):
            both["allOf"].pop()
        assert self.found(section, {"a": "x", "b": 1}, definitions=definitions) == []
        assert self.found(section, {"a": "x", "b": 1, "c": 1}, definitions=definitions) == [
            ("plan-unplanned-property", "properties.c")
        ]

    @pytest.mark.parametrize("reference", ["#a", "#/allOf/" + "9" * 5_000, "#/allOf/1"])
    def test_a_reference_to_what_cannot_be_found_by_its_path_names_nothing(self, reference: str) -> None:
        section = {"anyOf": [{}, {"$ref": reference}]}
        schema = {"type": "object", "properties": {"properties": section}, "allOf": [{}]}
        plan = Plan.load([{**rule(), "jsonSchema": schema}])
        assert plan.rules[0].fields["properties"] == {}

    def test_of_the_whole_message(self) -> None:
        part = {"properties": {"properties": NUMBER}}
        root = {
            "allOf": [part],
            "anyOf": [{"$ref": "#/definitions/more"}],
            "definitions": {"more": {"properties": {"properties": TEXT}}},
        }
        assert self.found({}, {"a": "x", "b": 1}, **root) == []
        assert self.found({}, {"c": 1}, **root) == [("plan-unplanned-property", "properties.c")]

    def test_their_values_are_the_validators_business(self) -> None:
        assert self.found({"allOf": [TEXT, NUMBER]}, {"a": 1, "b": "x"}) == [
            ("plan-violation", "properties.a"),
            ("plan-violation", "properties.b"),
        ]

    @pytest.mark.parametrize(
        "reference", ["#", "#/definitions/loop", "#/definitions/none", "#other", 5, "http://127.0.0.1:9/"]
    )
    def test_a_reference_that_leads_nowhere(self, reference: object) -> None:
        """Also in a circle; lint names those that cannot be judged."""
        definitions = {"loop": {"$ref": "#/definitions/loop"}}
        section = {"properties": {"p": {"$ref": reference}}, "allOf": [{"$ref": reference}]}
        Plan.load([{**rule(), "jsonSchema": {"properties": {"properties": section}, "definitions": definitions}}])

    def test_a_long_chain_of_references(self) -> None:
        definitions: dict[str, Any] = {f"d{n}": {"$ref": f"#/definitions/d{n + 1}"} for n in range(5_000)}
        definitions["d5000"] = TEXT
        schema = {"properties": {"properties": {"$ref": "#/definitions/d0"}}, "definitions": definitions}
        (loaded,) = Plan.load([{**rule(), "jsonSchema": schema}]).rules
        assert [*loaded.fields["properties"]] == ["a"]
