"""What each call builds, what each field may be, and which fields are refused, by name."""

import dataclasses
import enum
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from types import MappingProxyType
from typing import Any, Self

import attrs
import msgspec
import numpy as np
import pydantic
import pydantic.v1
import pytest
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from segment_async import MessageError, bound
from segment_async._message.build import (
    alias,
    checked,
    group,
    identifier,
    identify,
    page,
    screen,
    track,
)
from segment_async._message.context import innermost
from segment_async.events import TrackEvent

# Django's settings are those of the process, and these are all that the tests use.
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.programs.django_shop.settings"

CALLS: dict[str, Callable[..., dict[str, Any]]] = {
    "track": lambda *args, **fields: track("u", "Event", *args, **fields),
    "identify": lambda *args, **fields: identify("u", *args, **fields),
    "page": lambda *args, **fields: page("u", "Category", "Name", *args, **fields),
    "screen": lambda *args, **fields: screen("u", "Category", "Name", *args, **fields),
    "group": lambda *args, **fields: group("u", "g", *args, **fields),
    "alias": lambda **fields: alias("previous", "u", **fields),
}
OWN = {
    "track": {"event": "Event"},
    "identify": {},
    "page": {"category": "Category", "name": "Name"},
    "screen": {"category": "Category", "name": "Name"},
    "group": {"groupId": "g"},
    "alias": {"previousId": "previous"},
}
CONTENT = {"track": "properties", "identify": "traits", "page": "properties", "screen": "properties", "group": "traits"}
SECRET = "THE-SECRET"


class Text:
    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class ObjectId(Text):
    """Like MongoDB's."""


class ULID(Text):
    """Like those of python-ulid."""


class Unbound:
    """A proxy without a target, like those of web frameworks outside of a request."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError(SECRET)


class FailingText(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise RuntimeError(SECRET)

    __bool__ = __str__ = __len__  # type: ignore[assignment]


class FailingIndex:
    def __index__(self) -> int:
        raise RuntimeError(SECRET)


class FailingObjectId:
    def __str__(self) -> str:
        raise RuntimeError(SECRET)


FailingObjectId.__name__ = "ObjectId"


class FailingZone(datetime):
    def __new__(cls) -> Self:
        return super().__new__(cls, 2025, 1, 2, tzinfo=UTC)

    def utcoffset(self) -> Any:
        raise RuntimeError(SECRET)


class Arrow:
    def __init__(self, moment: datetime) -> None:
        self.datetime = moment


class FailingMapping(Mapping[str, Any]):
    """A mapping whose own code fails in one place."""

    def __init__(self, place: str) -> None:
        self.place = place

    def fail(self, place: str) -> None:
        if place == self.place:
            raise RuntimeError(SECRET)

    def __getitem__(self, key: str) -> Any:
        self.fail("getitem")
        return 1

    def __iter__(self) -> Iterator[str]:
        self.fail("iter")
        return iter("a")

    def __len__(self) -> int:
        self.fail("len")
        return 1


@dataclasses.dataclass
class Order:
    total: int = 1


@attrs.define
class AttrsOrder:
    total: int = 1


class StructOrder(msgspec.Struct):
    total: int = 1


class ModelOrder(pydantic.BaseModel):
    total: int = 1


class OldOrder(pydantic.v1.BaseModel):
    total: int = 1


class Numbers(pydantic.RootModel[list[int]]):
    pass


class NotATime(datetime):
    """Like pandas' NaT."""

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = datetime.__hash__


def refusal(call: Callable[..., object], *args: Any, **fields: Any) -> MessageError:
    with pytest.raises(MessageError) as caught:
        call(*args, **fields)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None
    return caught.value


class SignedUp(TrackEvent):
    __slots__ = ()
    EVENT = "Signed Up"


class TestCalls:
    @pytest.mark.parametrize("name", CALLS)
    def test_the_minimum(self, name: str) -> None:
        message = CALLS[name]()
        # In this order they take the fewest bytes on the wire.
        assert list(message)[:4] == ["type", "timestamp", "messageId", "userId"]
        assert datetime.fromisoformat(message.pop("timestamp")).tzinfo is not None
        assert len(message.pop("messageId")) == 28
        assert message == {"type": name, "userId": "u", **OWN[name]}

    @pytest.mark.parametrize("name", CALLS)
    def test_everything(self, name: str) -> None:
        common = {
            "anonymous_id": "a",
            "context": {"ip": "192.0.2.1"},
            "integrations": {"All": False},
            "timestamp": datetime(2025, 1, 2, tzinfo=UTC),
            "message_id": "id-1",
        }
        content = {} if name == "alias" else {CONTENT[name]: {"a": 1}}
        assert CALLS[name](*content.values(), **common) == {
            "type": name,
            "messageId": "id-1",
            "timestamp": "2025-01-02T00:00:00.000Z",
            "userId": "u",
            "anonymousId": "a",
            "context": {"ip": "192.0.2.1"},
            "integrations": {"All": False},
            **OWN[name],
            **content,
        }

    @pytest.mark.parametrize("name", CALLS)
    def test_absent_and_empty_fields_are_left_out(self, name: str) -> None:
        empty = () if name == "alias" else ({},)
        message = CALLS[name](*empty, context={}, integrations={}, anonymous_id=None)
        assert message.keys() == {"type", "timestamp", "messageId", "userId", *OWN[name]}

    @pytest.mark.parametrize("call", [track, identify, page, screen, group, alias])
    def test_the_identity_is_not_checked_here(self, call: Callable[..., dict[str, Any]]) -> None:
        required = {track: {"event": "e"}, group: {"group_id": "g"}, alias: {"previous_id": "p"}}
        assert "userId" not in call(**required.get(call, {}))


class TestIds:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("u", "u"),
            (" ", " "),
            (0, "0"),
            (-1, "-1"),
            (2**70, str(2**70)),
            (np.int64(5), "5"),
            (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            (enum.IntEnum("Number", {"FIVE": 5}).FIVE, "5"),
        ],
    )
    def test_they_are_sent_as_text(self, value: Any, text: str) -> None:
        assert identifier("userId", value) == text
        assert track(value, "e")["userId"] == text

    @pytest.mark.parametrize(
        "value", [True, False, 1.0, b"a", [], {}, object(), np.bool_(True), pytest.param(10**5_000, id="long")]
    )
    def test_what_is_refused(self, value: Any) -> None:
        assert (
            "must be a str, an int, a UUID, an ObjectId or a ULID, not" in refusal(identifier, "userId", value).problem
        )

    @pytest.mark.parametrize(
        ("path", "call"),
        [
            ("userId", lambda value: track(value, "e")),
            ("anonymousId", lambda value: track("u", "e", anonymous_id=value)),
            ("messageId", lambda value: track("u", "e", message_id=value)),
            ("groupId", lambda value: group("u", value)),
            ("previousId", lambda value: alias(value, "u")),
        ],
    )
    def test_empty_ids_and_other_types_are_refused(self, path: str, call: Callable[[Any], object]) -> None:
        assert refusal(call, "").path == path
        assert refusal(call, [SECRET]).path == path

    @pytest.mark.parametrize(("length", "fits"), [(1, True), (99, True), (100, False)])
    @pytest.mark.parametrize("character", ["a", "ä", "☂"])
    def test_message_ids_are_under_a_hundred_characters(self, length: int, character: str, *, fits: bool) -> None:
        message_id = character * length
        if fits:
            assert track("u", "e", message_id=message_id)["messageId"] == message_id
        else:
            assert refusal(track, "u", "e", message_id=message_id).path == "messageId"
            assert refusal(checked, {"type": "identify", "messageId": message_id}).path == "messageId"

    def test_message_ids_are_sent_as_the_delivery_shows_them(self) -> None:
        assert track("u", "e", message_id="a\ud800")["messageId"] == "a\ufffd"
        assert checked({"type": "identify", "messageId": "a\ud800"})["messageId"] == "a\ufffd"

    def test_message_ids_of_other_types(self) -> None:
        assert track("u", "e", message_id=5)["messageId"] == "5"


class TestFields:
    @pytest.mark.parametrize(
        ("path", "call"),
        [
            ("event", lambda: track("u")),
            ("event", lambda: track("u", "")),
            ("event", lambda: track("u", 5)),  # type: ignore[arg-type]
            ("groupId", lambda: group("u")),
            ("previousId", lambda: alias(user_id="u")),
            ("category", lambda: page("u", 5)),  # type: ignore[arg-type]
            ("name", lambda: screen("u", "c", [])),  # type: ignore[arg-type]
            ("properties", lambda: track("u", "e", [SECRET])),  # type: ignore[arg-type]
            ("properties", lambda: track("u", "e", SECRET)),  # type: ignore[arg-type]
            ("properties", lambda: page("u", properties=5)),  # type: ignore[arg-type]
            ("properties", lambda: screen("u", properties=0)),  # type: ignore[arg-type]
            ("traits", lambda: identify("u", [])),  # type: ignore[arg-type]
            ("traits", lambda: group("u", "g", [("a", 1)])),  # type: ignore[arg-type]
            ("context", lambda: track("u", "e", context=SECRET)),  # type: ignore[arg-type]
            ("integrations", lambda: track("u", "e", integrations=[])),  # type: ignore[arg-type]
            ("timestamp", lambda: track("u", "e", timestamp=5)),  # type: ignore[arg-type]
        ],
    )
    def test_the_wrong_field_is_named(self, path: str, call: Callable[[], object]) -> None:
        error = refusal(call)
        assert error.path == path
        assert str(error) == f"{path}: {error.problem}"

    @pytest.mark.parametrize(
        ("path", "call"),
        [
            ("traits", lambda event: identify("u", event)),
            ("traits", lambda event: group("u", "g", event)),
            ("properties", lambda event: page("u", properties=event)),
            ("properties", lambda event: screen("u", properties=event)),
            ("context", lambda event: track("u", "e", context=event)),
            ("traits", lambda event: checked({"type": "identify", "userId": "u", "traits": event})),
            ("properties", lambda event: checked({"type": "page", "userId": "u", "properties": event})),
        ],
    )
    def test_a_planned_event_belongs_to_track(self, path: str, call: Callable[[object], object]) -> None:
        for event in (SignedUp(), SignedUp(plan="pro")):
            error = refusal(call, event)
            assert error.path == path
            assert error.problem == "must not be SignedUp, which is an event: pass it to track"

    def test_any_mapping_is_accepted(self) -> None:
        assert track("u", "e", MappingProxyType({"a": 1}))["properties"]["a"] == 1

    def test_names_may_be_empty(self) -> None:
        assert page("u", "", "").items() >= {"category": "", "name": ""}.items()


class TestObjects:
    """What `properties`, `traits` and `context` may be."""

    @pytest.mark.parametrize(
        "given", [Order(), AttrsOrder(), StructOrder(), ModelOrder(), OldOrder(), MappingProxyType({"total": 1})]
    )
    @pytest.mark.parametrize("name", CONTENT)
    def test_models_and_dataclasses_are_taken(self, name: str, given: Any) -> None:
        message = CALLS[name](given, context=given, integrations=given)
        for field in (CONTENT[name], "context", "integrations"):
            assert message[field] == {"total": 1}
        assert checked({**message, CONTENT[name]: given})[CONTENT[name]] == {"total": 1}
        with bound(user_id="u", context=given), bound(context={"b": 2}):
            assert innermost.get().filled({})["context"] == {"total": 1, "b": 2}  # type: ignore[union-attr]

    def test_several_values_for_a_key_are_a_list(self) -> None:
        items = [("a", 1), ("a", 2), ("b", 3)]
        assert track("u", "e", MultiDict(items))["properties"] == {"a": [1, 2], "b": 3}

    @pytest.mark.parametrize(
        "value",
        [Numbers([1]), pydantic.SecretStr(SECRET), [("a", 1)], SECRET, Order, ModelOrder, Unbound, 5, iter("a")],
    )
    def test_what_is_refused(self, value: Any) -> None:
        error = refusal(track, "u", "e", value() if value is Unbound else value)
        assert error.path == "properties"
        assert error.__context__ is None

    @pytest.mark.parametrize("place", ["getitem", "iter"])
    def test_code_of_a_mapping_that_fails(self, place: str) -> None:
        for refused in (
            refusal(track, "u", "e", FailingMapping(place)),
            refusal(identify, "u", FailingMapping(place)),
            refusal(track, "u", "e", context=FailingMapping(place)),
            refusal(checked, FailingMapping(place)),
        ):
            assert "raised an exception when it was read" in refused.problem
            assert SECRET not in str(refused)
            assert refused.__context__ is None

    def test_its_length_is_not_asked(self) -> None:
        assert track("u", "e", FailingMapping("len"))["properties"] == {"a": 1}


class TestTextOfOtherTypes:
    def test_ids_of_other_libraries(self) -> None:
        message = track(ObjectId("507f"), "e", anonymous_id=ULID("01AR"), message_id=ULID("01AS"))  # type: ignore[arg-type]
        assert (message["userId"], message["anonymousId"], message["messageId"]) == ("507f", "01AR", "01AS")
        assert group("u", ObjectId("507f"))["groupId"] == "507f"  # type: ignore[arg-type]

    def test_text_that_is_translated_late(self) -> None:
        assert track("u", gettext_lazy("Shoes"))["event"] == "Shoes"
        assert page("u", name=gettext_lazy("Shoes"))["name"] == "Shoes"

    @pytest.mark.parametrize("make", [Unbound, FailingIndex, FailingObjectId, lambda: Text("a")])
    def test_code_of_an_id_that_fails(self, make: Callable[[], Any]) -> None:
        error = refusal(track, make(), "e")
        assert error.path == "userId"
        assert SECRET not in str(error)
        assert error.__context__ is None

    def test_code_of_a_time_zone_that_fails(self) -> None:
        assert refusal(track, "u", "e", timestamp=FailingZone()).__context__ is None

    def test_text_s_own_code_does_not_run(self) -> None:
        assert type(track("u", FailingText("e"))["event"]) is str


def isinstance_of_str(value: Any) -> bool:
    return issubclass(type(value), str)


class TestTimestamp:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (datetime(2025, 1, 2, 3, 4, 5, 999_999, UTC), "2025-01-02T03:04:05.999Z"),
            (datetime(2025, 1, 2, tzinfo=timezone(timedelta(hours=-5))), "2025-01-02T05:00:00.000Z"),
            (datetime(2025, 1, 2, 3, 4, 5), "2025-01-02T03:04:05.000Z"),
            ("2025-01-02T03:04:05Z", "2025-01-02T03:04:05.000Z"),
            ("2025-01-02T03:04:05.123456+02:00", "2025-01-02T01:04:05.123Z"),
            ("2025-01-02 03:04:05", "2025-01-02T03:04:05.000Z"),
            ("2025-01-02", "2025-01-02T00:00:00.000Z"),
            ("20250102T030405Z", "2025-01-02T03:04:05.000Z"),
            (date(2025, 1, 2), "2025-01-02T00:00:00.000Z"),
            ("2025-01-02T03:04:05z", "2025-01-02T03:04:05.000Z"),
            ("2025-01-02t03:04:05.5z", "2025-01-02T03:04:05.500Z"),
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
            ("2016-12-31T23:59:60.250z", "2017-01-01T00:00:00.250Z"),
            ("2017-01-01T00:59:60+01:00", "2017-01-01T00:00:00.000Z"),
            ("20161231T235960Z", "2017-01-01T00:00:00.000Z"),
            (np.datetime64("2025-01-02T03:04:05.123456789"), "2025-01-02T03:04:05.123Z"),
            (Arrow(datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)), "2025-01-02T03:04:05.000Z"),
        ],
    )
    def test_it_is_sent_in_utc_with_milliseconds(self, value: Any, text: str) -> None:
        assert track("u", "e", timestamp=value)["timestamp"] == text
        assert checked({"type": "identify", "timestamp": value})["timestamp"] == text

    @pytest.mark.parametrize(
        "value",
        [
            *("", "yesterday", SECRET, "2025-13-01", "2025-01-02T25:00:00Z", "1735786800", "\ud800"),
            *(
                0,
                1_735_786_800.0,
                True,
                [],
                NotATime(2025, 1, 2),
                np.datetime64("NaT", "ns"),
                time(1, 2),
                b"2025-01-02",
            ),
            *("2016-12-31T23:60:00Z", "2016-12-31T23:59:61Z", "60", "2016-12-31T60", FailingZone()),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
            "0001-01-01T00:00:00+01:00",
        ],
    )
    def test_what_is_refused(self, value: Any) -> None:
        assert refusal(track, "u", "e", timestamp=value).path == "timestamp"

    @pytest.mark.parametrize(
        ("value", "form"),
        [
            (1_735_786_800, "datetime.fromtimestamp(seconds, UTC)"),
            (1_735_786_800.5, "datetime.fromtimestamp(seconds, UTC)"),
            ("1735786800", "datetime.fromtimestamp(seconds, UTC)"),
            (1_735_786_800_000, "datetime.fromtimestamp(milliseconds / 1000, UTC)"),
            ("1735786800000", "datetime.fromtimestamp(milliseconds / 1000, UTC)"),
            ("yesterday", '"2026-01-31T09:30:00.000Z"'),
            (10**400, '"2026-01-31T09:30:00.000Z"'),
        ],
    )
    def test_the_error_shows_the_right_form(self, value: Any, form: str) -> None:
        assert form in refusal(track, "u", "e", timestamp=value).problem

    def test_the_default_is_the_current_time(self) -> None:
        before = datetime.now(UTC) - timedelta(milliseconds=1)
        assert before <= datetime.fromisoformat(track("u", "e")["timestamp"]) <= datetime.now(UTC)


class TestChecked:
    """A ready-made message."""

    def test_it_gets_a_type_a_timestamp_and_an_id(self) -> None:
        message = checked({"userId": "u", "type": "identify"})
        assert list(message) == ["type", "timestamp", "messageId", "userId"]
        assert message["timestamp"]
        assert len(message["messageId"]) == 28

    def test_without_an_id_of_its_own_it_gets_the_given_one(self) -> None:
        assert checked({"type": "identify"}, "given")["messageId"] == "given"
        assert checked({"type": "identify", "messageId": "own"}, "given")["messageId"] == "own"

    @pytest.mark.parametrize("name", CALLS)
    def test_a_message_of_a_call_passes_unchanged(self, name: str) -> None:
        content = () if name == "alias" else ({"a": 1},)
        message = CALLS[name](*content, context={"a": 1}, integrations={"All": True}, anonymous_id="a")
        assert checked(message) == message
        assert checked(MappingProxyType(message)) == message

    def test_the_given_dict_is_not_changed(self) -> None:
        given = {"type": "track", "event": "e", "userId": 5, "context": {}, "name": None}
        copy = dict(given)
        assert checked(given)["userId"] == "5"
        assert given == copy

    def test_nulls_and_empty_objects_are_left_out(self) -> None:
        given = {"type": "page", "userId": "u", "name": None, "context": {}, "properties": {}, "messageId": None}
        message = checked(given)
        assert message.keys() == {"type", "userId", "timestamp", "messageId"}
        assert message["messageId"]

    def test_unknown_fields_pass_without_a_truth_value(self) -> None:
        """As an array of numpy has none."""

        class Array:
            def __bool__(self) -> bool:
                raise ValueError

        given = Array()
        assert checked({"type": "identify", "future": given})["future"] is given

    def test_unknown_fields_pass(self) -> None:
        assert checked({"type": "identify", "channel": "server", "_own": [1]}).items() >= {
            ("channel", "server"),
        }

    @pytest.mark.parametrize(
        ("message", "path"),
        [
            ("track", "message"),
            ([("type", "track")], "message"),
            (None, "message"),
            ({}, "type"),
            ({"type": "Track"}, "type"),
            ({"type": ["track"]}, "type"),
            ({"type": None}, "type"),
            ({"type": "track"}, "event"),
            ({"type": "track", "event": None}, "event"),
            ({"type": "track", "event": ""}, "event"),
            ({"type": "group"}, "groupId"),
            ({"type": "alias"}, "previousId"),
            ({"type": "identify", "userId": ""}, "userId"),
            ({"type": "identify", "anonymousId": 1.5}, "anonymousId"),
            ({"type": "identify", "traits": []}, "traits"),
            ({"type": "identify", "context": SECRET}, "context"),
            ({"type": "page", "name": 5}, "name"),
            ({"type": "page", "timestamp": SECRET}, "timestamp"),
        ],
    )
    def test_the_wrong_field_is_named(self, message: Any, path: str) -> None:
        assert refusal(checked, message).path == path

    @given(
        st.dictionaries(
            st.sampled_from(["userId", "event", "groupId", "previousId", "name", "traits", "timestamp", "messageId"]),
            st.none() | st.text(max_size=120) | st.integers() | st.dictionaries(st.text(), st.integers(), max_size=2),
        ),
        st.sampled_from(list(CALLS)),
    )
    def test_it_is_refused_by_name_or_passes_a_second_check(self, fields: Mapping[str, Any], kind: str) -> None:
        paths, message = [], None
        try:
            message = checked({**fields, "type": kind})
        except MessageError as error:
            paths.append(error.path)
        assert {*paths} <= {*fields, "event", "groupId", "previousId"}
        if message is not None:
            assert checked(message) == message
            assert None not in message.values()
