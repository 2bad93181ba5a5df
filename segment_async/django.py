"""The blocking client in a Django project, under WSGI and ASGI alike.

In the settings:

    SEGMENT_WRITE_KEY = "WRITE_KEY"
    MIDDLEWARE = [..., "segment_async.django.SegmentMiddleware"]  # after AuthenticationMiddleware

In views, sync or async:

    from segment_async.django import client

    client.track(event="Order Completed", properties={"total": 30.5})

Further settings, both optional: `SEGMENT_OPTIONS`, the options of `segment_async.blocking.Client`; and
`SEGMENT_MIDDLEWARE`, those of the middleware: the ones of `segment_async.asgi.SegmentMiddleware`, where `user_id`,
`consent` and `page_name` are functions that take Django's request. By default the user is the one who is logged in,
for which ``request.user`` is read once a request, so that Django adds ``Vary: Cookie`` to each response; ``"user_id":
None`` switches that off.

Under ASGI, wrap the application, so that the client is closed before the server ends the process:

    application = with_lifespan(get_asgi_application())

`_web.whole` reads requests and responses; this file contains what needs Django.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Final, cast

from . import bind, bound
from ._locks import fork_safe_lock
from ._message.context import bound_request, in_this_block
from ._web.request import Scope
from ._web.whole import Visit, WholeResponses, in_this_context, run_now, scope_of
from .blocking import Client

try:
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction
    from django import conf as _conf  # pyright: ignore[reportMissingTypeStubs]
    from django.utils import functional as _functional  # pyright: ignore[reportMissingTypeStubs]
except ImportError as _error:
    raise ImportError("segment_async.django needs Django: pip install django") from _error

__all__ = ["SegmentMiddleware", "client", "with_lifespan"]

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Django has no types.
_settings: Any = cast("Any", _conf).settings
_lazy: Any = cast("Any", _functional).SimpleLazyObject

# The attribute of a request that is passing the middleware.
_MARK: Final = "_segment_async"

_lock = fork_safe_lock()
_made: Client | None = None


def _make_client() -> Client:
    global _made
    # Django's object asks each thread that comes before the first one is done.
    with _lock:
        if _made is None:
            _made = Client(getattr(_settings, "SEGMENT_WRITE_KEY", None), **getattr(_settings, "SEGMENT_OPTIONS", {}))
        return _made


client: Client = _lazy(_make_client)
"""The project's client, made from the settings at its first use."""


def with_lifespan(application: App) -> App:
    """The ASGI application, answering lifespan events as well: at the shutdown the client is closed.

    uvicorn ends its process by a signal, after which Python runs no exit handlers.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await application(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if _made is not None:
            # Its end is waited for, which must not block the loop.
            await asyncio.to_thread(_made.close)
        await send({"type": "lifespan.shutdown.complete"})

    return answer


def _user_id(request: Any) -> Any:
    user = getattr(request, "user", None)
    return user.pk if user is not None and user.is_authenticated else None


async def _auser_id(request: Any) -> Any:
    if not hasattr(request, "auser"):
        return None
    user = await request.auser()
    return user.pk if user.is_authenticated else None


@contextmanager
def _marked(request: Any) -> Generator[None, None, None]:
    """For as long as the request is under way: an outer middleware may have it answered once more."""
    setattr(request, _MARK, True)
    try:
        yield
    finally:
        # Two answers to one request may be under way.
        request.__dict__.pop(_MARK, None)


class SegmentMiddleware:
    """Binds the visitor, the user and the context of each request, and sends page views if `page_views` is set.

    If it is installed twice, the inner one does nothing. An exception in it, or in a function that the settings name,
    is logged once and never reaches the application.

    Raises:
        ValueError: a setting is wrong, or a function would have to be awaited under WSGI.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response
        # On Python 3.11 `inspect` does not know what Django marks.
        self._awaits = iscoroutinefunction(get_response)  # pyright: ignore[reportDeprecated]
        if self._awaits:
            markcoroutinefunction(self)
        options: dict[str, Any] = {
            "user_id": _auser_id if self._awaits else _user_id,
            "consent": None,
            "page_name": None,
            **getattr(_settings, "SEGMENT_MIDDLEWARE", {}),
        }
        self._pages = WholeResponses(can_await=self._awaits, **options)

    def __call__(self, request: Any) -> Any:
        if getattr(request, _MARK, False):
            return self._get_response(request)
        if self._awaits:
            return self._answer(request, self._get_response)
        visit = run_now(self._pages.read(_scope_of(request), request))
        with self._block(visit), _marked(request):
            response = self._get_response(request)
            run_now(self._see(visit, response))
        return response

    async def _answer(self, request: Any, get_response: Callable[[Any], Awaitable[Any]]) -> Any:
        visit = await self._pages.read(_scope_of(request), request)
        with self._block(visit), _marked(request):
            response = await get_response(request)
            await self._see(visit, response)
        return response

    def _block(self, visit: Visit) -> AbstractContextManager[None]:
        return bound_request(visit.visitor.encoded, self._pages.drops_without_identity)

    async def _see(self, visit: Visit, response: Any) -> None:
        try:
            match = visit.request.resolver_match
            route = None if match is None else f"/{match.route}"
            body = None if response.streaming else response.content
            seen = await self._pages.see(visit, response.status_code, _headers_of(response), body, route)
            if seen.cookie is not None:
                response.cookies.load(seen.cookie)
                bind(anonymous_id=seen.anonymous_id)
            if response.streaming and getattr(response, "file_to_stream", None) is None:
                # Not for a file: it runs no code of the application's, and the server may have a fast way to send it.
                if response.is_async:
                    response.streaming_content = in_this_block(response.streaming_content)
                else:
                    body = in_this_context(response.streaming_content)
                    # What the application's body does at its end: Django has no public name for it.
                    closers: list[Any] = getattr(response, "_resource_closers", [])
                    closers[:] = [partial(body.run, each) for each in closers]
                    response.streaming_content = body
            if seen.page is not None:
                with bound(without_identity="drop"):
                    client.enqueue(seen.page)
        except Exception as error:
            self._pages.hooks.log_once("reading a response", error)


def _scope_of(request: Any) -> Scope:
    scope: Scope | None = getattr(request, "scope", None)
    return scope if scope is not None else scope_of(request.META)


def _headers_of(response: Any) -> list[tuple[bytes, bytes]]:
    headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in response.items()]
    return headers + [(b"set-cookie", cookie.OutputString().encode()) for cookie in response.cookies.values()]
