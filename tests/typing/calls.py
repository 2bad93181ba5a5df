"""The calls: type checkers know their arguments, and report a misspelt one or one of the wrong type."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, assert_type
from uuid import UUID

from segment_async import Client, Delivery, Outcome, Statistics, Status, bind, blocking, bound, compat, messages

MOMENT = datetime(2025, 1, 2, tzinfo=UTC)


async def right(client: Client) -> None:
    assert_type(await client.track("user", "Order Completed", {"total": 30.5}), Delivery)
    assert_type(await client.track(user_id=5, event="e", properties=MappingProxyType({"a": [1]})), Delivery)
    assert_type(await client.track(anonymous_id=UUID(int=1), event="e", timestamp=MOMENT, message_id="id"), Delivery)
    assert_type(await client.identify("user", {"email": None}, context={"ip": "192.0.2.1"}), Delivery)
    assert_type(await client.page("user", "Category", "Name", {"a": 1}, timestamp="2025-01-02T00:00:00Z"), Delivery)
    assert_type(await client.screen("user", name="Name", integrations={"All": False}), Delivery)
    assert_type(await client.group("user", 5, {"name": "Acme"}), Delivery)
    assert_type(await client.alias("previous", "user"), Delivery)
    assert_type(await client.flush(timeout=5), int)
    assert_type(await client.aclose(), None)
    assert_type(client.statistics(), Statistics)


async def wrong(client: Client) -> None:
    await client.track("user", "e", propertis={"a": 1})  # type: ignore[call-arg]
    await client.track("user", "e", userId="user")  # type: ignore[call-arg]
    await client.identify("user", trait={})  # type: ignore[call-arg]
    await client.page("user", categry="c")  # type: ignore[call-arg]
    await client.screen("user", title="t")  # type: ignore[call-arg]
    await client.group("user", groupId="g")  # type: ignore[call-arg]
    await client.alias("previous", "user", "anonymous")  # type: ignore[call-arg]
    await client.track("user", "e", {}, "anonymous")  # type: ignore[call-arg]
    await client.track("user", 5)  # type: ignore[arg-type]
    await client.track(1.5, "e")  # type: ignore[arg-type]
    await client.track("user", "e", ["a"])  # type: ignore[arg-type]
    await client.track("user", "e", timestamp=1_735_786_800)  # type: ignore[arg-type]
    await client.flush(5)  # type: ignore[call-arg]
    client.statistics().accepted = 5  # type: ignore[misc]


async def outcomes(delivery: Delivery) -> None:
    assert_type(delivery.message_id, str)
    assert_type(delivery.outcome, Outcome | None)
    outcome = await delivery
    assert_type(outcome, Outcome)
    assert_type(outcome.status, Status)
    assert_type(outcome.reason, str | None)
    assert_type(outcome.status_code, int | None)
    assert_type(outcome.raise_for_failure(), None)
    outcome.reason = "x"  # type: ignore[misc]
    delivery.outcom  # type: ignore[attr-defined]  # noqa: B018


async def dicts(client: Client, built: Mapping[str, Any]) -> None:
    message = messages.track("user", "e", {"a": 1})
    assert_type(message, messages.TrackMessage)
    assert_type(message["event"], str)
    assert_type(messages.identify("user"), messages.IdentifyMessage)
    assert_type(messages.page("user"), messages.PageMessage)
    assert_type(messages.screen("user"), messages.ScreenMessage)
    assert_type(messages.group("user", "g"), messages.GroupMessage)
    assert_type(messages.alias("previous", "user"), messages.AliasMessage)
    assert_type(await client.enqueue(message), Delivery)
    assert_type(client.enqueue_nowait(messages.alias("previous")), Delivery)
    assert_type(client.enqueue_nowait(built), Delivery)
    assert_type(client.enqueue_nowait({"type": "track", "event": "e", "userId": "user"}), Delivery)
    build = messages.Builders(default=str)
    assert_type(build.track("user", "e", {"a": 1}), messages.TrackMessage)
    assert_type(build.alias("previous", "user"), messages.AliasMessage)
    build.track("user", "e", propertis={})  # type: ignore[call-arg]
    messages.track("user", "e", propertis={})  # type: ignore[call-arg]
    messages.track("user", 5)  # type: ignore[arg-type]
    message["evnt"]  # type: ignore[typeddict-item]
    client.enqueue_nowait("text")  # type: ignore[arg-type]


def context() -> None:
    with bound(user_id="user", anonymous_id=5, context={"ip": "192.0.2.1"}, without_identity="drop"):
        assert_type(bind(user_id="user", integrations={"All": True}), None)
    with bound(userid="user"):  # type: ignore[call-arg]
        bind(without_identity="drop")  # type: ignore[call-arg]
    with bound(without_identity="ignore"):  # type: ignore[arg-type]
        bind("user")  # type: ignore[call-arg]


def right_without_await(client: Client) -> None:
    assert_type(client.nowait.track("user", "Order Completed", {"total": 30.5}), Delivery)
    assert_type(client.nowait.identify("user", {"email": None}), Delivery)
    assert_type(client.nowait.page("user", "Category", "Name", {"a": 1}), Delivery)
    assert_type(client.nowait.screen("user", name="Name"), Delivery)
    assert_type(client.nowait.group("user", 5, {"name": "Acme"}), Delivery)
    assert_type(client.nowait.alias("previous", "user"), Delivery)
    assert_type(client.nowait.enqueue(messages.track("user", "e")), Delivery)


def wrong_without_await(client: Client) -> None:
    client.nowait.track("user", "e", propertis={"a": 1})  # type: ignore[call-arg]
    client.nowait.track("user", 5)  # type: ignore[arg-type]


def right_without_a_loop(client: blocking.Client) -> None:
    assert_type(blocking.Client("key", region="eu", flush_at=5), blocking.Client)
    assert_type(client.track("user", "Order Completed", {"total": 30.5}), blocking.Delivery)
    assert_type(client.identify("user", {"email": None}, context={"ip": "192.0.2.1"}), blocking.Delivery)
    assert_type(client.page("user", "Category", "Name", {"a": 1}), blocking.Delivery)
    assert_type(client.screen("user", name="Name"), blocking.Delivery)
    assert_type(client.group("user", 5, {"name": "Acme"}), blocking.Delivery)
    assert_type(client.alias("previous", "user"), blocking.Delivery)
    assert_type(client.enqueue(messages.track("user", "e")), blocking.Delivery)
    assert_type(client.track("user", "e").wait(5), Outcome)
    assert_type(client.track("user", "e").outcome, Outcome | None)
    assert_type(client.flush(5), int)
    assert_type(client.flush(timeout=5), int)
    assert_type(client.close(), None)
    assert_type(client.statistics(), Statistics)
    with blocking.Client("key") as opened:
        assert_type(opened, blocking.Client)


def wrong_without_a_loop(client: blocking.Client) -> None:
    blocking.Client("key", flush_att=5)  # type: ignore[call-arg]
    blocking.Client("key", region="mars")  # type: ignore[arg-type]
    blocking.Client("key", "us")  # type: ignore[call-arg]
    client.track("user", "e", propertis={"a": 1})  # type: ignore[call-arg]
    client.track("user", 5)  # type: ignore[arg-type]


def right_as_the_official_sdk() -> None:
    assert_type(compat.track("user", "e", {"a": 1}), tuple[bool, dict[str, Any]])
    assert_type(compat.Client("key", "https://api.segment.io", max_retries=3).flush(), None)
    compat.write_key = "key"
    compat.on_error = lambda error, items: None


def wrong_as_the_official_sdk() -> None:
    compat.track("user", "e", propertis={"a": 1})  # type: ignore[call-arg]
    compat.Client("key", flush_at=1)  # type: ignore[call-arg]
