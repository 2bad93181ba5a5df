"""The test kit: it records what is sent, its assertions are right, and it leaves nothing behind."""

import asyncio
import gc
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from threading import Thread
from typing import Any, ClassVar
from unittest.mock import ANY
from urllib.error import URLError
from urllib.request import Request, urlopen
from uuid import UUID, uuid4

import pytest

from segment_async import Client, ClientClosed, MessageError, Response, TransportError, bound, messages
from segment_async.events import TrackEvent
from segment_async.testing import Recording, RecordingTransport, recording, running_endpoint

# --- the transport


def test_it_records_what_was_sent() -> None:
    async def main() -> None:
        transport = RecordingTransport()
        async with Client("key", transport=transport) as client:
            await client.track("user-1", "Signed Up", {"plan": "pro"})
            await client.identify("user-1", {"email": "a@example.com"})
        assert [message["type"] for message in transport.messages] == ["track", "identify"]
        assert transport.batches[0]["writeKey"] == "key"

    asyncio.run(main())


def test_its_responses_can_be_scripted() -> None:
    def refuse_once(batch: dict[str, object]) -> Response:
        if len(transport.batches) == 1:
            raise TransportError("no connection", maybe_sent=False)
        return Response(401)

    transport = RecordingTransport(refuse_once)

    async def main() -> None:
        async with Client("key", transport=transport, gzip=False, flush_interval=0) as client:
            outcome = await (await client.track("user-1", "Signed Up"))
        assert (outcome.reason, outcome.status_code, outcome.attempts) == ("unauthorized", 401, 2)

    asyncio.run(main())


async def refuse(_: object) -> Response:
    return Response(503)


class Refusal:
    async def __call__(self, _: object) -> Response:
        return Response(503)


@pytest.mark.parametrize("answer", [Response(503), 503, refuse, Refusal()])
def test_what_responds_is_a_plain_function(answer: Any) -> None:
    with pytest.raises(ValueError, match="answer must be a plain function"):
        RecordingTransport(answer)


# --- a recording


@pytest.mark.parametrize("plan", ["plan.json", {"rules": []}])
def test_a_plan_is_no_path(plan: Any) -> None:
    with pytest.raises(ValueError, match=r"plan must be a Plan of segment_async\.plans"), recording(plan):
        pass


def test_its_repr_shows_the_count_and_no_contents() -> None:
    with recording() as segment:
        assert repr(segment) == "<Recording of 0 messages>"
        segment.client.enqueue_nowait(messages.track("user-1", "Order Completed"))
        assert repr(segment) == "<Recording of 1 message>"


def test_a_message_is_recorded_as_soon_as_its_call_has_returned() -> None:
    async def main(segment: Recording) -> None:
        await segment.client.track("user-1", "Signed Up", {"plan": "pro"})
        assert [event["event"] for event in segment.events] == ["Signed Up"]
        segment.client.enqueue_nowait(messages.identify("user-1", {"plan": "pro"}))
        assert segment.events[1]["type"] == "identify"
        assert segment.transport.messages == [], "nothing had the time to be sent"

    with recording() as segment:
        asyncio.run(main(segment))


def test_a_message_is_recorded_as_it_is_sent() -> None:
    properties = {
        "id": UUID(int=7),
        "at": datetime(2026, 11, 21, tzinfo=UTC),
        "total": Decimal("30.50"),
        "share": math.nan,
        "tags": ("a", "b"),
        "raw": b"bytes",
        8: "eight",
    }
    with recording() as segment:

        async def main() -> None:
            with bound(user_id="user-1", context={"ip": "203.0.113.9"}):
                await segment.client.track(event="Order Completed", properties=properties)
            await segment.client.group("user-1", 7, {"seats": 2**70})

        asyncio.run(main())
    assert segment.events == segment.transport.messages
    assert segment.events[0]["properties"]["id"] == "00000000-0000-0000-0000-000000000007"


def test_changing_a_recorded_event_changes_nothing_else() -> None:
    with recording() as segment:
        segment.client.enqueue_nowait(messages.track("user-1", "Signed Up", {"plan": "pro"}))
        event = segment.events[0]
        event["properties"]["plan"] = event.pop("messageId")
        segment.assert_tracked(properties={"plan": "pro"})
        assert segment.objections() == ""
    assert segment.transport.messages[0]["properties"] == {"plan": "pro"}


@pytest.mark.parametrize("total", [Decimal("1E+400"), Decimal("-1E+400"), Decimal("9" * 5_000)])
def test_a_decimal_that_no_float_holds_is_recorded(total: Decimal) -> None:
    async def main() -> None:
        async with recording() as segment:
            await segment.client.track("user-1", "Order Completed", {"total": total, "step": 7, "seats": 2**40})
            await segment.client.flush()
            assert segment.transport.messages == segment.events
            [event] = segment.events
            # A number that no double holds travels as text.
            assert event["properties"] == {"total": str(total), "step": 7, "seats": 2**40}
            assert type(event["properties"]["step"]) is int
            segment.assert_tracked(properties={"total": str(total)})
            segment.assert_not_tracked(properties={"total": "2"})
            assert "properties.total" in segment.objections()

    asyncio.run(main())


def test_a_recording_in_a_coroutine_is_an_async_block() -> None:
    async def main() -> Recording:
        async with recording() as segment:
            await segment.client.track("user-1", "Signed Up")
        with pytest.raises(ClientClosed):
            await segment.client.track("user-1", "Signed Up")
        return segment

    assert len(asyncio.run(main()).transport.messages) == 1


def test_a_plain_block_in_a_coroutine_is_an_error_at_once() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="use `async with recording"), recording():
            pytest.fail("the block must not begin")

    asyncio.run(main())


def test_a_recording_is_for_one_block() -> None:
    once = recording()
    with once, pytest.raises(RuntimeError, match="entered once"):
        once.__enter__()


def test_calls_that_are_refused_or_have_no_id_are_not_recorded() -> None:
    with recording() as segment:
        with pytest.raises(MessageError):
            segment.client.enqueue_nowait(messages.track(event="Signed Up"))
        with bound(without_identity="drop"):
            segment.client.enqueue_nowait(messages.track(event="Signed Up"))
    assert segment.events == []


def test_a_delivery_is_awaited_without_an_interval() -> None:
    async def main(segment: Recording) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        outcome = await (await segment.client.track("user-1", "Signed Up"))
        assert outcome.status.value == "delivered"
        assert loop.time() - before < 0.4, "flush_interval's default is half a second"

    with recording() as segment:
        asyncio.run(main(segment))


@pytest.mark.parametrize("loop_ends", ["never", "stops", "closes"])
def test_the_client_is_closed_in_any_state_of_its_loop(
    loop_ends: str, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.new_event_loop()
    with recording() as segment:
        if loop_ends != "never":
            loop.run_until_complete(segment.client.track("user-1", "Signed Up"))
        if loop_ends == "closes":
            loop.close()
    with pytest.raises(ClientClosed):
        segment.client.enqueue_nowait(messages.track("user-1", "Signed Up"))
    assert segment.client.statistics().pending == 0
    if loop_ends == "stops":
        # The rest of the client ends when the loop runs again.
        loop.run_until_complete(asyncio.sleep(0))
        assert asyncio.all_tasks(loop) == set()
    loop.close()
    del segment
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
    assert [record.message for record in caplog.records if record.levelname != "DEBUG"] == []


def test_the_client_is_closed_while_another_loop_runs() -> None:
    async def main() -> None:
        async with recording() as segment:
            segment.client.enqueue_nowait(messages.track("user-1", "Signed Up"))

    asyncio.run(main())


def test_a_client_that_the_application_closed_is_closed_again() -> None:
    async def main(segment: Recording) -> None:
        async with segment.client as client:
            await client.track("user-1", "Signed Up")

    with recording() as segment:
        asyncio.run(main(segment))
    assert segment.transport.messages == segment.events


def test_nothing_is_left_at_interpreter_exit() -> None:
    program = (
        "from segment_async import messages\n"
        "from segment_async.testing import recording\n"
        "with recording() as segment:\n"
        "    segment.client.enqueue_nowait(messages.track('user-1', 'Signed Up'))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


# --- assertions


@pytest.fixture
def shop() -> Iterator[Recording]:
    with recording() as segment:
        for message in (
            messages.identify("user-1", {"email": "ada@example.com", "address": {"city": "Turin", "country": "Italy"}}),
            messages.track("user-1", "Product Added", {"sku": "SH-1", "price": 30.5}),
            messages.track(7, "Order Completed", {"total": 30.5, "products": [{"sku": "SH-1", "price": 30.5}]}),
            messages.page(anonymous_id="visitor-7", name="Home"),
        ):
            segment.client.enqueue_nowait(message)
        yield segment


def test_a_partial_match_is_enough(shop: Recording) -> None:
    found = shop.assert_tracked("Order Completed", user_id=7, properties={"products": [{"sku": "SH-1"}]})
    assert found["properties"]["total"] == 30.5
    shop.assert_tracked(properties={"sku": "SH-1"})
    shop.assert_tracked("Order Completed", context={"library": {"name": "segment-async"}})
    shop.assert_identified("user-1", {"address": {"city": "Turin"}})
    shop.assert_identified(traits={"email": ANY})
    shop.assert_not_tracked("Order Cancelled")
    shop.assert_not_tracked("Order Completed", user_id="user-1")
    shop.assert_not_tracked("Order Completed", properties={"products": []})


def test_expected_values_are_compared_as_they_are_sent() -> None:
    owner, at = uuid4(), datetime.now(UTC)
    properties = {"owner": owner, "at": at, "total": Decimal("30.50"), "tags": ("a", {"b": at}), "share": math.nan}
    with recording() as segment:
        segment.client.enqueue_nowait(messages.track(owner, "Order Completed", properties))
    segment.assert_tracked("Order Completed", user_id=owner, properties=properties)
    segment.assert_tracked(properties={"total": pytest.approx(30.5)})
    segment.assert_not_tracked(properties={"owner": uuid4()})


class SignedOut(TrackEvent):
    __slots__ = ()
    EVENT: ClassVar[str] = "Signed Out"

    def __init__(self, *, device: str | None = None) -> None:
        self._keep({}, {"device": device})


def test_a_planned_event_without_properties_is_found() -> None:
    with recording() as segment:
        segment.client.nowait.track("user-1", SignedOut())
        segment.assert_tracked(SignedOut())
        with pytest.raises(AssertionError, match="1 of 1 messages matches"):
            segment.assert_not_tracked(SignedOut())
        segment.assert_not_tracked(SignedOut(device="phone"))


def test_what_is_expected_empty_may_be_missing() -> None:
    with recording() as segment:
        segment.client.nowait.track("user-1", "Signed Out")
        segment.client.nowait.identify("user-1")
        segment.client.nowait.track("user-1", "Paid", {"plan": "pro"})
        segment.assert_tracked("Signed Out", properties={})
        segment.assert_identified("user-1", {})
        segment.assert_tracked("Paid", properties={})
        # Within a section an empty object is a value that is sent.
        segment.assert_not_tracked("Paid", properties={"cart": {}})


@pytest.mark.parametrize(("one", "other"), [(True, 1), (False, 0), (True, 1.0), ([True], [1]), ({"a": True}, {"a": 1})])
def test_a_truth_value_is_not_a_number(one: object, other: object) -> None:
    with recording() as segment:
        segment.client.nowait.track("user-1", "One", {"value": one})
        segment.client.nowait.track("user-1", "Other", {"value": other})
        segment.assert_tracked("One", properties={"value": one})
        segment.assert_tracked("Other", properties={"value": other})
        segment.assert_not_tracked("One", properties={"value": other})
        segment.assert_not_tracked("Other", properties={"value": one})
        segment.assert_tracked("One", properties={"value": ANY})


def test_a_truth_value_within_an_object_of_a_class_is_not_a_number() -> None:
    @dataclass
    class Choice:
        value: object

    with recording() as segment:
        segment.client.nowait.track("user-1", "One", {"choice": Choice(1)})
        segment.assert_tracked("One", properties={"choice": Choice(1.0)})
        segment.assert_not_tracked("One", properties={"choice": Choice(True)})


def test_an_array_that_differs_does_not_match() -> None:
    numpy = pytest.importorskip("numpy")
    with recording() as segment:
        segment.client.nowait.track("user-1", "Rated", {"scores": numpy.array([1, 2, 3])})
        segment.assert_tracked("Rated", properties={"scores": numpy.array([1, 2, 3])})
        segment.assert_not_tracked("Rated", properties={"scores": numpy.array([1, 2, 4])})
        with pytest.raises(AssertionError, match=r"properties\.scores"):
            segment.assert_tracked("Rated", properties={"scores": numpy.array([1, 2])})


def _failure(assertion: Callable[[], object]) -> str:
    with pytest.raises(AssertionError) as caught:
        assertion()
    return str(caught.value)


def test_a_failure_shows_the_most_similar_message_first(shop: Recording) -> None:
    said = _failure(
        lambda: shop.assert_tracked(
            "Order Completed",
            user_id="user-1",
            properties={"total": 31, "coupon": "MAY", "products": [{"sku": "SH-2"}]},
        )
    )
    lines = said.splitlines()
    assert lines[0].startswith('No message matches {"type": "track", "event": "Order Completed",')
    assert lines[1:7] == [
        "The most similar of 4:",
        '  track "Order Completed" of 7',
        "    properties.total: expected 31, got 30.5",
        '    properties.coupon: expected "MAY", but it is missing; the keys are total, products',
        '    properties.products[0].sku: expected "SH-2", got "SH-1"',
        '    userId: expected "user-1", got "7"',
    ]
    assert lines[7] == '  track "Product Added" of user-1'


@pytest.mark.parametrize(
    "key", [HTTPStatus.OK, datetime(2025, 1, 2, tzinfo=UTC), None, True, 7, b"seven", "a\ud800"], ids=repr
)
def test_keys_are_compared_as_they_are_sent(key: object) -> None:
    with recording() as segment:
        segment.client.enqueue_nowait(messages.track("user-1", "Seen", {"by": {key: 1, "other": 2}}))
        segment.assert_tracked("Seen", properties={"by": {key: 1}})


@pytest.mark.parametrize("key", [(1, 2), UUID(int=7), object], ids=repr)
def test_a_failure_shows_keys_that_json_has_not(key: object) -> None:
    with recording() as segment:
        segment.client.enqueue_nowait(messages.track("user-1", "Seen"))
        said = _failure(lambda: segment.assert_tracked("Seen", properties={"by": {key: 1}}))
    assert "properties" in said
    assert repr(key) in said


def test_a_failure_shows_a_mistyped_name(shop: Recording) -> None:
    lines = _failure(lambda: shop.assert_tracked("Order Complete")).splitlines()
    assert lines[2:4] == [
        '  track "Order Completed" of 7',
        '    event: expected "Order Complete", got "Order Completed"',
    ]


def test_a_failure_without_any_message_says_so() -> None:
    with recording() as segment:
        assert _failure(segment.assert_tracked).endswith("No messages were sent with this recording's client.")


def test_a_failure_says_how_many_calls_sent_nothing() -> None:
    with recording() as segment:
        with bound(without_identity="drop"):
            segment.client.nowait.track(event="Order Completed")
        with pytest.raises(MessageError):
            segment.client.nowait.track("user-1", "")
        said = "Calls that sent nothing: 1 dropped (no_identity), 1 raised an exception."
        assert _failure(segment.assert_tracked).endswith(f"No messages were sent with this recording's client.\n{said}")
        assert "identify" in _failure(segment.assert_identified)


def test_unwanted_messages_are_shown(shop: Recording) -> None:
    said = _failure(lambda: shop.assert_not_tracked("Order Completed"))
    assert said.startswith('1 of 4 messages matches {"type": "track", "event": "Order Completed"}:\n')
    assert '"total": 30.5' in said
    assert _failure(shop.assert_not_tracked).startswith('2 of 4 messages match {"type": "track"}')


def test_every_call_has_its_assertion(shop: Recording) -> None:
    for message in (
        messages.screen("user-1", "Shop", "Cart", {"items": 2}),
        messages.group("user-1", 7, {"seats": 3}),
        messages.alias("visitor-7", 8),
    ):
        shop.client.enqueue_nowait(message)
    assert shop.assert_page("Home", anonymous_id="visitor-7")["type"] == "page"
    assert shop.assert_screen("Cart", category="Shop", properties={"items": 2})["type"] == "screen"
    assert shop.assert_group(7, {"seats": 3}, user_id="user-1")["groupId"] == "7"
    assert shop.assert_alias("visitor-7", 8)["type"] == "alias"
    assert 'expected "Cart", got "Home"' in _failure(lambda: shop.assert_page("Cart"))
    assert 'expected "Home", got "Cart"' in _failure(lambda: shop.assert_screen("Home"))
    assert 'groupId: expected "8", got "7"' in _failure(lambda: shop.assert_group(8))
    assert 'previousId: expected "a", got "visitor-7"' in _failure(lambda: shop.assert_alias("a"))


def test_a_count_is_exact(shop: Recording) -> None:
    shop.assert_tracked(count=2)
    shop.assert_tracked("Order Completed", count=1)
    shop.assert_identified(count=1)
    shop.assert_page(count=1)
    assert _failure(lambda: shop.assert_tracked("Order Completed", count=2)).startswith(
        '1 of 4 messages matches, not 2: {"type": "track", "event": "Order Completed"}:\n  {'
    )
    assert _failure(lambda: shop.assert_tracked(count=1)).startswith("2 of 4 messages match, not 1: ")
    assert _failure(lambda: shop.assert_screen(count=1)).startswith("No message matches ")
    with pytest.raises(ValueError, match="assert_not_tracked"):
        shop.assert_tracked(count=0)


def test_what_was_not_asserted_is_something_else(shop: Recording) -> None:
    shop.assert_identified()
    shop.assert_tracked("Order Completed")
    said = _failure(shop.assert_nothing_else)
    assert said.startswith("2 of 4 messages were not asserted:\n  {")
    assert '"event": "Product Added"' in said
    assert '"name": "Home"' in said
    shop.assert_tracked(count=2)
    assert _failure(shop.assert_nothing_else).startswith("1 of 4 messages was not asserted:")
    shop.assert_page("Home")
    shop.assert_nothing_else()
    shop.client.enqueue_nowait(messages.track(7, "Order Completed"))
    assert "Order Completed" in _failure(shop.assert_nothing_else)


@pytest.mark.parametrize("misspelt", ["Order Complete", "order_completed", "OrderCompleted", "Orders Completed"])
def test_a_misspelt_name_is_noticed_where_it_is_not_wanted(shop: Recording, misspelt: str) -> None:
    with pytest.warns(UserWarning, match=f'No event is named "{misspelt}", but there is "Order Completed"') as said:
        shop.assert_not_tracked(misspelt)
    assert said[0].filename == __file__
    with pytest.warns(UserWarning, match="misspelt"):
        shop.assert_not_tracked(misspelt, user_id=7)
    shop.assert_not_tracked(misspelt, user_id="user-1")


@pytest.mark.parametrize("other", ["Order Cancelled", "Order Completed 2", "Order", "Order Comple"])
def test_another_name_is_no_misspelt_one(shop: Recording, other: str) -> None:
    shop.assert_not_tracked(other)


class Containing:
    """A matcher: equal to any text with this in it."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, part: str) -> None:
        self.part = part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.part in other


def test_a_matcher_stands_for_the_name_that_is_not_wanted(shop: Recording) -> None:
    refunds: Any = Containing("Refund")
    orders: Any = Containing("Order")
    shop.assert_not_tracked(refunds)
    with pytest.raises(AssertionError, match="1 of 4 messages matches"):
        shop.assert_not_tracked(orders)


# --- waiting


def test_a_name_is_no_count(segment: Recording) -> None:
    with pytest.raises(ValueError, match="count must be an integer; a name goes into event="):
        asyncio.run(segment.wait_for("Signed Up"))  # type: ignore[arg-type]


def test_wait_for_is_woken_from_another_thread() -> None:
    def call(segment: Recording) -> None:
        for event in ("Order Completed", "Signed Up"):
            segment.client.enqueue_nowait(messages.track("user-1", event))

    async def main(segment: Recording) -> None:
        waiting = asyncio.create_task(segment.wait_for(count=2, event="Signed Up", timeout=10))
        await asyncio.sleep(0)
        # Not `to_thread`, whose end wakes the loop as well, and not a client that runs on this loop.
        thread = Thread(target=call, args=(segment,))
        thread.start()
        assert [message["event"] for message in await waiting] == ["Signed Up", "Signed Up"]
        # Its call may not have returned, and must not meet a client that is closed.
        thread.join()
        assert len(await segment.wait_for(count=3, timeout=0)) == 3

    with recording() as segment:
        segment.client.enqueue_nowait(messages.track("user-1", "Signed Up"))
        asyncio.run(main(segment), debug=True)  # debug mode checks the calling thread


def test_wait_for_shows_the_messages_on_timeout() -> None:
    async def main(segment: Recording) -> None:
        await segment.client.track("user-1", "Signed Up")
        await segment.wait_for(count=2, event="Signed Up", timeout=0)

    with recording() as segment:
        said = _failure(lambda: asyncio.run(main(segment)))
    assert said == '1 of 2 "Signed Up" events arrived within 0 s.\nMessages:\n  track "Signed Up" of user-1'


def test_a_waiter_on_a_closed_loop_does_not_affect_messages() -> None:
    with recording() as segment:
        loop = asyncio.new_event_loop()
        waiting = segment.wait_for()
        task = loop.create_task(waiting)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        segment.client.enqueue_nowait(messages.track("user-1", "Signed Up"))
        task._log_destroy_pending = False  # its loop was closed in the middle of a test
        assert len(segment.events) == 1
    assert len(segment.transport.messages) == 1


# --- verdicts


def test_objections_are_messages_that_segment_would_drop_or_that_violate_its_spec() -> None:
    with recording() as segment:
        assert segment.objections() == ""
        for message in (
            messages.track("user-1", "order"),  # a style finding only
            messages.track("user-1", "Order Completed", {"revenue": "30.5"}, message_id="same"),
            messages.identify("user-1", {"createdAt": "2026-11-21T19:20:03"}, message_id="same"),
        ):
            segment.client.enqueue_nowait(message)
    lines = segment.objections().splitlines()
    assert lines[0] == 'track "Order Completed" of user-1'
    assert lines[1].startswith("  spec (field-type): properties.revenue: Segment's spec requires a number")
    assert lines[2] == "identify of user-1"
    assert lines[3].startswith("  dropped (duplicate-id): messageId: A message with this id arrived before")
    assert lines[4].startswith("  spec (timestamp-zone): traits.createdAt: Has no time zone")
    assert segment.objections(start=2).splitlines() == lines[2:]


# --- the endpoint


def test_the_endpoint_serves_code_without_a_loop() -> None:
    body = b'{"batch": [{"type": "track", "userId": "user-1", "messageId": "1"}], "writeKey": "key"}'
    with running_endpoint() as endpoint:
        with urlopen(Request(f"{endpoint.url}/v1/batch", body, {"Content-Type": "application/json"})) as answer:
            assert answer.status == 200
        (event,) = endpoint.events
        assert (event["message"]["userId"], event["source"], event["attempt"]) == ("user-1", "key", 1)
        assert event["verdicts"][0]["rule"] == "event-missing"
        with urlopen(f"{endpoint.url}/_dev/events") as shown:
            assert json.load(shown)["events"] == [event]
        endpoint.clear()
        assert endpoint.events == []


def test_the_endpoint_accepts_messages_from_another_loop() -> None:
    async def main(url: str) -> None:
        async with Client("key", host=url) as client:
            await client.track("user-1", "Signed Up")

    with running_endpoint() as endpoint:
        asyncio.run(main(endpoint.url))
        assert [event["message"]["event"] for event in endpoint.events] == ["Signed Up"]
    with pytest.raises(URLError):
        urlopen(endpoint.url)
