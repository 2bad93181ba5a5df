"""Several invocations in one Lambda process: every message is sent once, whichever loop an invocation uses."""

from __future__ import annotations

import asyncio
import inspect
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from segment_async import Client, Response, blocking, messages
from segment_async.aws_lambda import _Flushes, flush_after
from tests.support.asgi import Recorder


class Context:
    """Lambda's context object: the remaining time."""

    def __init__(self, seconds: float = 3.0) -> None:
        self.seconds = seconds

    def get_remaining_time_in_millis(self) -> Any:
        return int(self.seconds * 1_000) if isinstance(self.seconds, float) else self.seconds


class Slow(Recorder):
    """Does not respond while `is_silent`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_silent = True

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        while self.is_silent:  # noqa: ASYNC110  # an Event belongs to one loop, and there are several
            await asyncio.sleep(0.001)
        return await super().send(body, headers)


@pytest.fixture
def thread() -> Iterator[Callable[..., Any]]:
    """Runs functions in a thread that never had an event loop, as in a new process."""
    with ThreadPoolExecutor(1) as one:
        yield lambda function, *args: one.submit(function, *args).result(timeout=30)


def recording(transport: Recorder | None = None) -> tuple[Client, list[dict[str, Any]]]:
    # An hour between batches: only a flush sends anything.
    transport = transport or Recorder()
    return Client("KEY", transport=transport, flush_interval=3_600), transport.messages


def finish(client: Client) -> None:
    asyncio.run(client.aclose())


def events(arrived: list[dict[str, Any]]) -> list[str]:
    return [message["event"] for message in arrived]


def test_an_async_handler_becomes_a_plain_function(thread: Callable[..., Any]) -> None:
    client, arrived = recording()
    loops = []

    @flush_after(client)
    async def handler(event: int, context: Any) -> str:
        """Handles."""
        loops.append(asyncio.get_running_loop())
        await client.track("user-1", f"Event {event}")
        return f"answer {event}"

    assert not inspect.iscoroutinefunction(handler)
    assert (handler.__name__, handler.__doc__) == ("handler", "Handles.")
    for number in range(3):
        assert thread(handler, number, Context()) == f"answer {number}"
        assert events(arrived) == [f"Event {n}" for n in range(number + 1)]
    assert len(set(loops)) == 1
    thread(finish, client)


def test_a_sync_handler_with_an_asyncio_run_each(thread: Callable[..., Any]) -> None:
    client, arrived = recording()

    @flush_after(client)
    def handler(event: int, context: Any) -> int:
        asyncio.run(client.track("user-1", f"Event {event}"))
        return event

    assert [thread(handler, number, Context()) for number in range(2)] == [0, 1]
    assert events(arrived) == ["Event 0", "Event 1"]
    thread(finish, client)


def test_a_sync_handler_without_any_loop(thread: Callable[..., Any]) -> None:
    client, arrived = recording()

    @flush_after(client)
    def handler(event: int, context: Any) -> None:
        client.enqueue_nowait(messages.track("user-1", f"Event {event}"))

    for number in range(2):
        thread(handler, number, Context())
    assert events(arrived) == ["Event 0", "Event 1"]
    thread(finish, client)


@pytest.mark.parametrize("seconds", [0.35, 0.1, 0.0])
@pytest.mark.parametrize("is_async", [True, False])
def test_at_the_time_limit_the_next_invocation_sends_it(
    is_async: bool, seconds: float, thread: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    transport = Slow()
    client, arrived = recording(transport)

    async def work(event: Any, context: Any) -> str:
        await client.track("user-1", f"Event {event}")
        return "answer"

    def run(event: Any, context: Any) -> str:
        return asyncio.run(work(event, context))

    handler = flush_after(client)(work if is_async else run)
    assert thread(handler, 0, Context(seconds)) == "answer"
    assert events(arrived) == []
    assert [text for text in caplog.messages if text.startswith("Flush")] == [
        "Flush incomplete: 1 message is kept for a later invocation."
    ]
    transport.is_silent = False
    thread(handler, 1, Context())
    assert sorted(events(arrived)) == ["Event 0", "Event 1"]
    assert len({message["messageId"] for message in arrived}) == 2
    assert client.statistics().delivered == 2
    thread(finish, client)


def test_the_margin_is_kept(thread: Callable[..., Any]) -> None:
    client, _ = recording(Slow())
    waited = []

    class Watched(Client):
        async def flush(self, *, timeout: float | None = None) -> int:
            waited.append(timeout)
            return 0

    watched = Watched("KEY", transport=Recorder())
    for margin, context in (
        (0.3, Context(2.0)),
        (0.5, Context(2.0)),
        (0.3, Context(0.1)),
        (0.3, None),
        (0.3, Context(15.0)),
    ):
        thread(flush_after(watched, margin)(lambda event, context: None), 0, context)
    assert waited == pytest.approx([1.7, 1.5, 0.0, 2.0, 2.0])
    thread(finish, client)


class Pausing(Recorder):
    """Asks for a pause of a minute first; `Recorder` takes what comes after that."""

    has_asked = False

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        if self.has_asked:
            return await super().send(body, headers)
        self.has_asked = True
        return Response(429, {"Retry-After": "60"})


def test_a_pause_is_over_although_no_loop_has_run_meanwhile(thread: Callable[..., Any]) -> None:
    client, arrived = recording(Pausing())
    seconds = 0.0
    client._owner.clock.monotonic = lambda: seconds

    async def track_until_paused() -> None:
        delivery = await client.track("user-1", "Event 0")
        waiting = asyncio.ensure_future(delivery)
        while not client.statistics().retry_in:  # noqa: ASYNC110  # there is no event for this
            await asyncio.sleep(0)
        waiting.cancel()

    @flush_after(client)
    def handler(event: int, context: Any) -> None:
        if event:
            client.nowait.track("user-1", f"Event {event}")
        else:
            asyncio.run(track_until_paused())

    thread(handler, 0, Context())
    for event, moment in ((1, 20.0), (2, 40.0)):
        seconds = moment
        thread(handler, event, Context())
        assert events(arrived) == []
    seconds = 60.0
    thread(handler, 3, Context())
    assert sorted(events(arrived)) == [f"Event {number}" for number in range(4)]
    thread(finish, client)


class Hanging(Recorder):
    """Accepts requests that come while `hangs`, and does not answer them before `answers_late` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = True
        self.answers_late = False

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        is_lost = self.hangs
        while is_lost and not self.answers_late:  # noqa: ASYNC110  # an Event belongs to one loop, and there are several
            await asyncio.sleep(0)
        return await super().send(body, headers)


class Outage:
    """Invocations of one process at the times that a test says, and how long each of them may wait for its flush."""

    def __init__(self, thread: Callable[..., Any], *, is_async: bool) -> None:
        self.transport = Hanging()
        self.waits: list[float] = []
        self.now = 1_000.0
        self._thread = thread
        self._count = 0
        transport, waits = self.transport, self.waits

        class Watched(Client):
            async def flush(self, *, timeout: float | None = None) -> int:
                assert timeout is not None
                if timeout:
                    waits[-1] = timeout
                # What was given is what counts. The test does not wait for an answer that does not come.
                return await super().flush(timeout=min(timeout, 0.02 if transport.hangs else 0.5))

        self.client = Watched("KEY", transport=self.transport, flush_interval=3_600)

        async def asynchronous(event: str, context: Any) -> None:
            await self.client.track("user-1", event)

        def synchronous(event: str, context: Any) -> None:
            self.client.nowait.track("user-1", event)

        flushes = _Flushes(self.client, 0.3, 2.0, lambda: self.now)
        self._handler = flushes.decorate(asynchronous if is_async else synchronous)

    def invoke(self, at: float, context: Any = None) -> float:
        """How long this invocation may wait."""
        self.now = at
        self.waits.append(0.0)
        self._thread(self._handler, f"Event {self._count}", context or Context(30.0))
        self._count += 1
        return self.waits[-1]

    def arrived(self) -> list[str]:
        return sorted(set(events(self.transport.messages)), key=lambda name: int(name.split()[1]))

    def finish(self) -> None:
        self.transport.hangs, self.transport.answers_late = False, True
        self._thread(finish, self.client)
        assert self.arrived() == [f"Event {n}" for n in range(self._count)]
        assert self.client.statistics().delivered == self._count


@pytest.mark.parametrize("is_async", [True, False])
def test_while_segment_does_not_answer_few_invocations_wait(is_async: bool, thread: Callable[..., Any]) -> None:
    outage = Outage(thread, is_async=is_async)
    waits = [outage.invoke(1_000.0 + second) for second in range(300)]
    assert waits[0] == 2.0
    assert [second for second, wait in enumerate(waits) if wait] == [0, 5, 15, 35, 75, 135, 195, 255]
    outage.finish()


@pytest.mark.parametrize("answers_late", [True, False])
@pytest.mark.parametrize("is_async", [True, False])
def test_the_first_invocation_after_the_pause_delivers_all(
    is_async: bool, answers_late: bool, thread: Callable[..., Any]
) -> None:
    """Also what is in requests that never get an answer, as many as may be in flight."""
    outage = Outage(thread, is_async=is_async)
    assert [outage.invoke(1_000.0 + second / 2) for second in range(8)] == [2.0, *[0.0] * 7]
    outage.transport.hangs, outage.transport.answers_late = False, answers_late
    outage.invoke(1_005.0)
    assert outage.arrived() == [f"Event {n}" for n in range(9)]
    # All is well: each invocation waits for its own messages again.
    assert [outage.invoke(1_005.1), outage.invoke(1_005.2)] == [2.0, 2.0]
    assert outage.arrived() == [f"Event {n}" for n in range(11)]
    outage.finish()


def test_an_answer_that_came_between_two_invocations_ends_the_pause(thread: Callable[..., Any]) -> None:
    outage = Outage(thread, is_async=True)
    assert [outage.invoke(1_000.0), outage.invoke(1_000.1)] == [2.0, 0.0]
    outage.transport.hangs, outage.transport.answers_late = False, True
    outage.invoke(1_000.2)
    assert outage.arrived() == ["Event 0", "Event 1", "Event 2"]
    assert outage.invoke(1_000.3) == 2.0
    outage.finish()


def test_a_flush_that_had_hardly_any_time_says_nothing_of_segment(thread: Callable[..., Any]) -> None:
    outage = Outage(thread, is_async=True)
    assert outage.invoke(1_000.0, Context(0.4)) == pytest.approx(0.1)
    assert outage.invoke(1_000.1, Context(0.4)) == pytest.approx(0.1)
    # Several do.
    assert outage.invoke(1_000.2, Context(0.7)) == pytest.approx(0.4)
    assert outage.invoke(1_000.3, Context(0.7)) == 0.0
    outage.finish()


def test_a_clock_that_was_set_back_does_not_prolong_the_pause(thread: Callable[..., Any]) -> None:
    outage = Outage(thread, is_async=True)
    assert [outage.invoke(1_000.0), outage.invoke(1_001.0), outage.invoke(1.0)] == [2.0, 0.0, 2.0]
    outage.finish()


@pytest.mark.parametrize("context", [None, {}, Context(None), Context("soon")])  # type: ignore[arg-type]
def test_another_context_object(context: Any, thread: Callable[..., Any]) -> None:
    client, arrived = recording()

    @flush_after(client)
    def handler(event: Any, context: Any) -> str:
        client.enqueue_nowait(messages.track("user-1", "Seen"))
        return "answer"

    assert thread(handler, None, context) == "answer"
    assert events(arrived) == ["Seen"]
    thread(finish, client)


def test_within_a_running_loop_the_result_is_returned(caplog: pytest.LogCaptureFixture) -> None:
    """As in an asynchronous test of a sync handler."""
    client, arrived = recording()

    @flush_after(client)
    def handler(event: Any, context: Any) -> str:
        client.enqueue_nowait(messages.track("user-1", "Seen"))
        return "answer"

    async def main() -> None:
        assert [handler(None, Context()) for _ in range(2)] == ["answer"] * 2
        assert await client.flush() == 0

    asyncio.run(main())
    assert events(arrived) == ["Seen"] * 2
    assert [record.getMessage().split(";")[0] for record in caplog.records] == ["Error in flushing: RuntimeError"]
    finish(client)


def test_a_handler_that_raises_is_flushed(thread: Callable[..., Any]) -> None:
    client, arrived = recording()

    @flush_after(client)
    async def handler(event: Any, context: Any) -> None:
        await client.track("user-1", "Tried")
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        thread(handler, None, Context())
    assert events(arrived) == ["Tried"]
    thread(finish, client)


def test_the_threads_current_loop_is_not_changed(thread: Callable[..., Any]) -> None:
    client, _ = recording()

    @flush_after(client)
    async def asynchronous(event: Any, context: Any) -> None:
        await client.track("user-1", "Seen")

    @flush_after(client)
    def synchronous(event: Any, context: Any) -> None:
        client.enqueue_nowait(messages.track("user-1", "Seen"))

    def with_one() -> None:
        mine = asyncio.new_event_loop()
        asyncio.set_event_loop(mine)
        asynchronous(None, Context())
        synchronous(None, Context())
        assert asyncio.get_event_loop() is mine
        asyncio.set_event_loop(None)
        mine.close()

    def with_none() -> None:
        assert threading.current_thread() is not threading.main_thread()
        asynchronous(None, Context())
        synchronous(None, Context())
        with pytest.raises(RuntimeError):
            asyncio.get_event_loop()

    thread(with_none)
    thread(with_one)
    thread(finish, client)


REQUEST = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/orders",
    "rawQueryString": "",
    "headers": {
        "cookie": "ajs_anonymous_id=visitor-1",
        "host": "shop.example",
        "user-agent": "Mozilla/5.0 Firefox/145",
    },
    "requestContext": {"http": {"method": "GET", "path": "/orders", "sourceIp": "203.0.113.9"}, "stage": "$default"},
    "isBase64Encoded": False,
}


@pytest.mark.parametrize("seconds", [0.0, 0.6])
def test_under_mangum(seconds: float, thread: Callable[..., Any]) -> None:
    """Once, the first invocation reaches its time limit; once, the flush interval passes within an invocation."""
    mangum = pytest.importorskip("mangum", reason="Mangum is not installed")
    from segment_async.asgi import SegmentMiddleware
    from tests.support.asgi import answering

    transport = Slow()
    transport.is_silent = seconds == 0.0
    client = Client("KEY", transport=transport, flush_interval=0.001)

    async def order() -> None:
        delivery = await client.track(event="Order Completed")
        if not transport.is_silent:
            await delivery  # sent on Mangum's own loop

    def run() -> list[int]:
        app = SegmentMiddleware(answering(doing=order), client, page_views=True)
        handler = flush_after(client)(mangum.Mangum(app, lifespan="off"))
        statuses = [handler(REQUEST, Context(seconds or 0.31))["statusCode"]]
        transport.is_silent = False
        statuses += [handler(REQUEST, Context())["statusCode"] for _ in range(2)]
        asyncio.get_event_loop().close()
        asyncio.set_event_loop(None)
        return statuses

    assert thread(run) == [200, 200, 200]
    assert sorted(message["type"] for message in transport.messages) == ["page"] * 3 + ["track"] * 3
    assert len({message["messageId"] for message in transport.messages}) == 6
    assert client.statistics().delivered == 6
    thread(finish, client)


@pytest.mark.parametrize("option", ["margin", "timeout"])
@pytest.mark.parametrize("seconds", [-1, float("nan"), "2", True, None, 10**400])
def test_times_are_seconds(option: str, seconds: Any) -> None:
    with pytest.raises(ValueError, match=f"{option} must be a number of seconds, 0 or more"):
        flush_after(Client("KEY", send=False), **{option: seconds})


def test_the_timeout_may_be_all_the_time_that_is_left(thread: Callable[..., Any]) -> None:
    client, arrived = recording()

    @flush_after(client, timeout=math.inf)
    async def handler(event: Any, context: Any) -> None:
        await client.track("user-1", "Seen")

    thread(handler, None, Context())
    assert events(arrived) == ["Seen"]
    thread(finish, client)


def test_a_client_of_another_kind_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"flush_after needs .* got segment_async\.blocking\.Client: from segment_async "
    ):
        flush_after(blocking.Client("KEY", send=False))  # type: ignore[arg-type]


def test_the_process_ends_quietly() -> None:
    program = """
import asyncio
from segment_async import Client
from segment_async.aws_lambda import _Flushes, flush_after

client = Client("KEY", send=False)

@flush_after(client)
async def handler(event, context):
    await client.track("user-1", "Seen")

handler(None, None)
asyncio.run(client.aclose())
"""
    command = [sys.executable, "-W", "error", "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
