"""The client: the six calls, and the parts behind them wired together.

Each call builds its message (`_message.build`), has it completed and encoded (`_outgoing`), and queues it
(`_pipeline.admission`). Which loop sends it, and flush, are `_lifecycle.owner`'s; the close is `_lifecycle.closing`'s.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from signal import SIGTERM, Signals
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from . import _options
from ._calls import NowaitCalls
from ._exceptions import MessageError, QueueFull, SpoolUnavailable
from ._hooks import returns_coroutine
from ._http.transport import Transport
from ._lifecycle.owner import LoopOwner
from ._lifecycle.waiting import Host
from ._message import build as _build
from ._message.build import Fields, ObjectLike, Timestamp, UserID, checked
from ._message.conversions import converting
from ._options import BeforeSend, Network
from ._outcome import Statistics
from ._outgoing import Outgoing
from ._pipeline.admission import Overflow
from ._pipeline.auth import OAuth
from ._pipeline.clock import LoopClock
from ._pipeline.delivery import Delivery
from ._pipeline.pipeline import Pipeline, PipelineOptions
from ._pipeline.reports import OnError
from ._pipeline.retry import RetryPolicy
from ._plan_check import OnViolation, PlanCheck, check_on_violation
from ._signals import exit_on
from .events import TrackEvent
from .instrumentation import Request
from .messages import MAX_MESSAGE_BYTES, Defaults, Message

if TYPE_CHECKING:
    from .plans import Plan
    from .spool._protocol import Spool


class Client:
    """Sends messages to one Segment source.

    Use it as ``async with Client(key) as client``, or keep one at module level: the first awaited call opens it on the
    running loop, and a later loop continues where an earlier one ended.

    Args:
        write_key: the source's write key; surrounding white space is stripped. `None`: the environment's
            ``SEGMENT_WRITE_KEY``. With ``send=False`` no key is needed.
        region: ``"us"`` or ``"eu"``: the workspace's region. A key works only in its own region.
        host: another origin (a proxy, a custom domain, a local endpoint), with or without ``/v1`` or ``/v1/batch``.
            `None`: the environment's ``SEGMENT_HOST`` if it is set, else Segment's in `region`.
        flush_at: a batch of this many messages is sent at once.
        flush_interval: maximum seconds a message waits before its batch is sent.
        max_queue_size: messages that may be pending, in flight included.
        max_queue_bytes: bytes of JSON that may be pending.
        overflow: what happens when the queue is full. ``"wait"``: the caller waits. ``"drop_newest"``: the message is
            accepted and dropped at once. ``"drop_oldest"``: the oldest messages that are not in flight are dropped, at
            most a tenth of the bound at a time. ``"raise"``: `QueueFull`.
        overflow_timeout: with ``"wait"``, seconds that a full queue may hold up callers, counted from the moment it
            became full; after that, messages are accepted and dropped at once. `None`: wait as long as it takes.
        max_in_flight: concurrent requests while there is a backlog; 1 keeps the order.
        gzip: compress bodies, with `isal` where the extra ``speedups`` is installed.
        timeout: seconds for one request, connecting included.
        retry: how often and for how long to retry. `None`: as `RetryPolicy` does by default.
        close_timeout: seconds that `aclose` may flush.
        before_send: called with each message before it is queued: a dict of its own, with the values as they travel
            (dates are text, models are dicts). Return it, changed or not; return `None` to drop it. An exception drops
            the message too, and so does a message that Segment would drop. With a list, each function gets what the one
            before it returned; `segment_async.hooks` has ready-made ones. `None`: messages are queued as they are.
        on_error: called on the client's loop with a `DeliveryError` and the messages that failed or were dropped;
            sync or async. A message that `on_invalid` drops is as the call gave it, with `None` in place of each value
            that cannot be encoded. `None`: failures and drops are only counted, and logged where you may want to act.
        oauth: send OAuth tokens instead of the write key in the header; needs the extra ``oauth``. `None`: the write key
            is sent.
        spool: a file's path, or a `Spool`. A message is on disk when its call returns; what could not be delivered
            is sent by the next process. A spool belongs to one write key and host. For its options see
            `segment_async.spool.SQLiteSpool`. `None`: messages are kept in memory only.
        deliver: `False`: only hand messages over to the spool; another process delivers them, such as a relay
            (`segment_async.relay`). Their outcome is `Status.HANDED_OVER`.
        transport: sends requests instead of aiohttp; `timeout` applies to it as well. `None`: an `HTTPTransport`.
        proxy: address of an HTTP proxy for aiohttp. `None`: no proxy, unless `trust_env` is set.
        ssl_context: for aiohttp, such as one with a private certificate authority; it must verify. `None`: the system's
            authorities.
        trust_env: take what `proxy` and `ssl_context` don't say from the environment when the client is made: the proxy
            from ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``, certificate authorities from
            ``SSL_CERT_FILE``, ``SSL_CERT_DIR``, ``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE``.
        allow_http: allow a plain ``http://`` host beyond loopback. ``SEGMENT_ALLOW_HTTP=1`` in the environment does too.
        send: `False`: check and count messages, send nothing, and don't touch the spool.
        on_invalid: what happens to a message that Segment would drop, or that cannot be encoded. ``"raise"``: the call
            raises `MessageError`. ``"drop"``, for production: the message is accepted and at once dropped, with the
            reason ``invalid``, and a warning that names the field is logged at most once a minute. With ``"drop"``, a
            message that the spool cannot store is dropped as well (``spool_unavailable``).
        default: as in `json.dumps`: gets a value of a type that has no conversion, and returns one that has; it raises
            `TypeError` for what it does not know. `bound`, `bind` and `messages.Builders` take one of their own.
            `None`: such a value cannot be encoded.
        defaults: `context`, `integrations` and `properties` that every message gets, the last for track, page and screen
            messages. They are merged key by key, one level deep, below those of `bound` blocks and of the call itself.
            `None`: there are none.
        plan: a tracking plan, or its JSON file: each message is checked against it, as it is sent. Needs the extra
            ``plans``. `None`: nothing is checked against a plan.
        on_violation: what a message does that violates the plan; it is never dropped. ``"warn"``: it is logged, once
            per event and field. ``"raise"``: the call raises `MessageError`; not together with ``on_invalid="drop"``.
            ``"ignore"``: nothing. Or a plain function that gets the message and its verdicts, in the thread of the
            call; an exception in it is logged once.

    Raises:
        ValueError: an option, or a variable of the environment, is wrong, contradicts another, or would put the key at
            risk. `MessageError`, which is a `ValueError`: the defaults cannot be sent.
        OSError: the plan's file cannot be read.
        ImportError: `oauth` or `plan` is given and its extra is not installed.
    """

    @_options.explains_official_options
    def __init__(
        self,
        write_key: str | None = None,
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
        before_send: BeforeSend | Sequence[BeforeSend] | None = None,
        on_error: OnError | None = None,
        oauth: OAuth | None = None,
        spool: str | PathLike[str] | Spool | None = None,
        deliver: bool = True,
        transport: Transport | None = None,
        proxy: str | None = None,
        ssl_context: ssl_module.SSLContext | None = None,
        trust_env: bool = False,
        allow_http: bool = False,
        send: bool = True,
        on_invalid: Literal["raise", "drop"] = "raise",
        default: Callable[[Any], Any] | None = None,
        defaults: Defaults | None = None,
        plan: str | PathLike[str] | Mapping[str, Any] | Plan | None = None,
        on_violation: OnViolation = "warn",
    ) -> None:
        _options.check_flags(gzip=gzip, deliver=deliver, trust_env=trust_env, allow_http=allow_http, send=send)
        write_key = _options.checked_key(write_key, send=send)
        allow_http = allow_http or _options.environment_allows_http()
        network = Network(timeout, proxy, ssl_context, trust_env)
        _options.check_region(region)
        _options.check_times(timeout, close_timeout)
        _options.check_on_invalid(on_invalid)
        self._observers: list[Callable[[Request], object]] = []
        options = PipelineOptions(
            write_key=write_key,
            flush_at=flush_at,
            flush_interval=flush_interval,
            max_queue_size=max_queue_size,
            max_queue_bytes=max_queue_bytes,
            overflow=overflow,
            overflow_timeout=overflow_timeout,
            max_in_flight=max_in_flight,
            gzip=gzip,
            timeout=timeout if transport is not None else None,
            retry=retry if retry is not None else RetryPolicy(),
            on_error=on_error,
            deliver=deliver,
            observers=self._observers,
        )
        _options.check_pipeline(options)
        transport = _options.transport_for(
            transport, host, region, network, allow_http=allow_http, has_oauth=oauth is not None
        )
        now, note = self._now, self._note_failure
        auth = _options.auth_for(
            write_key, oauth, region, network, options.retry, now, note, allow_http=allow_http, send=send
        )
        _options.check_spool(spool, deliver=deliver, overflow=overflow)
        keeper = _options.spool_for(spool, write_key, transport, send=send)

        def make(clock: LoopClock, host: Host) -> Pipeline:
            return Pipeline(options, transport, auth, keeper, clock, host)

        self._owner = LoopOwner(make, transport, auth, close_timeout)
        check_on_violation(on_violation)
        if plan is not None:
            _options.check_raises(on_invalid, on_violation)
        self._outgoing = Outgoing(
            self._owner,
            max_bytes=min(MAX_MESSAGE_BYTES, max_queue_bytes),
            before_send=_options.before_send_for(before_send),
            send=send,
            drops_invalid=on_invalid == "drop",
            convert=converting(default),
            defaults=defaults,
            plan_check=None if plan is None else PlanCheck(plan, on_violation),
        )

    def _now(self) -> float:
        return self._owner.clock.now()

    def _note_failure(self, error: str, delay: float) -> None:
        self._owner.pipeline.note_failure(error, delay)

    def __repr__(self) -> str:
        if not hasattr(self, "_owner"):
            # A traceback of the constructor's own may show it.
            return "<Client (constructor failed)>"
        now = self.statistics()
        return f"<Client {now.accepted} accepted, {now.pending} pending>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client cannot be copied or pickled; make one in each process, such as at module level")

    # -- the six calls

    async def track(
        self,
        user_id: UserID | None = None,
        event: str | TrackEvent | None = None,
        properties: ObjectLike | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: ObjectLike | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> Delivery:
        """Record an action of a user (https://segment.com/docs/connections/spec/track/).

        Returns once the message is accepted, not once it is delivered; await the returned `Delivery` for that. If you
        cancel the call while it waits for room in the queue, the message is not accepted. With a spool the call returns
        once the message is on disk; if you cancel it while it waits for the disk, the message stays accepted.

        Args:
            user_id: the user's id in your database. This or `anonymous_id` is required, here or in `bound()`.
            event: the action's name, such as ``"Order Completed"``; or a generated event, which holds the properties.
            properties: details of the action.
            anonymous_id: an id for a user whom you don't know yet.
            context: facts about the situation, such as ``{"ip": "203.0.113.7"}``.
            integrations: destinations to switch on or off, such as ``{"All": False, "Mixpanel": True}``.
            timestamp: when it happened, a `datetime` or ISO 8601 text. `None`: now.
            message_id: Segment deduplicates by it. `None`: a new unique id.

        Raises:
            MessageError: Segment would drop the message; names the field.
            MessageTooLarge: the message has more than 32,768 bytes of JSON, or more than `max_queue_bytes`.
            QueueFull: only with ``overflow="raise"``.
            SpoolUnavailable: the spool could not store the message; it was not accepted, unless `maybe_stored` is set.
            ClientClosed: `aclose` was called.
        """
        try:
            delivery, body = self._take(
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
        except MessageError as error:
            delivery, body = self._outgoing.invalid(error, _build.given("track", locals()))
        return await self._put(delivery, body) if body else delivery

    async def identify(
        self,
        user_id: UserID | None = None,
        traits: ObjectLike | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: ObjectLike | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> Delivery:
        """Record who a user is, with traits (https://segment.com/docs/connections/spec/identify/).

        It waits and raises as `track` does.

        Args:
            user_id: the user's id in your database. This or `anonymous_id` is required, here or in `bound()`.
            traits: facts about the user, such as ``{"email": "ada@example.com"}``.
            anonymous_id: an id for a user whom you don't know yet.
            context: facts about the situation, such as ``{"ip": "203.0.113.7"}``.
            integrations: destinations to switch on or off, such as ``{"All": False, "Mixpanel": True}``.
            timestamp: when it happened, a `datetime` or ISO 8601 text. `None`: now.
            message_id: Segment deduplicates by it. `None`: a new unique id.
        """
        try:
            delivery, body = self._take(
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
        except MessageError as error:
            delivery, body = self._outgoing.invalid(error, _build.given("identify", locals()))
        return await self._put(delivery, body) if body else delivery

    async def page(
        self,
        user_id: UserID | None = None,
        category: str | None = None,
        name: str | None = None,
        properties: ObjectLike | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: ObjectLike | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> Delivery:
        """Record a page view (https://segment.com/docs/connections/spec/page/).

        It waits and raises as `track` does.

        Args:
            user_id: the user's id in your database. This or `anonymous_id` is required, here or in `bound()`.
            category: a group of pages, such as ``"Docs"``.
            name: the page's name, such as ``"Pricing"``.
            properties: details of the page, such as ``{"url": "https://example.com/pricing"}``.
            anonymous_id: an id for a user whom you don't know yet.
            context: facts about the situation, such as ``{"ip": "203.0.113.7"}``.
            integrations: destinations to switch on or off, such as ``{"All": False, "Mixpanel": True}``.
            timestamp: when it happened, a `datetime` or ISO 8601 text. `None`: now.
            message_id: Segment deduplicates by it. `None`: a new unique id.
        """
        try:
            delivery, body = self._take(
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
        except MessageError as error:
            delivery, body = self._outgoing.invalid(error, _build.given("page", locals()))
        return await self._put(delivery, body) if body else delivery

    async def screen(
        self,
        user_id: UserID | None = None,
        category: str | None = None,
        name: str | None = None,
        properties: ObjectLike | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: ObjectLike | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> Delivery:
        """Record a screen view of a mobile app (https://segment.com/docs/connections/spec/screen/).

        It waits and raises as `track` does.

        Args:
            user_id: the user's id in your database. This or `anonymous_id` is required, here or in `bound()`.
            category: a group of screens.
            name: the screen's name.
            properties: details of the screen.
            anonymous_id: an id for a user whom you don't know yet.
            context: facts about the situation, such as ``{"ip": "203.0.113.7"}``.
            integrations: destinations to switch on or off, such as ``{"All": False, "Mixpanel": True}``.
            timestamp: when it happened, a `datetime` or ISO 8601 text. `None`: now.
            message_id: Segment deduplicates by it. `None`: a new unique id.
        """
        try:
            delivery, body = self._take(
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
        except MessageError as error:
            delivery, body = self._outgoing.invalid(error, _build.given("screen", locals()))
        return await self._put(delivery, body) if body else delivery

    async def group(
        self,
        user_id: UserID | None = None,
        group_id: UserID | None = None,
        traits: ObjectLike | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: ObjectLike | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> Delivery:
        """Record that a user belongs to a group (https://segment.com/docs/connections/spec/group/).

        It waits and raises as `track` does.

        Args:
            user_id: the user's id in your database. This or `anonymous_id` is required, here or in `bound()`.
            group_id: the id of the company, team or account. Required.
            traits: facts about the group, such as ``{"name": "Acme", "plan": "enterprise"}``.
            anonymous_id: an id for a user whom you don't know yet.
            context: facts about the situation, such as ``{"ip": "203.0.113.7"}``.
            integrations: destinations to switch on or off, such as ``{"All": False, "Mixpanel": True}``.
            timestamp: when it happened, a `datetime` or ISO 8601 text. `None`: now.
            message_id: Segment deduplicates by it. `None`: a new unique id.
        """
        try:
            delivery, body = self._take(
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
        except MessageError as error:
            delivery, body = self._outgoing.invalid(error, _build.given("group", locals()))
        return await self._put(delivery, body) if body else delivery

    async def alias(
        self,
        previous_id: UserID | None = None,
        user_id: UserID | None = None,
        *,
        anonymous_id: UserID | None = None,
        context: ObjectLike | None = None,
        integrations: Mapping[str, Any] | None = None,
        timestamp: Timestamp | None = None,
        message_id: UserID | None = None,
    ) -> Delivery:
        """Record that two ids belong to one user (https://segment.com/docs/connections/spec/alias/).

        It waits and raises as `track` does.

        Args:
            previous_id: the id that the user had so far, such as an anonymous one. Required.
            user_id: the id that the user has from now on. Required.
            anonymous_id: an id for a user whom you don't know yet.
            context: facts about the situation, such as ``{"ip": "203.0.113.7"}``.
            integrations: destinations to switch on or off, such as ``{"All": False, "Mixpanel": True}``.
            timestamp: when it happened, a `datetime` or ISO 8601 text. `None`: now.
            message_id: Segment deduplicates by it. `None`: a new unique id.
        """
        try:
            delivery, body = self._take(
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
        except MessageError as error:
            delivery, body = self._outgoing.invalid(error, _build.given("alias", locals()))
        return await self._put(delivery, body) if body else delivery

    # -- messages in general

    async def enqueue(self, message: Message | Mapping[str, Any]) -> Delivery:
        """Queue a message that `messages` built, or any dict of that shape, waiting while the queue is full.

        Returns once the message is accepted, not once it is delivered. If you cancel the call while it waits for room
        in the queue, the message is not accepted. Waits for a spool, and raises, as `track` does.
        """
        try:
            delivery, body = self._take(checked(message))
        except MessageError as error:
            delivery, body = self._outgoing.invalid(error, _build.given_message(message))
        return await self._put(delivery, body) if body else delivery

    def enqueue_nowait(self, message: Message | Mapping[str, Any]) -> Delivery:
        """Queue a message at once, from any thread, with or without a running loop.

        It cannot wait: when `enqueue` would, the message is accepted and dropped at once (``queue_full``). Until a loop
        opens the client it only queues; if none ever does, the drain at the interpreter's exit sends. With a spool it
        does not wait for the disk; what that refuses is dropped (``spool_unavailable``).

        Raises:
            MessageError: Segment would drop the message; names the field.
            MessageTooLarge: the message has more than 32,768 bytes of JSON, or more than `max_queue_bytes`.
            QueueFull: only with ``overflow="raise"``.
            ClientClosed: `aclose` was called.
        """
        try:
            return self._enqueue_nowait(checked(message))
        except MessageError as error:
            return self._refused(error, _build.given_message(message))

    @property
    def nowait(self) -> NowaitCalls:
        """The six calls without await, as in ``client.nowait.track("user-1", "Order Completed")``.

        Each does what `enqueue_nowait` does.
        """
        return NowaitCalls(self._enqueue_nowait, self._refused)

    def _enqueue_nowait(self, message: Fields) -> Delivery:
        owner = self._owner
        owner.check_process()
        owner.pipeline.admission.check_open()
        if asyncio._get_running_loop() is not None:
            owner.run_here()
        delivery, body, _ = self._outgoing.encoded(message)
        owner.hold()
        if body:
            try:
                delivery = owner.pipeline.put_nowait(delivery, body)
            except QueueFull:
                owner.pipeline.admission.reject()
                raise
            if not owner.has_run:
                owner.note_waiting()
        return delivery

    def statistics(self) -> Statistics:
        """A consistent snapshot of the counters; callable from any thread."""
        return self._owner.statistics()

    def observe(self, listener: Callable[[Request], object]) -> None:
        """Call `listener` with each request once it is over, on the client's loop; for metrics and traces.

        It must not block. An exception in it is logged once and ignored.

        Raises:
            ValueError: it is not a plain function.
        """
        if not callable(listener) or returns_coroutine(listener):
            raise ValueError("listener must be a plain function, which is called on the client's loop and not awaited")
        self._observers.append(listener)

    # -- flush and close

    @property
    def close_timeout(self) -> float:
        """The option: seconds that `aclose` may flush."""
        return self._owner.close_timeout

    async def flush(self, *, timeout: float | None = None) -> int:
        """Send what is queued, and wait until every message accepted before the call has its outcome.

        Then `on_error` was called for those that failed or were dropped; an asynchronous one has begun. Awaited on another
        loop than the one that works for the client, it may return a moment before.

        Returns how many messages are left after `timeout` seconds (`None`: no limit); 0 means all are settled.
        Cancelling it leaves the messages alone. It does not shorten a back-off, nor a pause that Segment asked for.
        """
        _check_asyncio()
        return await self._owner.flush(timeout)

    async def aclose(self) -> None:
        """Accept no new messages, flush within `close_timeout`, then drop what is left, with one warning.

        With a spool, what is left stays on disk. Calling it twice is fine, also concurrently. If it is cancelled, it
        still runs within its limit and raises the cancellation afterwards; a second cancellation ends it at once. The
        client is closed in any case.

        `on_error` is called within `close_timeout`, and for one second more for what is dropped then; calls for which
        that is too short are skipped, and asynchronous ones that have not ended by then are cancelled, with a warning.
        """
        _check_asyncio()
        await self._owner.aclose()

    async def __aenter__(self) -> Self:
        self._owner.pipeline.admission.check_open()
        _check_asyncio()
        self._owner.run_here()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        await self._owner.aclose(cancels=isinstance(error, asyncio.CancelledError))

    def drain_on_signals(self, *signals: Signals) -> None:
        """Make these signals (SIGTERM if none is given) end the program as `sys.exit` would.

        `async with` blocks are left then, the client is closed, and what is unsent gets a last drain. A signal that
        already has a handler keeps it.

        uvicorn handles SIGTERM and Ctrl+C itself, and raises them again when it has stopped, which ends the process at
        once unless this was called before it started: in the program that runs it, or in the module of ``uvicorn
        module:app``. In processes of its options ``--workers`` and ``--reload`` the call comes too late and does
        nothing. `SegmentMiddleware` and `lifespan` of `segment_async.asgi` need no signals, only the server's lifespan
        events.

        Raises:
            ValueError: not called from the main thread, which alone can give a signal a handler; a signal that has one
                raises nothing.
        """
        exit_on(*(signals or (SIGTERM,)))

    # -- the way of a message to the queue

    def _take(self, message: Fields) -> tuple[Delivery, bytes]:
        """The message's delivery, and its body for `_put` if it has to wait; no body: it is accepted, or dropped at once."""
        owner = self._owner
        clock = owner.clock
        # As `run_here` looks first: asking for the running loop costs Python 3.11 a system call.
        loop = clock.loop
        if loop is None or clock.thread != get_ident() or not loop.is_running():
            _check_asyncio()
            owner.run_here()
        delivery, body, size = self._outgoing.encoded(message)
        if body and not owner.pipeline.admission.offer(delivery, size):
            return delivery, body
        if not owner.is_held:
            owner.hold()
        return delivery, b""

    async def _put(self, delivery: Delivery, body: bytes) -> Delivery:
        owner = self._owner
        owner.hold()
        try:
            return await owner.pipeline.put(delivery, body, shares_loop=owner.run_here())
        except (QueueFull, SpoolUnavailable) as error:
            dropped = self._outgoing.not_taken(error, delivery, body)
            if dropped is None:
                raise
            return dropped

    def _refused(self, error: MessageError, given: Fields) -> Delivery:
        return self._outgoing.invalid(error, given)[0]


def _check_asyncio() -> None:
    """Raises:
    RuntimeError: no asyncio event loop runs in this thread.
    """
    if asyncio._get_running_loop() is None:
        raise RuntimeError(
            "The client's coroutines need asyncio, and no asyncio event loop is running here. Trio is not supported: run "
            "the program on asyncio (such as anyio.run(main, backend='asyncio')), or queue with client.enqueue_nowait()."
        )
