"""The door for ASGI applications of any framework, or none.

    app = SegmentMiddleware(app, client)

binds, for the length of a request, who sent it and from where, so that a bare `await client.track(event="…")` in a
handler carries it all. `lifespan` opens and closes the client with the application. Who the visitor is, `_visitor`
reads; what becomes of a page, `_page_views` knows; here both are put around the application, and nothing that goes
wrong in them reaches it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import copy_context
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any, Final, Literal

from . import Client, bind, bound
from ._hooks import Contained
from ._web.consent import GPC, preferences_of
from ._web.page_views import (
    EXCLUDED,
    TitleReader,
    exclusion,
    id_cookie,
    is_html,
    may_carry_an_id,
    name_of,
    properties_of,
    route_name,
)
from ._web.query import Mode
from ._web.request import asks_for_html
from ._web.visitor import NoIdentity, Reader, Visitor, new_id

__all__ = ["EXCLUDED", "SegmentMiddleware", "lifespan"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

_MARK: Final = "segment_async"
_BODIES: Final = ("http.response.body", "http.response.pathsend", "http.response.zerocopysend")


def lifespan(
    write_key_or_client: str | Client, *, wrap: Lifespan | None = None, **options: Any
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """A lifespan for Starlette, FastAPI and their kin: opens the client, closes it, is ``state["segment"]`` between.

    With a write key and the client's `options`, each start of the application makes a client of its own. `wrap` is
    the application's own lifespan; the client is open for all of it.

    Raises:
        ValueError: options were given for a client that exists already.
    """
    if isinstance(write_key_or_client, Client) and options:
        raise ValueError(f"give {', '.join(options)} to the client itself: it exists already")

    @asynccontextmanager
    async def opened(app: Any) -> AsyncIterator[dict[str, Any]]:
        ours = write_key_or_client
        async with ours if isinstance(ours, Client) else Client(ours, **options) as client:
            if wrap is None:
                yield {"segment": client}
                return
            async with wrap(app) as state:
                yield {**(state or {}), "segment": client}

    return opened


class SegmentMiddleware:
    """Binds who and where for the length of each request, and counts page views if asked to.

    Installed twice, the inner one steps aside. A fault in it, or in what was given to it, is logged once and never
    reaches the application; what is asynchronous of that is waited for a second at most.

    Args:
        client: sends the page views; `None`: the one that `lifespan` put under ``state["segment"]``.
        user_id: of the scope, sync or async; `None` where nobody is known.
        trust_user_cookie: take the user's id from the cookie ``ajs_user_id``, which any visitor can write.
        trusted_proxies: networks whose `X-Forwarded-For` is believed.
        no_identity: what becomes of a call without any id: ``"skip"``: dropped and counted (``no_identity``);
            ``"mint"``: the request gets an anonymous id of its own, which Segment bills; ``"raise"``: `MessageError`.
        set_cookie: give a visitor of HTML pages who has none the browser library's cookie.
        page_views: after a GET that was answered with HTML, a `page` call.
        page_name: of the scope, sync or async; `None`: the route's template, where the framework tells it.
        exclude: paths that are no pages, with all below them, in place of `EXCLUDED`; `*` stands for any characters.
        bots: ``"skip"``: programs see no pages; ``"include"``: they do.
        query: what of a query string leaves: ``"scrub"``: all but what looks like a secret; ``"utm"``: the
            campaign's fields; ``"none"``; ``"all"``.
        consent: of the scope, sync or async: preferences by category; `None` where nothing is known.
        gpc: what Global Privacy Control does: ``"ignore"``; ``"drop"``: no page views and no cookie; or preferences
            that go over those of `consent`.
        flush_on_response: seconds that a response may be held back until all is sent, for places where the processor
            stops with it (Cloud Run).

    Raises:
        ValueError: an option is none of these, or a network cannot be read.
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
        _check_words(no_identity=(no_identity, ("skip", "mint", "raise")), bots=(bots, ("skip", "include")))
        _check_words(query=(query, ("scrub", "utm", "none", "all")))
        if not isinstance(gpc, Mapping):
            _check_words(gpc=(gpc, ("ignore", "drop")))
        _check_lists(trusted_proxies=trusted_proxies, exclude=exclude)
        self.app = app
        self._client = client
        self._without_identity: Literal["raise", "drop"] = "raise" if no_identity == "raise" else "drop"
        self._page_name = page_name
        self._flush_seconds = flush_on_response
        self._contained = Contained()
        self._reader = Reader(
            self._contained,
            user_id=user_id,
            trust_user_cookie=trust_user_cookie,
            proxies=tuple(ip_network(network, strict=False) for network in trusted_proxies),
            no_identity=no_identity,
            set_cookie=set_cookie,
            page_views=page_views,
            excluded=exclusion(exclude),
            skip_bots=bots == "skip",
            query=query,
            consent=consent,
            gpc=gpc if isinstance(gpc, str) else preferences_of(gpc) or {},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or _MARK in scope:
            await self.app(scope, receive, send)
            return
        scope[_MARK] = True
        visitor = await self._reader.read(scope)
        with bound(
            user_id=visitor.user_id,
            anonymous_id=visitor.anonymous_id,
            context=visitor.context,
            without_identity=self._without_identity,
        ):
            if visitor.may_be_counted or visitor.may_get_cookie or self._flush_seconds is not None:
                await self._watched(scope, receive, send, visitor)
            else:
                await self.app(scope, receive, send)

    async def _watched(self, scope: Scope, receive: Receive, send: Send, visitor: Visitor) -> None:
        response = _Response(self, scope, send, visitor)
        try:
            await self.app(scope, receive, response.send)
        except Exception:
            # Whoever answers for the fault stands around this middleware: that answer is still to come.
            await self._flush(scope)
            raise
        # Background tasks had their say after the response.
        await self._flush(scope)

    async def _flush(self, scope: Scope) -> None:
        if self._flush_seconds is None:
            return
        try:
            await self._client_of(scope).flush(timeout=self._flush_seconds)
        except Exception as fault:
            self._contained.say("flush_on_response", fault)

    def _client_of(self, scope: Scope) -> Client:
        client: Client | None = self._client or (scope.get("state") or {}).get("segment")
        if client is None:
            raise LookupError("no client: give one to SegmentMiddleware, or open one with lifespan")
        return client


class _Response:
    """One response as it goes by: gets its cookie, and is counted once it is complete."""

    def __init__(self, middleware: SegmentMiddleware, scope: Scope, send: Send, visitor: Visitor) -> None:
        self._middleware = middleware
        self._scope = scope
        self._root_path = scope.get("root_path", "")
        self._send = send
        self._visitor = visitor
        # Wherever the application sends from, what is said here is said within the request's own block.
        self._context = copy_context()
        self._page: TitleReader | None = None
        self._seen_at = datetime.now(UTC)

    async def send(self, message: Message) -> None:
        try:
            message = self._noted(message)
        except Exception as fault:
            self._middleware._contained.say("Reading a response", fault)
        is_last = message["type"] in _BODIES and not message.get("more_body", False)
        if is_last and self._middleware._flush_seconds is not None:
            await self._count()
            await self._middleware._flush(self._scope)
        await self._send(message)
        if is_last:
            await self._count()

    def _noted(self, message: Message) -> Message:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ())]
            return self._begun({**message, "headers": headers}, headers)
        if self._page is not None and message["type"] == "http.response.body":
            self._page.feed(message.get("body", b""))
        return message

    def _begun(self, message: Message, headers: list[Any]) -> Message:
        html, status, visitor = is_html(headers), message["status"], self._visitor
        if visitor.may_be_counted and html and 200 <= status < 300:
            self._page, self._seen_at = TitleReader(headers), datetime.now(UTC)
        # A redirect leads whoever asked for a page to the next one: the id that was used so far goes along.
        leads_on = 300 <= status < 400 and asks_for_html(visitor.headers)
        if visitor.may_get_cookie and (html or leads_on) and may_carry_an_id(headers):
            if visitor.anonymous_id is None:
                visitor.anonymous_id = new_id()
                self._context.run(bind, anonymous_id=visitor.anonymous_id)
            headers.append(id_cookie(visitor.anonymous_id))
        return message

    async def _count(self) -> None:
        page, self._page = self._page, None
        if page is None:
            return
        middleware = self._middleware
        name = None
        if middleware._page_name is not None:
            name = await middleware._contained.ask("page_name", middleware._page_name, self._scope, name_of, None)
        try:
            self._context.run(self._enqueue, name or route_name(self._scope, self._root_path), page.title())
        except Exception as fault:
            middleware._contained.say("The page view", fault)

    def _enqueue(self, name: str | None, title: str | None) -> None:
        properties = properties_of(self._visitor.page, self._visitor.headers, title)
        page = {"type": "page", "name": name, "properties": properties, "timestamp": self._seen_at}
        client = self._middleware._client_of(self._scope)
        if self._middleware._without_identity == "drop":
            client.enqueue_nowait(page)
            return
        # A call without any id may fail in the application's hands, not in ours.
        with bound(without_identity="drop"):
            client.enqueue_nowait(page)


def _check_words(**options: tuple[object, tuple[str, ...]]) -> None:
    for name, (word, words) in options.items():
        if word not in words:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}")


def _check_lists(**options: Iterable[str]) -> None:
    for name, texts in options.items():
        # One text is a list of its letters to Python, each of which would be taken at its word.
        if isinstance(texts, str):
            raise ValueError(f"{name} must be a list of texts, such as [{texts!r}]")  # noqa: TRY004  # as all options
