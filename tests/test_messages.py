"""Messages as plain dicts: what the functions return, what they refuse, and the size limit to the byte."""

import asyncio
import copy
import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from inspect import isawaitable
from typing import Any, ClassVar, get_args

import orjson
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment_async import (
    Client,
    ClientClosed,
    Delivery,
    DeliveryError,
    MessageError,
    MessageTooLarge,
    Response,
    SpoolUnavailable,
    Status,
    bind,
    bound,
    messages,
)
from segment_async._message.encode import encode
from segment_async.events import TrackEvent
from segment_async.messages import MAX_MESSAGE_BYTES, Message, body_of, too_large
from tests.support.memory_spool import ScriptedDisk, SpoolStore
from tests.support.virtual_clock import run

SECRET = "THE-SECRET"
DOORS: dict[str, Callable[[], Mapping[str, Any]]] = {
    "track": lambda: messages.track("u", "Event", {"a": 1}),
    "identify": lambda: messages.identify("u", {"a": 1}),
    "page": lambda: messages.page("u", "Category", "Name", {"a": 1}),
    "screen": lambda: messages.screen("u", "Category", "Name", {"a": 1}),
    "group": lambda: messages.group("u", "g", {"a": 1}),
    "alias": lambda: messages.alias("previous", "u"),
}


class Recorder:
    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.bodies: list[bytes] = []

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        self.bodies.append(body)
        self.messages += [json.dumps(message).encode() for message in orjson.loads(body)["batch"]]
        self.sizes = [len(orjson.dumps(message)) for message in orjson.loads(body)["batch"]]
        return Response(200)

    async def aclose(self) -> None:
        """There is nothing to close."""


class TestFunctions:
    @pytest.mark.parametrize("name", DOORS)
    def test_they_return_the_message(self, name: str) -> None:
        message = DOORS[name]()
        assert type(message) is dict
        assert message["type"] == name
        assert message["userId"] == "u"
        assert {"messageId", "timestamp"} <= message.keys()
        assert "context" not in message

    @pytest.mark.parametrize("name", DOORS)
    def test_they_take_the_arguments_of_the_client_s_calls(self, name: str) -> None:
        door = inspect.signature(getattr(messages, name)).parameters
        call = dict(inspect.signature(getattr(Client, name)).parameters)
        del call["self"]
        assert list(door.values()) == list(call.values())
        assert getattr(messages, name).__name__ == name
        assert name.title() in getattr(messages, name).__doc__

    def test_the_identity_is_not_checked(self) -> None:
        assert "userId" not in messages.track(event="e")
        assert "userId" not in messages.alias("previous")

    @pytest.mark.parametrize(
        ("make", "path"),
        [
            (lambda: messages.track("u"), "event"),
            (lambda: messages.group("u"), "groupId"),
            (lambda: messages.alias(user_id="u"), "previousId"),
            (lambda: messages.identify("u", [SECRET]), "traits"),  # type: ignore[arg-type]
            (lambda: messages.identify("u", {"a": {"b": object()}}), "traits.a.b"),
            (lambda: messages.track("u", "e", {"a": "x" * 40_000}), "properties.a"),
        ],
    )
    def test_the_wrong_field_is_named(self, make: Callable[[], object], path: str) -> None:
        with pytest.raises(MessageError) as caught:
            make()
        assert caught.value.path == path
        assert SECRET not in str(caught.value)

    def test_values_stay_as_they_are(self) -> None:
        moment = datetime(2025, 1, 2, tzinfo=UTC)
        assert messages.track("u", "e", {"at": moment})["properties"]["at"] is moment

    def test_generators_are_read(self) -> None:
        message = messages.track("u", "e", {"tags": (tag for tag in "ab"), "at": datetime(2025, 1, 2, tzinfo=UTC)})
        assert message["properties"] == {"tags": ["a", "b"], "at": "2025-01-02T00:00:00.000Z"}

    def test_the_given_dict_is_not_changed(self) -> None:
        properties = {"tags": {1}}
        messages.track("u", "e", properties)
        assert properties == {"tags": {1}}

    def test_types_are_told_apart(self) -> None:
        assert len(get_args(Message)) == 6
        assert messages.TrackMessage.__optional_keys__ >= {"type", "event", "properties", "userId", "messageId"}


class TestSize:
    @pytest.mark.parametrize(("size", "fits"), [(32_767, True), (32_768, True), (32_769, False)])
    @pytest.mark.parametrize("character", ["a", "ä", "\n", "☂"])
    def test_a_message_is_32_768_bytes_of_json_at_most(self, size: int, character: str, *, fits: bool) -> None:
        message = message_of(size, character)
        assert len(encode(message)) == size
        if fits:
            assert len(body_of(message)) == size
        else:
            with pytest.raises(MessageTooLarge) as caught:
                body_of(message)
            assert (caught.value.size, caught.value.limit) == (size, MAX_MESSAGE_BYTES)
            assert caught.value.path == "properties.b"

    @pytest.mark.parametrize(("size", "fits"), [(32_767, True), (32_768, True), (32_769, False)])
    def test_the_client_s_own_fields_count(self, size: int, *, fits: bool) -> None:
        async def main() -> None:
            transport = Recorder()
            async with Client("key", transport=transport, gzip=False) as client:
                given = {"user_id": "u", "event": "e", "message_id": "id", "timestamp": "2025-01-02T00:00:00Z"}
                await client.track(**given, properties={"a": ""})  # type: ignore[arg-type]
                await client.flush()
                filling = {"a": "x" * (size - transport.sizes[0])}
                if fits:
                    delivery = await client.track(**given, properties=filling)  # type: ignore[arg-type]
                    await client.flush()
                    assert transport.sizes == [size]
                    assert (await delivery).status is Status.DELIVERED
                else:
                    with pytest.raises(MessageTooLarge) as caught:
                        await client.track(**given, properties=filling)  # type: ignore[arg-type]
                    assert caught.value.size == size

        run(main())

    def test_the_largest_fields_are_named_and_no_values(self) -> None:
        message = {
            "type": "identify",
            "traits": {"small": 1, "large": "x" * 30_000, SECRET.lower(): [1] * 2_000},
            "context": {"page": {"a": "x" * 500}},
            "own": "x" * 100,
        }
        with pytest.raises(MessageTooLarge) as caught:
            body_of(message)
        text = str(caught.value)
        assert text.index("traits.large (30,01") < text.index("traits.the-secret (4,0") < text.index("context.page")
        assert "own" not in text
        assert "xxx" not in text

    def test_a_single_large_field_of_the_message(self) -> None:
        with pytest.raises(MessageTooLarge) as caught:
            body_of({"type": "track", "event": "e" * 40_000})
        assert caught.value.path == "event"

    def test_a_large_generator(self) -> None:
        with pytest.raises(MessageTooLarge) as caught:
            body_of({"type": "track", "event": "e", "properties": {"a": ("x" * 100 for _ in range(400)), "b": 1}})
        assert caught.value.path == "properties.a"

    def test_another_limit(self) -> None:
        error = too_large(b'{"a":1}', 6)
        assert (error.path, error.size, error.limit) == ("a", 7, 6)

    @given(st.dictionaries(st.text(min_size=1), st.recursive(st.text() | st.integers(), st.lists), min_size=1))
    def test_every_message_has_a_largest_field(self, message: dict[str, Any]) -> None:
        assert too_large(encode(message), 1).path


def message_of(size: int, character: str) -> dict[str, Any]:
    """A message of so many bytes, with two large properties."""
    message = {"type": "track", "properties": {"a": character * 1_000, "b": ""}}
    left = size - len(encode(message))
    width = len(encode({"": character})) - len(encode({"": ""}))
    message["properties"]["b"] = character * (left // width) + "x" * (left % width)  # type: ignore[index]
    return message


class TestThroughTheClient:
    def test_both_enqueue_calls_take_their_result(self) -> None:
        async def main() -> None:
            transport = Recorder()
            async with Client("key", transport=transport, gzip=False) as client:
                given = [make() for make in DOORS.values()]
                for message in given[:3]:
                    await client.enqueue(message)
                for message in given[3:]:
                    client.enqueue_nowait(message)
                await client.flush()
            arrived = [json.loads(body) for body in transport.messages]
            for message in arrived:
                assert message.pop("context")["library"]["name"] == "segment-async"
            assert arrived == given

        run(main())

    def test_objects_changed_right_after_the_call_change_nothing(self) -> None:
        async def main() -> None:
            transport = Recorder()
            async with Client("key", transport=transport, gzip=False) as client:
                cart, context = [{"sku": "a"}], {"ip": "192.0.2.1"}
                await client.track("u", "e", {"cart": cart}, context=context)
                client.enqueue_nowait(messages.track("u", "e", {"cart": cart}, context=context))
                cart[0]["sku"] = "b"
                cart.append({"sku": "c"})
                context["ip"] = "changed"
                await client.flush()
                assert context == {"ip": "changed"}
            for body in transport.messages:
                message = json.loads(body)
                assert message["properties"] == {"cart": [{"sku": "a"}]}
                assert message["context"]["ip"] == "192.0.2.1"

        run(main())


@dataclasses.dataclass
class Cart:
    items: list[str]


def anonymous(message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {key: message[key] for key in message if key != "userId"} | {"anonymousId": "a", **fields}


def cancelled() -> Any:
    raise asyncio.CancelledError


class FailingMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(SECRET)

    def __iter__(self) -> Iterator[str]:
        return iter("a")

    def __len__(self) -> int:
        raise RuntimeError(SECRET)


EXACT = Decimal("0.10000000000000000000000000001")


class TestBeforeSend:
    """What the hook returns is checked like the call."""

    def outcome(self, hook: Callable[[dict[str, Any]], Any]) -> str | None:
        async def main() -> str | None:
            async with Client("key", transport=Recorder(), gzip=False, before_send=hook) as client:
                delivery = await client.track("u", "e", {"a": 1})
                await client.flush()
                assert delivery.outcome is not None
                return delivery.outcome.reason

        return run(main())

    @pytest.mark.parametrize(
        "hook",
        [
            lambda message: None,
            lambda message: {},
            lambda message: "text",
            lambda message: {**message, "event": ""},
            lambda message: {**message, "properties": {"a": object()}},
            lambda message: {**message, "properties": {"a": "x" * 40_000}},
            lambda message: message["missing"],
            lambda message: message.clear(),
            lambda message: [message.clear(), message][1],
            lambda message: [message.pop("messageId"), message.clear(), {**message}][2],
            lambda message: cancelled(),
            lambda message: FailingMapping(),
            lambda message: {**message, "context": FailingMapping()},
        ],
    )
    def test_an_unusable_result_drops_the_message(self, hook: Callable[[dict[str, Any]], Any]) -> None:
        assert self.outcome(hook) == "before_send"

    def test_its_exceptions_are_logged_once_without_their_text(self, caplog: pytest.LogCaptureFixture) -> None:
        def hook(message: dict[str, Any]) -> Any:
            raise asyncio.CancelledError(SECRET)

        assert self.outcome(hook) == "before_send"
        assert "CancelledError" in caplog.text
        assert SECRET not in caplog.text

    def test_numbers_are_json_numbers(self) -> None:
        transport, types = Recorder(), set()

        def hook(message: dict[str, Any]) -> dict[str, Any]:
            properties = message["properties"]
            types.add(type(properties["total"]).__mro__[-2])
            assert properties["ratio"] is None
            properties["gross"] = round(properties["total"] * 1.19, 2)
            assert json.loads(json.dumps(properties))["total"] == 30.5
            return copy.deepcopy(message)

        async def main() -> None:
            async with Client("key", transport=transport, gzip=False, before_send=hook) as client:
                await client.track("u", "e", {"total": Decimal("30.50"), "ratio": math.nan, "exact": EXACT, "n": 2})
                await client.track("u", "e", {"total": Decimal("30.50"), "ratio": math.inf, "exact": EXACT, "n": 2**70})

        run(main())
        assert types == {float}
        assert len(transport.bodies) == 1
        assert transport.bodies[0].count(b'"total":30.50,"ratio":null,"exact":' + str(EXACT).encode()) == 2
        assert transport.bodies[0].count(b'"gross":36.3') == 2

    def test_a_fragment_is_what_it_holds(self) -> None:
        seen: list[dict[str, Any]] = []

        async def main() -> None:
            async with Client("key", transport=Recorder(), before_send=seen.append) as client:
                await client.track("u", "e", {"a": orjson.Fragment(b'{"b":[1]}')})

        run(main())
        assert seen[0]["properties"] == {"a": {"b": [1]}}

    def test_a_hook_that_changes_something(self) -> None:
        assert self.outcome(lambda message: {**message, "properties": {"a": 2}}) is None

    def test_a_dropped_message_is_reported_unchanged(self) -> None:
        told: list[dict[str, Any]] = []

        async def main() -> None:
            async with Client(
                "key",
                transport=Recorder(),
                before_send=lambda message: None,
                on_error=lambda error, group: told.extend(group),
            ) as client:
                await client.track("u", "e", {"tags": (tag for tag in "ab")})

        run(main())
        assert [message["properties"] for message in told] == [{"tags": ["a", "b"]}]

    def test_a_hook_that_removes_the_identity_drops(self) -> None:
        assert self.outcome(lambda message: {key: message[key] for key in message if key != "userId"}) == "before_send"
        assert self.outcome(lambda message: anonymous(message, type="alias", previousId="p")) == "before_send"
        assert self.outcome(anonymous) is None

    def test_it_gets_values_as_they_are_sent(self) -> None:
        seen: list[dict[str, Any]] = []

        async def main() -> None:
            async with Client("key", transport=Recorder(), before_send=seen.append) as client:
                for beside in (1, 2**70):
                    await client.track("u", "e", {"when": datetime(2025, 1, 2, tzinfo=UTC), "beside": beside})

        run(main())
        assert [message["properties"]["when"] for message in seen] == ["2025-01-02T00:00:00.000Z"] * 2

    def test_its_changes_do_not_reach_the_caller_s_objects(self) -> None:
        transport, given = Recorder(), {"tags": {"a"}, "cart": Cart(["b"])}

        def hook(message: dict[str, Any]) -> dict[str, Any]:
            message["properties"]["tags"].clear()
            message["properties"]["cart"]["items"].clear()
            return message

        async def main() -> None:
            async with Client("key", transport=transport, gzip=False, before_send=hook) as client:
                await client.track("u", "e", given)

        run(main())
        assert given == {"tags": {"a"}, "cart": Cart(["b"])}
        assert json.loads(transport.messages[0])["properties"] == {"tags": [], "cart": {"items": []}}

    def test_a_hook_may_return_generators(self) -> None:
        transport = Recorder()

        def hook(message: dict[str, Any]) -> dict[str, Any]:
            return {**message, "properties": {"tags": (tag for tag in "ab")}}

        async def main() -> None:
            async with Client("key", transport=transport, gzip=False, before_send=hook) as client:
                await client.track("u", "e")

        run(main())
        assert json.loads(transport.messages[0])["properties"] == {"tags": ["a", "b"]}


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents


class Item(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    price: Money


@pydantic.dataclasses.dataclass
class Bag:
    items: list[Item]


async def convert_later(value: Any) -> Any:
    return value


def in_cents(value: Any) -> Any:
    if isinstance(value, Money):
        return {"cents": value.cents, "at": datetime(2025, 1, 2, tzinfo=UTC)}
    raise TypeError(SECRET)


class TestDefault:
    """The application's own conversion."""

    def send(self, properties: Any, **options: Any) -> list[dict[str, Any]]:
        transport = Recorder()

        async def main() -> None:
            async with Client("key", transport=transport, gzip=False, default=in_cents, **options) as client:
                await client.track("u", "e", properties)

        run(main())
        return [json.loads(message)["properties"] for message in transport.messages]

    @pytest.mark.parametrize("beside", [1, 2**70])
    @pytest.mark.parametrize("options", [{}, {"before_send": lambda message: message}])
    def test_it_converts_what_has_no_conversion(self, beside: int, options: dict[str, Any]) -> None:
        (properties,) = self.send({"price": [Money(5)], "set": {1}, "beside": beside}, **options)
        assert properties["price"] == [{"cents": 5, "at": "2025-01-02T00:00:00.000Z"}]
        assert properties["set"] == [1]

    def test_it_converts_what_before_send_returns(self) -> None:
        def hook(message: dict[str, Any]) -> dict[str, Any]:
            return {**message, "properties": {"price": Money(6)}}

        (properties,) = self.send({}, before_send=hook)
        assert properties["price"]["cents"] == 6

    def test_what_it_refuses_is_named(self) -> None:
        with pytest.raises(MessageError) as caught:
            self.send({"cart": [object()]})
        assert caught.value.path == "properties.cart[0]"
        assert SECRET not in str(caught.value)
        assert caught.value.__context__ is None

    @pytest.mark.parametrize("beside", [1, 2**70])
    @pytest.mark.parametrize("options", [{}, {"before_send": lambda message: message}])
    def test_it_converts_what_is_in_a_model(self, beside: int, options: dict[str, Any]) -> None:
        given = {"item": Item(price=Money(5)), "bag": Bag([Item(price=Money(6))]), "beside": beside}
        (properties,) = self.send(given, **options)
        assert properties["item"]["price"]["cents"] == 5
        assert properties["bag"]["items"][0]["price"]["cents"] == 6
        with pytest.raises(MessageError, match=r"properties\.item"):
            self.send({"item": Item.model_construct(price=object())}, **options)

    @pytest.mark.parametrize("beside", [1, 2**70])
    def test_it_does_not_get_what_can_be_read_only_once(self, beside: int) -> None:
        transport = Recorder()

        async def main() -> None:
            async with Client("key", transport=transport, gzip=False, default=str) as client:
                given = {"ids": (number for number in (1, 2)), "pairs": zip("a", "b", strict=True), "beside": beside}
                await client.track("u", "e", given)

        run(main())
        properties = json.loads(transport.messages[0])["properties"]
        assert (properties["ids"], properties["pairs"]) == ([1, 2], [["a", "b"]])

    @pytest.mark.parametrize("wrap", [lambda made: made, lambda made: {"in": [made]}])
    @pytest.mark.parametrize("beside", [1, 2**70])
    def test_json_that_it_returns_is_checked(self, beside: int, wrap: Callable[[Any], Any]) -> None:
        transport = Recorder()

        class Raw:
            def __init__(self, text: bytes) -> None:
                self.text = text

        async def main() -> None:
            options: Any = {"default": lambda raw: wrap(orjson.Fragment(raw.text))}
            async with Client("key", transport=transport, gzip=False, **options) as client:
                await client.track("u", "e", {"price": Raw(b'{"a": 1.10}'), "beside": beside})
                for text in (b'1},{"type": "x"', b"NaN"):
                    with pytest.raises(MessageError, match=r"properties\.price"):
                        await client.track("u", "e", {"price": Raw(text), "beside": beside})

        run(main())
        (message,) = transport.messages
        assert json.loads(message)["properties"]["price"] == wrap({"a": 1.1})

    def test_one_that_changes_nothing(self) -> None:
        async def main() -> None:
            async with Client("key", transport=Recorder(), default=lambda value: value) as client:
                with pytest.raises(MessageError, match=r"properties\.a"):
                    await client.track("u", "e", {"a": object()})

        run(main())

    @pytest.mark.parametrize("default", ["hook", 5, convert_later])
    @pytest.mark.parametrize(
        "takes_it",
        [partial(Client, "key"), messages.Builders, lambda default: bound(default=default).__enter__()],
    )
    def test_what_is_no_plain_function(self, takes_it: Callable[..., Any], default: Any) -> None:
        with pytest.raises(ValueError, match=r"default must be a (plain )?function"):
            takes_it(default=default)

    def test_builders_take_one_of_their_own(self) -> None:
        build, price = messages.Builders(default=in_cents), {"price": Money(5)}
        built = [
            build.track("u", "e", price),
            build.identify("u", price),
            build.page("u", properties=price),
            build.screen("u", properties=price),
            build.group("u", "g", price),
            build.alias("p", "u", context=price),
        ]
        for message in built:
            (fields,) = [message[name] for name in ("properties", "traits", "context") if name in message]  # type: ignore[literal-required]
            assert fields == {"price": {"cents": 5, "at": "2025-01-02T00:00:00.000Z"}}
        with pytest.raises(MessageError, match=r"properties\.a"):
            build.track("u", "e", {"a": object()})
        with pytest.raises(MessageError, match=r"properties\.price"):
            messages.track("u", "e", price)

    def test_blocks_take_one_of_their_own(self) -> None:
        transport = Recorder()

        async def main() -> None:
            async with Client("key", transport=transport, gzip=False) as client:
                with bound(context={"price": Money(5)}, default=in_cents):
                    await client.track("u", "e")
                    bind(integrations={"A": {"price": Money(6)}}, default=in_cents)
                    await client.track("u", "e")
                with pytest.raises(MessageError, match=r"context\.price"), bound(context={"price": Money(5)}):
                    pass

        run(main())
        first, second = map(json.loads, transport.messages)
        assert first["context"]["price"]["cents"] == second["context"]["price"]["cents"] == 5
        assert second["integrations"]["A"]["price"]["cents"] == 6


class TestOnInvalid:
    """With ``on_invalid="drop"``, no message that is wrong fails the call."""

    WRONG: ClassVar[dict[str, Callable[[Client], Any]]] = {
        "no event": lambda client: client.track("u"),
        "no identity": lambda client: client.track(event="e"),
        "too large": lambda client: client.track("u", "e", {"comment": "x" * 40_000}),
        "a value": lambda client: client.track("u", "e", {"a": object()}),
        "properties": lambda client: client.track("u", "e", ["a"]),  # type: ignore[arg-type]
        "an id": lambda client: client.identify(""),
        "a timestamp": lambda client: client.page("u", timestamp=5),  # type: ignore[arg-type]
        "a name": lambda client: client.screen("u", name=5),  # type: ignore[arg-type]
        "no group": lambda client: client.group("u"),
        "no previous id": lambda client: client.alias(user_id="u"),
        "a message id": lambda client: client.track("u", "e", message_id="x" * 100),
        "a message": lambda client: client.enqueue(FailingMapping()),
        "a message, at once": lambda client: at_once(client, {"type": "track"}),
        "a message without an id, at once": lambda client: at_once(client, {"type": "track", "event": "e"}),
        "a fragment": lambda client: client.track("u", "e", {"a": orjson.Fragment(b"}")}),
    }

    @pytest.mark.parametrize("name", WRONG)
    def test_the_message_is_dropped(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        told: list[tuple[str | None, list[dict[str, Any]]]] = []

        async def main() -> None:
            async with Client(
                "key",
                transport=Recorder(),
                gzip=False,
                on_invalid="drop",
                on_error=lambda error, messages: told.append((error.outcome.reason, messages)),
            ) as client:
                for _ in range(3):
                    delivery = await self.WRONG[name](client)
                    outcome = await delivery
                    assert (outcome.status, outcome.reason) == (Status.DROPPED, "invalid")
                await client.track("u", "e")
                await client.flush()
                counts = client.statistics()
                assert (counts.accepted, counts.delivered, counts.reasons) == (4, 1, {"invalid": 3})

        run(main())
        assert [reason for reason, _ in told] == ["invalid"] * 3
        assert len({messages[0]["messageId"] for _, messages in told}) == 3
        (record,) = [record for record in caplog.records if "Segment would drop" in record.getMessage()]
        assert ": " in record.getMessage()
        assert "logged once a minute; client.statistics().reasons counts them as invalid" in record.getMessage()
        assert SECRET not in caplog.text

    def told_of(self, call: Callable[[Client], Any]) -> dict[str, Any]:
        """What `on_error` gets of the message that this call drops."""
        told: list[dict[str, Any]] = []

        async def main() -> None:
            def note(error: DeliveryError, messages: list[dict[str, Any]]) -> None:
                assert error.outcome.message_id == messages[0]["messageId"]
                told.extend(messages)

            async with Client(
                "key", transport=Recorder(), gzip=False, on_invalid="drop", default=in_cents, on_error=note
            ) as client:
                delivery = call(client)
                delivery = await delivery if isawaitable(delivery) and not isinstance(delivery, Delivery) else delivery
                assert delivery.message_id == (await delivery).message_id

        run(main())
        (message,) = told
        assert message.pop("timestamp")
        return message

    @pytest.mark.parametrize("at_once", [False, True])
    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("track", {"event": "e", "properties": {"a": 1, "bad": [1, object()], "price": Money(5)}}),
            ("track", {"event": "", "properties": {"a": 1}}),
            ("identify", {"traits": {"comment": "x" * 40_000}}),
            ("page", {"category": "c", "name": 5}),
            ("screen", {"name": "n", "timestamp": 5}),
            ("group", {"traits": {"a": 1}}),
            ("alias", {"context": {"a": 1}}),
        ],
    )
    def test_on_error_gets_what_the_call_gave(self, name: str, arguments: dict[str, Any], at_once: bool) -> None:
        message = self.told_of(
            lambda client: getattr(client.nowait if at_once else client, name)(
                user_id="u", anonymous_id=5, integrations={"A": False}, message_id="id", **arguments
            )
        )
        expected: dict[str, Any] = {
            "type": name, "messageId": "id", "userId": "u", "anonymousId": 5, "integrations": {"A": False}, **arguments,
        }  # fmt: skip
        expected.pop("timestamp", None)
        if "bad" in arguments.get("properties", {}):
            price = {"cents": 5, "at": "2025-01-02T00:00:00.000Z"}
            expected["properties"] = {"a": 1, "bad": [1, None], "price": price}
        assert message == expected

    @pytest.mark.parametrize(
        "call",
        [
            lambda client, message: client.enqueue(message),
            lambda client, message: client.enqueue_nowait(message),
            lambda client, message: client.nowait.enqueue(message),
        ],
    )
    def test_on_error_gets_a_ready_made_message(self, call: Callable[..., Any]) -> None:
        given = {"type": "track", "event": "e", "messageId": "x" * 100, "properties": {"a": {1}, "b": object}}
        message = self.told_of(lambda client: call(client, given))
        assert 0 < len(message.pop("messageId")) < 100
        assert message == {"type": "track", "event": "e", "properties": {"a": [1], "b": None}}

    def test_on_error_gets_a_planned_event_as_it_travels(self) -> None:
        class Ordered(TrackEvent):
            EVENT = "Ordered"

        message = self.told_of(lambda client: client.track("u", Ordered(cart=[object(), 1])))
        assert message.pop("messageId")
        assert message == {"type": "track", "userId": "u", "event": "Ordered", "properties": {"cart": [None, 1]}}

    @pytest.mark.parametrize("name", WRONG)
    def test_by_default_it_raises(self, name: str) -> None:
        async def main() -> None:
            async with Client("key", transport=Recorder()) as client:
                with pytest.raises(MessageError) as caught:
                    await self.WRONG[name](client)
                assert caught.value.__context__ is None
                assert client.statistics().accepted == 0

        run(main())

    def test_the_log_names_the_field(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            async with Client("key", transport=Recorder(), gzip=False, on_invalid="drop") as client:
                await client.track("u", "e", {"cart": [{"owner": object()}]})

        run(main())
        assert "properties.cart[0].owner" in caplog.text

    def test_a_closed_client_raises(self) -> None:
        async def main() -> None:
            client = Client("key", transport=Recorder(), gzip=False, on_invalid="drop")
            await client.aclose()
            with pytest.raises(ClientClosed):
                await client.track("u")

        run(main())

    def test_a_spool_that_cannot_be_written(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            store = SpoolStore(ScriptedDisk(refuses=True))
            async with Client("key", transport=Recorder(), gzip=False, spool=store.open(), on_invalid="drop") as client:
                for _ in range(3):
                    outcome = await (await client.track("u", "e"))
                    assert (outcome.status, outcome.reason) == (Status.DROPPED, "spool_unavailable")
                counts = client.statistics()
                assert (counts.accepted, counts.pending, counts.reasons) == (3, 0, {"spool_unavailable": 3})
            async with Client("key", transport=Recorder(), gzip=False, spool=store.open()) as client:
                with pytest.raises(SpoolUnavailable):
                    await client.track("u", "e")

        run(main())
        assert caplog.text.count("that the spool cannot store") == 1

    def test_a_spool_that_does_not_answer(self) -> None:
        async def main() -> None:
            disk = ScriptedDisk(stands_still=True)
            store = SpoolStore(disk)
            async with Client("key", transport=Recorder(), gzip=False, spool=store.open(), on_invalid="drop") as client:
                outcome = await (await client.track("u", "e"))
                assert (outcome.status, outcome.reason) == (Status.DROPPED, "spool_unavailable")
                assert outcome.possibly_delivered
                disk.stands_still = False
                await client.flush()
                counts = client.statistics()
                # The disk stored it after all.
                assert (counts.accepted, counts.dropped, counts.delivered, counts.pending) == (2, 1, 1, 0)

        run(main())

    def test_any_other_word_is_refused(self) -> None:
        with pytest.raises(ValueError, match="on_invalid"):
            Client("key", on_invalid="ignore")  # type: ignore[arg-type]


async def at_once(client: Client, message: dict[str, Any]) -> Any:
    return client.enqueue_nowait(message)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.track("u", "e"),
        lambda client: client.__aenter__(),
        lambda client: client.flush(),
        lambda client: client.aclose(),
    ],
)
def test_without_asyncio_the_error_says_what_is_needed(call: Callable[[Client], Any]) -> None:
    """As under Trio, which runs the coroutines without an asyncio event loop."""
    client = Client("key", send=False)
    coroutine = call(client)
    with pytest.raises(RuntimeError, match=r"need asyncio.*Trio is not supported"):
        coroutine.send(None)
    # It is still open.
    client.enqueue_nowait({"type": "track", "userId": "u", "event": "e"})
    asyncio.run(client.aclose())
