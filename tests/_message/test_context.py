"""Bound fields: they complete a call, blocks nest, tasks inherit them, and nothing leaks."""

import asyncio
import contextlib
import contextvars
import gc
import inspect
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import orjson
import pytest

from segment_async import Client, Delivery, MessageError, MessageTooLarge, Response, bind, bound, messages
from segment_async._message.context import DeferredBound, DeferredFields, in_this_block, innermost, leave
from tests.support.virtual_clock import run


def filled(message: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The message with the bound fields, and whether it is dropped if it has no id."""
    block = innermost.get()
    return (message, False) if block is None else (block.filled(message), block.drops_without_identity)


def fill(**fields: Any) -> dict[str, Any]:
    """A message of these fields and the bound ones."""
    return filled(fields)[0]


class TestBound:
    def test_without_a_block_a_message_is_unchanged(self) -> None:
        message = {"type": "track"}
        assert filled(message) == (message, False)

    def test_fields_are_filled_in(self) -> None:
        with bound(user_id=5, anonymous_id="a", context={"ip": "192.0.2.1"}, integrations={"All": False}):
            assert fill(event="e") == {
                "event": "e",
                "userId": "5",
                "anonymousId": "a",
                "context": {"ip": "192.0.2.1"},
                "integrations": {"All": False},
            }
        assert fill(event="e") == {"event": "e"}

    def test_a_call_s_own_fields_win_key_by_key(self) -> None:
        with bound(user_id="u", context={"ip": "bound", "locale": "de"}, integrations={"A": True, "B": True}):
            message = fill(userId="own", context={"ip": "own"}, integrations={"B": False})
        assert message == {
            "userId": "own",
            "context": {"ip": "own", "locale": "de"},
            "integrations": {"A": True, "B": False},
        }

    def test_blocks_nest_and_the_inner_one_wins(self) -> None:
        with bound(user_id="outer", anonymous_id="a", context={"a": 1, "b": 1}):
            with bound(user_id="inner", context={"b": 2, "c": {"d": 1}}):
                assert fill() == {"userId": "inner", "anonymousId": "a", "context": {"a": 1, "b": 2, "c": {"d": 1}}}
                with bound(context={"c": {"e": 1}}):
                    # One level deep.
                    assert fill()["context"]["c"] == {"e": 1}
            assert fill() == {"userId": "outer", "anonymousId": "a", "context": {"a": 1, "b": 1}}

    def test_it_ends_with_an_exception_too(self) -> None:
        with pytest.raises(ZeroDivisionError), bound(user_id="u"):
            raise ZeroDivisionError
        assert fill() == {}

    def test_the_given_dicts_are_not_changed(self) -> None:
        context: dict[str, Any] = {"a": 1}
        with bound(context=context), bound(context={"b": 1}):
            bind(context={"c": 1})
            fill(context={"d": 1})
        assert context == {"a": 1}

    @pytest.mark.parametrize("beside", [1, 2**70, datetime(2025, 1, 2, tzinfo=UTC)])
    def test_later_changes_to_what_was_given_are_not_seen(self, beside: object) -> None:
        page: dict[str, Any] = {"tags": ["a"]}
        context: dict[str, Any] = {"page": page, "beside": beside}
        with bound(context=context):
            bind(integrations=context)
            context["bad"] = page["bad"] = object()
            page["tags"].append("b")
            filled = fill()
        for name in ("context", "integrations"):
            assert filled[name].keys() == {"page", "beside"}
            assert filled[name]["page"] == {"tags": ["a"]}

    def test_nesting_that_the_stack_has_no_room_for_is_refused(self) -> None:
        nested: object = 1
        for _ in range(200):
            nested = [nested]
        limit = sys.getrecursionlimit()
        try:
            sys.setrecursionlimit(len(inspect.stack()) + 150)
            with pytest.raises(MessageError, match="too deeply"), bound(context={"a": nested}):
                pass
        finally:
            sys.setrecursionlimit(limit)

    def test_empty_objects_are_not_sent(self) -> None:
        with bound(user_id="u", context={}, integrations={}):
            bind(integrations={})
            assert fill() == {"userId": "u"}

    def test_any_mapping_is_accepted(self) -> None:
        with bound(context=MappingProxyType({"a": 1})):
            assert fill()["context"]["a"] == 1

    def test_generators_are_kept_for_every_call(self) -> None:
        with bound(context={"tags": (tag for tag in "ab")}):
            assert [fill()["context"]["tags"] for _ in range(2)] == [["a", "b"]] * 2

    def test_values_are_checked_where_they_are_given(self) -> None:
        with pytest.raises(MessageError) as caught, bound(context={"owner": object()}):
            pass
        assert caught.value.path == "context.owner"

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"user_id": ""}, "userId"),
            ({"user_id": True}, "userId"),
            ({"anonymous_id": []}, "anonymousId"),
            ({"context": "ip"}, "context"),
            ({"integrations": ["All"]}, "integrations"),
        ],
    )
    def test_the_wrong_field_is_named(self, fields: dict[str, Any], path: str) -> None:
        with pytest.raises(MessageError) as caught, bound(**fields):
            pass
        assert caught.value.path == path
        with bound(user_id="u"):
            with pytest.raises(MessageError) as caught:
                bind(**fields)
            assert fill() == {"userId": "u"}
        assert caught.value.path == path


class TestWithoutIdentity:
    def test_without_a_block_it_raises(self) -> None:
        with bound():
            assert not filled({})[1]

    @pytest.mark.parametrize(
        ("words", "drops"),
        [
            (["drop"], True),
            (["raise"], False),
            (["drop", None], True),
            (["drop", None, None], True),
            (["drop", "raise"], False),
            (["raise", "drop", None], True),
        ],
    )
    def test_the_innermost_setting_applies(self, words: list[Any], *, drops: bool) -> None:
        def nest(words: list[Any]) -> bool:
            if not words:
                return filled({})[1]
            with bound(without_identity=words[0]):
                return nest(words[1:])

        assert nest(words) is drops

    def test_any_other_setting_is_refused(self) -> None:
        with pytest.raises(ValueError, match="without_identity"), bound(without_identity="ignore"):  # type: ignore[arg-type]
            pass


class TestBind:
    def test_it_changes_the_innermost_block_in_place(self) -> None:
        with bound(anonymous_id="a", context={"a": 1}):
            bind(user_id="u", context={"b": 2})
            assert fill() == {"anonymousId": "a", "userId": "u", "context": {"a": 1, "b": 2}}
            with bound(context={"c": 3}):
                bind(user_id="inner")
                assert fill()["userId"] == "inner"
            assert fill()["userId"] == "u"
        assert fill() == {}

    def test_outside_of_a_block(self) -> None:
        with pytest.raises(RuntimeError, match="bound"):
            bind(user_id="u")

    def test_other_fields_stay(self) -> None:
        with bound(user_id="u", without_identity="drop"):
            bind()
            assert filled({}) == ({"userId": "u"}, True)


class TestTasks:
    def test_tasks_inherit_and_do_not_leak(self) -> None:
        async def inner() -> dict[str, Any]:
            with bound(user_id="inner"):
                await asyncio.sleep(0)
                return fill()

        async def main() -> None:
            with bound(user_id="outer", anonymous_id="a"):
                task = asyncio.create_task(inner())
                await asyncio.sleep(0)
                assert fill()["userId"] == "outer"
                assert await task == {"userId": "inner", "anonymousId": "a"}

        run(main())

    def test_a_late_identity_reaches_tasks_started_before(self) -> None:
        async def later(bell: asyncio.Event) -> dict[str, Any]:
            await bell.wait()
            return fill()

        async def main() -> None:
            bell = asyncio.Event()
            with bound(anonymous_id="a"):
                task = asyncio.create_task(later(bell))
                await asyncio.sleep(0)
                bind(user_id="u")
                bell.set()
                assert await task == {"anonymousId": "a", "userId": "u"}

        run(main())

    def test_a_late_identity_bound_in_a_task_reaches_the_block(self) -> None:
        async def authenticate() -> None:
            bind(user_id="u")

        async def main() -> None:
            with bound(anonymous_id="a"):
                await asyncio.create_task(authenticate())
                assert fill()["userId"] == "u"

        run(main())

    def test_leaving_in_another_context_changes_nothing_there(self) -> None:
        generator = rows("visitor-1")
        first, second = contextvars.copy_context(), contextvars.copy_context()
        first.run(next, generator)
        with bound(user_id="outer"):
            third = contextvars.copy_context()
        for other in (second, third, contextvars.copy_context()):
            before = other.run(fill)
            with contextlib.suppress(StopIteration):
                other.run(next, generator)
            assert other.run(fill) == before
            generator = rows("visitor-1")
            first.run(next, generator)
        second.run(generator.close)
        assert second.run(fill) == fill() == {}

    def test_the_garbage_collector_changes_nothing(self) -> None:
        def begin() -> None:
            knot: list[Any] = [rows("visitor-1")]
            next(knot[0])
            knot.append(knot)

        gc.collect()
        contextvars.copy_context().run(begin)
        with bound(user_id="visitor-2"):
            gc.collect()
            assert fill() == {"userId": "visitor-2"}

    def test_a_block_that_is_left_before_an_inner_one(self) -> None:
        with bound(anonymous_id="a"):
            first, second, third = rows("visitor-1"), rows("visitor-2"), rows("visitor-3")
            for generator in (first, second, third):
                next(generator)
            second.close()
            assert fill()["userId"] == "visitor-3"
            first.close()
            assert fill()["userId"] == "visitor-3"
            third.close()
            assert fill() == {"anonymousId": "a"}
        assert fill() == {}

    def test_what_outlives_a_block_keeps_its_fields(self) -> None:
        async def later(bell: asyncio.Event) -> list[dict[str, Any]]:
            await bell.wait()
            with bound(user_id="inner"):
                inner = fill()
            return [inner, fill()]

        async def main() -> None:
            bell = asyncio.Event()
            with bound(anonymous_id="a"):
                with bound(user_id="u"):
                    task = asyncio.create_task(later(bell))
                    await asyncio.sleep(0)
            bell.set()
            assert await task == [{"anonymousId": "a", "userId": "inner"}, {"anonymousId": "a", "userId": "u"}]

        run(main())


ENCODED = b'"ip":"192.0.2.1","page":{"path":"/"}'


class Reading:
    """A block whose fields are read at the first call, and how often they were."""

    def __init__(self, fields: DeferredFields = (None, "a", ENCODED), *, drops: bool = False) -> None:
        self.fields = fields
        self.drops = drops
        self.times = 0

    def read(self) -> DeferredFields:
        self.times += 1
        return self.fields

    @contextlib.contextmanager
    def __call__(self) -> Generator[DeferredBound, None, None]:
        block = DeferredBound(self.read, self.drops, innermost.get())
        token = innermost.set(block)
        try:
            yield block
        finally:
            leave(block, token)


class TestDeferred:
    def test_nothing_is_read_without_a_call(self) -> None:
        reading = Reading()
        with reading():
            bind(user_id="u", context={"b": 1})
        assert reading.times == 0
        assert fill() == {}

    def test_it_is_read_once_and_forgets_how(self) -> None:
        reading = Reading()
        with reading() as block:
            for _ in range(3):
                assert block.completed({"event": "e"}, False) == ({"event": "e", "anonymousId": "a"}, ENCODED)
            assert fill() == {"anonymousId": "a", "context": {"ip": "192.0.2.1", "page": {"path": "/"}}}
            assert reading.times == 1
            assert not [each for each in gc.get_referrers(reading) if each is block]

    def test_what_is_put_together_is_kept_until_more_is_bound(self) -> None:
        with Reading(("u", None, ENCODED))() as block:
            first = block.fields
            assert block.fields is first
            bind(user_id="later")
            assert block.fields == first | {"userId": "later"}
            assert first["userId"] == "u"

    def test_values_where_values_are_needed(self) -> None:
        with Reading(("u", None, ENCODED))() as block:
            expected = {"userId": "u", "context": {"ip": "192.0.2.1", "page": {"path": "/"}}}
            assert block.completed({}, True) == (expected, b"")

    def test_a_call_s_own_fields_win(self) -> None:
        with Reading(("u", "a", ENCODED))() as block:
            assert block.completed({"userId": "own", "anonymousId": "own"}, False)[0] == {
                "userId": "own",
                "anonymousId": "own",
            }
            message, context = block.completed({"context": {"ip": "own", "locale": "de"}}, False)
            assert message["context"] == {"ip": "own", "locale": "de", "page": {"path": "/"}}
            assert context == b""

    def test_what_is_bound_before_and_after_the_first_call_wins(self) -> None:
        with Reading(("read", "a", ENCODED))() as block:
            bind(user_id="before", integrations={"A": True})
            assert block.completed({}, False) == (
                {"userId": "before", "anonymousId": "a", "integrations": {"A": True}},
                ENCODED,
            )
            bind(user_id="after", anonymous_id="after", integrations={"B": True})
            assert block.completed({"integrations": {"A": False}}, False) == (
                {"userId": "after", "anonymousId": "after", "integrations": {"A": False, "B": True}},
                ENCODED,
            )
            bind(context={"ip": "bound"})
            message, context = block.completed({}, False)
            assert message["context"] == {"ip": "bound", "page": {"path": "/"}}
            assert context == b""

    def test_blocks_around_it_and_within_it(self) -> None:
        reading = Reading((None, "a", ENCODED))
        with bound(user_id="outer", anonymous_id="outer", context={"ip": "outer", "app": {"name": "shop"}}):
            with reading() as block:
                bind(integrations={"A": True})
                assert reading.times == 0
                expected = {
                    "userId": "outer",
                    "anonymousId": "a",
                    "context": {"ip": "192.0.2.1", "app": {"name": "shop"}, "page": {"path": "/"}},
                    "integrations": {"A": True},
                }
                assert block.completed({}, False) == (expected, b"")
                with bound(user_id="inner", context={"page": {}}):
                    assert fill() == expected | {"userId": "inner", "context": expected["context"] | {"page": {}}}
            assert fill()["context"] == {"ip": "outer", "app": {"name": "shop"}}

    def test_of_two_that_read_at_once_the_first_counts(self) -> None:
        """As two threads may; here the second reads while the first does."""
        results = iter((b"2", b"1"))
        blocks: list[DeferredBound] = []

        def read() -> DeferredFields:
            result = next(results)
            if result == b"2":
                inner = blocks[0].completed({}, False)
                assert inner == ({}, b"1")
            return None, None, result

        blocks.append(DeferredBound(read, False))
        assert blocks[0].completed({}, False) == ({}, b"1")

    def test_one_that_is_interrupted_reads_again(self) -> None:
        results: list[Any] = [KeyboardInterrupt(), ("u", None, b"")]

        def read() -> DeferredFields:
            result = results.pop(0)
            if isinstance(result, BaseException):
                raise result
            return result  # type: ignore[no-any-return]

        block = DeferredBound(read, False)
        with pytest.raises(KeyboardInterrupt):
            block.completed({}, False)
        assert block.completed({}, False) == ({"userId": "u"}, b"")


class TestBodies:
    """An asynchronous body, whose parts are made after the block was left."""

    def test_each_part_is_made_within_the_block(self) -> None:
        async def main() -> None:
            with bound(user_id="first"):
                body = in_this_block(self.parts())
            with bound(user_id="second"):
                assert await anext(body) == {"userId": "first"}
                assert fill() == {"userId": "second"}
                assert [part async for part in body] == [{"userId": "first", "context": {"later": 1}}]
                assert fill() == {"userId": "second"}

        asyncio.run(main())

    def test_it_is_closed_within_the_block(self) -> None:
        async def main() -> None:
            with bound(user_id="first"):
                body = in_this_block(self.parts())
            await anext(body)
            await body.aclose()
            assert self.closed == [{"userId": "first", "context": {"later": 1}}]
            assert innermost.get() is None

        asyncio.run(main())

    def test_its_error_passes_through(self) -> None:
        async def failing() -> AsyncGenerator[None, None]:
            yield
            raise LookupError(fill()["userId"])

        async def main() -> None:
            with bound(user_id="first"):
                body = in_this_block(failing())
            with pytest.raises(LookupError, match="first"):
                [part async for part in body]
            assert innermost.get() is None

        asyncio.run(main())

    def test_any_asynchronous_iterable(self) -> None:
        class Parts:
            def __aiter__(self) -> AsyncIterator[int]:
                return self

            async def __anext__(self) -> int:
                raise StopAsyncIteration

        async def main() -> None:
            assert [part async for part in in_this_block(Parts())] == []

        asyncio.run(main())

    def setup_method(self) -> None:
        self.closed: list[Any] = []

    async def parts(self) -> AsyncGenerator[Any, None]:
        try:
            yield fill()
            bind(context={"later": 1})
            yield fill()
        finally:
            bind(context={"later": 1})
            self.closed.append(fill())


def rows(user_id: str) -> Generator[None, None, None]:
    """A generator that is suspended within a block, as one that reads a database may be."""
    with bound(user_id=user_id):
        yield


class Recorder:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        self.messages += orjson.loads(body)["batch"]
        return Response(200)

    async def aclose(self) -> None:
        """There is nothing to close."""


def sent(use: Callable[[Client], Any]) -> tuple[list[Delivery], list[dict[str, Any]]]:
    """The result of `use`, called with a client, and the messages that arrive."""

    async def main() -> list[Delivery]:
        async with Client("key", transport=recorder, gzip=False) as client:
            return [delivery async for delivery in use(client)]

    recorder = Recorder()
    return run(main()), recorder.messages


class TestThroughTheClient:
    def test_every_call_is_completed(self) -> None:
        async def use(client: Client) -> Any:
            with bound(user_id="u", context={"ip": "192.0.2.1"}):
                yield await client.track(event="e")
                yield await client.alias("previous")
                yield client.enqueue_nowait(messages.identify(traits={"a": 1}))

        _, arrived = sent(use)
        assert [message["userId"] for message in arrived] == ["u"] * 3
        assert all(message["context"]["ip"] == "192.0.2.1" for message in arrived)
        assert all(message["context"]["library"]["name"] == "segment-async" for message in arrived)

    def test_the_caller_cannot_replace_the_library(self) -> None:
        async def use(client: Client) -> Any:
            with bound(context={"library": "mine"}):
                yield await client.track("u", "e")
                yield await client.track("u", "e", context={"library": {"name": "mine"}})

        _, arrived = sent(use)
        assert {message["context"]["library"]["name"] for message in arrived} == {"segment-async"}

    def test_without_an_identity(self, caplog: pytest.LogCaptureFixture) -> None:
        async def use(client: Client) -> Any:
            with pytest.raises(MessageError, match="userId"):
                await client.track(event="e")
            with pytest.raises(MessageError, match="userId"):
                await client.alias("previous", anonymous_id="a")
            with bound(without_identity="drop"):
                yield await client.track(event="e")
                yield client.enqueue_nowait(messages.alias("previous", anonymous_id="a"))
                with pytest.raises(MessageError, match="event"):
                    await client.track()
            assert client.statistics().reasons == {"no_identity": 2}

        deliveries, arrived = sent(use)
        assert [delivery.outcome.reason for delivery in deliveries if delivery.outcome] == ["no_identity"] * 2
        assert arrived == []
        (record,) = caplog.records
        assert "pass one to the call, or bind() it" in record.getMessage()

    def test_a_context_that_is_encoded_already(self) -> None:
        async def use(client: Client) -> Any:
            with Reading(("u", None, ENCODED))():
                yield await client.track(event="e", properties={"a": 1})
                yield await client.track(event="e", context={"locale": "de"})
                yield client.enqueue_nowait(messages.identify(traits={"a": 1}))
                yield await client.track(event="e", properties={"odd": 2**70, "lone": "\ud800"})
            with Reading(("u", None, b""))():
                yield await client.track(event="e")

        _, arrived = sent(use)
        contexts = [message["context"] for message in arrived]
        assert {context.pop("library")["name"] for context in contexts} == {"segment-async"}
        page = {"ip": "192.0.2.1", "page": {"path": "/"}}
        assert contexts == [page, {"locale": "de", **page}, page, page, {}]
        assert arrived[3]["properties"] == {"odd": str(2**70), "lone": "\ufffd"}

    def test_it_counts_towards_the_size(self) -> None:
        async def use(client: Client) -> Any:
            with Reading(("u", None, b'"x":"%b"' % (b"x" * 32_000)))():
                with pytest.raises(MessageTooLarge, match=r"context\.x \(32,00"):
                    await client.track(event="e", properties={"y": "y" * 700})
                yield await client.track(event="e")

        assert len(sent(use)[1]) == 1

    def test_it_is_among_what_is_reported_without_an_identity(self) -> None:
        reported: list[dict[str, Any]] = []

        async def main() -> None:
            async with Client(
                "key", transport=Recorder(), on_error=lambda _, messages: reported.extend(messages)
            ) as client:
                with Reading((None, None, ENCODED), drops=True)():
                    await client.track(event="e")

        run(main())
        assert reported[0]["context"].keys() == {"ip", "page", "library"}

    def test_before_send_sees_it(self) -> None:
        seen: list[dict[str, Any]] = []

        async def main() -> None:
            client = Client("key", transport=Recorder(), gzip=False, before_send=seen.append)
            async with client:
                with Reading(("u", None, ENCODED))():
                    await client.track(event="e")

        run(main())
        assert seen[0]["context"]["page"] == {"path": "/"}
        assert seen[0]["context"]["library"]["name"] == "segment-async"
