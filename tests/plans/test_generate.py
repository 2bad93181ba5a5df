"""The generated module: names, types, and what is sent."""

import ast
import asyncio
import keyword
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segment_async import Client, MessageError, messages
from segment_async.events import NULL, TrackEvent
from segment_async.plans import Plan, PlanError, generate, lint
from segment_async.testing import RecordingTransport, recording
from tests.plans.samples import COMMON, ORDER_COMPLETED, TYPED, rule


def module(*rules: Any, **options: Any) -> Any:
    names: dict[str, Any] = {"__name__": "generated_plan"}
    exec(generate(Plan.load([*rules]), **options), names)
    return SimpleNamespace(**names)


def signature(kind: Any) -> dict[str, str]:
    return {name: text for name, text in kind.__init__.__annotations__.items() if name != "return"}


class TestTypes:
    @pytest.mark.parametrize(
        ("schema", "required", "optional"),
        [
            ({"type": "string"}, "str", "str | None"),
            ({"type": ["string"]}, "str", "str | None"),
            ({"type": "integer"}, "int", "int | None"),
            ({"type": "number"}, "float", "float | None"),
            ({"type": ["integer", "number"]}, "float", "float | None"),
            ({"type": "boolean"}, "bool", "bool | None"),
            ({"type": "null"}, "None", "Null | None"),
            ({"type": ["string", "null"]}, "str | None", "str | Null | None"),
            ({"type": ["string", "integer"]}, "str | int", "str | int | None"),
            ({"type": "string", "format": "date-time"}, "str | datetime", "str | datetime | None"),
            ({"type": "array"}, "Sequence[Any]", "Sequence[Any] | None"),
            (
                {"type": "array", "items": {"type": ["string", "null"]}},
                "Sequence[str | None]",
                "Sequence[str | None] | None",
            ),
            ({"type": "object"}, "Mapping[str, Any]", "Mapping[str, Any] | None"),
            ({"type": "object", "properties": {"a": {}}}, "SignedUpP", "SignedUpP | None"),
            ({"type": "string", "enum": ["a", 'b"', "a"]}, 'Literal["a", \'b"\']', 'Literal["a", \'b"\'] | None'),
            ({"enum": [1, None, True]}, "Literal[1, True] | None", "Literal[1, True] | Null | None"),
            ({"enum": [2**63 - 1]}, "Literal[9223372036854775807]", "Literal[9223372036854775807] | None"),
            ({"enum": [1, 2**63]}, "Any", "Any"),
            ({"type": "string", "enum": ["a", None, 1]}, 'Literal["a"]', 'Literal["a"] | None'),
            ({"enum": [1.5]}, "Any", "Any"),
            ({"const": "x"}, 'Literal["x"]', 'Literal["x"] | None'),
            (
                {"type": "string", "pattern": "fall|winter"},
                'Literal["fall", "winter"]',
                'Literal["fall", "winter"] | None',
            ),
            ({"type": "string", "pattern": "^(a b|c)$"}, 'Literal["a b", "c"]', 'Literal["a b", "c"] | None'),
            ({"type": "string", "pattern": "^x.*"}, "str", "str | None"),
            ({"type": "string", "pattern": "x"}, "str", "str | None"),
            ({"type": "any"}, "Any", "Any"),
            ({"type": []}, "Any", "Any"),
            ({"type": ["text"]}, "Any", "Any"),
            ({"anyOf": [{"type": "string"}]}, "Any", "Any"),
            ({"not": {"type": "string"}}, "Any", "Any"),
            ({"$ref": "#/definitions/x"}, "Any", "Any"),
            ({}, "Any", "Any"),
        ],
    )
    def test_a_schema(self, schema: dict[str, Any], required: str, optional: str) -> None:
        for names, text in ((("p",), required), ((), optional)):
            kind = module(rule(properties={"p": schema}, required=names)).SignedUp
            assert signature(kind) == {"p": ast.unparse(ast.parse(text))}

    def test_objects_within(self) -> None:
        events = module(ORDER_COMPLETED)
        assert signature(events.OrderCompleted)["products"] == "Sequence[OrderCompletedProduct] | None"
        assert signature(events.OrderCompletedProduct) == {"price": "float | None", "sku": "str | None"}

    def test_objects_deep_within(self) -> None:
        schema: dict[str, Any] = {}
        for _ in range(40):
            schema = {"type": "object", "properties": {"a": schema}}
        names = module(rule(properties={"a": schema})).__all__
        assert len(names) == 21
        assert signature(getattr(module(rule(properties={"a": schema})), max(names, key=len))) == {
            "a": "Mapping[str, Any] | None"
        }

    def test_a_required_property_that_is_not_described(self) -> None:
        assert signature(module(rule(required=("x",))).SignedUp) == {"x": "Any"}


class TestNames:
    @pytest.mark.parametrize(
        ("planned", "argument"),
        [
            ("orderId", "orderId"),
            ("Order_ID", "Order_ID"),
            ("site id", "site_id"),
            ("Site-ID", "site_id"),
            ("class", "class_"),
            ("3d", "_3d"),
            ("self", "self_"),
            ("None", "None_"),
            ("__private", "private"),
            ("__debug__", "debug"),
            ("größe", "größe"),
            ("ﬁt", "fit"),
            ("a.b[c]", "a_b_c"),
        ],
    )
    def test_a_property(self, planned: str, argument: str) -> None:
        event = module(rule(properties={planned: {"type": "string"}})).SignedUp
        assert list(signature(event)) == [argument]
        assert event(**{argument: "x"}) == {planned: "x"}

    @pytest.mark.parametrize(
        ("planned", "name"),
        [
            ("Order Completed", "OrderCompleted"),
            ("order completed", "OrderCompleted"),
            ("order_completed", "order_completed"),
            ("Clicked 3D", "Clicked3D"),
            ("3D Viewed", "_3DViewed"),
            ("class", "Class"),
            ("Any", "Any_"),
            ("str", "str_"),
            ("NULL", "NULL_"),
            ("Order—Paid!", "OrderPaid"),
        ],
    )
    def test_an_event(self, planned: str, name: str) -> None:
        assert getattr(module(rule(planned)), name).EVENT == planned

    def test_without_any_letter(self) -> None:
        (name,) = module(rule("→ 1", {"🎉": {}})).__all__
        assert name.startswith("event_")
        assert len(name) == len("event_") + 8

    @pytest.mark.parametrize("planned", ["\u0390x", "\u01f0", "e\u0301tat", "ﬁle", "ßa"])
    def test_an_object_has_the_class_that_the_module_lists(self, planned: str) -> None:
        inner = {"type": "object", "properties": {"a": {"type": "string"}}}
        events = module(rule(properties={planned: inner}))
        assert all(isinstance(getattr(events, name), type) for name in events.__all__)
        assert len(events.__all__) == 2

    def test_properties_that_collide(self) -> None:
        event = module(rule(properties={"a b": {}, "a_b": {}, "a-b": {}})).SignedUp
        assert event(a_b=1, a_b_2=2, a_b_3=3) == {"a_b": 1, "a b": 2, "a-b": 3}
        (note,) = lint(Plan.load([rule(properties={"a b": {}, "a_b": {}})]))
        assert (note.severity, note.pointer) == ("note", "/properties/properties")
        assert note.text == "“a b” is the argument a_b_2, because its own name is taken"

    def test_events_that_collide(self) -> None:
        rules = [rule("Order Paid"), rule("order-paid")]
        with pytest.raises(
            PlanError, match=r"“Order Paid” version 1 and .*“order-paid” version 1 would both be.*--name 'order-paid'="
        ):
            module(*rules)
        assert module(*rules, names={"order-paid": "OrderPaidOld"}).OrderPaidOld.EVENT == "order-paid"
        with pytest.raises(PlanError, match="must be an identifier"):
            module(*rules, names={"order-paid": "a b"})
        assert "would both be" in str(lint(Plan.load(rules))[0])

    def test_versions(self) -> None:
        events = module(rule(version=1), rule(version=3), rule(version=2))
        assert [(name, getattr(events, name).VERSION) for name in events.__all__] == [
            ("SignedUp", 3),
            ("SignedUpV1", 1),
            ("SignedUpV2", 2),
        ]

    def test_a_choice_of_events(self) -> None:
        rules = (ORDER_COMPLETED, rule())
        assert module(*rules, events=["Signed Up"]).__all__ == ["SignedUp"]
        assert module(*rules, labels={"area": "checkout"}).__all__ == ["OrderCompleted", "OrderCompletedProduct"]
        with pytest.raises(PlanError, match="not in the plan: Other"):
            module(*rules, events=["Other"])
        with pytest.raises(PlanError, match=r"events must be a list of names, such as \['Signed Up'\]"):
            module(*rules, events="Signed Up")

    def test_the_order_of_the_plan_does_not_matter(self) -> None:
        rules = [ORDER_COMPLETED, rule(), COMMON, rule(None, {"a": {}}, kind="IDENTIFY")]
        assert generate(Plan.load(rules)) == generate(Plan.load(rules[::-1]))

    def test_only_what_is_used_is_imported(self) -> None:
        code = generate(Plan.load([rule(properties={"p": {"enum": ["Sequence", "Mapping"]}})]))
        assert "import Sequence" not in code
        assert "from typing import ClassVar, Literal\n" in code


TEXT = st.text(st.characters(exclude_categories=()), max_size=20) | st.sampled_from(
    [
        "class",
        "self",
        "__x",
        '"""',
        "\\",
        "'",
        "\n",
        "\ud800",
        "%s",
        "{0}",
        "str",
        "None",
        "_",
        "__",
        "ª",
        "²",
        "TrackEvent",
    ]
)
VALUES = st.none() | TEXT | st.integers() | st.booleans() | st.floats()
LEAF = st.fixed_dictionaries(
    {"description": TEXT},
    optional={
        "type": st.sampled_from(["string", "any", ["null", "number"], "array"]),
        "enum": st.lists(VALUES),
        "pattern": TEXT,
    },
)
SCHEMAS = st.recursive(
    LEAF,
    lambda inner: (
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(TEXT, inner, max_size=3),
                "required": st.lists(TEXT, max_size=2),
            }
        )
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner})
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(name=TEXT.filter(bool), properties=st.dictionaries(TEXT, SCHEMAS, max_size=5), about=TEXT)
def test_arbitrary_text(name: str, properties: dict[str, Any], about: str) -> None:
    planned = rule(name, properties)
    planned["jsonSchema"]["description"] = about
    events = module(planned)
    (event,) = [
        each
        for each in vars(events).values()
        if isinstance(each, type) and "EVENT" in vars(each) and each is not TrackEvent
    ]
    arguments = signature(event)
    assert all(each.isidentifier() and not keyword.iskeyword(each) for each in arguments)
    assert all(hasattr(events, each) for each in events.__all__)
    value = event(**dict.fromkeys(arguments, 1))
    assert (event.EVENT, set(value)) == (name, set(properties))
    if any("\ud800" <= letter <= "\udfff" for letter in "".join([name, *properties])):
        return  # a lone surrogate cannot be sent in UTF-8
    message = messages.track("u", value)
    assert message["event"] == name
    assert message.get("properties", {}).keys() == properties.keys()


def test_what_a_schema_has_through_references_and_branches() -> None:
    """The type is that of what always applies; of what a branch may ask for it is `Any`."""
    planned = rule("Seen")
    planned["jsonSchema"] = {
        "properties": {
            "properties": {
                "$ref": "#/definitions/base",
                "allOf": [{"properties": {"b": {"type": "integer"}, "c": {"type": "string"}}, "required": ["b"]}],
                "anyOf": [{"properties": {"c": {"type": "null"}, "d": {"type": "string"}}, "required": ["d"]}],
                "oneOf": [{"properties": {"e": {"description": "a number", "type": "number"}}}],
            }
        },
        "definitions": {
            "base": {
                "properties": {"a": {"type": "string"}, "f": {"type": "string"}},
                "required": ["a"],
                "allOf": [{"properties": {"f": {"type": "integer"}}}],
            }
        },
    }
    arguments = signature(module(planned).Seen)
    assert arguments == {
        "a": "str",
        "b": "int",
        "c": "str | None",
        "d": "Any",
        "e": "Any",
        "f": "Any",
    }


class TestSending:
    events = module(
        ORDER_COMPLETED, rule("Signed Up", version=1), rule(None, {"Plan Name": {"type": "string"}}, kind="IDENTIFY")
    )

    def test_an_event_is_sent_as_planned(self) -> None:
        event = self.events.OrderCompleted(
            order_id="o-1", plan=None, coupon=NULL, site_id="s", products=[self.events.OrderCompletedProduct(price=1.5)]
        )
        message = messages.track("user-1", event, context={"ip": "192.0.2.1", "protocols": {"a": 1}})
        assert message["event"] == "Order Completed"
        assert message["properties"] == {
            "order_id": "o-1",
            "plan": None,
            "coupon": None,
            "site id": "s",
            "products": [{"price": 1.5}],
        }
        assert message["context"] == {"ip": "192.0.2.1", "protocols": {"a": 1, "event_version": 2}}
        assert "messageId" in message

    def test_through_a_client(self) -> None:
        async def send() -> list[dict[str, Any]]:
            transport = RecordingTransport()
            async with Client("key", transport=transport) as client:
                await client.track("user-1", self.events.OrderCompleted(order_id="o-1", plan="pro"))
                await client.track("user-1", self.events.SignedUp())
                await client.identify("user-1", self.events.UserTraits(plan_name="pro"))
                await client.group("user-1", "g", self.events.UserTraits(plan_name="pro"))
            return transport.messages

        order, signed_up, identified, grouped = asyncio.run(send())
        assert (order["event"], order["properties"]) == ("Order Completed", {"order_id": "o-1", "plan": "pro"})
        assert order["context"]["protocols"] == {"event_version": 2}
        assert "properties" not in signed_up
        assert identified["traits"] == grouped["traits"] == {"Plan Name": "pro"}

    def test_in_the_test_kit(self) -> None:
        with recording() as recorded:
            recorded.client.enqueue_nowait(
                messages.track("u", self.events.OrderCompleted(order_id="o-1", plan="pro", kind="new"))
            )
            recorded.assert_tracked(self.events.OrderCompleted(order_id="o-1", plan="pro"))
            recorded.assert_not_tracked(self.events.OrderCompleted(order_id="o-2", plan="pro"))
            with pytest.raises(TypeError, match="leave properties out"):
                recorded.assert_tracked(self.events.SignedUp(), properties={"a": 1})

    def test_a_misspelt_property_is_an_error_at_the_call(self) -> None:
        with pytest.raises(TypeError, match="ordr_id"):
            self.events.OrderCompleted(ordr_id="o-1", plan=None)

    def test_its_properties_cannot_be_given_twice(self) -> None:
        with pytest.raises(MessageError, match="must be left out, because SignedUp holds them"):
            messages.track("u", self.events.SignedUp(), {"a": 1})

    def test_traits_with_versions(self) -> None:
        events = module(*(rule(None, {"a": {}}, kind="IDENTIFY", version=version) for version in (1, 2)))
        message = messages.identify("u", events.UserTraits(a=1))
        assert message["context"] == {"protocols": {"event_version": 2}}

    def test_events_differ_by_their_name(self) -> None:
        other = module(rule("Signed Out")).SignedOut
        assert self.events.SignedUp() == self.events.SignedUp() == {}
        assert self.events.SignedUp() != other()

    def test_its_repr_shows_no_values(self) -> None:
        assert repr(self.events.OrderCompleted(order_id="secret", plan=None)) == "OrderCompleted(order_id=…, plan=…)"


def test_the_module_that_type_checkers_read_is_up_to_date() -> None:
    path = Path(__file__).parents[1] / "typing" / "planned.py"
    assert path.read_text("utf-8") == generate(Plan.load(TYPED))
