"""The blocking client in a Flask application.

    app = Flask(__name__)
    client = init_app(app, Client("WRITE_KEY"), page_views=True)

    @app.post("/orders")
    def order():
        client.track(event="Order Completed", properties={"total": 30.5})

Each request binds its visitor and its context, as `segment_async.asgi.SegmentMiddleware` does, so that calls in views
need no id. `_web.whole` reads requests and responses; this file contains what needs Flask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Unpack, cast

from . import bind, bound
from ._calls import NowaitCalls
from ._checks import check_client
from ._message.context import enter_request, leave
from ._web.options import RequestOptions
from ._web.whole import Visit, WholeResponses, in_this_context, run_now, scope_of
from .blocking import Client

try:
    from flask import Flask, Request, Response, request
    from werkzeug.wsgi import FileWrapper
except ImportError as _error:
    raise ImportError("segment_async.flask needs Flask: pip install flask") from _error

__all__ = ["init_app"]

# Of the application's extensions; "segment" is the client, for the application itself.
_KEY: Final = "segment_async.flask"


def init_app(
    app: Flask,
    client: Client | NowaitCalls | None = None,
    *,
    user_id: Callable[[Request], Any] | None = None,
    consent: Callable[[Request], Any] | None = None,
    page_name: Callable[[Request], Any] | None = None,
    **options: Unpack[RequestOptions],
) -> Client:
    """Bind the visitor and the context of each request, and send page views if `page_views` is set.

    Returns the client, which is ``app.extensions["segment"]`` as well. An exception in here, or in a function that was
    passed, is logged once and never reaches the application. A second call for the same application changes nothing.

    Args:
        app: the application; its own `before_request` functions should come later, so that their calls are bound.
        client: `None`: one with the key in ``app.config["SEGMENT_WRITE_KEY"]`` or else the environment's, and with the
            options in ``app.config["SEGMENT_OPTIONS"]``, if there are any. A test may pass the `nowait` of an asyncio
            client, as of `segment_async.testing`.
        user_id: takes Flask's request; returns `None` for an unknown user. Without it, use `bind` where you learn it.
        consent: takes Flask's request; returns the preferences by category, or `None` if they are not known.
        page_name: takes Flask's request; `None`: the route's rule.
        options: as for `segment_async.asgi.SegmentMiddleware`.

    Raises:
        TypeError: the client is not a `segment_async.blocking.Client`.
        ValueError: an option has none of its values, or a function would have to be awaited; or the application was
            given another client, or other options, before.
    """
    hooks: dict[str, Any] = {"user_id": user_id, "consent": consent, "page_name": page_name}
    first: _Requests | None = app.extensions.get(_KEY)
    if first is not None:
        first.check_same(client, {**hooks, **options})
        return first.client
    if client is not None:
        check_client("init_app", client, Client, NowaitCalls)
        # In a test, `nowait` stands for it: it has the same calls.
        client = cast("Client", client)
    else:
        config = cast("dict[str, Any]", app.config)
        client_options: dict[str, Any] = config.get("SEGMENT_OPTIONS", {})
        client = Client(config.get("SEGMENT_WRITE_KEY"), **client_options)
    requests = _Requests(client, hooks, options)
    app.before_request(requests.begin)
    app.after_request(requests.see)
    app.teardown_request(requests.end)
    app.extensions["segment"] = client
    app.extensions[_KEY] = requests
    return client


class _Requests:
    def __init__(self, client: Client, hooks: dict[str, Any], options: RequestOptions) -> None:
        self.client = client
        self._given: dict[str, Any] = {**hooks, **options}
        self._pages = WholeResponses(**hooks, can_await=False, **options)

    def check_same(self, client: Client | NowaitCalls | None, given: dict[str, Any]) -> None:
        """Raises:
        ValueError: a further call names something other than the first one.
        """
        if client is not None and client is not self.client:
            raise ValueError("this application has a client already, from an earlier init_app; pass that one, or none")
        if any(value is not None for value in given.values()) and given != self._given:
            raise ValueError("init_app was called with other options for this application before; call it once")

    def begin(self) -> None:
        visit = run_now(self._pages.read(scope_of(request.environ), request))
        block = enter_request(visit.visitor.encoded, self._pages.drops_without_identity)
        _current().segment_async = visit, block

    def see(self, response: Response) -> Response:
        current = _current()
        if hasattr(current, "segment_async"):
            try:
                self._see(current.segment_async[0], response)
            except Exception as error:
                self._pages.hooks.log_once("reading a response", error)
        return response

    def _see(self, visit: Visit, response: Response) -> None:
        headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in response.headers]
        is_known = not (response.is_streamed or response.direct_passthrough)
        body = response.get_data() if is_known and visit.visitor.may_be_counted else None
        route = request.url_rule.rule if request.url_rule is not None else None
        seen = run_now(self._pages.see(visit, response.status_code, headers, body, route))
        if seen.cookie is not None:
            response.headers.add("Set-Cookie", seen.cookie)
            bind(anonymous_id=seen.anonymous_id)
        if response.is_streamed and not _is_file(response):
            response.response = in_this_context(response.response)
        if seen.page is not None:
            with bound(without_identity="drop"):
                self.client.enqueue(seen.page)

    def end(self, _: BaseException | None = None) -> None:
        current = _current()
        # A thread with a copy of Flask's context ends too, and must leave the block to the request's own.
        if hasattr(current, "segment_async") and leave(*current.segment_async[1]):
            del current.segment_async


def _is_file(response: Response) -> bool:
    """Whether the body is a file: it runs no code of the application's, and the server may have a fast way to send it."""
    if not response.direct_passthrough:
        return False
    wrapper = request.environ.get("wsgi.file_wrapper", FileWrapper)
    # For some servers it is a function that returns the file itself, such as uWSGI's.
    return isinstance(response.response, wrapper) if isinstance(wrapper, type) else hasattr(response.response, "read")


def _current() -> Any:
    """The request, which keeps its visit and its block: `flask.g` is shared with a request that is made within it."""
    return request
