"""The ready-made steps of `before_send`: what each changes, and what it leaves alone."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from decimal import Decimal
from typing import Any

import pytest

from segment_async import Client
from segment_async.hooks import Step, drop_bots, hash_fields, redact, sample
from tests.support.asgi import FIREFOX, Recorder

EMAIL = "ann@example.com"


def message(**fields: Any) -> dict[str, Any]:
    return {"type": "track", "event": "Seen", "messageId": "m1", "userId": "user-1", **fields}


def order() -> dict[str, Any]:
    return message(
        properties={
            "email": EMAIL,
            "Password": "secret",
            "products": [{"sku": "a", "coupon": "X1"}, {"sku": "b", "coupon": "X2"}, "no object"],
            "buyer": {"email": [EMAIL, None], "age": 41},
        },
        context={"ip": "203.0.113.7", "traits": {"email": EMAIL}},
    )


def test_names_are_found_at_any_depth_and_in_any_case() -> None:
    changed = redact("EMAIL", "password")(order())
    assert changed is not None
    assert changed["properties"]["email"] == changed["properties"]["Password"] == "[redacted]"
    assert changed["properties"]["buyer"] == {"email": "[redacted]", "age": 41}
    assert changed["context"]["traits"] == {"email": "[redacted]"}
    assert changed["properties"]["products"] == order()["properties"]["products"]
    assert redact("email")(message(traits=None)) == message(traits=None)


def test_paths_begin_at_the_message() -> None:
    changed = redact("context.ip", "properties.products.*.coupon", "properties.absent.deep", text=None)(order())
    assert changed is not None
    assert changed["context"] == {"traits": {"email": EMAIL}}
    assert changed["properties"]["products"] == [{"sku": "a"}, {"sku": "b"}, "no object"]
    assert changed["properties"]["email"] == EMAIL


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("properties.products.*", []),
        ("properties.*", None),
        ("properties.products.0", order()["properties"]["products"]),
    ],
)
def test_everything_at_a_place_can_be_removed(path: str, left: Any) -> None:
    changed = redact(path, text=None)(order())
    assert changed is not None
    assert changed["properties"].get("products") == left


def test_values_are_hashed_with_a_secret() -> None:
    changed = hash_fields("email", "userId", "properties.buyer.age", key="key")(order())

    def digest(text: str) -> str:
        return hmac.new(b"key", text.encode(), hashlib.sha256).hexdigest()

    assert changed is not None
    assert changed["properties"]["email"] == changed["context"]["traits"]["email"] == digest(EMAIL)
    assert changed["properties"]["buyer"] == {"email": [digest(EMAIL), None], "age": digest("41")}
    assert changed["userId"] == digest("user-1")
    assert changed["messageId"] == "m1"
    # JSON's own types, as for each step.
    assert type(changed["userId"]) is type(changed["properties"]["email"]) is str


def test_without_a_secret_the_hash_is_what_destinations_expect() -> None:
    changed = hash_fields("email", key=None)(message(traits={"email": " Ann@Example.COM "}))
    assert changed is not None
    assert changed["traits"]["email"] == hashlib.sha256(EMAIL.encode()).hexdigest()


def test_equal_numbers_have_equal_hashes_and_others_have_others() -> None:
    pairs: list[tuple[Any, Decimal]] = [
        (5, Decimal(5)),
        (2**53, Decimal(2**53)),
        (2**53 + 1, Decimal(2**53 + 1)),
        (100, Decimal("1E+2")),
        (1.5, Decimal("1.50")),
        (1e-7, Decimal("1E-7")),
        (0.0, Decimal("0E-8")),
    ]

    async def hashes() -> list[str]:
        recorder = Recorder()
        async with Client("KEY", transport=recorder, before_send=hash_fields("account", key="k")) as client:
            for number in [number for pair in pairs for number in pair]:
                await client.track("user-1", "Seen", {"account": number})
        return [each["properties"]["account"] for each in recorder.messages]

    found = asyncio.run(hashes())
    assert found[::2] == found[1::2]
    assert len({*found}) == len(pairs)


def test_a_number_of_millions_of_places_is_not_written_out() -> None:
    async def sent_hash() -> Any:
        recorder = Recorder()
        async with Client("KEY", transport=recorder, before_send=hash_fields("account", key=None)) as client:
            await client.track("user-1", "Seen", {"account": Decimal("1E-30000000")})
        (sent,) = recorder.messages
        return sent["properties"]["account"]

    assert asyncio.run(sent_hash()) == hashlib.sha256(b"1e-30000000").hexdigest()


@pytest.mark.parametrize(
    "fields",
    [
        ("email", "traits.email"),
        ("traits.email", "*.email"),
        ("traits.user", "traits.user.email", "email"),
    ],
)
def test_what_two_fields_find_is_hashed_once(fields: tuple[str, ...]) -> None:
    async def hashes() -> Any:
        recorder = Recorder()
        async with Client("KEY", transport=recorder, before_send=hash_fields(*fields, "userId", key=None)) as client:
            await client.identify("user-1", {"email": EMAIL, "user": {"email": EMAIL}})
        (sent,) = recorder.messages
        return sent["userId"], sent["traits"]

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    user_id, traits = asyncio.run(hashes())
    assert user_id == digest("user-1")
    assert traits["user"]["email"] in (EMAIL, digest(EMAIL))
    assert traits["email"] == digest(EMAIL)


def test_an_object_keeps_its_shape() -> None:
    changed = hash_fields("address", key=b"k")(message(traits={"address": {"city": "Kyiv", "lines": ["a", 1]}}))
    assert changed is not None
    assert changed["traits"]["address"].keys() == {"city", "lines"}
    assert all(len(text) == 64 for text in changed["traits"]["address"]["lines"])


@pytest.mark.parametrize(
    "make",
    [
        redact,
        lambda: redact(""),
        lambda: redact("*"),
        lambda: redact("properties."),
        *(lambda field=field: redact(field) for field in ("type", "event", "messageId", "timestamp", "properties")),
        lambda: hash_fields(key="k"),
        lambda: hash_fields("messageId", key="k"),
        lambda: hash_fields("email", key=""),
        lambda: sample(1.1),
        lambda: sample(-0.1),
        lambda: sample(float("nan")),
        lambda: sample(True),
        lambda: sample("0.5"),  # type: ignore[arg-type]
        lambda: sample(None),  # type: ignore[arg-type]
        lambda: sample(0.1, events="Order Completed"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        make()


@pytest.mark.parametrize("make", [redact, lambda fields: hash_fields(fields, key="k")])
@pytest.mark.parametrize("fields", [["email", "phone"], ("email", "phone"), None])
def test_fields_are_given_one_by_one(fields: Any, make: Any) -> None:
    with pytest.raises(ValueError, match="give each field by itself, as text: 'email', 'phone', not as a list"):
        make(fields)


@pytest.mark.parametrize("key", [5, ["k"], object()])
def test_a_key_is_text_or_bytes_or_none(key: Any) -> None:
    with pytest.raises(ValueError, match=r"key must be text, bytes or None; .* get_secret_value\(\)"):
        hash_fields("email", key=key)


@pytest.mark.parametrize("make", [redact, lambda field: hash_fields(field, key="k")])
@pytest.mark.parametrize("path", ["card.number", "Properties.email", "userId.name", "products.*.coupon"])
def test_a_path_that_begins_at_no_object_of_a_message_is_refused(path: str, make: Any) -> None:
    text = f"{path!r} begins with no object of a message; a path starts there, such as 'properties.{path}'"
    with pytest.raises(ValueError, match=re.escape(text)):
        make(path)


def test_a_path_may_begin_with_any_key() -> None:
    changed = redact("*.email")(message(properties={"email": EMAIL}, traits={"email": EMAIL}))
    assert changed is not None
    assert changed["properties"] == changed["traits"] == {"email": "[redacted]"}


def test_a_path_may_begin_with_what_an_application_adds_to_a_message() -> None:
    changed = redact("_metadata.email")({**message(), "_metadata": {"email": EMAIL}})
    assert changed is not None
    assert changed["_metadata"] == {"email": "[redacted]"}


@pytest.mark.parametrize("fields", [("userId",), ("anonymousId",), ("userId", "anonymousId"), ("previousId", "userId")])
def test_the_previous_id_of_an_alias_is_hashed_as_the_ids_that_it_repeats(fields: tuple[str, ...]) -> None:
    step = hash_fields(*fields, key="key")
    seen = step({"type": "identify", "userId": "user-1", "anonymousId": "user-1"})
    alias = step({"type": "alias", "userId": "user-2", "previousId": "user-1"})
    assert seen is not None
    assert alias is not None
    assert alias["previousId"] in (seen["userId"], seen["anonymousId"])
    assert alias["previousId"] != "user-1"


def test_other_ids_are_left_alone_by_the_hash_of_a_user_id() -> None:
    changed = hash_fields("userId", key="key")(message(groupId="g-1", anonymousId="a-1"))
    assert changed is not None
    assert (changed["groupId"], changed["anonymousId"]) == ("g-1", "a-1")
    changed = hash_fields("email", key="key")({"type": "alias", "userId": "user-2", "previousId": "user-1"})
    assert changed is not None
    assert changed["previousId"] == "user-1"


def kept(step: Step, **fields: Any) -> set[str]:
    return {f"user-{n}" for n in range(2_000) if step(message(**{"userId": f"user-{n}", **fields})) is not None}


def test_a_share_of_the_users_is_kept() -> None:
    some = kept(sample(0.25))
    assert 400 < len(some) < 600
    assert kept(sample(0.25), event="Other") == kept(sample(0.25), type="page") == some
    assert some < kept(sample(0.5))
    assert (len(kept(sample(0))), len(kept(sample(1)))) == (0, 2_000)
    assert sample(0.0)({"type": "track", "event": "Seen"}) is None


def test_identities_are_never_sampled() -> None:
    for kind in ("identify", "group", "alias"):
        assert len(kept(sample(0.0), type=kind)) == 2_000


def test_only_some_events_are_sampled() -> None:
    step = sample(0.0, events=["Seen"])
    assert step(message()) is None
    assert step(message(event="Bought")) is not None
    assert step({"type": "page", "userId": "user-1"}) is not None


def test_the_anonymous_id_decides_without_a_user_id() -> None:
    anonymous = {f"user-{n}" for n in range(2_000) if sample(0.25)({"type": "page", "anonymousId": f"user-{n}"})}
    assert anonymous == kept(sample(0.25))


def test_bots_are_dropped() -> None:
    step = drop_bots()
    assert step(message(context={"userAgent": "Googlebot/2.1"})) is None
    for context in ({"userAgent": FIREFOX}, {"userAgent": None}, {}):
        assert step(message(context=context)) is not None
    assert step(message()) is not None


def test_a_client_with_all_of_them() -> None:
    recorder = Recorder()
    steps = [drop_bots(), sample(1.0), redact("password"), hash_fields("email", key="key")]

    async def main() -> None:
        async with Client("KEY", transport=recorder, before_send=steps) as client:
            await client.track("user-1", "Seen", {"password": "secret", "email": EMAIL})
            await client.track("user-1", "Seen", context={"userAgent": "curl/8.5"})
            await client.identify("user-1", {"email": EMAIL})
        assert client.statistics().reasons == {"before_send": 1}

    asyncio.run(main())
    seen, identified = recorder.messages
    assert seen["properties"]["password"] == "[redacted]"
    assert seen["properties"]["email"] == identified["traits"]["email"] != EMAIL
