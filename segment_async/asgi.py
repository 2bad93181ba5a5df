"""Middleware and lifespan for ASGI applications of any framework, or of none.

    app = SegmentMiddleware(app, client)

binds the visitor and the context of each request, so that `await client.track(event="…")` in a handler sends them.
`lifespan` opens and closes the client with the application; without it, the middleware flushes its client when the
server stops. `_web.visitor` reads the visitor and `_web.page_views` the response; this file wraps both around the
application and keeps their exceptions away from it.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any, Final, Literal

from . import Client, bind, bound
from ._checks import check_client, check_seconds
from ._hooks import HookRunner
from ._message.context import DeferredBound, innermost, leave
from ._signals import exits_on
from ._web.consent import GPC
from ._web.cookies import new_anonymous_id, set_anonymous_id
from ._web.options import check_functions, reader_for
from ._web.page_views import (
    EXCLUDED,
    TitleParser,
    allows_cookie,
    is_html,
    parse_name,
    properties_of,
    route_name,
)
from ._web.query import Mode
from ._web.request import Scope, asks_for_html, is_get
from ._web.shutdown import Lifespan as LifespanEvents
from ._web.visitor import NO_ANSWERS, NoIdentity, Visitor

__all__ = ["EXCLUDED", "SegmentMiddleware", "lifespan"]

ASGIMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

_log = logging.getLogger("segment_async")

_MARK: Final = "segment_async"
_NOT_OBSERVED: Final = Visitor()
_BODIES: Final = ("http.response.body", "http.response.pathsend", "http.response.zerocopysend")


def lifespan(
    write_key_or_client: str | Client | None = None, *, wrap: Lifespan | None = None, **options: Any
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """A lifespan for Starlette, FastAPI and similar frameworks: opens the client, puts it in the state, closes it.

    The client is ``state["segment"]``. With a write key (`None`: the environment's ``SEGMENT_WRITE_KEY``) and the client's
    `options`, each start of the application makes a new client. `wrap` is the application's own lifespan; the client is open before it starts and until it has ended.

    Raises:
        TypeError: the client is not a `segment_async.Client`, or `lifespan` itself was given to the framework.
        ValueError: options were passed together with a client.
    """
    if write_key_or_client is not None and not isinstance(write_key_or_client, str):
        try:
            check_client("lifespan", write_key_or_client, Client)
        except TypeError:
            # Not a client but the application: a framework calls with it whatever it was given as lifespan.
            if callable(write_key_or_client):
                raise TypeError('call lifespan: FastAPI(lifespan=lifespan("WRITE_KEY")), or with a Client') from None
            raise
    if isinstance(write_key_or_client, Client) and options:
        raise ValueError(f"pass {', '.join(options)} to the Client itself, not to lifespan")

    @asynccontextmanager
    async def opened(app: Any) -> AsyncGenerator[dict[str, Any], None]:
        given = write_key_or_client
        async with given if isinstance(given, Client) else Client(given, **options) as client:
            if wrap is None:
                yield {"segment": client}
                return
            async with wrap(app) as state:
                yield {**(state or {}), "segment": client}

    return opened


class SegmentMiddleware:
    """Binds the visitor and the context of each request, and sends page views if `page_views` is set.

    With a client of its own, it opens that when the server starts, and flushes it within `close_timeout` when the server
    stops, after the application's own shutdown; it leaves it open. The server must send lifespan events for that (uvicorn
    does unless told otherwise).

    If it is installed twice, the inner one does nothing for requests. An exception in it, or in a function that was passed to it, is
    logged once and never reaches the application; an asynchronous function has one second to finish.

    Args:
        client: sends the page views; `None`: the one that `lifespan` put in ``state["segment"]``.
        user_id: takes the scope, sync or async; returns `None` for an unknown user.
        trust_user_cookie: take the user id from the cookie ``ajs_user_id``, which any visitor can forge.
        trusted_proxies: networks whose `X-Forwarded-For` is trusted.
        no_identity: what happens to a call without any id. ``"skip"``: it is dropped and counted (``no_identity``).
            ``"mint"``: the request gets a new anonymous id, which Segment bills. ``"raise"``: it raises `MessageError`.
        set_cookie: give visitors of HTML pages the cookie of Segment's browser library if they have none.
        page_views: send a `page` call for each GET that was answered with HTML and a status of 2xx.
        page_name: takes the scope, sync or async; `None`: use the route's template, if the framework provides it.
        exclude: paths that are not pages, with all paths below them; replaces `EXCLUDED`. `*` matches any characters.
        bots: whether requests of programs count as page views. ``"skip"``: no; ``"include"``: yes.
        query: which query parameters are sent. ``"scrub"``: those that do not look like a secret; ``"utm"``: those of
            the campaign; ``"none"``; ``"all"``.
        consent: takes the scope, sync or async; returns the preferences by category, or `None` if they are not known.
        gpc: what Global Privacy Control does. ``"ignore"``: nothing; ``"drop"``: no page views and no cookie; a
            mapping: preferences that override those of `consent`.
        flush_on_response: most seconds that a response is delayed until everything is sent, for platforms that stop the
            processor after the response (Cloud Run). `None`: no response is delayed.

    Raises:
        TypeError: the client is not a `segment_async.Client`.
        ValueError: an option has none of these values, a function cannot be called, or a network is malformed.
    """

    def __init__(
        self,
        app: App,
        client: Client | None = None,
        *,
        user_id: Callable[[Scope], Any] | None = None,
        trust_user_cookie: bool = False,
        trusted_proxies: Iterable[str] = (),
        no_identity: NoIdentity = "skip",
        set_cookie: bool = False,
        page_views: bool = False,
        page_name: Callable[[Scope], Any] | None = None,
        exclude: Iterable[str] = EXCLUDED,
        bots: Literal["skip", "include"] = "skip",
        query: Mode = "scrub",
        consent: Callable[[Scope], Any] | None = None,
        gpc: GPC = "ignore",
        flush_on_response: float | None = None,
    ) -> None:
        if client is not None:
            check_client("SegmentMiddleware", client, Client)
        check_functions(page_name=page_name)
        if flush_on_response is not None:
            check_seconds(flush_on_response=flush_on_response)
        self.app = app
        self._drops_without_identity = no_identity != "raise"
        hooks = HookRunner()
        self._shutdown = None if client is None else _Shutdown(hooks, client, is_silent=flush_on_response is not None)
        self._flushes = flush_on_response is not None
        self._page_views = _PageViews(hooks, client, page_name, no_identity, flush_on_response)
        self._reader = reader_for(
            hooks,
            user_id=user_id,
            consent=consent,
            trust_user_cookie=trust_user_cookie,
            trusted_proxies=trusted_proxies,
            no_identity=no_identity,
            set_cookie=set_cookie,
            page_views=page_views,
            exclude=exclude,
            bots=bots,
            query=query,
            gpc=gpc,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" and self._shutdown is not None:
            await self._shutdown.run(self.app, scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket") or _MARK in scope:
            await self.app(scope, receive, send)
            return
        if self._shutdown is not None and not self._shutdown.is_checked:
            await self._shutdown.begin_without_events()
        scope[_MARK] = True
        reader, visitor = self._reader, _NOT_OBSERVED
        if reader.observes and is_get(scope):
            visitor = await reader.read(scope)
            read = visitor.encoded
        else:
            read = reader.later(scope, await reader.ask(scope) if reader.asks else NO_ANSWERS)
        # As `with bound(...)`, which takes four times as long.
        block = DeferredBound(read, self._drops_without_identity, innermost.get())
        token = innermost.set(block)
        try:
            if visitor.may_be_counted or visitor.may_get_cookie or self._flushes:
                await self._observed(scope, receive, send, visitor)
            else:
                await self.app(scope, receive, send)
        finally:
            leave(block, token)

    async def _observed(self, scope: Scope, receive: Receive, send: Send, visitor: Visitor) -> None:
        observer = _ResponseObserver(self._page_views, scope, send, visitor)
        try:
            await self.app(scope, receive, observer.send)
        except Exception:
            # The middleware that answers with an error page is further out: the response is still to come.
            await self._page_views.flush(scope)
            raise
        # Background tasks run after the response, and their calls are flushed as well.
        await self._page_views.flush(scope)


# Why a server says nothing when it stops, and what to do.
_SWITCHED_OFF: Final = ("uvicorn sends no lifespan events", "Run it without '--lifespan off'")
_AFTER_A_FAILURE: Final = (
    "The application raised an exception in its lifespan, and uvicorn goes on without its events",
    "Mend that (run it with '--lifespan on' to see the exception)",
)


class _Shutdown:
    """Opens a client that no `lifespan` opens on the server's loop, so that calls without await are sent, and flushes it
    when the server is about to stop.

    Attributes:
        is_checked: it is known, or was said, whether the server sends lifespan events; or that does not matter.
    """

    def __init__(self, hooks: HookRunner, client: Client, *, is_silent: bool) -> None:
        self._hooks = hooks
        self._client = client
        self.is_checked = self._is_silent = is_silent
        self._has_failed = False

    async def run(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        self.is_checked = True
        await self._open()
        try:
            await LifespanEvents(receive, send, self._flush).run(app, scope)
        except Exception:
            # A server that goes on all the same sends no further event.
            self._has_failed = True
            self.is_checked = self._is_silent
            raise

    async def begin_without_events(self) -> None:
        """At the first request; warns under a server that ends by the signal that stopped it, without an event before."""
        self.is_checked = True
        await self._open()
        server = getattr(signal.getsignal(signal.SIGTERM), "__module__", None)
        if server == "uvicorn.server" and not exits_on(signal.SIGTERM):
            _log.warning(
                "%s, so messages that wait when it stops are lost. %s, or call client.drain_on_signals() before it starts.",
                *(_AFTER_A_FAILURE if self._has_failed else _SWITCHED_OFF),
            )

    async def _open(self) -> None:
        try:
            # There is nothing to wait for: this loop sends from now on.
            await self._client.flush(timeout=0)
        except Exception as error:
            self._hooks.log_once("the start of the client", error)

    async def _flush(self) -> None:
        timeout = self._client.close_timeout
        try:
            left = await self._client.flush(timeout=timeout)
        except Exception as error:
            self._hooks.log_once("the flush at shutdown", error)
            return
        if left:
            _log.warning(
                "The server stops with %s unsent after %g s (close_timeout). Without a spool, messages that are unsent "
                "when the process ends are lost.",
                "1 message" if left == 1 else f"{left:,} messages",
                timeout,
            )


class _PageViews:
    """What happens after a page was served: the page call and, if the application wants it, a flush."""

    def __init__(
        self,
        hooks: HookRunner,
        client: Client | None,
        page_name: Callable[[Scope], Any] | None,
        no_identity: NoIdentity,
        flush_seconds: float | None,
    ) -> None:
        self.hooks = hooks
        self.flushes = flush_seconds is not None
        self._client = client
        self._page_name = page_name
        self._raises = no_identity == "raise"
        self._flush_seconds = flush_seconds

    async def name(self, scope: Scope, root_path: str) -> str | None:
        name = None
        if self._page_name is not None:
            name = await self.hooks.call("page_name", self._page_name, scope, parse_name, None)
        return name or route_name(scope, root_path)

    def enqueue(self, scope: Scope, page: dict[str, Any]) -> None:
        client = self._client_of(scope)
        if not self._raises:
            client.enqueue_nowait(page)
            return
        # A missing id raises from the application's own calls, but not from this one.
        with bound(without_identity="drop"):
            client.enqueue_nowait(page)

    async def flush(self, scope: Scope) -> None:
        if not self.flushes:
            return
        try:
            await self._client_of(scope).flush(timeout=self._flush_seconds)
        except Exception as error:
            self.hooks.log_once("flush_on_response", error)

    def _client_of(self, scope: Scope) -> Client:
        state: dict[str, Any] = scope.get("state") or {}
        client: Client | None = self._client or state.get("segment")
        if client is None:
            raise LookupError("no client: pass one to SegmentMiddleware, or open one with lifespan")
        return client


class _ResponseObserver:
    """Passes on the messages of one response, adds the cookie, and counts the page once it is complete."""

    def __init__(self, page_views: _PageViews, scope: Scope, send: Send, visitor: Visitor) -> None:
        self._page_views = page_views
        self._scope = scope
        self._root_path = scope.get("root_path", "")
        self._send = send
        self._visitor = visitor
        # The application may send from any task. Calls made here belong to the block of this request.
        self._context = copy_context()
        self._title: TitleParser | None = None
        self._seen_at = datetime.now(UTC)

    async def send(self, message: ASGIMessage) -> None:
        try:
            message = self._observe(message)
        except Exception as error:
            self._page_views.hooks.log_once("reading a response", error)
        is_last = message["type"] in _BODIES and not message.get("more_body", False)
        if is_last and self._page_views.flushes:
            await self._count()
            await self._page_views.flush(self._scope)
        await self._send(message)
        if is_last:
            await self._count()

    def _observe(self, message: ASGIMessage) -> ASGIMessage:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ())]
            return self._start({**message, "headers": headers}, headers)
        if self._title is not None and message["type"] == "http.response.body":
            self._title.feed(message.get("body", b""))
        return message

    def _start(self, message: ASGIMessage, headers: list[Any]) -> ASGIMessage:
        html, status, visitor = is_html(headers), message["status"], self._visitor
        if visitor.may_be_counted and html and 200 <= status < 300:
            self._title, self._seen_at = TitleParser(headers), datetime.now(UTC)
        # After a redirect the browser asks for another page, which should see the id that was used so far.
        is_redirect = 300 <= status < 400 and asks_for_html(visitor.headers)
        if visitor.may_get_cookie and (html or is_redirect) and allows_cookie(headers):
            if visitor.anonymous_id is None:
                visitor.anonymous_id = new_anonymous_id()
                self._context.run(bind, anonymous_id=visitor.anonymous_id)
            headers.append(set_anonymous_id(visitor.anonymous_id))
        return message

    async def _count(self) -> None:
        title, self._title = self._title, None
        if title is None:
            return
        name = await self._page_views.name(self._scope, self._root_path)
        try:
            properties = properties_of(self._visitor.page, self._visitor.headers, title.title())
            page = {"type": "page", "name": name, "properties": properties, "timestamp": self._seen_at}
            self._context.run(self._page_views.enqueue, self._scope, page)
        except Exception as error:
            self._page_views.hooks.log_once("sending a page view", error)
