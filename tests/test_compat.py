"""The drop-in for the official SDK: its functions, its settings, its `Client`."""

import inspect
import logging
import pickle
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypeVar
from unittest.mock import create_autospec
from urllib.parse import parse_qs

import jwt
import pytest

import segment_async
import segment_async.compat as analytics
from segment_async import DeliveryError, MessageError, MessageTooLarge
from tests.support.faults import answer, silence
from tests.support.served import Served
from tests.support.token_server import private_key_pem


@pytest.fixture
def server() -> Iterator[Served]:
    with Served() as served:
        yield served


@pytest.fixture
def client(server: Served) -> Iterator[analytics.Client]:
    client = analytics.Client("KEY", server.url, upload_interval=0.01)
    yield client
    client.join()


@pytest.fixture
def module() -> Iterator[Any]:
    """The module, with its settings as they were at the import."""
    settings = {name: value for name, value in vars(analytics).items() if not callable(value)}
    yield analytics
    if analytics.default_client is not None:
        analytics.default_client.join()
    vars(analytics).update(settings)


class TestTheModule:
    def test_settings_are_read_at_the_first_call(self, module: Any, server: Served) -> None:
        module.write_key, module.host = "KEY", server.url
        assert module.default_client is None
        assert module.track("user", "Event", {"n": 1})[0]
        assert module.identify("user", {"plan": "pro"})[0]
        assert module.group("user", "group")[0]
        assert module.alias("previous", "user")[0]
        assert module.page("user", "Category", "Name")[0]
        assert module.screen("user", "Category", "Name")[0]
        module.flush()
        assert [message["type"] for message in server.messages] == [
            *("track", "identify", "group", "alias", "page", "screen"),
        ]
        module.shutdown()
        assert not module.track("user", "Late")[0]

    def test_threads_that_come_first_at_once_share_one_client(self, module: Any, server: Served) -> None:
        module.write_key, module.host = "KEY", server.url
        ready = threading.Barrier(8)

        def call() -> None:
            ready.wait()
            module.track("user", "Event")

        callers = [threading.Thread(target=call) for _ in range(8)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
        finally:
            sys.setswitchinterval(interval)
        module.flush()
        assert len(server.messages) == 8

    def test_without_a_key_a_call_raises(self, module: Any) -> None:
        with pytest.raises(AssertionError, match=r"no write_key: set analytics\.write_key"):
            module.track("user", "Event")

    def test_all_settings_reach_the_client(self, module: Any, caplog: pytest.LogCaptureFixture) -> None:
        handler = logging.NullHandler()
        module.write_key, module.host, module.timeout, module.send = "KEY", "http://127.0.0.1:9", 1.5, False
        module.log_handler, module.gzip, module.sync_mode = handler, False, True
        try:
            ok, _ = module.track("user", "Event")
            made = module.default_client
            assert ok
            assert (made.write_key, made.host, made.timeout, made.send) == ("KEY", "http://127.0.0.1:9", 1.5, False)
            assert (made.gzip, made.sync_mode, made.debug) == (False, True, False)
            assert handler in made.log.handlers
        finally:
            logging.getLogger("segment_async").removeHandler(handler)

    def test_a_mock_of_a_function_takes_its_arguments(self) -> None:
        track = create_autospec(analytics.track)
        track("user-1", "Order Completed", {"total": 5})
        track.assert_called_once_with(event="Order Completed", user_id="user-1", properties={"total": 5})
        create_autospec(analytics.flush)()


class TestTheClient:
    def test_a_call_returns_the_message_with_all_its_fields(self, client: analytics.Client) -> None:
        moment = datetime(2014, 9, 3, tzinfo=UTC)
        given = ({"a": 1}, {"ip": "192.0.2.1"}, moment, "anonymous", {"Amplitude": True}, "id-1")
        ok, message = client.track("user", "Event", *given)
        assert ok
        assert message.pop("context")["ip"] == "192.0.2.1"
        assert message == {
            "type": "track",
            "event": "Event",
            "userId": "user",
            "anonymousId": "anonymous",
            "properties": {"a": 1},
            "timestamp": "2014-09-03T00:00:00.000Z",
            "integrations": {"Amplitude": True},
            "messageId": "id-1",
        }
        for call in (client.page, client.screen):
            _, message = call("user", "Category", "Name", *given)
            assert (message["category"], message["name"], message["messageId"]) == ("Category", "Name", "id-1")
            _, message = call("user")
            assert (message["category"], message["name"], message["properties"]) == (None, None, {})
        _, message = client.identify("user")
        assert (message["traits"], message["anonymousId"], message["integrations"]) == ({}, None, {})
        assert client.group("user", 5)[1]["groupId"] == "5"
        assert client.alias("previous", "user", None, moment, None, "id-2")[1]["previousId"] == "previous"

    @pytest.mark.parametrize("nothing", [[], "", False, (), 0, None, {}])
    def test_anything_false_is_no_content(self, client: analytics.Client, nothing: Any) -> None:
        both = {"context": nothing, "integrations": nothing}
        for _, message in (
            client.track("user", "Event", nothing, **both),
            client.page("user", "Category", "Name", nothing, **both),
            client.screen("user", "Category", "Name", nothing, **both),
            client.identify("user", nothing, **both),
            client.group("user", "group", nothing, **both),
            client.alias("previous", "user", **both),
        ):
            assert [message[name] for name in ("properties", "traits") if name in message] in ([{}], [])
            assert message["integrations"] == {}
            assert message["context"].keys() == {"library"}

    @pytest.mark.parametrize("something", [[1], "x", True, 5])
    def test_what_is_true_and_no_object_is_refused(self, client: analytics.Client, something: Any) -> None:
        for options in ({"properties": something}, {"context": something}, {"integrations": something}):
            with pytest.raises(analytics.InvalidMessage):
                client.track("user", "Event", **options)

    def test_what_code_reads_of_it(self) -> None:
        defaults = {name: value for name, value in vars(analytics.Client.DefaultConfig).items() if name in OFFICIAL}
        parameters = inspect.signature(analytics.Client).parameters
        assert defaults == {name: parameter.default for name, parameter in parameters.items()}
        assert analytics.VERSION == analytics.__version__ == segment_async.__version__
        client = analytics.Client("KEY", send=False, debug=False)
        assert client.debug is False
        assert (client.max_total_backoff_duration, client.max_rate_limit_duration) == (43_200, 1_800)

    def test_ids_are_made_text(self, client: analytics.Client) -> None:
        assert client.track(157963456373623802, "Event")[1]["userId"] == "157963456373623802"
        assert client.track(1.5, "Event")[1]["userId"] == "1.5"
        assert client.track("", "Event", anonymous_id=Decimal(3))[1]["anonymousId"] == "3"
        assert client.track("u", "Event", message_id=uuid.UUID(int=1))[1]["messageId"] == str(uuid.UUID(int=1))

    def test_a_wrong_call_raises_what_the_official_sdk_raises_and_what_ours_does(
        self, client: analytics.Client
    ) -> None:
        for kind in (AssertionError, MessageError, ValueError):
            with pytest.raises(kind, match="event"):
                client.track("user")
            with pytest.raises(kind, match="userId"):
                client.track(event="Event")
        for kind in (RuntimeError, MessageTooLarge):
            with pytest.raises(kind, match=r"properties\.text"):
                client.track("user", "Event", {"text": "x" * 40_000})

    def test_a_naive_time_of_just_now_is_local_and_any_other_utc(self, client: analytics.Client) -> None:
        now = datetime.now()  # that is the point
        sent = client.track("user", "Event", timestamp=now)[1]["timestamp"]
        assert datetime.fromisoformat(sent).timestamp() == pytest.approx(now.timestamp(), abs=0.002)
        assert client.identify("user", {"born": date(1981, 2, 2)})[0]

    def test_shutdown_waits_as_long_as_messages_arrive(self, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        client = analytics.Client("KEY", server.url, upload_size=1, upload_interval=0.01)
        flush = client._client.flush
        timeouts: list[float | None] = []

        def one_message_each_time(timeout: float | None = None) -> int:
            timeouts.append(timeout)
            if len(timeouts) < 4:
                client.track("user", "Event")
                flush()
                return 1
            return flush(timeout)

        monkeypatch.setattr(client._client, "flush", one_message_each_time)
        client.shutdown()
        assert timeouts == [5.0] * 4
        assert len(server.messages) == 3

    def test_calls_that_come_too_late_are_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """A daemon thread may make thousands of them while the program ends."""
        client = analytics.Client("KEY", "http://127.0.0.1:9")
        client.join()
        assert [client.track("user", "Event")[0] for _ in range(3)] == [False] * 3
        assert [record.levelname for record in caplog.records] == ["WARNING"]

    def test_shutdown_ends_when_none_arrives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In an exit handler, it would hold the program up for as long as the server is down."""
        client = analytics.Client("KEY", "http://127.0.0.1:9", upload_interval=0.01)
        monkeypatch.setattr("segment_async._compat.client._SHUTDOWN_SECONDS", 0.01)
        client._client._client._owner.close_timeout = 0.01
        delivery = client._client.track("user", "Event")
        client.shutdown()
        assert delivery.outcome is not None
        assert delivery.outcome.reason == "close_timeout"

    def test_a_call_after_the_end_returns_false(self, client: analytics.Client) -> None:
        client.shutdown()
        ok, message = client.track("user", "Event")
        assert (ok, message["event"]) == (False, "Event")


# The official SDK's options in their order, with their defaults.
OFFICIAL: dict[str, Any] = {
    "write_key": None,
    "host": None,
    "debug": False,
    "max_queue_size": 10_000,
    "send": True,
    "on_error": None,
    "gzip": False,
    "max_retries": 10,
    "sync_mode": False,
    "timeout": 15,
    "proxies": None,
    "thread": 1,
    "upload_size": 100,
    "upload_interval": 0.5,
    "log_handler": None,
    "oauth_client_id": None,
    "oauth_client_key": None,
    "oauth_key_id": None,
    "oauth_auth_server": "https://oauth2.segment.io",
    "oauth_scope": "tracking_api:write",
    "max_total_backoff_duration": 43_200,
    "max_rate_limit_duration": 1_800,
}
# Those that are alike here and there, which the table leaves out.
ALIKE = {"write_key", "send", "max_retries", "upload_interval"} | {name for name in OFFICIAL if "oauth" in name}

Test = TypeVar("Test", bound=Callable[..., None])
shown: set[str] = set()


def shows(*options: str) -> Callable[[Test], Test]:
    """This test shows what these options do."""

    def note(test: Test) -> Test:
        shown.update(options)
        return test

    return note


def opened(server: Served, **options: Any) -> analytics.Client:
    return analytics.Client("KEY", server.url, **{"upload_interval": 0.01, **options})


class TestTheOptions:
    def test_it_has_the_official_options_in_the_official_order(self) -> None:
        parameters = inspect.signature(analytics.Client).parameters
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        assert list(defaults) == list(OFFICIAL)
        assert {**defaults, "gzip": False} == OFFICIAL

    def test_each_is_shown_to_do_something(self) -> None:
        assert shown == OFFICIAL.keys()

    def test_the_table_names_each_that_differs_and_nothing_that_is_not_there(self) -> None:
        table = (analytics.__doc__ or "").split("==\n")[2]
        named = set(re.findall(r"`+(\w+)", table))
        assert named & OFFICIAL.keys() == OFFICIAL.keys() - ALIKE
        there = set(re.findall(r"`(\w+)", "\n".join(line[:30] for line in table.splitlines())))
        assert there - OFFICIAL.keys() == {
            *("flush", "join", "shutdown", "client", "library", "http", "AssertionError", "RuntimeError", "False"),
            *("Client", "VERSION", "__version__"),
        }
        client = analytics.Client("KEY", send=False)
        assert not hasattr(client, "consumers")
        assert (client.queue.qsize(), client.queue.empty(), client.queue.full()) == (0, True, False)
        assert client.queue.maxsize == 10_000

    @shows("write_key", "host")
    def test_key_and_host(self, server: Served) -> None:
        client = opened(server)
        client.track("user", "Event")
        client.shutdown()
        assert server.requests[0].json["writeKey"] == "KEY"

    def test_the_environment_may_name_the_host(self, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEGMENT_HOST", server.url)
        client = analytics.Client("KEY", proxies={"https": "127.0.0.1:9"})
        client.track("user", "Event")
        client.shutdown()
        assert len(server.messages) == 1

    @shows("host")
    def test_a_plain_host_is_taken_with_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        analytics.Client("KEY", "http://127.0.0.1:9")
        assert caplog.text == ""
        analytics.Client("KEY", "http://collector.example", send=False)
        assert "plain http://" in caplog.text

    @shows("debug", "log_handler")
    def test_debug_sets_the_logger_up(self) -> None:
        program = """
import logging, segment_async.compat as analytics
analytics.write_key, analytics.debug, analytics.send = "KEY", True, False
analytics.track("user", "Event")
log = logging.getLogger("segment_async")
print(log.level == logging.DEBUG, len(log.handlers))
"""
        said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert said.stdout == "True 1\n"

    @shows("send")
    def test_nothing_is_sent_with_send_false(self, server: Served) -> None:
        client = analytics.Client("KEY", server.url, send=False)
        assert client.track("user", "Event")[0]
        client.flush()
        client.join()
        assert server.messages == []

    @shows("max_queue_size")
    def test_a_full_queue_returns_false(self, server: Served) -> None:
        server.script = lambda _: answer(503)
        client = analytics.Client("KEY", server.url, max_queue_size=1, upload_interval=60, upload_size=100)
        assert client.track("user", "Event")[0]
        assert client.queue.full()
        assert not client.track("user", "Event")[0]
        server.script = ()
        client.join()
        assert len(server.messages) == 1

    def test_a_queue_without_a_limit(self, server: Served) -> None:
        client = analytics.Client("KEY", server.url, max_queue_size=0)
        assert client.track("user", "Event")[0]
        client.shutdown()
        assert len(server.messages) == 1

    @shows("sync_mode")
    def test_sync_mode_waits_and_raises(self, server: Served) -> None:
        client = analytics.Client("KEY", server.url, sync_mode=True, max_retries=0)
        assert client.track("user", "Event")[0]
        assert len(server.messages) == 1
        server.script = [answer(400)]
        with pytest.raises(DeliveryError, match="refused") as caught:
            client.track("user", "Event")
        assert isinstance(caught.value, analytics.FailedMessage)
        assert pickle.loads(pickle.dumps(caught.value)).status == 400
        client.join()

    @shows("on_error")
    def test_on_error_gets_the_error_and_the_messages(self, server: Served) -> None:
        server.script = lambda _: answer(400)
        failed: list[tuple[Exception, list[dict[str, Any]]]] = []
        client = analytics.Client("KEY", server.url, on_error=lambda *what: failed.append(what), upload_interval=0.01)
        client.track("user", "Event")
        client.shutdown()
        ((error, (message,)),) = failed
        assert isinstance(error, DeliveryError)
        assert isinstance(error, analytics.FailedMessage)
        # As code for the official SDK reads them.
        assert (error.status, error.code, error.message) == (400, "refused", str(error))
        assert message["event"] == "Event"

    def test_no_hook_may_be_anything_false(self) -> None:
        assert analytics.Client("KEY", on_error=False, send=False).track("user", "Event")[0]  # type: ignore[arg-type]

    @shows("gzip")
    @pytest.mark.parametrize("on", [True, False, 1, None])
    def test_compression(self, server: Served, on: Any) -> None:
        client = opened(server, gzip=on)
        client.track("user", "Event")
        client.shutdown()
        assert (server.requests[0].headers.get("Content-Encoding") == "gzip") is bool(on)

    @shows("max_retries")
    def test_retries_have_a_limit(self, server: Served) -> None:
        server.script = lambda _: answer(503)
        client = opened(server, max_retries=1)
        client.track("user", "Event")
        client.flush()
        assert len(server.requests) == 2
        client.join()

    @shows("timeout")
    def test_a_request_has_a_limit(self, server: Served) -> None:
        server.script = [silence()]
        client = opened(server, timeout=0.05)
        client.track("user", "Event")
        client.shutdown()
        assert len(server.requests) == 2

    @shows("timeout")
    @pytest.mark.parametrize("timeout", [(3, 0.05), (None, 0.05)])
    def test_of_a_pair_the_limit_for_reading_counts(self, server: Served, timeout: Any) -> None:
        server.script = [silence()]
        client = opened(server, timeout=timeout)
        client.track("user", "Event")
        client.shutdown()
        assert len(server.requests) == 2
        assert client.timeout == timeout

    @shows("timeout")
    @pytest.mark.parametrize("timeout", [None, (3, None)])
    def test_no_limit_is_a_day_with_a_warning(
        self, server: Served, timeout: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = opened(server, timeout=timeout)
        [warning] = [record.getMessage() for record in caplog.records]
        assert warning.startswith("A request without a time limit ends after a day")
        client.track("user", "Event")
        client.shutdown()
        assert len(server.messages) == 1

    @shows("upload_size")
    def test_a_batch_beyond_segments_limit_is_made_smaller_with_a_warning(
        self, server: Served, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = opened(server, upload_size=5_000)
        [warning] = [record.getMessage() for record in caplog.records]
        assert warning.startswith("upload_size=5000 is used as 2500")
        client.track("user", "Event")
        client.shutdown()
        assert len(server.messages) == 1

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("thread", 0),
            ("thread", 1.5),
            ("upload_size", 0),
            ("upload_size", "10"),
            ("upload_interval", -1),
            ("timeout", 0),
            ("timeout", "15"),
            ("timeout", (1, 2, 3)),
            ("timeout", (3, -1)),
            ("max_retries", -1),
            ("max_queue_size", 1.5),
            ("max_queue_size", "10"),
            ("max_total_backoff_duration", None),
            ("max_rate_limit_duration", -1),
            ("proxies", "http://[/"),
            ("proxies", ["http://proxy.example:3128"]),
            ("host", 443),
            ("log_handler", "debug.log"),
            ("log_handler", False),
            ("on_error", 5),
        ],
    )
    def test_an_error_names_the_option_that_was_written(self, option: str, value: Any) -> None:
        with pytest.raises(ValueError, match=rf"\b{option}\b") as raised:
            analytics.Client("KEY", **{option: value})
        ours = {"flush_at", "flush_interval", "max_in_flight", "give_up_after", "max_retry_after", "proxy"}
        assert not ours & {*re.findall(r"\w+", str(raised.value).partition(" must ")[0])}

    def test_an_error_of_oauth_names_the_option_that_was_written(self) -> None:
        options = {"oauth_client_id": "x", "oauth_client_key": "y", "oauth_key_id": "z", "oauth_scope": ""}
        with pytest.raises(ValueError, match="OAuth needs its oauth_scope"):
            analytics.Client("KEY", **options)

    @shows("proxies")
    @pytest.mark.parametrize("proxies", ["URL", {"http": "URL"}, {"all": "URL"}])
    def test_the_proxy_of_the_hosts_scheme_is_used(self, server: Served, proxies: Any) -> None:
        given = server.url if proxies == "URL" else dict.fromkeys(proxies, server.url)
        client = analytics.Client("KEY", "http://127.0.0.1:9", proxies=given)
        client.track("user", "Event")
        client.shutdown()
        assert len(server.messages) == 1

    @shows("thread", "upload_size")
    def test_batches_and_requests_at_once(self, server: Served) -> None:
        server.script = lambda _: silence()
        client = opened(server, thread=2, upload_size=10, upload_interval=60, timeout=30)
        for requests in (1, 2):
            for _ in range(10):
                client.track("user", "Event")
            server.wait_for_requests(requests)
        assert [len(request.arrival.messages) for request in server.requests] == [10, 10]
        server.script = ()
        server.reset_connections()
        client.shutdown()

    @shows("upload_interval")
    def test_a_batch_waits_for_company(self, server: Served) -> None:
        client = opened(server, upload_interval=60)
        client.track("user", "Event")
        other = opened(server)
        other.track("user", "Other")
        server.wait_for_requests(1)
        other.shutdown()
        assert [message["event"] for message in server.messages] == ["Other"]
        client.shutdown()
        assert len(server.messages) == 2

    @shows("max_total_backoff_duration")
    def test_giving_up(self, server: Served) -> None:
        server.script = lambda _: answer(503)
        client = opened(server, max_total_backoff_duration=0)
        client.track("user", "Event")
        client.flush()
        assert len(server.requests) == 1
        client.join()

    @shows("max_rate_limit_duration")
    def test_a_pause_that_the_server_asks_for_has_a_limit(self, server: Served) -> None:
        server.script = [answer(429, {"Retry-After": "60"})]
        client = opened(server, max_rate_limit_duration=0)
        client.track("user", "Event")
        client.shutdown()
        assert len(server.messages) == 1

    @shows("oauth_client_id", "oauth_client_key", "oauth_key_id", "oauth_auth_server", "oauth_scope")
    def test_oauth(self, server: Served) -> None:
        token = b'{"access_token": "the-token", "expires_in": 3600, "token_type": "Bearer"}'
        with Served(lambda _: answer(200, {}, token)) as tokens:
            client = opened(
                server,
                oauth_client_id="the-client",
                oauth_client_key=private_key_pem(),
                oauth_key_id="the-key",
                oauth_auth_server=tokens.url,
                oauth_scope="the-scope",
            )
            client.track("user", "Event")
            client.shutdown()
            (asked,) = tokens.requests
        assert server.requests[0].headers["Authorization"] == "Bearer the-token"
        fields = parse_qs(asked.body.decode())
        (assertion,) = fields["client_assertion"]
        assert fields["scope"] == ["the-scope"]
        assert jwt.get_unverified_header(assertion)["kid"] == "the-key"
        assert jwt.decode(assertion, options={"verify_signature": False})["iss"] == "the-client"
