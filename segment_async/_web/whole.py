"""Requests of frameworks whose middleware sees the whole response at once: Flask, Django.

Reads the visitor from a WSGI environment or an ASGI scope, and the page from the response. Here the application's
functions take the framework's own request. This file knows neither clients nor frameworks.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from inspect import iscoroutinefunction
from typing import Any, Final, Self, TypeVar, Unpack

from segment_async._hooks import HookRunner

from .cookies import new_anonymous_id, set_anonymous_id
from .options import RequestOptions, check_functions, reader_for
from .page_views import TitleParser, allows_cookie, is_html, parse_name, properties_of
from .request import Scope, asks_for_html
from .visitor import Hook, Visitor

T = TypeVar("T")

_REQUEST: Final = "segment_async.request"


def scope_of(environ: Mapping[str, Any]) -> Scope:
    """The ASGI scope that says the same as a WSGI environment, as far as it is read here."""
    root: str = environ.get("SCRIPT_NAME", "")
    headers = [
        (name[5:].replace("_", "-").lower().encode("latin-1"), str(value).encode("latin-1", "replace"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    address = environ.get("REMOTE_ADDR")
    return {
        "type": "http",
        "method": environ.get("REQUEST_METHOD", "GET"),
        "scheme": environ.get("wsgi.url_scheme", "http"),
        # WSGI has the bytes of a path as Latin-1.
        "path": _decoded(root + environ.get("PATH_INFO", "")),
        "root_path": _decoded(root),
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1", "replace"),
        "headers": headers,
        "client": (address, 0) if address else None,
    }


def _decoded(path: str) -> str:
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


@dataclass(slots=True)
class Visit:
    """One request."""

    request: Any
    visitor: Visitor
    began: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Seen:
    """What follows from a response.

    Attributes:
        cookie: the `Set-Cookie` header to add.
        anonymous_id: the id in it, to be bound.
        page: the page call to make.
    """

    cookie: str | None = None
    anonymous_id: str | None = None
    page: dict[str, Any] | None = None


class WholeResponses:
    """Attributes:
    hooks: runs the application's functions, and logs an exception once.
    drops_without_identity: a call without any id is dropped, and does not raise.

    Raises:
        ValueError: an option is wrong.
    """

    def __init__(
        self, *, user_id: Hook, consent: Hook, page_name: Hook, can_await: bool, **options: Unpack[RequestOptions]
    ) -> None:
        check_functions(user_id=user_id, consent=consent, page_name=page_name)
        if not can_await:
            for name, hook in (("user_id", user_id), ("consent", consent), ("page_name", page_name)):
                if iscoroutinefunction(hook) or iscoroutinefunction(type(hook).__call__):
                    raise ValueError(f"{name} must be a plain function: the application cannot await")
        self.hooks = HookRunner()
        self.drops_without_identity = options.get("no_identity") != "raise"
        self._page_name = page_name
        self._reader = reader_for(self.hooks, user_id=_of_request(user_id), consent=_of_request(consent), **options)

    async def read(self, scope: Scope, request: Any) -> Visit:
        """Read the visitor. Never raises."""
        return Visit(request, await self._reader.read({**scope, _REQUEST: request}))

    async def see(
        self, visit: Visit, status: int, headers: Sequence[Sequence[bytes]], body: bytes | None, route: str | None
    ) -> Seen:
        """`body`: `None` if it is not known yet; `route`: the template of the path, a page's name by default."""
        visitor = visit.visitor
        html = is_html(headers)
        cookie = anonymous_id = page = None
        # After a redirect the browser asks for another page, which should see the id that was used so far.
        is_redirect = 300 <= status < 400 and asks_for_html(visitor.headers)
        if visitor.may_get_cookie and (html or is_redirect) and allows_cookie(headers):
            anonymous_id = visitor.anonymous_id = visitor.anonymous_id or new_anonymous_id()
            cookie = set_anonymous_id(anonymous_id)[1].decode()
        if visitor.may_be_counted and html and 200 <= status < 300:
            title = TitleParser(headers)
            title.feed(body or b"")
            name = None
            if self._page_name is not None:
                name = await self.hooks.call("page_name", self._page_name, visit.request, parse_name, None)
            properties = properties_of(visitor.page, visitor.headers, title.title())
            page = {"type": "page", "name": name or route, "properties": properties, "timestamp": visit.began}
        return Seen(cookie, anonymous_id, page)


def _of_request(hook: Hook) -> Callable[[Scope], Any] | None:
    return None if hook is None else lambda scope: hook(scope[_REQUEST])


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that awaits nothing, in code without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        value: T = result.value
        return value
    finally:
        coroutine.close()
    raise RuntimeError("a function of the application awaits, where it cannot")


class in_this_context:  # noqa: N801  # read as a function, as `contextlib.suppress` is
    """A body that is made while it is sent, after the request's block: each part still sees what is bound now.

    Not a generator: that would not close a body if no part of it is asked for.
    """

    def __init__(self, parts: Iterable[Any]) -> None:
        self._context = copy_context()
        self._parts = parts
        self._iterator = iter(parts)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._context.run(next, self._iterator)

    def run(self, function: Callable[[], object]) -> None:
        """Call a function in the context in which the parts are made."""
        self._context.run(function)

    def close(self) -> None:
        close: Callable[[], object] | None = getattr(self._parts, "close", None)
        if close is not None:
            self._context.run(close)
