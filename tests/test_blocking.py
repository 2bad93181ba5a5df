"""The blocking client in one process: its calls, its thread, its waits."""

import asyncio
import inspect
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

import segment_async
from segment_async import (
    ClientClosed,
    DeliveryError,
    MessageError,
    QueueFull,
    Response,
    SpoolUnavailable,
    Status,
    blocking,
    bound,
    messages,
)
from segment_async._lifecycle import loop_thread, termination
from segment_async.blocking import Client, Delivery
from tests.support.memory_spool import ScriptedDisk, SpoolStore


class Gate:
    """A transport that answers once it is open, and keeps what came."""

    def __init__(self, *, is_open: bool = True, status: int = 200) -> None:
        self.messages: list[dict[str, Any]] = []
        self.threads: set[str] = set()
        self.came = threading.Event()
        self._status = status
        self._is_open = is_open
        self._held: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        self.threads.add(threading.current_thread().name)
        self.came.set()
        if not self._is_open:
            event = asyncio.Event()
            self._held.append((asyncio.get_running_loop(), event))
            await event.wait()
        self.messages += json.loads(body)["batch"]
        return Response(self._status, {}, b'{"success": true}')

    async def aclose(self) -> None:
        pass

    def open(self) -> None:
        self._is_open = True
        for loop, event in self._held:
            loop.call_soon_threadsafe(event.set)


@contextmanager
def opened(gate: Gate, **options: Any) -> Iterator[Client]:
    client = Client("KEY", transport=gate, gzip=False, **{"flush_interval": 0.01, **options})
    try:
        yield client
    finally:
        gate.open()
        client.close()


class TestCalls:
    def test_each_returns_a_delivery_at_once(self) -> None:
        gate = Gate(is_open=False)
        with opened(gate) as client:
            deliveries = [
                client.track("user", "Event", {"n": 1}),
                client.identify("user", {"plan": "pro"}),
                client.page("user", "Category", "Name"),
                client.screen("user", "Category", "Name"),
                client.group("user", "group"),
                client.alias("previous", "user"),
                client.enqueue(messages.track("user", "Built")),
            ]
            assert all(isinstance(delivery, Delivery) and delivery.outcome is None for delivery in deliveries)
            gate.open()
            assert {delivery.wait(10).status for delivery in deliveries} == {Status.DELIVERED}
            assert [message["messageId"] for message in gate.messages] == [each.message_id for each in deliveries]
        kinds = [message["type"] for message in gate.messages]
        assert kinds == ["track", "identify", "page", "screen", "group", "alias", "track"]
        assert gate.threads == {"segment_async"}

    def test_they_take_what_is_bound_around_them(self) -> None:
        gate = Gate()
        with opened(gate) as client:
            with bound(user_id="user-1", context={"ip": "192.0.2.1"}):
                client.track(event="Event")
            client.flush()
        (message,) = gate.messages
        assert (message["userId"], message["context"]["ip"]) == ("user-1", "192.0.2.1")

    def test_a_wrong_one_raises_where_it_is_made(self) -> None:
        with opened(Gate()) as client:
            with pytest.raises(MessageError, match="userId"):
                client.track(event="Event")
            with pytest.raises(MessageError, match="event"):
                client.track("user")
            assert client.statistics().accepted == 0

    def test_from_any_thread(self) -> None:
        gate = Gate()
        with opened(gate) as client:
            callers = [threading.Thread(target=lambda: [client.track("u", "E") for _ in range(500)]) for _ in range(8)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
            assert client.flush(30) == 0
            assert client.statistics().delivered == 4_000
        assert len({message["messageId"] for message in gate.messages}) == len(gate.messages) == 4_000

    def test_before_send_runs_in_the_calling_thread_and_on_error_in_the_clients(self) -> None:
        ran: list[tuple[str, str]] = []

        def before_send(message: dict[str, Any]) -> dict[str, Any]:
            ran.append(("before_send", threading.current_thread().name))
            return message

        def on_error(error: DeliveryError, lost: list[dict[str, Any]]) -> None:
            ran.append(("on_error", threading.current_thread().name))

        with opened(Gate(status=400), before_send=before_send, on_error=on_error) as client:
            outcome = client.track("user", "Event").wait(10)
        assert (outcome.status, outcome.reason) == (Status.FAILED, "refused")
        assert ran == [("before_send", threading.current_thread().name), ("on_error", "segment_async")]

    def test_options_are_those_of_the_asyncio_client(self) -> None:
        assert inspect.signature(Client) == inspect.signature(segment_async.Client)
        with pytest.raises(ValueError, match="flush_at"):
            Client("KEY", flush_at=0)
        with pytest.raises(TypeError):
            Client("KEY", nonsense=1)  # type: ignore[call-arg]


class TestAFullQueue:
    def test_a_caller_waits_for_room(self) -> None:
        gate = Gate(is_open=False)
        with opened(gate, max_queue_size=10, overflow_timeout=None) as client:
            first = [client.track("user", "Event") for _ in range(10)]
            late: list[Delivery] = []
            caller = threading.Thread(target=lambda: late.append(client.track("user", "Late")))
            caller.start()
            assert gate.came.wait(10)
            assert not late
            gate.open()
            caller.join(10)
            assert late[0].wait(10).status is Status.DELIVERED
            assert first[0].wait(10).status is Status.DELIVERED

    def test_only_for_so_long(self) -> None:
        with opened(Gate(is_open=False), max_queue_size=10, overflow_timeout=0.05, close_timeout=0.1) as client:
            deliveries = [client.track("user", "Event") for _ in range(12)]
            assert [delivery.outcome.reason for delivery in deliveries if delivery.outcome] == ["queue_full"] * 2

    def test_it_may_raise(self) -> None:
        with opened(Gate(is_open=False), max_queue_size=10, overflow="raise") as client:
            for _ in range(10):
                client.track("user", "Event")
            with pytest.raises(QueueFull):
                client.track("user", "Event")
            assert (client.statistics().accepted, client.statistics().rejected) == (10, 1)

    @pytest.mark.parametrize("on_invalid", ["raise", "drop"])
    def test_a_disk_that_refuses(self, on_invalid: str) -> None:
        spool = SpoolStore(ScriptedDisk(refuses=True)).open()
        with opened(Gate(), spool=spool, on_invalid=on_invalid) as client:
            if on_invalid == "raise":
                with pytest.raises(SpoolUnavailable):
                    client.track("user", "Event")
            else:
                outcome = client.track("user", "Event").outcome
                assert outcome is not None
                assert outcome.reason == "spool_unavailable"
            assert client.statistics().rejected == (on_invalid == "raise")

    def test_a_call_on_an_event_loop_never_waits(self) -> None:
        with opened(Gate(is_open=False), max_queue_size=10, overflow_timeout=None) as client:

            async def main() -> list[Delivery]:
                return [client.track("user", "Event") for _ in range(12)]

            deliveries = asyncio.run(main())
            assert [delivery.outcome.reason for delivery in deliveries if delivery.outcome] == ["queue_full"] * 2


class TestWaits:
    def test_a_wait_has_a_limit(self) -> None:
        with opened(Gate(is_open=False), close_timeout=0) as client:
            delivery = client.track("user", "Event")
            with pytest.raises(TimeoutError):
                delivery.wait(0.01)
            assert client.flush(0.01) == 1
            assert client.flush(timeout=0) == 1
            client.close()
        assert delivery.wait().reason == "close_timeout"
        assert "dropped" in repr(delivery)

    @pytest.mark.parametrize("limit", [math.inf, 1e30])
    def test_a_limit_may_be_longer_than_a_lock_can_wait(self, limit: float) -> None:
        with opened(Gate()) as client:
            assert client.track("user", "Event").wait(limit).status is Status.DELIVERED
            client.track("user", "Event")
            assert client.flush(limit) == 0

    def test_not_a_number_is_no_time(self) -> None:
        with opened(Gate(is_open=False), close_timeout=0) as client:
            delivery = client.track("user", "Event")
            assert client.flush(math.nan) == 1
            with pytest.raises(TimeoutError):
                delivery.wait(math.nan)

    def test_a_flush_keeps_its_limit_while_a_hook_holds_the_clients_thread(self) -> None:
        began, may_end, told = threading.Event(), threading.Event(), []

        def on_error(error: DeliveryError, lost: list[dict[str, Any]]) -> None:
            told.append(lost[0]["event"])
            began.set()
            may_end.wait(30)

        with opened(Gate(status=400), on_error=on_error) as client:
            client.track("user", "Refused")
            assert began.wait(10)
            client.track("user", "Later")
            # Without its limit it would wait for the hook, which ends only after it.
            assert client.flush(timeout=0.01) == 1
            assert not may_end.is_set()
            may_end.set()
            assert client.flush() == 0
        assert told == ["Refused", "Later"]

    def test_a_close_keeps_its_limit_while_a_hook_holds_the_clients_thread(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        began, may_end, told = threading.Event(), threading.Event(), []

        def on_error(error: DeliveryError, lost: list[dict[str, Any]]) -> None:
            told.append(lost[0]["event"])
            began.set()
            may_end.wait(30)

        monkeypatch.setattr(blocking, "_CLOSE_GRACE", 0.01)
        with opened(Gate(status=400), on_error=on_error, close_timeout=0) as client:
            client.track("user", "Refused")
            assert began.wait(10)
            client.track("user", "Later")
            client.close()
            assert not may_end.is_set()
            with pytest.raises(ClientClosed):
                client.track("user", "Too late")
            # The exit waits for it, too.
            assert client in blocking._open
            monkeypatch.undo()
            may_end.set()
            client.close()
            assert client not in blocking._open
        assert told == ["Refused", "Later"]
        assert "Not closed within 0.01 s" in caplog.text
        assert client.statistics().pending == 0

    @pytest.mark.parametrize("wait", ["flush", "close"])
    def test_the_applications_own_time_limit_ends_a_wait(self, monkeypatch: pytest.MonkeyPatch, wait: str) -> None:
        """As the handler of a `signal.alarm` raises it."""

        def end(*_: object) -> None:
            raise TimeoutError("the application's own")

        with opened(gate := Gate()) as client:
            client.track("user", "Event")
            monkeypatch.setattr(loop_thread, "is_released", end)
            with pytest.raises(TimeoutError, match="the application's own"):
                client.flush(timeout=10) if wait == "flush" else client.close()
            monkeypatch.undo()
            client.close()
        assert [message["event"] for message in gate.messages] == ["Event"]

    @pytest.mark.parametrize("wait", ["flush", "close", "delivery"])
    def test_a_signal_that_meets_a_wait_is_obeyed_at_once(self, wait: str) -> None:
        """Not put off, as one that comes amid a call that holds a lock: a hook may hold the thread that is waited for."""
        is_put_off: list[bool] = []
        main = threading.main_thread().ident
        earlier = signal.signal(signal.SIGUSR1, lambda _, frame: is_put_off.append(termination._is_amid_a_call(frame)))

        def interrupt() -> None:
            assert gate.came.wait(10)
            while sys._current_frames()[main].f_code is not loop_thread.is_released.__code__:
                pass
            os.kill(os.getpid(), signal.SIGUSR1)
            while not is_put_off:
                pass
            gate.open()

        interrupting = threading.Thread(target=interrupt)
        try:
            with opened(gate := Gate(is_open=False)) as client:
                delivery = client.track("user", "Event")
                interrupting.start()
                {"flush": client.flush, "close": client.close, "delivery": delivery.wait}[wait]()
                interrupting.join(10)
        finally:
            signal.signal(signal.SIGUSR1, earlier)
        assert is_put_off == [False]

    def test_a_hook_cannot_wait_for_its_own_thread(self) -> None:
        raised: list[str] = []

        def on_error(error: DeliveryError, lost: list[dict[str, Any]]) -> None:
            for wait in (client.flush, client.close, client.track("user", "From the hook").wait):
                try:
                    wait()
                except RuntimeError as problem:
                    raised.append(str(problem))

        with opened(Gate(status=400), on_error=on_error) as client:
            client.track("user", "Event").wait(10)
            # The close was refused, and closed nothing.
            assert client.track("user", "After").wait(10)
        assert raised[:3] == ["a hook runs on the client's own thread and cannot wait there for the client"] * 3

    def test_a_spool_has_the_message_when_the_call_returns(self, tmp_path: Any) -> None:
        gate = Gate(is_open=False)
        with opened(gate, spool=tmp_path / "spool.db", close_timeout=0.1) as client:
            delivery = client.track("user", "Event")
            inspect_it = [sys.executable, "-m", "segment_async.cli", "spool", "status", str(tmp_path / "spool.db")]
            said = subprocess.run(inspect_it, capture_output=True, text=True, check=False).stdout
            assert said.splitlines()[1].split()[:3] == ["spool.db", "yes", "1"]
            gate.open()
            assert delivery.wait(10).status is Status.DELIVERED


class TestSignalHandlers:
    """A handler that comes amid a call, which holds the queue's lock: what it waits for would wait for that call."""

    def test_what_waits_raises(self) -> None:
        with opened(Gate(is_open=False)) as client:
            delivery = client.track("user", "Event")
            with client._client._owner.pipeline.queue.lock:
                for wait in (delivery.wait, client.flush, client.close):
                    with pytest.raises(RuntimeError, match="signal handler"):
                        wait()
            assert client.statistics().pending == 1

    def test_a_call_does_not_wait_for_room(self) -> None:
        with opened(Gate(is_open=False), max_queue_size=1, overflow_timeout=None) as client:
            client.track("user", "Event")
            with client._client._owner.pipeline.queue.lock:
                outcome = client.track("user", "Event").outcome
            assert outcome is not None
            assert outcome.reason == "queue_full"

    def test_a_call_does_not_wait_for_the_disk(self) -> None:
        with opened(Gate(), spool=SpoolStore().open()) as client:
            client.track("user", "First").wait(10)
            with client._client._owner.pipeline.queue.lock:
                delivery = client.track("user", "Event")
            assert delivery.wait(10).status is Status.DELIVERED


class TestTheLife:
    def test_a_closed_client_takes_nothing(self) -> None:
        with opened(Gate()) as client:
            client.track("user", "Event")
            client.close()
            client.close()
            with pytest.raises(ClientClosed):
                client.track("user", "Event")
            with pytest.raises(ClientClosed), client:
                pass
            assert client.flush() == 0

    def test_a_block_closes_it(self) -> None:
        gate = Gate()
        with Client("KEY", transport=gate, gzip=False, flush_interval=60) as client:
            delivery = client.track("user", "Event")
        assert delivery.wait(0).status is Status.DELIVERED
        assert client.statistics().pending == 0

    def test_a_client_without_a_call_has_nothing_to_flush(self) -> None:
        assert Client("KEY", transport=Gate()).flush() == 0

    def test_all_clients_share_a_thread(self) -> None:
        with opened(Gate()) as one, opened(Gate()) as other:
            one.track("user", "Event").wait(10)
            other.track("user", "Event").wait(10)
            assert [thread.name for thread in threading.enumerate()].count("segment_async") == 1

    def test_without_a_thread_it_sends_where_it_waits(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(_: object) -> None:
            raise RuntimeError("can't start new thread")

        gate = Gate()
        with monkeypatch.context() as patched, opened(gate, flush_interval=60) as client:
            # As if no client of this process had started it.
            patched.setattr(loop_thread, "_threads", {})
            patched.setattr(threading.Thread, "start", refuse)
            delivery = client.track("user", "First")
            assert "No thread can be started" in caplog.text
            assert delivery.wait(30).status is Status.DELIVERED
            assert gate.threads == {threading.current_thread().name}
            second = client.track("user", "Second")
            patched.undo()
            client.track("user", "Third")
            assert client.flush(30) == 0
            assert second.outcome is not None
        assert len(gate.messages) == 3

    def test_without_a_thread_it_does_not_wait_on_an_event_loop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: object) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        async def flush() -> None:
            client.track("user", "First")
            client.flush()

        gate = Gate()
        with opened(gate, flush_interval=60) as client:
            with monkeypatch.context() as patched:
                patched.setattr(loop_thread, "_threads", {})
                patched.setattr(threading.Thread, "start", refuse)
                with pytest.raises(RuntimeError, match="on a running event loop"):
                    asyncio.run(flush())
            client.close()
        assert len(gate.messages) == 1

    def test_a_request_can_be_observed(self) -> None:
        seen: list[int] = []
        with opened(Gate()) as client:
            client.observe(lambda request: seen.append(request.count))
            client.track("user", "Event").wait(10)
        assert seen == [1]

    def test_a_hook_that_tries_to_end_the_program_does_not_end_the_thread(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def on_error(error: DeliveryError, lost: list[dict[str, Any]]) -> None:
            sys.exit(3)

        with opened(Gate(status=400), on_error=on_error) as client:
            client.track("user", "Event").wait(10)
            client.track("user", "Event").wait(10)

    def test_a_hook_that_tries_so_each_time_is_logged_once_a_minute(self, caplog: pytest.LogCaptureFixture) -> None:
        def on_error(error: DeliveryError, lost: list[dict[str, Any]]) -> None:
            sys.exit(3)

        # A thread of its own: others may have been logged for the shared one.
        thread = loop_thread.LoopThread(os.getpid())
        assert thread.start()
        client = segment_async.Client("KEY", transport=Gate(status=400), gzip=False, on_error=on_error)
        for _ in range(5):
            thread.run(lambda: client.track("user", "Event"))
            thread.run(client.flush)
        thread.run(client.aclose)
        thread.stop()
        assert caplog.text.count("A hook tried to end the program") == 1

    @pytest.mark.parametrize(
        ("worker", "warning"), [(0, "Not sent before uWSGI forks"), (1, "uWSGI runs without threads")]
    )
    def test_a_handler_of_logging_that_calls_it_may_be_told_about_uwsgi(
        self, worker: int, warning: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uwsgi = ModuleType("uwsgi")
        vars(uwsgi).update(worker_id=lambda: worker, mule_id=lambda: 0, opt={})

        class Tracking(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                texts.append(record.getMessage())
                client.track("user", "Logged", {"text": record.getMessage()})

        texts: list[str] = []
        handler = Tracking(logging.WARNING)
        with monkeypatch.context() as patched, opened(Gate(is_open=False), close_timeout=0) as client:
            # As if no client of this process had started it.
            patched.setattr(loop_thread, "_threads", {})
            patched.setitem(sys.modules, "uwsgi", uwsgi)
            logging.getLogger("segment_async").addHandler(handler)
            try:
                client.track("user", "Event")
            finally:
                logging.getLogger("segment_async").removeHandler(handler)
            assert client.statistics().accepted == 2
            (text,) = texts
            assert text.startswith(warning)
            client.close()
            thread = loop_thread.existing()
            assert thread is not None
            thread.stop()

    def test_a_call_on_a_loop_before_uwsgi_forks_returns_and_is_sent_by_the_next_one(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        uwsgi = ModuleType("uwsgi")
        vars(uwsgi).update(worker_id=lambda: 0, mule_id=lambda: 0, opt={})

        async def on_a_loop() -> None:
            client.track("user", "Event")

        with monkeypatch.context() as patched, opened(Gate(is_open=True)) as client:
            patched.setitem(sys.modules, "uwsgi", uwsgi)
            asyncio.run(on_a_loop())
            assert caplog.messages == ["Not sent before uWSGI forks: 1. Make calls in the workers, or use --lazy-apps."]
            client.track("user", "Event")
            assert client.statistics().delivered == 2

    def test_no_thread_starts_before_the_first_call(self) -> None:
        program = """
import asyncio, threading, segment_async, segment_async.blocking as blocking
client = blocking.Client("KEY", host="http://127.0.0.1:9")
async def main():
    async with segment_async.Client("KEY", send=False) as other:
        await other.track("user", "Event")
asyncio.run(main())
client.statistics(), client.flush()
print(threading.active_count())
"""
        said = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
        )
        assert (said.stdout, said.stderr) == ("1\n", "")

    def test_a_close_timeout_may_be_longer_than_a_lock_can_wait(self) -> None:
        program = """
from segment_async.blocking import Client
client = Client("test-write-key", send=False, close_timeout=1e30)
client.track("user", "Event")
"""
        said = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
        )
        assert (said.stdout, said.stderr) == ("", "")
