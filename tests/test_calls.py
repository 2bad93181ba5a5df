"""`client.nowait`; the warning of a client that no loop runs for; and the official SDK's options, which are refused."""

import asyncio
import inspect
import logging
import threading

import pytest

from segment_async import Client, ClientClosed, MessageError, QueueFull, Status, blocking, bound
from tests.support.scripted_transport import ScriptedTransport


class TestNowait:
    def test_it_has_the_six_calls(self) -> None:
        async def main() -> list[str]:
            transport = ScriptedTransport()
            async with Client("KEY", transport=transport) as client:
                deliveries = [
                    client.nowait.track("user", "Event", {"n": 1}),
                    client.nowait.identify("user", {"plan": "pro"}),
                    client.nowait.page("user", "Category", "Name"),
                    client.nowait.screen("user", "Category", "Name"),
                    client.nowait.group("user", "group"),
                    client.nowait.alias("previous", "user"),
                ]
                assert [(await delivery).status for delivery in deliveries] == [Status.DELIVERED] * 6
            return [message["type"] for request in transport.requests for message in request.arrival.messages]

        assert asyncio.run(main()) == ["track", "identify", "page", "screen", "group", "alias"]

    def test_it_has_the_signatures_of_the_calls(self) -> None:
        client = Client("KEY")
        for name in ("track", "identify", "page", "screen", "group", "alias"):
            own, awaited = inspect.signature(getattr(client.nowait, name)), inspect.signature(getattr(client, name))
            assert own.parameters == awaited.parameters
            blocking_call = inspect.signature(getattr(blocking.Client("KEY"), name))
            assert blocking_call.parameters == awaited.parameters

    def test_it_takes_what_is_bound_and_raises_at_the_call(self) -> None:
        client = Client("KEY", send=False)
        with pytest.raises(MessageError, match="userId"):
            client.nowait.track(event="Event")
        with bound(user_id="user"):
            assert client.nowait.track(event="Event").outcome is not None
        asyncio.run(client.aclose())
        with pytest.raises(ClientClosed):
            client.nowait.track("user", "Event")

    def test_it_runs_in_any_thread_and_never_waits(self) -> None:
        async def main() -> None:
            async with Client("KEY", transport=ScriptedTransport(), max_queue_size=10, overflow="raise") as client:
                await asyncio.to_thread(client.nowait.track, "user", "Event")
                for _ in range(9):
                    client.nowait.track("user", "Event")
                with pytest.raises(QueueFull):
                    client.nowait.track("user", "Event")

        asyncio.run(main())


class TestTheWarningThatNoLoopRuns:
    def test_it_comes_once_when_the_queue_is_full(self, caplog: pytest.LogCaptureFixture) -> None:
        client = Client("KEY", transport=ScriptedTransport(), max_queue_size=10)
        for _ in range(20):
            client.nowait.track("user", "Event")
        (text,) = [record.getMessage() for record in caplog.records if "No event loop" in record.getMessage()]
        assert "10 messages wait" in text
        asyncio.run(client.aclose())

    def test_it_does_not_come_once_a_loop_has_run(self, caplog: pytest.LogCaptureFixture) -> None:
        client = Client("KEY", transport=ScriptedTransport(), max_queue_size=10, overflow="drop_newest")
        asyncio.run(client.flush())
        thread = threading.Thread(target=lambda: [client.nowait.track("user", "Event") for _ in range(20)])
        thread.start()
        thread.join()
        assert "No event loop" not in caplog.text
        asyncio.run(client.aclose())


@pytest.mark.parametrize("client", [Client, blocking.Client])
class TestOfficialOptions:
    @pytest.mark.parametrize(
        ("option", "ours"),
        [
            ("max_retries", "RetryPolicy"),
            ("upload_size", "flush_at"),
            ("upload_interval", "flush_interval"),
            ("sync_mode", "Delivery"),
            ("debug", "logging"),
            ("log_handler", "logging"),
            ("proxies", "proxy"),
            ("thread", "max_in_flight"),
            ("oauth_client_id", "OAuth"),
        ],
    )
    def test_are_refused_and_ours_is_named(self, client: type, option: str, ours: str) -> None:
        with pytest.raises(TypeError, match=f"{option}, which is the official SDK's: use .*{ours}"):
            client("KEY", **{option: 1})

    def test_others_are_refused_as_ever(self, client: type) -> None:
        with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
            client("KEY", nonsense=1)


def test_the_constructor_can_still_be_inspected() -> None:
    parameters = inspect.signature(Client).parameters
    assert next(iter(parameters)) == "write_key"
    assert parameters["flush_at"].default == 100
    assert logging.getLogger("segment_async").handlers == []
