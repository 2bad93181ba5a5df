"""For tests of code that tracks: the real client in front of a transport that records, and what to say of the messages.

    with recording() as segment:
        asyncio.run(signed_up(segment.client))
        segment.assert_tracked("Signed Up", user_id="user-1", properties={"plan": "pro"})

Everything but the socket is the pipeline that runs in production: checks, encoding, batches, compression, retries.
Knows no test runner; `pytest_plugin` makes fixtures of what stands here.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
from anyio.from_thread import BlockingPortal, start_blocking_portal

from . import Client, Response, messages
from ._matching import ID, Fields, expectation, fitting, headline, listed, nearest, shown
from .verdicts import DUPLICATE_ID, judge

if TYPE_CHECKING:
    from .devserver import Endpoint

__all__ = ["Recording", "RecordingTransport", "RunningEndpoint", "recording", "running_endpoint"]

Batch = dict[str, Any]


class RecordingTransport:
    """Takes every batch, and keeps it.

    Args:
        answer: what to answer a batch with, in place of Segment's 200; may raise `TransportError`.

    Attributes:
        batches: what was sent, attempt by attempt, as the decoded JSON of its body.
    """

    def __init__(self, answer: Callable[[Batch], Response] | None = None) -> None:
        self.batches: list[Batch] = []
        self._answer = answer

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages of all batches, in the order of their arrival; once an attempt."""
        return [message for batch in self.batches for message in batch["batch"]]

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """Keep a batch and answer it at once."""
        batch: Batch = orjson.loads(zlib.decompress(body, 31) if headers.get("Content-Encoding") == "gzip" else body)
        self.batches.append(batch)
        if self._answer is not None:
            return self._answer(batch)
        return Response(200, {"Content-Type": "application/json"}, b'{"success":true}')

    async def aclose(self) -> None:
        """There is nothing to close."""


# --- a client, and what was said with it


class Recording:
    """A client whose messages stay here; from `recording`, or the fixture `segment`.

    Attributes:
        client: the real one, to be handed to the code under test. Its `before_send` is taken: that is what records.
        transport: what the client sent, batch by batch. That is later than `events`: after a flush, or the close.
    """

    def __init__(self) -> None:
        self.transport = RecordingTransport()
        # Nobody waits for company: who awaits a delivery in a test has it at once.
        self.client = Client("test", transport=self.transport, before_send=self._record, flush_interval=0)
        self._bodies: list[bytes] = []
        self._waiting: set[Callable[[], None]] = set()

    def __repr__(self) -> str:
        return f"<Recording of {len(self._bodies)} message{'' if len(self._bodies) == 1 else 's'}>"

    def _record(self, message: Fields) -> Fields:
        self._bodies.append(messages.body_of(message))
        for wake in tuple(self._waiting):
            wake()
        return message

    @property
    def events(self) -> list[Fields]:
        """The messages as they travel, in the order of the calls; each is here as soon as its call has returned.

        They are noted where `before_send` stands: after all checks and with the bound fields filled in, before the
        queue. So a refused call is not among them, and neither is one that was dropped for want of an id. The dicts are
        the caller's own, to be changed at will.
        """
        return [orjson.loads(body) for body in self._bodies]

    def assert_tracked(
        self,
        event: str | None = None,
        *,
        user_id: ID | None = None,
        anonymous_id: ID | None = None,
        properties: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Fields:
        """Some `track` fits; gives the first that does.

        `None` asks for nothing. A dict fits one that has more keys, on every level; other values are compared as
        they travel, so that a `UUID` fits its text, and a matcher such as `mock.ANY` compares for itself.

        Raises:
            AssertionError: none fits; shows the nearest, and where they differ.
        """
        __tracebackhide__ = True
        return self._first(
            expectation("track", user_id, anonymous_id, event=event, properties=properties, context=context)
        )

    def assert_identified(
        self,
        user_id: ID | None = None,
        traits: Mapping[str, Any] | None = None,
        *,
        anonymous_id: ID | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Fields:
        """Some `identify` fits; as `assert_tracked` otherwise."""
        __tracebackhide__ = True
        return self._first(expectation("identify", user_id, anonymous_id, traits=traits, context=context))

    def assert_not_tracked(
        self,
        event: str | None = None,
        *,
        user_id: ID | None = None,
        anonymous_id: ID | None = None,
        properties: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        """No `track` fits, in the sense of `assert_tracked`.

        Raises:
            AssertionError: some do; shows them.
        """
        __tracebackhide__ = True
        unwanted = expectation("track", user_id, anonymous_id, event=event, properties=properties, context=context)
        found = fitting(unwanted, self.events)
        if found:
            lines = "".join(f"\n  {shown(message)}" for message in found)
            raise AssertionError(f"{len(found)} of {len(self._bodies)} messages fit {shown(unwanted)}:{lines}")

    def _first(self, expected: Fields) -> Fields:
        __tracebackhide__ = True
        found = fitting(expected, self.events)
        if not found:
            raise AssertionError(f"No message fits {shown(expected)}.\n{nearest(expected, self.events)}")
        return found[0]

    async def wait_for(self, count: int = 1, event: str | None = None, timeout: float = 5.0) -> list[Fields]:
        """Wait until `count` messages are here, those that came before included, and give all of them.

        With `event`, only tracks of that name count. From any loop, also while the client works on another one.

        Raises:
            AssertionError: `timeout` seconds were not enough; shows what there is.
        """
        __tracebackhide__ = True
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(changed.set)
            except RuntimeError:
                pass  # the loop is gone, and whoever waited on it

        self._waiting.add(wake)
        try:
            async with asyncio.timeout(timeout):
                while len(found := self._named(event)) < count:
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            wanted = "messages" if event is None else f"tracks of {shown(event)}"
            came = f"{len(self._named(event))} of {count} {wanted} came within {timeout:g} s."
            raise AssertionError(f"{came}\n{listed(self.events)}") from None
        finally:
            self._waiting.discard(wake)
        return found

    def _named(self, event: str | None) -> list[Fields]:
        return [message for message in self.events if event is None or message.get("event") == event]

    def objections(self, start: int = 0) -> str:
        """What Segment would drop, or finds against its spec, among the messages from the index `start` on, as text.

        Empty: nothing. An id that came before counts, whatever `start` is.
        """
        seen: set[str] = set()
        said: list[str] = []
        for index, message in enumerate(self.events):
            found = [verdict for verdict in judge(message) if verdict.severity != "style"]
            if message["messageId"] in seen:
                found.insert(0, DUPLICATE_ID)
            seen.add(message["messageId"])
            if found and index >= start:
                said.append(headline(message))
                said.extend(
                    f"  {verdict.severity} ({verdict.rule}): {verdict.path}: {verdict.text}" for verdict in found
                )
        return "\n".join(said)


@contextmanager
def recording() -> Iterator[Recording]:
    """A `Recording`, whose client is closed at the end of the block, whatever became of the loop that it ran on.

    That end waits, so the block stands around the loop. Within a coroutine, a `Client` with a `RecordingTransport` is
    opened and closed as any other.
    """
    recorded = Recording()
    try:
        yield recorded
    finally:
        # A thread of its own: the loop here may be gone, at rest, or running.
        with start_blocking_portal() as portal:
            portal.call(recorded.client.aclose)


# --- the endpoint, for those who have no loop to run it on


class RunningEndpoint:
    """The local endpoint in a thread of its own; from `running_endpoint`, or the fixture `segment_endpoint`.

    Attributes:
        url: for `Client(host=…)`, `SEGMENT_HOST`, or another SDK's option.
    """

    def __init__(self, endpoint: Endpoint, portal: BlockingPortal) -> None:
        self.url = endpoint.url
        self._endpoint = endpoint
        self._portal = portal

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events held, oldest first, as ``GET /_dev/events`` shows them: ``message``, ``verdicts``, and more."""
        held = self._portal.call(lambda: self._endpoint.events)
        return [orjson.loads(orjson.dumps(event.as_dict())) for event in held]

    def clear(self) -> None:
        """Forget all events, counts and ids."""
        self._portal.call(self._endpoint.clear)


@contextmanager
def running_endpoint() -> Iterator[RunningEndpoint]:
    """The local endpoint on a free port of this machine, within the block."""
    from .devserver import serve

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serve()) as endpoint:
        yield RunningEndpoint(endpoint, portal)
