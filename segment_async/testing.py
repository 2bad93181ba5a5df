"""For tests of code that sends events: the real client with a recording transport, and assertions on its messages.

    async with recording() as segment:  # or `with`, outside of a coroutine
        await signed_up(segment.client)
        segment.assert_tracked("Signed Up", user_id="user-1", properties={"plan": "pro"})
        segment.assert_nothing_else()

Everything but the socket works as in production: checks, encoding, batches, compression, retries. This file does not
know a test runner; `pytest_plugin` builds its fixtures on it.
"""

from __future__ import annotations

import asyncio
import warnings
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import orjson
from anyio.from_thread import BlockingPortal, start_blocking_portal

from . import Client, Response, messages
from ._hooks import returns_coroutine
from ._matching import (
    ID,
    MessageDict,
    expectation,
    headline,
    listed,
    matching,
    nearest,
    read_json,
    shown,
    slips,
)
from .events import TrackEvent
from .verdicts import DUPLICATE_ID, judge

if TYPE_CHECKING:
    from .devserver import Endpoint
    from .plans import Plan

__all__ = ["Recording", "RecordingTransport", "RunningEndpoint", "recording", "running_endpoint"]

BatchDict = dict[str, Any]


class RecordingTransport:
    """Records every batch.

    Args:
        answer: returns the response to a batch; may raise `TransportError`. `None`: Segment's 200.

    Raises:
        ValueError: `answer` is not a plain function.

    Attributes:
        batches: the decoded JSON of each request's body, in order; a retry is recorded again.
    """

    def __init__(self, answer: Callable[[BatchDict], Response] | None = None) -> None:
        if answer is not None and (not callable(answer) or returns_coroutine(answer)):
            raise ValueError("answer must be a plain function, such as lambda batch: Response(503)")
        self.batches: list[BatchDict] = []
        self._answer = answer

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages of all batches, in order; those of a retried batch are repeated."""
        return [message for batch in self.batches for message in batch["batch"]]

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """Record a batch and respond at once."""
        batch: BatchDict = read_json(zlib.decompress(body, 31) if headers.get("Content-Encoding") == "gzip" else body)
        self.batches.append(batch)
        if self._answer is not None:
            return self._answer(batch)
        return Response(200, {"Content-Type": "application/json"}, b'{"success":true}')

    async def aclose(self) -> None:
        """There is nothing to close."""


# --- a client, and its messages


class Recording:
    """A client whose messages are recorded and not sent; from `recording`, or the fixture `segment`.

    Attributes:
        client: a real client, for the code under test. Its `before_send` is in use: it does the recording.
        transport: the batches that the client sent. Messages get here after a flush or the close.
    """

    def __init__(self, plan: Plan | None = None) -> None:
        if plan is not None and not hasattr(plan, "judge"):
            raise ValueError('plan must be a Plan of segment_async.plans, such as Plan.load("plan.json")')
        self._plan = plan
        self.transport: RecordingTransport = RecordingTransport()
        # With no interval, a test that awaits a delivery does not have to wait.
        self.client: Client = Client("test", transport=self.transport, before_send=self._record, flush_interval=0)
        self._bodies: list[bytes] = []
        # The ids of the messages that an assertion returned or counted, for `assert_nothing_else`.
        self._asserted: set[str] = set()
        self._waiting: set[Callable[[], None]] = set()

    def __repr__(self) -> str:
        return f"<Recording of {len(self._bodies)} message{'' if len(self._bodies) == 1 else 's'}>"

    def _record(self, message: MessageDict) -> MessageDict:
        self._bodies.append(messages.body_of(message))
        for wake in tuple(self._waiting):
            wake()
        return message

    @property
    def events(self) -> list[MessageDict]:
        """The messages as they are sent, in the order of the calls. Each is here as soon as its call has returned.

        They are recorded in `before_send`: after all checks, with the bound fields, before the queue. A call that was
        refused is not among them, nor one that was dropped because it had no id. The dicts are copies. A number that
        no float holds is a `Decimal`.
        """
        return [read_json(body) for body in self._bodies]

    def assert_tracked(
        self,
        event: str | TrackEvent | None = None,
        *,
        user_id: ID | None = None,
        anonymous_id: ID | None = None,
        properties: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        count: int | None = None,
    ) -> MessageDict:
        """Assert that a `track` call matches, and return the first one that does.

        A planned event stands for its name and its properties; do not give `properties` as well.

        An argument that is `None` is not compared. A dict also matches one with more keys, on every level, and an empty
        one matches a call without properties or context. Other values are compared as they are sent, so that a `UUID`
        matches its text, and `True` does not match 1; a matcher such as `mock.ANY` may be used. With `count`, exactly so
        many calls must match.

        Raises:
            AssertionError: none matches; shows the most similar ones and their differences. Or the number of those that
                match is not `count`; shows them.
        """
        __tracebackhide__ = True
        event, properties = _unplanned(event, properties)
        wanted = expectation("track", user_id, anonymous_id, event=event, properties=properties, context=context)
        return self._first(wanted, count)

    def assert_identified(
        self,
        user_id: ID | None = None,
        traits: Mapping[str, Any] | None = None,
        *,
        anonymous_id: ID | None = None,
        context: Mapping[str, Any] | None = None,
        count: int | None = None,
    ) -> MessageDict:
        """Assert that an `identify` call matches, like `assert_tracked`."""
        __tracebackhide__ = True
        return self._first(expectation("identify", user_id, anonymous_id, traits=traits, context=context), count)

    def assert_page(
        self,
        name: str | None = None,
        *,
        category: str | None = None,
        user_id: ID | None = None,
        anonymous_id: ID | None = None,
        properties: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        count: int | None = None,
    ) -> MessageDict:
        """Assert that a `page` call matches, like `assert_tracked`."""
        __tracebackhide__ = True
        fields = {"name": name, "category": category, "properties": properties, "context": context}
        return self._first(expectation("page", user_id, anonymous_id, **fields), count)

    def assert_screen(
        self,
        name: str | None = None,
        *,
        category: str | None = None,
        user_id: ID | None = None,
        anonymous_id: ID | None = None,
        properties: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        count: int | None = None,
    ) -> MessageDict:
        """Assert that a `screen` call matches, like `assert_tracked`."""
        __tracebackhide__ = True
        fields = {"name": name, "category": category, "properties": properties, "context": context}
        return self._first(expectation("screen", user_id, anonymous_id, **fields), count)

    def assert_group(
        self,
        group_id: ID | None = None,
        traits: Mapping[str, Any] | None = None,
        *,
        user_id: ID | None = None,
        anonymous_id: ID | None = None,
        context: Mapping[str, Any] | None = None,
        count: int | None = None,
    ) -> MessageDict:
        """Assert that a `group` call matches, like `assert_tracked`."""
        __tracebackhide__ = True
        wanted = expectation("group", user_id, anonymous_id, groupId=group_id, traits=traits, context=context)
        return self._first(wanted, count)

    def assert_alias(
        self,
        previous_id: ID | None = None,
        user_id: ID | None = None,
        *,
        context: Mapping[str, Any] | None = None,
        count: int | None = None,
    ) -> MessageDict:
        """Assert that an `alias` call matches, like `assert_tracked`."""
        __tracebackhide__ = True
        return self._first(expectation("alias", user_id, None, previousId=previous_id, context=context), count)

    def assert_not_tracked(
        self,
        event: str | TrackEvent | None = None,
        *,
        user_id: ID | None = None,
        anonymous_id: ID | None = None,
        properties: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        """Assert that no `track` call matches, in the sense of `assert_tracked`.

        Warns if there is none, but one whose name differs only by its case, its separators or one letter: a misspelt
        name would never match.

        Raises:
            AssertionError: at least one matches; shows all of them.
        """
        __tracebackhide__ = True
        event, properties = _unplanned(event, properties)
        unwanted = expectation("track", user_id, anonymous_id, event=event, properties=properties, context=context)
        events = self.events
        found = matching(unwanted, events)
        if found:
            lines = "".join(f"\n  {shown(message)}" for message in found)
            verb = "matches" if len(found) == 1 else "match"
            raise AssertionError(f"{len(found)} of {len(events)} messages {verb} {shown(unwanted)}:{lines}")
        near = slips(event, matching(unwanted | {"event": _Anything()}, events)) if isinstance(event, str) else []
        if near:
            names = ", ".join(map(shown, near))
            warnings.warn(f"No event is named {shown(event)}, but there is {names}: is it misspelt?", stacklevel=2)

    def assert_nothing_else(self) -> None:
        """Assert that there are no messages but those that an earlier assertion returned, or counted by `count`.

        Raises:
            AssertionError: there are others; shows them.
        """
        __tracebackhide__ = True
        events = self.events
        others = [message for message in events if message["messageId"] not in self._asserted]
        if others:
            lines = "".join(f"\n  {shown(message)}" for message in others)
            verb = "was" if len(others) == 1 else "were"
            raise AssertionError(f"{len(others)} of {len(events)} messages {verb} not asserted:{lines}")

    def _first(self, expected: MessageDict, count: int | None) -> MessageDict:
        __tracebackhide__ = True
        if count is not None and count < 1:
            raise ValueError("count must be at least 1; to assert that there are none, use assert_not_tracked")
        events = self.events
        found = matching(expected, events)
        if count is not None and found and len(found) != count:
            lines = "".join(f"\n  {shown(message)}" for message in found)
            verb = "matches" if len(found) == 1 else "match"
            raise AssertionError(
                f"{len(found)} of {len(events)} messages {verb}, not {count}: {shown(expected)}:{lines}"
            )
        if not found:
            raise AssertionError(
                f"No message matches {shown(expected)}.\n{nearest(expected, events)}{self._calls_without_message()}"
            )
        self._asserted.update(message["messageId"] for message in found[: count or 1])
        return found[0]

    async def wait_for(self, count: int = 1, event: str | None = None, timeout: float = 5.0) -> list[MessageDict]:
        """Wait until there are `count` messages, including earlier ones, and return all of them.

        With `event`, only `track` calls of that name count. May be called on any loop, also while the client runs on
        another one.

        Raises:
            AssertionError: there were fewer after `timeout` seconds; shows them.
            ValueError: `count` is not an integer but, for example, the name of an event.
        """
        __tracebackhide__ = True
        if not isinstance(cast("object", count), int):
            raise ValueError("count must be an integer; a name goes into event=")  # noqa: TRY004  # as of options
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(changed.set)
            except RuntimeError:
                pass  # the waiting loop was closed

        self._waiting.add(wake)
        try:
            async with asyncio.timeout(timeout):
                while len(found := self._named(event)) < count:
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            wanted = "messages" if event is None else f"{shown(event)} events"
            arrived = f"{len(self._named(event))} of {count} {wanted} arrived within {timeout:g} s."
            raise AssertionError(f"{arrived}\n{listed(self.events)}{self._calls_without_message()}") from None
        finally:
            self._waiting.discard(wake)
        return found

    def _named(self, event: str | None) -> list[MessageDict]:
        return [message for message in self.events if event is None or message.get("event") == event]

    def _calls_without_message(self) -> str:
        """A line about the calls that were dropped or that raised; empty if there are none."""
        counts = self.client.statistics()
        calls = [f"{count} dropped ({reason})" for reason, count in counts.reasons.items()]
        calls += [f"{counts.rejected} raised an exception"] if counts.rejected else []
        return f"\nCalls that sent nothing: {', '.join(calls)}." if calls else ""

    def objections(self, start: int = 0) -> str:
        """The messages from index `start` on that Segment would drop or that violate its spec or the plan, as text.

        Empty if there are none. A message id that was used before `start` counts as a duplicate.
        """
        seen: set[str] = set()
        lines: list[str] = []
        for index, body in enumerate(self._bodies):
            message = read_json(body, float)  # plain JSON, as the rules expect it
            found = [verdict for verdict in judge(message, size=len(body)) if verdict.severity != "style"]
            found += self._plan.judge(message) if self._plan is not None else []
            if message["messageId"] in seen:
                found.insert(0, DUPLICATE_ID)
            seen.add(message["messageId"])
            if found and index >= start:
                lines.append(headline(message))
                lines.extend(
                    f"  {verdict.severity} ({verdict.rule}): {verdict.path}: {verdict.text}" for verdict in found
                )
        return "\n".join(lines)


def _unplanned(
    event: str | TrackEvent | None, properties: Mapping[str, Any] | None
) -> tuple[str | None, Mapping[str, Any] | None]:
    """The name and the properties that a planned event stands for."""
    if not isinstance(event, TrackEvent):
        return event, properties
    if properties is not None:
        raise TypeError(f"leave properties out, because {type(event).__qualname__} holds them")
    return event.EVENT, event


class _Anything:
    """Equal to every value."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


class recording:  # noqa: N801  # read as a function, as `contextlib.suppress` is
    """A `Recording` whose client is closed at the end of the block.

    In a coroutine: `async with recording()`. Elsewhere: `with recording()`, which closes the client even if its loop is
    closed already. With a tracking plan, `objections` names the messages that violate it as well.

    Raises:
        RuntimeError: `with` is used in a coroutine. Its end would block the loop that the client needs.
        ValueError: at the beginning of the block: `plan` is not a `Plan`.
    """

    def __init__(self, plan: Plan | None = None) -> None:
        self._plan = plan
        self._recorded: Recording | None = None

    def __enter__(self) -> Recording:
        if _in_coroutine():
            raise RuntimeError("`with recording()` would block the event loop: use `async with recording()` here")
        return self._begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close_in_thread(self._end())

    async def __aenter__(self) -> Recording:
        return self._begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end().client.aclose()

    def _begin(self) -> Recording:
        if self._recorded is not None:
            raise RuntimeError("recording() can be entered once: call it again for another block")
        self._recorded = Recording(self._plan)
        return self._recorded

    def _end(self) -> Recording:
        assert self._recorded is not None, "a block ends after it began"
        return self._recorded


def _in_coroutine() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def close_in_thread(recorded: Recording) -> None:
    """Close the client on another thread: the loop of this one may be closed, stopped or running."""
    with start_blocking_portal() as portal:
        portal.call(recorded.client.aclose)


# --- the endpoint, for code without an event loop


class RunningEndpoint:
    """The local endpoint in its own thread; from `running_endpoint`, or the fixture `segment_endpoint`.

    Attributes:
        url: for `Client(host=…)`, `SEGMENT_HOST`, or the option of another SDK.
    """

    def __init__(self, endpoint: Endpoint, portal: BlockingPortal) -> None:
        self.url: str = endpoint.url
        self._endpoint = endpoint
        self._portal = portal

    @property
    def events(self) -> list[dict[str, Any]]:
        """The recent events, oldest first, as ``GET /_dev/events`` shows them: ``message``, ``verdicts``, and more."""
        held = self._portal.call(lambda: self._endpoint.events)
        return [orjson.loads(orjson.dumps(event.as_dict())) for event in held]

    def clear(self) -> None:
        """Delete all events, counts and ids."""
        self._portal.call(self._endpoint.clear)


@contextmanager
def running_endpoint() -> Generator[RunningEndpoint, None, None]:
    """Run the local endpoint on a free port within the block."""
    from .devserver import serve

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serve()) as endpoint:
        yield RunningEndpoint(endpoint, portal)
