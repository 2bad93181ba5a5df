"""What `Client(defaults=...)` adds to messages, and what of it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from segment_async import Client, MessageError, bound, messages
from segment_async.asgi import SegmentMiddleware
from tests.support.asgi import ANONYMOUS, Recorder, answering, ask, visit


def sent(call: Callable[[Client], Awaitable[Any]], **options: Any) -> dict[str, Any]:
    recorder = Recorder()

    async def main() -> None:
        async with Client("KEY", transport=recorder, **options) as client:
            await call(client)

    asyncio.run(main())
    (message,) = recorder.messages
    return message


DEFAULTS: Any = {
    "context": {"app": {"name": "shop"}, "locale": "de"},
    "integrations": {"All": False, "Mixpanel": True},
    "properties": {"tier": "beta", "since": date(2026, 1, 2), "price": Decimal("1.50")},
}
PROPERTIES = {"tier": "beta", "since": "2026-01-02", "price": 1.5}


@pytest.mark.parametrize("before_send", [None, lambda message: message])
def test_a_message_without_them_gets_all(before_send: Any) -> None:
    message = sent(lambda client: client.track("user-1", "Seen"), defaults=DEFAULTS, before_send=before_send)
    assert message["properties"] == PROPERTIES
    assert message["integrations"] == DEFAULTS["integrations"]
    assert message["context"].pop("library")["name"] == "segment-async"
    assert message["context"] == DEFAULTS["context"]


def test_the_calls_own_fields_take_precedence_key_by_key() -> None:
    def call(client: Client) -> Awaitable[Any]:
        return client.track(
            "user-1", "Seen", {"tier": "gold", "n": 1}, context={"app": {"version": "2"}}, integrations={"All": True}
        )

    message = sent(call, defaults=DEFAULTS)
    assert message["properties"] == {**PROPERTIES, "tier": "gold", "n": 1}
    assert message["integrations"] == {"All": True, "Mixpanel": True}
    assert (message["context"]["app"], message["context"]["locale"]) == ({"version": "2"}, "de")


def test_a_blocks_fields_come_between() -> None:
    async def call(client: Client) -> None:
        with bound(context={"locale": "fr", "ip": "203.0.113.7"}, integrations={"Mixpanel": False}):
            await client.track("user-1", "Seen", context={"ip": "0.0.0.0"})

    message = sent(call, defaults=DEFAULTS)
    assert (message["context"]["locale"], message["context"]["ip"]) == ("fr", "0.0.0.0")
    assert message["context"]["app"] == {"name": "shop"}
    assert message["integrations"] == {"All": False, "Mixpanel": False}


def test_a_web_requests_too() -> None:
    async def call(client: Client) -> None:
        await ask(SegmentMiddleware(answering(doing=lambda: client.track(event="Seen")), client), visit())

    message = sent(call, defaults=DEFAULTS)
    assert message["anonymousId"] == ANONYMOUS
    assert (message["context"]["app"], message["context"]["ip"]) == ({"name": "shop"}, "203.0.113.9")


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.page("user-1", None, "Home"),
        lambda client: client.screen("user-1", None, "Home"),
        lambda client: client.enqueue(messages.track("user-1", "Seen")),
    ],
)
def test_pages_and_screens_get_the_properties(call: Any) -> None:
    assert sent(call, defaults=DEFAULTS)["properties"] == PROPERTIES


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.identify("user-1", {"plan": "pro"}),
        lambda client: client.group("user-1", "group-1"),
        lambda client: client.alias("user-0", "user-1"),
    ],
)
def test_others_get_no_properties(call: Any) -> None:
    message = sent(call, defaults=DEFAULTS)
    assert "properties" not in message
    assert message["context"]["locale"] == "de"


def test_later_changes_to_them_change_nothing() -> None:
    tags, seen = ["a"], []

    def changed(message: dict[str, Any]) -> dict[str, Any]:
        seen.append([*message["properties"]["tags"]])
        message["properties"]["tags"].append("changed by the hook")
        return message

    client = Client("KEY", send=False, defaults={"properties": {"tags": tags}}, before_send=changed)
    tags.append("changed by the application")
    for _ in range(2):
        client.nowait.track("user-1", "Seen")
    assert seen == [["a"], ["a"]]


def test_values_are_converted_by_the_clients_own_function() -> None:
    class Money: ...

    defaults: Any = {"properties": {"price": Money()}}
    with pytest.raises(MessageError, match=r"defaults\.properties\.price"):
        Client("KEY", defaults=defaults)
    message = sent(lambda client: client.track("user-1", "Seen"), defaults=defaults, default=lambda money: "1 EUR")
    assert message["properties"] == {"price": "1 EUR"}


@pytest.mark.parametrize(
    ("defaults", "problem"),
    [
        ({"traits": {}}, "defaults takes context, integrations, properties, not 'traits'"),
        ({"context": "web"}, "defaults.context"),
        (["context"], "defaults must be a mapping"),
    ],
)
def test_what_is_refused(defaults: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Client("KEY", defaults=defaults)


def test_none_and_empty_ones_add_nothing() -> None:
    message = sent(lambda client: client.track("user-1", "Seen"), defaults={"context": None, "integrations": {}})
    assert message["context"].keys() == {"library"}
