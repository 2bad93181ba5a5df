"""Options that come from the environment, and those that take several forms."""

from __future__ import annotations

import asyncio
import inspect
from base64 import b64decode
from functools import partial
from typing import Any, Literal, get_args
from unittest.mock import MagicMock

import pytest

from segment_async import Client, MessageError, compat
from segment_async._options import _AUTH_SERVERS, _OFFICIAL, HOSTS
from segment_async.hooks import drop_bots
from segment_async.importing import _transport
from tests.support.asgi import Recorder
from tests.support.fault_server import FaultServer


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEGMENT_WRITE_KEY", "SEGMENT_HOST", "SEGMENT_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)


class TestTheKey:
    def test_that_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def main() -> list[str]:
            async with FaultServer() as server:
                monkeypatch.setenv("SEGMENT_WRITE_KEY", " FROM-THE-ENVIRONMENT\n")
                for given in (None, "GIVEN"):
                    async with Client(given, host=server.url) as client:
                        await client.track("user-1", "Seen")
                return [request.headers["Authorization"] for request in server.requests]

        keys = [b64decode(sent.removeprefix("Basic ")) for sent in asyncio.run(main())]
        assert keys == [b"FROM-THE-ENVIRONMENT:", b"GIVEN:"]

    def test_without_any(self) -> None:
        with pytest.raises(ValueError, match="no write key: pass one, or set SEGMENT_WRITE_KEY"):
            Client()

    @pytest.mark.parametrize("key", [None, "", "  "])
    def test_none_is_needed_to_send_nothing(self, key: str | None) -> None:
        client = Client(key, send=False)
        outcome = client.nowait.track("user-1", "Seen").outcome
        assert outcome is not None
        assert outcome.reason == "disabled"

    def test_an_empty_one_is_not_replaced_by_that_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEGMENT_WRITE_KEY", "KEY")
        with pytest.raises(ValueError, match="write_key must be the key"):
            Client("")

    @pytest.mark.parametrize("key", ['"KEY"', "'KEY'", "“KEY”", '"KEY', "`KEY`"])
    def test_quotation_marks_are_refused_with_a_hint(self, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match="write_key has quotation marks around it; remove them") as caught:
            Client(key)
        assert "KEY" not in str(caught.value)
        monkeypatch.setenv("SEGMENT_WRITE_KEY", key)
        with pytest.raises(ValueError, match="SEGMENT_WRITE_KEY in the environment has quotation marks"):
            Client()

    @pytest.mark.parametrize("key", ["", "two words", "a:b"])
    def test_a_wrong_one_of_the_environment_is_named(self, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEGMENT_WRITE_KEY", key)
        with pytest.raises(ValueError, match=r"^SEGMENT_WRITE_KEY in the environment"):
            Client()


class TestTheHost:
    @pytest.mark.parametrize("host", ["segment.example", "http://segment.example", "https://user:word@segment.example"])
    def test_a_wrong_one_of_the_environment_is_named(self, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEGMENT_HOST", host)
        with pytest.raises(ValueError, match=r"^SEGMENT_HOST in the environment is wrong: host must") as caught:
            Client("KEY")
        assert "word" not in str(caught.value)
        with pytest.raises(ValueError, match=r"^host must"):
            Client("KEY", host=host)

    @pytest.mark.parametrize("path", ["", "/v1", "/v1/batch", "/v1/batch/"])
    def test_with_the_path_of_the_batch(self, path: str) -> None:
        async def main() -> str:
            async with FaultServer() as server, Client("KEY", host=f"{server.url}{path}") as client:
                await client.track("user-1", "Seen")
                await client.flush()
                return server.requests[0].target

        assert asyncio.run(main()) == "/v1/batch"

    @pytest.mark.parametrize("text", ["1", "true", "Yes", " on "])
    def test_the_environment_may_allow_plain_http(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEGMENT_HOST", "http://segment:8765")
        with pytest.raises(ValueError, match="SEGMENT_ALLOW_HTTP=1"):
            Client("KEY")
        monkeypatch.setenv("SEGMENT_ALLOW_HTTP", text)
        Client("KEY")

    @pytest.mark.parametrize("text", ["", "0", "false", "No", "off"])
    def test_or_not(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEGMENT_ALLOW_HTTP", text)
        with pytest.raises(ValueError, match="https://"):
            Client("KEY", host="http://segment:8765")

    def test_neither_yes_nor_no(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEGMENT_ALLOW_HTTP", "http://segment:8765")
        with pytest.raises(ValueError, match="SEGMENT_ALLOW_HTTP in the environment must be 1 or 0"):
            Client("KEY")


def sent(before_send: Any) -> list[dict[str, Any]]:
    recorder = Recorder()

    async def main() -> None:
        async with Client("KEY", transport=recorder, before_send=before_send) as client:
            for event in ("One", "Two"):
                await client.track("user-1", event, {"n": 1})

    asyncio.run(main())
    return recorder.messages


class TestBeforeSend:
    def test_a_list_is_called_in_order(self) -> None:
        def doubled(message: dict[str, Any]) -> dict[str, Any]:
            return {**message, "properties": {"n": message["properties"]["n"] * 2}}

        def without_one(message: dict[str, Any]) -> dict[str, Any] | None:
            return None if message["event"] == "One" else message

        def one_more(message: dict[str, Any]) -> dict[str, Any]:
            message["properties"]["n"] += 1
            return message

        for steps in ([doubled, without_one, one_more], (doubled, without_one, one_more)):
            assert [(message["event"], message["properties"]) for message in sent(steps)] == [("Two", {"n": 3})]
        assert [message["properties"] for message in sent([one_more])] == [{"n": 2}] * 2
        assert [message["properties"] for message in sent([])] == [{"n": 1}] * 2

    def test_an_error_in_any_of_them_drops_the_message(self, caplog: pytest.LogCaptureFixture) -> None:
        assert sent([lambda message: message, lambda message: message["absent"]]) == []
        assert "before_send failed" in caplog.text

    @pytest.mark.parametrize(
        ("changed", "problem"),
        [
            (lambda message: {**message, "event": ""}, "event: must not be empty"),
            (lambda message: [message], "message: must be a mapping, not list"),
            (lambda message: {**message, "properties": {"owner": object()}}, "properties.owner: cannot be encoded"),
        ],
    )
    def test_the_log_says_what_is_wrong_with_a_message_that_it_returns(
        self, changed: Any, problem: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert sent(changed) == []
        assert (
            f"before_send failed; its messages are dropped. This is logged once.\nIt returned a wrong message: {problem}"
            in (caplog.text)
        )

    def test_the_log_shows_no_text_of_an_error_that_it_raises_itself(self, caplog: pytest.LogCaptureFixture) -> None:
        def strict(message: dict[str, Any]) -> None:
            raise MessageError("event", f"{message['event']} is not allowed")

        assert sent(strict) == []
        assert "before_send failed" in caplog.text
        assert "One" not in caplog.text

    @pytest.mark.parametrize("steps", [[None], "redact", [sent, "redact"], 1, {}])
    def test_what_is_no_function_is_refused(self, steps: Any) -> None:
        async def coroutine_function(message: Any) -> None: ...

        for wrong in (steps, [coroutine_function]) if steps else ([1],):
            with pytest.raises(ValueError, match="before_send must be"):
                Client("KEY", before_send=wrong)

    @pytest.mark.parametrize("wrong", [drop_bots, [dict, drop_bots], lambda message, hint: message])
    def test_each_takes_the_message_alone(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match=r"before_send must take one argument, .* such as drop_bots\(\)"):
            Client("KEY", before_send=wrong)

    @pytest.mark.parametrize("right", [dict, dict.copy, partial(max, {}), MagicMock(), lambda *messages: messages[0]])
    def test_what_can_be_called_with_a_message_is_taken(self, right: Any) -> None:
        Client("KEY", send=False, before_send=right)


def test_options_of_the_official_sdk_are_explained_if_the_client_has_none_of_that_name() -> None:
    official = inspect.signature(compat.Client).parameters.keys()
    assert official - inspect.signature(Client).parameters.keys() == _OFFICIAL.keys()


def test_every_region_has_its_hosts() -> None:
    regions = eval(inspect.get_annotations(Client.__init__)["region"], {"Literal": Literal})
    assert get_args(regions) == (*HOSTS,) == (*_AUTH_SERVERS,)
    assert _transport.HOSTS == HOSTS
