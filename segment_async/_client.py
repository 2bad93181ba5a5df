"""The client: the calls, and the wiring of the stations behind them.

Each call builds its message (`_build`), fills in what is bound around it (`_context`), encodes it once (`messages`)
and queues it (`_queue`). Which loop sends it, flush, close and the rest of its life are `_life`'s.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import ssl as ssl_module
import time
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from os import PathLike
from signal import SIGTERM, Signals
from threading import get_ident
from types import TracebackType
from typing import Any, Final, Literal, Self

import orjson

from ._exceptions import MessageError
from ._http.origin import batch_url, origin
from ._http.transport import HTTPTransport, Transport
from ._lifecycle import process as _exit
from ._lifecycle.owner import Life, Parts
from ._message import build as _build
from ._message.build import Fields, Timestamp, UserID, checked
from ._message.context import innermost
from ._message.encode import encode, plain
from ._message.ids import new_message_id
from ._outcome import BatchResult, Statistics, Status
from ._pipeline.auth import Auth, Basic, OAuth, Tokens
from ._pipeline.batch import MAX_BATCH_MESSAGES
from ._pipeline.consumer import Sender
from ._pipeline.delivery import Delivery, Record
from ._pipeline.queue import Overflow, Queue
from ._pipeline.reports import OnError, Reports, stack_of
from ._pipeline.retry import RetryPolicy
from ._pipeline.spool_feed import Spooling
from ._version import __version__
from .instrumentation import Request
from .messages import MAX_MESSAGE_BYTES, Message, body_of, too_large
from .spool._protocol import Spool

_log = logging.getLogger("segment_async")

_AUTH_SERVERS: Final = {"us": "https://oauth2.segment.io", "eu": "https://oauth2.eu1.segmentapis.com"}
_HOSTS: Final = {"us": "https://api.segment.io", "eu": "https://events.eu1.segmentapis.com"}
# Encoded once: 0.1 µs of each call.
_LIBRARY_FIELDS: Final = {"name": "segment-async", "version": __version__}
_LIBRARY: Final = orjson.Fragment(orjson.dumps(_LIBRARY_FIELDS))
_CONTEXT: Final = {"library": _LIBRARY}

BeforeSend = Callable[[dict[str, Any]], Mapping[str, Any] | None]


class Client:
    """Sends messages to one Segment source.

    Use it as ``async with Client(key) as client``, or keep one for the life of a module: the first awaited call
    opens it on the running loop, and a later loop carries on where an earlier one ended.

    Args:
        write_key: of the source; white space around it is stripped.
        region: ``"us"`` or ``"eu"``: where the workspace lives. A key of one region is worth nothing in the other.
        host: another origin (a proxy, a custom domain, a local endpoint), with or without ``/v1``. Wins over the
            environment's ``SEGMENT_HOST``, which wins over `region`.
        flush_at: messages that make a batch due at once.
        flush_interval: seconds that the oldest message waits for company.
        max_queue_size: messages that may be pending, in flight included.
        max_queue_bytes: bytes of JSON that may be pending.
        overflow: what happens when the queue is full. ``"wait"``: the caller waits; ``"drop_newest"``: the message is
            accepted and at once dropped; ``"drop_oldest"``: the oldest that are not in flight are dropped, a whole batch at a time;
            ``"raise"``: `QueueFull`.
        overflow_timeout: with ``"wait"``: seconds that a full queue may hold callers up, counted from when it became
            full; then messages are accepted and at once dropped. `None`: wait as long as it takes.
        max_in_flight: requests at once while there is a backlog; 1 keeps the order.
        gzip: compress bodies, with `isal` where the extra ``speedups`` is installed.
        timeout: seconds for one request, connecting included.
        retry: how long and how often to try.
        close_timeout: seconds that `aclose` may flush.
        before_send: gets each message before it is queued, as a dict of its own with the values as they travel (dates
            are text, models are dicts), and gives it back, changed or not; `None` drops it, and so does an exception,
            or a message that Segment would drop.
        on_error: called on the client's loop with a `DeliveryError` and the messages that failed or were dropped;
            sync or async.
        oauth: credentials for tokens in place of the write key in the header; needs the extra ``oauth``.
        spool: a file's path, or a `Spool`: a message is on disk when its call returns, and what could not be delivered
            is there for the next process. What one file may keep, and what happens when the disk refuses, are the
            options of `segment_async.spool.SQLiteSpool`.
        transport: carries requests in place of aiohttp; its `timeout` is the client's.
        proxy: an HTTP proxy's address for aiohttp; `None`: none, not even the environment's.
        ssl_context: for aiohttp, such as one that knows a private authority; it must verify. `None`: the system's
            authorities.
        allow_http: let `host` be plain ``http://`` beyond loopback.
        send: `False`: check and count, send nothing, and leave the spool alone.

    Raises:
        ValueError: an option is out of range, contradicts another, or would put the key at risk.
        ImportError: `oauth` is given and its extra is not installed.
    """

    def __init__(
        self,
        write_key: str,
        *,
        region: Literal["us", "eu"] = "us",
        host: str | None = None,
        flush_at: int = 100,
        flush_interval: float = 0.5,
        max_queue_size: int = 10_000,
        max_queue_bytes: int = 33_554_432,
        overflow: Overflow = "wait",
        overflow_timeout: float | None = 1.0,
        max_in_flight: int = 4,
        gzip: bool = True,
        timeout: float = 15.0,
        retry: RetryPolicy | None = None,
        close_timeout: float = 5.0,
        before_send: BeforeSend | None = None,
        on_error: OnError | None = None,
        oauth: OAuth | None = None,
        spool: str | PathLike[str] | Spool | None = None,
        transport: Transport | None = None,
        proxy: str | None = None,
        ssl_context: ssl_module.SSLContext | None = None,
        allow_http: bool = False,
        send: bool = True,
    ) -> None:
        write_key = _checked_key(write_key)
        _check_words(region=(region, _HOSTS), overflow=(overflow, Overflow.__args__))  # type: ignore[attr-defined]  # of a Literal
        _check_whole(flush_at=flush_at, max_queue_size=max_queue_size, max_queue_bytes=max_queue_bytes)
        _check_whole(max_in_flight=max_in_flight)
        _check_seconds(flush_interval=flush_interval, overflow_timeout=overflow_timeout, close_timeout=close_timeout)
        _check_seconds(timeout=timeout)
        _check_together(flush_at, timeout, transport, host)
        _check_hooks(before_send, on_error)
        if transport is not None and oauth is None and (proxy is not None or ssl_context is not None):
            raise ValueError("proxy and ssl_context are aiohttp's: a transport of your own sees to its own")
        own_timeout = timeout if transport is not None else None
        if transport is None:
            transport = _http_transport(host, region, timeout, proxy, ssl_context, allow_http)
        policy = retry if retry is not None else RetryPolicy()
        auth: Auth = Basic(write_key)
        if oauth is not None:
            server = origin(oauth.auth_server or _AUTH_SERVERS[region], allow_http=allow_http)
            tokens = HTTPTransport(f"{server}/token", timeout=timeout, proxy=proxy, ssl_context=ssl_context)
            auth = Tokens(
                oauth,
                server,
                tokens,
                policy,
                now=self._now,
                wall=time.time,
                chance=random.random,
            )

        # Nothing is to be sent, not even what an earlier process left on disk.
        keeper = _spool(spool) if send else None
        listeners: list[Callable[[Request], object]] = []

        def wire(life: Life) -> Parts:
            queue = Queue(max_queue_size, max_queue_bytes, overflow, overflow_timeout, life)
            reports = Reports(on_error, time.monotonic)
            spooling = None if keeper is None else Spooling(keeper, queue)
            sender = Sender(
                queue,
                transport,
                auth,
                policy,
                reports,
                spooling,
                write_key=write_key,
                flush_at=flush_at,
                flush_interval=flush_interval,
                max_in_flight=max_in_flight,
                gzip=gzip,
                timeout=own_timeout,
                chance=random.random,
                wall=time.time,
                listeners=listeners,
            )
            return queue, reports, sender, spooling

        self._life = Life(wire, transport, auth, close_timeout)
        self._most_bytes = min(MAX_MESSAGE_BYTES, max_queue_bytes)
        self._listeners = listeners
        self._before_send = before_send
        self._send = send

    def _now(self) -> float:
        return self._life.sender.now()

    def __repr__(self) -> str:
        if not hasattr(self, "_life"):
            # A traceback of the constructor's own may show it.
            return "<Client that was not made>"
        now = self.statistics()
        return f"<Client {now.accepted} accepted, {now.pending} pending>"

    # -- the six calls

    async def track(
        self,
        user_id: UserID | None = None,
        event: str | None = None,
        properties: Mapping[str, Any] | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: Mapping[str, Any] | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> Delivery:
        """Say that somebody did something (https://segment.com/docs/connections/spec/track/).

        Returns once the message is accepted, not once it is delivered; await the `Delivery` for that. Cancelled
        while it waits for room in the queue, the message is not accepted. With a spool it returns once the message
        is on disk; cancelled while it waits for that, the message stays accepted.

        Raises:
            MessageError: Segment would drop the message; names the field.
            MessageTooLarge: it has more than 32,768 bytes of JSON, or more than `max_queue_bytes`.
            QueueFull: only under ``overflow="raise"``.
            SpoolUnavailable: the disk refused; the message was not accepted.
            ClientClosed: `aclose` was called.
        """
        delivery, is_accepted = self._take(
            _build.track(
                user_id,
                event,
                properties,
                anonymous_id=anonymous_id,
                context=context,
                integrations=integrations,
                timestamp=timestamp,
                message_id=message_id,
            )
        )
        return delivery if is_accepted else await self._wait(delivery)

    async def identify(
        self,
        user_id: UserID | None = None,
        traits: Mapping[str, Any] | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: Mapping[str, Any] | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> Delivery:
        """Say who somebody is (https://segment.com/docs/connections/spec/identify/). As `track` otherwise."""
        delivery, is_accepted = self._take(
            _build.identify(
                user_id,
                traits,
                anonymous_id=anonymous_id,
                context=context,
                integrations=integrations,
                timestamp=timestamp,
                message_id=message_id,
            )
        )
        return delivery if is_accepted else await self._wait(delivery)

    async def page(
        self,
        user_id: UserID | None = None,
        category: str | None = None,
        name: str | None = None,
        properties: Mapping[str, Any] | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: Mapping[str, Any] | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> Delivery:
        """Say that somebody saw a page (https://segment.com/docs/connections/spec/page/). As `track` otherwise."""
        delivery, is_accepted = self._take(
            _build.page(
                user_id,
                category,
                name,
                properties,
                anonymous_id=anonymous_id,
                context=context,
                integrations=integrations,
                timestamp=timestamp,
                message_id=message_id,
            )
        )
        return delivery if is_accepted else await self._wait(delivery)

    async def screen(
        self,
        user_id: UserID | None = None,
        category: str | None = None,
        name: str | None = None,
        properties: Mapping[str, Any] | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: Mapping[str, Any] | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> Delivery:
        """Say that somebody saw a screen of an app (https://segment.com/docs/connections/spec/screen/).

        As `track` otherwise.
        """
        delivery, is_accepted = self._take(
            _build.screen(
                user_id,
                category,
                name,
                properties,
                anonymous_id=anonymous_id,
                context=context,
                integrations=integrations,
                timestamp=timestamp,
                message_id=message_id,
            )
        )
        return delivery if is_accepted else await self._wait(delivery)

    async def group(
        self,
        user_id: UserID | None = None,
        group_id: UserID | None = None,
        traits: Mapping[str, Any] | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: Mapping[str, Any] | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> Delivery:
        """Say that somebody belongs to a group (https://segment.com/docs/connections/spec/group/).

        `group_id` is required. As `track` otherwise.
        """
        delivery, is_accepted = self._take(
            _build.group(
                user_id,
                group_id,
                traits,
                anonymous_id=anonymous_id,
                context=context,
                integrations=integrations,
                timestamp=timestamp,
                message_id=message_id,
            )
        )
        return delivery if is_accepted else await self._wait(delivery)

    async def alias(
        self,
        previous_id: UserID | None = None,
        user_id: UserID | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: Mapping[str, Any] | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> Delivery:
        """Say that two ids are one person (https://segment.com/docs/connections/spec/alias/).

        `previous_id` and `user_id` are both required. As `track` otherwise.
        """
        delivery, is_accepted = self._take(
            _build.alias(
                previous_id,
                user_id,
                anonymous_id=anonymous_id,
                context=context,
                integrations=integrations,
                timestamp=timestamp,
                message_id=message_id,
            )
        )
        return delivery if is_accepted else await self._wait(delivery)

    # -- messages in general

    async def enqueue(self, message: Message | Mapping[str, Any]) -> Delivery:
        """Queue a message that `messages` built, or any dict of that shape, waiting while the queue is full.

        Returns once the message is accepted, not once it is delivered. Cancelled while it waits for room in the
        queue, the message is not accepted. Waits for a spool's disk, and raises, as `track` does.
        """
        delivery, is_accepted = self._take(checked(message))
        return delivery if is_accepted else await self._wait(delivery)

    def enqueue_nowait(self, message: Message | Mapping[str, Any]) -> Delivery:
        """Queue a message at once, from any thread, with or without a running loop.

        It cannot wait: where `enqueue` would, the message is accepted and at once dropped (``queue_full``). Until a
        loop opens the client it only queues; if none ever does, the drain at the interpreter's exit sends. With a
        spool it does not wait for the disk; what that refuses is dropped (``spool_unavailable``).

        Raises:
            MessageError: Segment would drop the message; names the field.
            MessageTooLarge: it has more than 32,768 bytes of JSON, or more than `max_queue_bytes`.
            QueueFull: only under ``overflow="raise"``.
            ClientClosed: `aclose` was called.
        """
        life = self._life
        life.check_process()
        life.queue.check_open()
        if asyncio._get_running_loop() is not None:
            life.serve_here()
        delivery = self._delivery(checked(message))
        if delivery.body and life.spooling is not None:
            life.hold()
            return life.spooling.append_nowait(delivery)
        if delivery.body and not life.queue.put_nowait(delivery, len(delivery.body)):
            return self._dropped(delivery.message_id, "queue_full", delivery.body)
        life.hold()
        return delivery

    def statistics(self) -> Statistics:
        """One consistent look at the counters, from any thread."""
        return self._life.queue.statistics()

    def observe(self, listener: Callable[[Request], object]) -> None:
        """Call this with each request once it is over, on the client's loop; for metrics and traces.

        It must not block. An exception in it is logged once, never more.
        """
        self._listeners.append(listener)

    # -- flush and close

    async def flush(self, *, timeout: float | None = None) -> int:
        """Send what is collected, and wait until every message accepted before the call has its outcome.

        Returns how many are left after `timeout` seconds (`None`: no limit); 0: all are settled. Cancelling it
        leaves the messages alone. A back-off is not cut short for it, nor is a pause that Segment asked for.
        """
        return await self._life.flush(timeout)

    async def aclose(self) -> None:
        """Take no new messages, flush within `close_timeout`, then drop what is left, with one warning.

        Safe to call twice, also at once. A cancellation that meets it lets it run within its limit and is raised
        then; a second one shortens the limit to nothing. The client is closed in any case.
        """
        await self._life.aclose()

    async def __aenter__(self) -> Self:
        self._life.queue.check_open()
        self._life.serve_here()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        await self._life.aclose(cancels=isinstance(error, asyncio.CancelledError))

    def drain_on_signals(self, *signals: Signals) -> None:
        """Let these signals (SIGTERM, if none is given) end the program as `sys.exit` would.

        So that blocks are left, the client is closed, and what is unsent gets its last drain. For plain programs:
        servers such as uvicorn see to it themselves. A signal that already has a handler keeps it.

        Raises:
            ValueError: not called from the main thread.
        """
        _exit.exit_on(*(signals or (SIGTERM,)))

    # -- the way of a message to the queue

    def _take(self, message: Fields) -> tuple[Delivery, bool]:
        """The message's delivery, and whether it is accepted; if not, it has to wait for room."""
        life = self._life
        # As `serve_here` looks at first: to ask for the running loop costs Python 3.11 a system call.
        sender = life.sender
        loop = sender.loop
        shares_loop = (loop is not None and sender.thread == get_ident() and loop.is_running()) or life.serve_here()
        delivery = self._delivery(message)
        body = delivery.body
        if body and (life.spooling is not None or not life.queue.offer(delivery, len(body), paced=shares_loop)):
            return delivery, False
        if not life.is_held:
            life.hold()
        return delivery, True

    async def _wait(self, delivery: Delivery) -> Delivery:
        life = self._life
        if life.spooling is not None:
            life.hold()
            return await life.spooling.append(delivery)
        if not await life.queue.put(delivery, len(delivery.body), paced=life.serve_here()):
            return self._dropped(delivery.message_id, "queue_full", delivery.body)
        life.hold()
        return delivery

    def _delivery(self, message: Fields) -> Delivery:
        """The message encoded, ready for the queue; without a body where it is dropped at once."""
        block = innermost.get()
        if block is not None:
            message = block.filled(message)
        message["context"] = {**message["context"], "library": _LIBRARY} if "context" in message else _CONTEXT
        if "messageId" not in message:
            message["messageId"] = new_message_id()
        if "userId" not in message and _lacks_identity(message):
            if block is None or not block.drops_without_identity:
                raise MessageError("userId", _NO_IDENTITY[message["type"] == "alias"])
            return self._dropped(message["messageId"], "no_identity", body_of(message))
        if self._before_send is None:
            body = encode(message)
        else:
            # In JSON's own types: nothing of the caller's is in the hook's hands, and nothing that comes only once.
            given = plain(message)
            given["context"]["library"] = _LIBRARY_FIELDS.copy()
            # The call is judged before the hook: a wrong one is the caller's to mend.
            body = body_of(given)
            asked = self._ask(self._before_send, given)
            if asked is None:
                return self._dropped(given["messageId"], "before_send", body)
            message, body = asked
        if len(body) > self._most_bytes:
            raise too_large(body, self._most_bytes)
        if not self._send:
            return self._dropped(message["messageId"], "disabled", body)
        # A copy, of the message's own size: orjson's buffer is ten times as large, and best used again at once.
        return Delivery(message["messageId"], b"%b" % body, self._life.queue.unread)

    def _ask(self, before_send: BeforeSend, message: Fields) -> tuple[Fields, bytes] | None:
        """What the application's hook makes of the message, and its JSON; `None`: drop it."""
        try:
            changed = before_send(message)
            if changed is None:
                return None
            message = {"messageId": message["messageId"], **checked(changed)}
            message["context"] = {**message.get("context", {}), "library": _LIBRARY}
            if _lacks_identity(message):
                raise MessageError("userId", _NO_IDENTITY[message["type"] == "alias"])
            return message, body_of(message)
        except Exception as fault:
            self._life.reports.warn_once(
                "before_send", "before_send failed; messages are dropped for it. Said once.\n%s", stack_of(fault)
            )
            return None

    def _dropped(self, message_id: str, reason: str, body: bytes) -> Delivery:
        """Accepted, counted, and settled at once."""
        life = self._life
        fate = BatchResult(Status.DROPPED, reason)
        life.queue.refuse(fate)
        record = Record(life)
        record.settle(0, 1, fate)
        life.reports.add(fate, lambda: (body,), life.sender.loop)
        if reason == "queue_full":
            life.reports.warn(reason, "The queue is full: messages are dropped until there is room again.")
        return Delivery(message_id, b"", record)


_NO_IDENTITY: Final = (
    "a message needs a user_id or an anonymous_id, from the call or from bound()",
    "an alias needs the user_id that the previous one becomes",
)


def _lacks_identity(message: Fields) -> bool:
    return "userId" not in message and ("anonymousId" not in message or message["type"] == "alias")


def _checked_key(write_key: str) -> str:
    if not isinstance(write_key, str) or not write_key.strip():
        raise ValueError("write_key must be the key of a Segment source; it stands in its settings, under API Keys")
    stripped = write_key.strip()
    if not stripped.isprintable() or not stripped.isascii() or ":" in stripped or " " in stripped:
        raise ValueError("write_key holds characters that no key of Segment's has")
    return stripped


def _check_words(**options: tuple[str, Any]) -> None:
    for name, (word, words) in options.items():
        if word not in tuple(words):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}")


def _check_whole(**options: int) -> None:
    for name, number in options.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a whole number from 1")


def _check_seconds(**options: float | None) -> None:
    for name, seconds in options.items():
        if seconds is None and name == "overflow_timeout":
            continue
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            raise ValueError(f"{name} must be a number of seconds from 0")


def _check_together(flush_at: int, timeout: float, transport: object, host: object) -> None:
    if flush_at > MAX_BATCH_MESSAGES:
        raise ValueError(f"flush_at must be {MAX_BATCH_MESSAGES:,} or less: Segment drops what a batch has beyond that")
    if timeout == 0:
        raise ValueError("timeout must be more than 0 seconds")
    if transport is not None and host is not None:
        raise ValueError("a transport knows its own address: give either it or a host")


def _check_hooks(before_send: object, on_error: object) -> None:
    for name, hook in (("before_send", before_send), ("on_error", on_error)):
        if hook is not None and not callable(hook):
            raise ValueError(f"{name} must be a function")
    if iscoroutinefunction(before_send) or iscoroutinefunction(type(before_send).__call__):
        raise ValueError("before_send must be a plain function, not a coroutine function: it runs within the call")


def _spool(spool: str | PathLike[str] | Spool | None) -> Spool | None:
    if spool is None or not isinstance(spool, (str, PathLike)):
        return spool
    from .spool._sqlite import SQLiteSpool

    return SQLiteSpool(spool)


def _http_transport(
    host: str | None,
    region: str,
    timeout: float,
    proxy: str | None,
    ssl_context: ssl_module.SSLContext | None,
    allow_http: bool,
) -> HTTPTransport:
    if host is None:
        host = os.environ.get("SEGMENT_HOST") or _HOSTS[region]
    url = batch_url(host, allow_http=allow_http)
    return HTTPTransport(url, timeout=timeout, proxy=proxy, ssl_context=ssl_context)
