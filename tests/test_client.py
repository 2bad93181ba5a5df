"""The client end to end, over real HTTP against the local endpoint, which judges messages as Segment does."""

import asyncio
import copy
import functools
import logging
import pickle
import time
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from segment_async import (
    Client,
    DeliveryError,
    MessageError,
    MessageTooLarge,
    Outcome,
    QueueFull,
    Response,
    Status,
    bind,
    blocking,
    bound,
    compat,
    messages,
)
from segment_async.devserver import serve
from segment_async.spool import SQLiteSpool
from segment_async.testing import RecordingTransport

Message = dict[str, Any]


def sent(work: Callable[[Client], Any], **options: Any) -> list[Message]:
    """The messages that arrived after `work` used a client, and the closed client."""

    async def main() -> list[Message]:
        async with serve(keep=200_000) as endpoint:
            async with Client("KEY", host=endpoint.url, **options) as client:
                await work(client)
            assert client.statistics().pending == 0
            return endpoint.messages

    return asyncio.run(main())


class TestTheSixCalls:
    def test_arrive_in_segments_format(self) -> None:
        async def work(client: Client) -> None:
            await client.identify("user-1", {"email": "a@example.com"})
            await client.track("user-1", "Order Completed", {"total": 30.5})
            await client.page("user-1", "Docs", "Home", {"path": "/"})
            await client.screen("user-1", "Shop", "Cart", {"items": 2})
            await client.group("user-1", "group-1", {"plan": "pro"})
            await client.alias("old", "user-1")

        arrived = sent(work)
        own = [{key: value for key, value in message.items() if key not in ADDED} for message in arrived]
        assert own == [
            {"type": "identify", "userId": "user-1", "traits": {"email": "a@example.com"}},
            {"type": "track", "userId": "user-1", "event": "Order Completed", "properties": {"total": 30.5}},
            {"type": "page", "userId": "user-1", "category": "Docs", "name": "Home", "properties": {"path": "/"}},
            {"type": "screen", "userId": "user-1", "category": "Shop", "name": "Cart", "properties": {"items": 2}},
            {"type": "group", "userId": "user-1", "groupId": "group-1", "traits": {"plan": "pro"}},
            {"type": "alias", "previousId": "old", "userId": "user-1"},
        ]
        assert len({message["messageId"] for message in arrived}) == 6
        assert all(message["context"]["library"]["name"] == "segment-async" for message in arrived)

    def test_take_the_common_fields(self) -> None:
        async def work(client: Client) -> None:
            await client.track(
                event="E",
                anonymous_id="anonymous-1",
                context={"ip": "192.0.2.1", "library": {"name": "mine"}},
                integrations={"All": False},
                timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
                message_id="id-1",
            )

        (message,) = sent(work)
        assert message["anonymousId"] == "anonymous-1"
        assert (message["context"]["ip"], message["context"]["library"]["name"]) == ("192.0.2.1", "segment-async")
        assert message["integrations"] == {"All": False}
        assert (message["timestamp"], message["messageId"]) == ("2026-01-02T03:04:05.000Z", "id-1")

    def test_plain_messages_through_both_enqueue_calls(self) -> None:
        async def work(client: Client) -> None:
            await client.enqueue(messages.track("user-1", "One"))
            client.enqueue_nowait({"type": "track", "userId": "user-1", "event": "Two"})
            await asyncio.to_thread(client.enqueue_nowait, messages.track("user-1", "Three"))

        assert [message["event"] for message in sent(work)] == ["One", "Two", "Three"]

    def test_the_delivery_has_their_outcome(self) -> None:
        async def work(client: Client) -> None:
            delivery = await client.track("user-1", "E")
            assert delivery.outcome is None
            assert await delivery == Outcome(Status.DELIVERED, delivery.message_id, status_code=200, attempts=1)
            (await delivery).raise_for_failure()

        sent(work, flush_interval=0)

    def test_objects_changed_after_the_call_change_nothing(self) -> None:
        async def work(client: Client) -> None:
            properties = {"cart": [1, 2]}
            await client.track("user-1", "E", properties)
            properties["cart"].append(3)
            assert properties == {"cart": [1, 2, 3]}

        assert sent(work)[0]["properties"] == {"cart": [1, 2]}


ADDED = {"messageId", "timestamp", "context"}


class Opaque:
    pass


class TestWrongCalls:
    @pytest.mark.parametrize(
        ("call", "path"),
        [
            (lambda client: client.track(event="E"), "userId"),
            (lambda client: client.track("", "E"), "userId"),
            (lambda client: client.track("u"), "event"),
            (lambda client: client.track("u", ""), "event"),
            (lambda client: client.track("u", "E", [1]), "properties"),
            (lambda client: client.track("u", "E", {"cart": [{"owner": Opaque()}]}), "properties.cart[0].owner"),
            (lambda client: client.track("u", "E", message_id="x" * 100), "messageId"),
            (lambda client: client.track("u", "E", timestamp="yesterday"), "timestamp"),
            (lambda client: client.identify("u", "traits"), "traits"),
            (lambda client: client.group("u"), "groupId"),
            (lambda client: client.alias("old"), "userId"),
            (lambda client: client.alias(user_id="u"), "previousId"),
            (lambda client: client.enqueue({"type": "trick", "userId": "u"}), "type"),
        ],
    )
    def test_name_the_field(self, call: Callable[[Client], Any], path: str) -> None:
        async def work(client: Client) -> None:
            with pytest.raises(MessageError) as caught:
                await call(client)
            assert caught.value.path == path
            assert client.statistics().accepted == 0

        assert sent(work) == []

    def test_too_large_names_the_field_not_its_value(self) -> None:
        async def work(client: Client) -> None:
            with pytest.raises(MessageTooLarge) as caught:
                await client.track("u", "E", {"fill": "secret" * 10_000})
            assert caught.value.size > caught.value.limit == 32_768
            assert "fill" in str(caught.value)
            assert "secret" not in str(caught.value)

        assert sent(work) == []

    def test_one_hostile_value_does_not_affect_999_others(self) -> None:
        async def work(client: Client) -> None:
            for number in range(1_000):
                value = Opaque() if number == 500 else float("nan") if number == 501 else number
                with pytest.raises(MessageError, match=r"properties\.value") if number == 500 else nullcontext():
                    await client.track("u", "E", {"n": number, "value": value})

        arrived = sent(work, max_in_flight=1)
        assert [message["properties"]["n"] for message in arrived] == [n for n in range(1_000) if n != 500]


async def coroutine_function(message: dict[str, Any]) -> dict[str, Any]:
    return message


class AsyncHook:
    async def __call__(self, message: dict[str, Any]) -> dict[str, Any]:
        return message


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"region": "mars"}, "region"),
            ({"overflow": "explode"}, "overflow"),
            ({"flush_at": 0}, "flush_at"),
            ({"flush_at": 2_501}, "flush_at"),
            ({"flush_interval": -1}, "flush_interval"),
            ({"max_queue_size": 0}, "max_queue_size"),
            ({"max_queue_bytes": 1.5}, "max_queue_bytes"),
            ({"max_in_flight": True}, "max_in_flight"),
            ({"timeout": 0}, "timeout"),
            ({"timeout": None}, "timeout"),
            ({"close_timeout": float("inf")}, "close_timeout"),
            ({"overflow_timeout": float("nan")}, "overflow_timeout"),
            ({"host": "http://segment.example"}, "allow_http"),
            ({"host": "https://user:word@segment.example"}, "credentials"),
            ({"host": "https://segment.example\n"}, "control"),
            ({"host": "ftp://segment.example"}, "host"),
            ({"host": "https://segment.example", "transport": object()}, "transport"),
            ({"host": ""}, "host"),
            ({"proxy": "proxy.example:3128"}, "proxy"),
            ({"proxy": "socks5://user:word@proxy.example"}, "proxy"),
            ({"before_send": "hook"}, "before_send must be a function, or a list of functions$"),
            ({"before_send": [str, "hook"]}, "before_send must be a function, or a list of functions$"),
            ({"before_send": coroutine_function}, "before_send must be a plain function"),
            ({"before_send": functools.partial(coroutine_function)}, "before_send must be a plain function"),
            ({"before_send": AsyncHook()}, "before_send must be a plain function"),
            ({"on_error": "hook"}, "on_error must be a function"),
            ({"host": 5}, "host must be an origin"),
            ({"host": b"https://segment.example"}, "host must be an origin"),
            ({"proxy": 5}, "proxy"),
            ({"retry": 5}, "retry must be a RetryPolicy"),
            ({"oauth": {"client_id": "word"}}, "oauth must be an OAuth"),
            ({"spool": 5}, "spool must be the path of a file, or a Spool"),
            ({"spool": SQLiteSpool}, r"spool must be an object, not its class: SQLiteSpool\(…\)"),
            ({"transport": RecordingTransport}, r"transport must be an object, not its class: RecordingTransport\(…\)"),
            ({"spool": b"spool.db"}, "spool must be the path of a file, or a Spool"),
            ({"spool": "rediss://user:word@redis:6379"}, r"spool must be the path of a file, not a URL.*RedisSpool"),
            ({"spool": "sqlite:///spool.db", "send": False}, "spool must be the path of a file, not a URL"),
            ({"transport": "word"}, "transport must have"),
            ({"transport": object()}, "transport must have"),
            ({"gzip": "no"}, "gzip must be True or False"),
            ({"send": "no"}, "send must be True or False"),
            ({"deliver": None}, "deliver must be True or False"),
            ({"allow_http": "word"}, "allow_http must be True or False"),
            ({"trust_env": 1}, "trust_env must be True or False"),
            # No float is as large, so that nothing can be calculated with it.
            ({"flush_interval": 10**400}, "flush_interval"),
            ({"timeout": 10**400}, "timeout"),
            ({"overflow_timeout": 10**400}, "overflow_timeout"),
        ],
    )
    def test_invalid_ones_are_named(self, options: Any, named: str) -> None:
        with pytest.raises(ValueError, match=named) as caught:
            Client("KEY", **options)
        assert "word" not in str(caught.value)

    @pytest.mark.parametrize("key", ["", "  ", b"KEY", "two words", "a:b", "ключ"])
    def test_an_invalid_key(self, key: Any) -> None:
        with pytest.raises(ValueError, match="write_key"):
            Client(key)

    def test_the_host_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def main() -> None:
            async with serve() as named, serve() as given:
                monkeypatch.setenv("SEGMENT_HOST", named.url)
                async with Client("KEY", region="eu") as client:
                    await client.track("u", "E")
                async with Client("KEY", host=given.url) as client:
                    await client.track("u", "E")
                assert (len(named.messages), len(given.messages)) == (1, 1)

        asyncio.run(main())

    def test_the_oldest_age_counts_before_any_loop_ran(self, monkeypatch: pytest.MonkeyPatch) -> None:
        client = Client("KEY", transport=RecordingTransport())
        assert client.statistics().oldest_age == 0.0
        client.nowait.track("user-1", "Seen")
        later = time.monotonic() + 60
        monkeypatch.setattr("segment_async._lifecycle.owner.time.monotonic", lambda: later)
        assert client.statistics().oldest_age == pytest.approx(60, abs=5)
        monkeypatch.undo()
        asyncio.run(client.aclose())
        assert client.statistics().oldest_age == 0.0

    def test_a_delivery_says_that_it_cannot_be_copied(self) -> None:
        delivery = Client("KEY", send=False).nowait.track("user-1", "Seen")
        with pytest.raises(TypeError, match="pass on its message_id"):
            pickle.dumps(delivery)

    @pytest.mark.parametrize("kind", [Client, blocking.Client, compat.Client])
    @pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
    def test_it_says_that_it_cannot_be_copied(self, copied: Callable[[Any], Any], kind: Callable[[str], Any]) -> None:
        client = kind("KEY")
        with pytest.raises(TypeError, match="a client cannot be copied or pickled; make one in each process"):
            copied(client)

    def test_repr_shows_counts_and_no_secret(self) -> None:
        assert repr(Client("SECRET")) == "<Client 0 accepted, 0 pending>"
        assert repr(object.__new__(Client)) == "<Client (constructor failed)>"

    def test_send_false_does_not_touch_the_spool(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with serve() as endpoint:
                async with Client("KEY", host="http://127.0.0.1:9", spool=tmp_path / "a.db", close_timeout=0) as client:
                    kept = await client.track("u", "E")
                assert kept.outcome is not None
                assert kept.outcome.status is Status.KEPT
                async with Client("KEY", host=endpoint.url, spool=tmp_path / "a.db", send=False) as client:
                    await client.track("u", "E")
                    assert await client.flush() == 0
                assert client.statistics().recovered == 0
                assert not endpoint.messages

        asyncio.run(main())

    def test_send_false_checks_and_counts(self) -> None:
        async def work(client: Client) -> None:
            delivery = await client.track("u", "E")
            assert (await delivery).reason == "disabled"
            with pytest.raises(MessageError):
                await client.track("u")
            assert client.statistics().reasons == {"disabled": 1}

        assert sent(work, send=False) == []


class TestBound:
    def test_fields_apply_to_every_call_within(self) -> None:
        async def work(client: Client) -> None:
            with bound(user_id="user-1", context={"ip": "192.0.2.1", "locale": "de"}):
                await client.track(event="Outer")
                with bound(context={"locale": "fr"}, anonymous_id="a"):
                    await asyncio.create_task(client.track(event="Inner"))
                    await asyncio.to_thread(client.enqueue_nowait, messages.track(event="Thread"))
                await client.track("user-2", "Own")
                bind(user_id="user-3")
                await client.track(event="Learnt")
            with pytest.raises(MessageError):
                await client.track(event="Outside")

        told = [
            (message["event"], message["userId"], message.get("anonymousId"), message["context"]["locale"])
            for message in sent(work)
        ]
        assert told == [
            ("Outer", "user-1", None, "de"),
            ("Inner", "user-1", "a", "fr"),
            ("Thread", "user-1", "a", "fr"),
            ("Own", "user-2", None, "de"),
            ("Learnt", "user-3", None, "de"),
        ]

    def test_without_identity_they_may_be_dropped(self) -> None:
        async def work(client: Client) -> None:
            with bound(without_identity="drop"):
                delivery = await client.track(event="E")
                assert delivery.outcome is not None
                assert delivery.outcome.reason == "no_identity"
            assert client.statistics().reasons == {"no_identity": 1}

        assert sent(work) == []

    def test_bind_outside_of_a_block(self) -> None:
        with pytest.raises(RuntimeError):
            bind(user_id="user-1")


class TestHooks:
    def test_before_send_changes_drops_and_fails(self, caplog: pytest.LogCaptureFixture) -> None:
        def redact(message: Message) -> Message | None:
            match message["event"]:
                case "Drop":
                    return None
                case "Fail":
                    raise ZeroDivisionError(message["properties"]["email"])
                case "Spoil":
                    return {**message, "properties": {"x": Opaque()}}
            message["properties"]["email"] = "***"
            return message

        async def work(client: Client) -> None:
            properties = {"email": "a@example.com"}
            for event in ("Keep", "Drop", "Fail", "Spoil", "Keep"):
                await client.track("u", event, properties)
            assert properties == {"email": "a@example.com"}
            assert client.statistics().reasons == {"before_send": 3}

        arrived = sent(work, before_send=redact)
        assert [message["properties"] for message in arrived] == [{"email": "***"}] * 2
        assert len([record for record in caplog.records if "before_send" in record.getMessage()]) == 1
        assert "a@example.com" not in caplog.text

    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_on_error_gets_what_failed(self, kind: str) -> None:
        told: list[tuple[str | None, list[str]]] = []

        def note(error: DeliveryError, failed: list[Message]) -> None:
            told.append((error.outcome.reason, [message["event"] for message in failed]))

        async def note_later(error: DeliveryError, failed: list[Message]) -> None:
            await asyncio.sleep(0)
            note(error, failed)

        async def main() -> None:
            async with serve(chaos="403:100%") as endpoint:
                on_error = note if kind == "sync" else note_later
                async with Client("KEY", host=endpoint.url, on_error=on_error) as client:
                    for number in range(3):
                        await client.track("u", str(number))

        asyncio.run(main())
        assert told == [("unauthorized", ["0", "1", "2"])]

    @pytest.mark.parametrize("kind", ["raises", "hangs"])
    def test_an_error_in_on_error_is_logged(self, kind: str, caplog: pytest.LogCaptureFixture) -> None:
        async def misbehave(error: DeliveryError, failed: list[Message]) -> None:
            if kind == "raises":
                raise ZeroDivisionError(failed[0]["event"])
            await asyncio.Event().wait()

        async def main() -> None:
            async with serve(chaos="403:100%") as endpoint:
                async with Client("KEY", host=endpoint.url, on_error=misbehave, flush_interval=0) as client:
                    await client.track("u", "One")
                    await client.flush()
                    await client.track("u", "Two")
                assert client.statistics().failed == 2

        with caplog.at_level(logging.WARNING, "segment_async"):
            asyncio.run(main())
        assert not {"One", "Two"} & set(caplog.text.split())


class Slow:
    """A slow transport that stores nothing."""

    async def send(self, body: bytes, headers: Any) -> Response:
        await asyncio.sleep(0.001)
        return Response(200, {}, b"{}")

    async def aclose(self) -> None:
        pass


def test_raise_when_full_raises() -> None:
    async def main() -> None:
        async with Client("KEY", transport=Slow(), overflow="raise", max_queue_size=3) as client:
            with pytest.raises(QueueFull):
                for _ in range(10):
                    client.enqueue_nowait(messages.track("u", "E"))

    asyncio.run(main())


def test_a_hundred_thousand_messages_from_one_task() -> None:
    """One task that awaits only calls: memory stays bounded, and other tasks run."""
    calls = 0
    at_turns: list[int] = []

    async def beat() -> None:
        while True:
            await asyncio.sleep(0)
            at_turns.append(calls)

    async def main() -> int:
        nonlocal calls
        beating = asyncio.create_task(beat())
        async with Client("KEY", transport=Slow(), overflow_timeout=None) as client:
            for calls in range(100_000):
                await client.track("u", "Counted", {"n": calls})
        beating.cancel()
        return client.statistics().delivered

    assert asyncio.run(main()) == 100_000
    assert at_turns[-1] == 99_999
    # Counted and not timed, so that other work on the machine does not matter.
    assert max(later - earlier for earlier, later in pairwise([0, *at_turns])) <= 500


def test_the_memory_of_a_stalled_queue_is_bounded() -> None:
    class Silent(Slow):
        async def send(self, body: bytes, headers: Any) -> Response:
            await asyncio.Event().wait()
            raise AssertionError

    async def main() -> int:
        client = Client("KEY", transport=Silent(), overflow="drop_newest", max_queue_bytes=2_000_000, close_timeout=0)
        await client.track("u", "E")
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20_000):
            await client.track("u", "E", {"n": number, "fill": "x" * 300})
        grown = tracemalloc.get_traced_memory()[0] - before
        await client.aclose()
        return grown

    tracemalloc.start()
    try:
        assert asyncio.run(main()) < 12_000_000
    finally:
        tracemalloc.stop()
