"""Flask, by its own test client: what a request binds, page views, the cookie, and faults that stay inside."""

import threading
from itertools import starmap
from pathlib import Path
from typing import Any

import pytest

import segment_async
from segment_async import MessageError, bind, compat
from segment_async.blocking import Client
from segment_async.testing import recording
from tests.support.asgi import ANONYMOUS, FIREFOX, Recorder

pytest.importorskip("flask")

from flask import Flask, Response, copy_current_request_context, redirect, send_file, stream_with_context
from werkzeug.test import EnvironBuilder

from segment_async.flask import init_app

BROWSER = {"User-Agent": FIREFOX, "Accept": "text/html", "Accept-Language": "de-CH,de;q=0.9"}


class Shop:
    """An application, and what it sent."""

    def __init__(self, **options: Any) -> None:
        self._recorder = Recorder()
        self.client = Client("KEY", transport=self._recorder, flush_interval=60)
        self.app = Flask("shop")
        init_app(self.app, self.client, **options)
        self.app.add_url_rule("/orders", view_func=self.order, methods=["POST"])
        self.app.add_url_rule("/login", view_func=self.login, methods=["POST"])
        self.app.add_url_rule("/shoes/<int:number>", view_func=self.shoes)
        self.app.add_url_rule("/stream", view_func=self.stream)
        self.app.add_url_rule("/away", view_func=lambda: redirect("/shoes/1"), endpoint="away")
        self.app.add_url_rule("/broken", view_func=self.broken)

    def order(self) -> str:
        self.client.track(event="Order Completed")
        return "paid"

    def login(self) -> str:
        bind(user_id="user-1")
        self.client.identify(traits={"plan": "pro"})
        return "hello"

    def shoes(self, number: int) -> str:
        return f"<title>Shoes no. {number}</title>"

    def stream(self) -> Response:
        def parts() -> Any:
            yield "<title>Late"
            self.client.track(event="Streamed")
            yield "</title>"

        return Response(stream_with_context(parts()))

    def broken(self) -> str:
        raise RuntimeError("a bug of the application's")

    def request(self, path: str, method: str = "GET", **headers: str) -> Response:
        given = {**BROWSER, **{name.replace("_", "-"): text for name, text in headers.items()}}
        return self.app.test_client(use_cookies=False).open(path, method=method, headers=given)

    def sent(self) -> list[dict[str, Any]]:
        assert self.client.flush(30) == 0
        self.client.close()
        return self._recorder.messages


def test_a_views_calls_know_who_and_where() -> None:
    shop = Shop()
    shop.request("/orders?utm_source=mail&token=secret", "POST", Cookie=f"ajs_anonymous_id={ANONYMOUS}")
    (message,) = shop.sent()
    context = message["context"]
    assert (message["event"], message["anonymousId"]) == ("Order Completed", ANONYMOUS)
    assert (context["ip"], context["userAgent"], context["locale"]) == ("127.0.0.1", FIREFOX, "de-CH")
    assert context["campaign"] == {"source": "mail"}
    assert context["page"]["path"] == "/orders"
    assert "secret" not in str(message)


def test_a_user_is_learnt_in_the_request_or_from_a_function() -> None:
    shop = Shop()
    shop.request("/login", "POST")
    (message,) = shop.sent()
    assert message["userId"] == "user-1"
    shop = Shop(user_id=lambda request: request.headers["X-User"])
    shop.request("/orders", "POST", X_User="user-2")
    (message,) = shop.sent()
    assert message["userId"] == "user-2"


def test_a_request_without_any_id_gets_its_answer_and_the_next_one_is_not_mixed_up() -> None:
    shop = Shop()
    assert shop.request("/login", "POST").status_code == 200
    assert shop.request("/orders", "POST").status_code == 200
    assert shop.client.statistics().reasons == {"no_identity": 1}
    shop.sent()


def test_a_request_that_is_made_within_another_one() -> None:
    shop = Shop()

    def both() -> str:
        bind(user_id="user-1")
        shop.request("/orders", "POST", Cookie=f"ajs_anonymous_id={ANONYMOUS}")
        shop.client.track(event="After")
        return "done"

    shop.app.add_url_rule("/both", view_func=both)
    assert shop.request("/both").status_code == 200
    inner, after = shop.sent()
    assert (inner.get("userId"), inner["anonymousId"]) == (None, ANONYMOUS)
    assert (after["event"], after["userId"]) == ("After", "user-1")


def test_a_thread_with_a_copy_of_the_requests_context() -> None:
    shop = Shop()

    def view() -> str:
        bind(user_id="user-1")
        thread = threading.Thread(target=copy_current_request_context(lambda: None))
        thread.start()
        thread.join()
        shop.client.track(event="After")
        return "done"

    shop.app.add_url_rule("/both", view_func=view)
    assert shop.request("/both").status_code == 200
    with pytest.raises(RuntimeError):
        bind(user_id="user-2")
    (after,) = shop.sent()
    assert after["userId"] == "user-1"


def test_page_views_and_the_cookie() -> None:
    shop = Shop(page_views=True, set_cookie=True)
    cookie = shop.request("/shoes/42").headers["Set-Cookie"]
    assert cookie.startswith("ajs_anonymous_id=")
    assert shop.request("/away").headers["Set-Cookie"].startswith("ajs_anonymous_id=")
    assert "Set-Cookie" not in shop.request("/shoes/1", Cookie=f"ajs_anonymous_id={ANONYMOUS}").headers
    first, second = shop.sent()
    assert (first["type"], first["name"], first["properties"]["title"]) == (
        "page",
        "/shoes/<int:number>",
        "Shoes no. 42",
    )
    assert first["anonymousId"] == cookie.split(";")[0].split("=")[1]
    assert second["anonymousId"] == ANONYMOUS


def test_a_file_is_left_to_the_servers_own_way_of_sending_it(tmp_path: Path) -> None:
    shop = Shop()
    file = tmp_path / "shoes.pdf"
    file.write_bytes(b"shoes")
    shop.app.add_url_rule("/file", view_func=lambda: send_file(file))
    environ = EnvironBuilder("/file").get_environ() | {"wsgi.file_wrapper": ServersFile}
    body = shop.app(environ, lambda _status, _headers: None)
    assert isinstance(body, ServersFile)
    body.close()


class ServersFile:
    def __init__(self, file: Any, _size: int = 8192) -> None:
        self.close = file.close


@pytest.mark.parametrize("server", [{}, {"wsgi.file_wrapper": ServersFile}, {"wsgi.file_wrapper": lambda file: file}])
@pytest.mark.parametrize("kind", ["generator", "iterator"])
def test_parts_that_are_passed_on_unchanged_see_what_is_bound(kind: str, server: dict[str, Any]) -> None:
    shop = Shop()

    def part() -> bytes:
        shop.client.track(event="Streamed")
        return b"part"

    def view() -> Response:
        parts = (part() for _ in range(1)) if kind == "generator" else starmap(part, [()])
        return Response(parts, direct_passthrough=True)

    shop.app.add_url_rule("/parts", view_func=view, endpoint="parts")
    environ = EnvironBuilder("/parts", headers={"Cookie": f"ajs_anonymous_id={ANONYMOUS}"}).get_environ() | server
    assert [*shop.app(environ, lambda _status, _headers: None)] == [b"part"]
    (message,) = shop.sent()
    assert message["anonymousId"] == ANONYMOUS


def test_a_streamed_page_counts_without_its_title() -> None:
    shop = Shop(page_views=True, no_identity="mint")
    assert shop.request("/stream").text == "<title>Late</title>"
    messages = {message["type"]: message for message in shop.sent()}
    assert "title" not in messages["page"]["properties"]
    assert messages["track"]["anonymousId"] == messages["page"]["anonymousId"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_streamed_body_is_closed_although_no_part_of_it_is_sent(method: str) -> None:
    closed: list[str] = []

    class Rows:
        def __iter__(self) -> Any:
            return iter([b"a", b"b"])

        def close(self) -> None:
            closed.append("closed")

    shop = Shop()
    shop.app.add_url_rule("/rows", view_func=lambda: Response(Rows()), endpoint="rows")
    environ = EnvironBuilder("/rows", method=method).get_environ()
    shop.app.wsgi_app(environ, lambda *_: None).close()
    assert closed == ["closed"]
    shop.sent()


def test_a_name_may_come_from_a_function_and_bots_are_skipped() -> None:
    shop = Shop(page_views=True, no_identity="mint", page_name=lambda request: f"Page {request.path}")
    shop.request("/shoes/1")
    shop.request("/shoes/2", User_Agent="Googlebot/2.1")
    (message,) = shop.sent()
    assert message["name"] == "Page /shoes/1"


def test_faults_of_the_applications_functions_stay_inside(caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Any) -> str:
        raise RuntimeError

    shop = Shop(user_id=fail, page_name=fail, page_views=True, no_identity="mint")
    assert shop.request("/shoes/1").status_code == 200
    assert shop.request("/broken").status_code == 500
    (message,) = shop.sent()
    assert message["name"] == "/shoes/<int:number>"
    assert "Error in user_id" in caplog.text and "Error in page_name" in caplog.text


def test_an_answer_of_an_earlier_function_is_left_alone() -> None:
    recorder = Recorder()
    client, app = Client("KEY", transport=recorder), Flask("shop")
    app.before_request(lambda: "closed")
    init_app(app, client)
    assert app.test_client().get("/").text == "closed"


def test_the_configuration_may_have_the_key() -> None:
    app = Flask("shop")
    app.config |= {"SEGMENT_WRITE_KEY": "KEY", "SEGMENT_OPTIONS": {"send": False}}
    client = init_app(app)
    assert app.extensions["segment"] is client
    assert client.track("user", "Event").outcome is not None
    client.close()


def test_a_second_init_app_changes_nothing() -> None:
    shop = Shop(page_views=True)
    assert init_app(shop.app, shop.client, page_views=True) is shop.client
    assert init_app(shop.app) is shop.client
    shop.request("/shoes/7", Cookie=f"ajs_anonymous_id={ANONYMOUS}")
    with pytest.raises(MessageError, match="userId"):
        # The visitor is not bound after the request.
        shop.client.track(event="Later")
    assert [message["type"] for message in shop.sent()] == ["page"]


def test_a_second_init_app_with_something_else_is_refused() -> None:
    shop = Shop(page_views=True)
    other = Client("KEY", send=False)
    with pytest.raises(ValueError, match="this application has a client already"):
        init_app(shop.app, other, page_views=True)
    with pytest.raises(ValueError, match="init_app was called with other options"):
        init_app(shop.app, shop.client, page_views=False)
    assert shop.app.extensions["segment"] is shop.client
    # Two applications may share a client.
    init_app(Flask("other"), shop.client)


def test_a_test_may_pass_the_calls_of_the_test_kit() -> None:
    with recording() as segment:
        app = Flask("shop")
        client = init_app(app, segment.client.nowait, page_views=True)

        @app.get("/")
        def home() -> str:
            client.track(event="Seen")
            return "<title>Home</title>"

        app.test_client(use_cookies=False).get("/", headers={**BROWSER, "Cookie": f"ajs_anonymous_id={ANONYMOUS}"})
        segment.assert_tracked("Seen", anonymous_id=ANONYMOUS)
        segment.assert_page("/", anonymous_id=ANONYMOUS)


@pytest.mark.parametrize("client", [segment_async.Client("KEY", send=False), compat.Client("KEY", send=False), "KEY"])
def test_a_client_of_another_kind_is_refused(client: Any) -> None:
    app = Flask("shop")
    with pytest.raises(TypeError, match=r"init_app needs .*: from segment_async.blocking import Client$"):
        init_app(app, client)
    assert "segment" not in app.extensions


def test_wrong_options_are_refused() -> None:
    async def user_id(request: Any) -> str:
        return "user"

    class Asked:
        async def __call__(self, request: Any) -> str:
            return "user"

    for hook in (user_id, Asked()):
        with pytest.raises(ValueError, match="user_id must be a plain function"):
            init_app(Flask("shop"), Client("KEY"), user_id=hook)
    for option in ({"user_id": 5}, {"consent": "x"}, {"page_name": "Home"}, {"gpc": {"A": "no"}}, {"page_views": "no"}):
        wrong: Any = option
        with pytest.raises(ValueError, match=r" must "):
            init_app(Flask("shop"), Client("KEY"), **wrong)
    with pytest.raises(ValueError, match="bots must be one of"):
        init_app(Flask("shop"), Client("KEY"), bots="some")  # type: ignore[arg-type]
