"""How a client ends: closes that are cancelled, cut short, or made by another loop, and the drain at the exit.

Under the virtual clock wherever one loop is enough; in real threads where several are.
"""

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import anyio
import pytest

from segment_async import Client, ClientClosed, Response, Status
from segment_async._lifecycle import closing as closing_module
from segment_async._outcome import BatchResult
from tests.support.law import check_counters
from tests.support.lives import OK, PATIENCE, Net, OtherLoop, refused, silence, slowly, turns
from tests.support.simulated_segment import Arrival
from tests.support.slow_spool import SlowSpool
from tests.support.virtual_clock import VirtualClockLoop, run, running_clock


class TestOtherLoops:
    def test_close_it_for_the_owner(self) -> None:
        net = Net()
        client = Client("KEY", transport=net, flush_interval=60)
        with OtherLoop() as owner, OtherLoop() as guest:
            owner(client.track("u", "E"))
            guest(client.aclose())
            assert net.closed == 1
            with pytest.raises(ClientClosed):
                owner(client.track("u", "E"))
        assert client.statistics().delivered == 1

    def test_give_up_what_is_left_between_two_steps_of_the_owner(self, monkeypatch: pytest.MonkeyPatch) -> None:
        amid, asked = threading.Event(), threading.Event()

        class HeldBack:
            """A response whose reader waits until the close has asked the owner's loop for a step."""

            status, headers = 200, dict[str, str]()

            @property
            def body(self) -> bytes:
                if not amid.is_set():
                    asked.clear()
                    amid.set()
                    assert asked.wait(PATIENCE)
                return b""

        async def answer(_: Arrival) -> Response:
            return HeldBack()  # type: ignore[return-value]

        client = Client("KEY", transport=Net(answer), flush_interval=0, close_timeout=0)
        with OtherLoop() as owner, OtherLoop() as guest:
            call_soon = owner.loop.call_soon_threadsafe

            def note_what_is_asked(callback: Callable[..., object], *arguments: Any, **options: Any) -> asyncio.Handle:
                handle = call_soon(callback, *arguments, **options)
                if "run_coroutine_threadsafe" in getattr(callback, "__qualname__", ""):
                    asked.set()
                return handle

            monkeypatch.setattr(owner.loop, "call_soon_threadsafe", note_what_is_asked)
            delivery = owner(client.track("u", "E"))
            assert amid.wait(PATIENCE)
            guest(client.aclose())
            asked.set()
        assert delivery.outcome.status is Status.DELIVERED
        check_counters(client.statistics())
        assert client.statistics().delivered == 1

    @pytest.mark.parametrize("status", [200, 400, 404, 503])
    def test_give_up_what_is_left_although_a_step_of_the_owner_takes_long(
        self, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        """Whatever the owner makes of the answer later, each message has one outcome."""
        amid, closed = threading.Event(), threading.Event()
        monkeypatch.setattr(closing_module, "_GRACE_SECONDS", 0.0)

        class HeldBack:
            headers, body = dict[str, str](), b""

            @property
            def status(self) -> int:
                amid.set()
                assert closed.wait(PATIENCE)
                return status

        async def answer(_: Arrival) -> Response:
            return HeldBack()  # type: ignore[return-value]

        reported: list[str] = []
        client = Client(
            "KEY",
            transport=Net(answer),
            flush_at=2,
            close_timeout=0,
            on_error=lambda error, messages: reported.extend(one["messageId"] for one in messages),
        )
        with OtherLoop() as owner, OtherLoop() as guest:
            deliveries = [owner(client.track("u", "E")) for _ in range(2)]
            assert amid.wait(PATIENCE)
            guest(client.aclose())
            closed.set()
            owner(asyncio.sleep(0))
            assert guest(client.flush()) == 0
        assert [delivery.outcome.reason for delivery in deliveries] == ["close_timeout"] * 2
        assert sorted(reported) == sorted(delivery.message_id for delivery in deliveries)
        counts = client.statistics()
        check_counters(counts)
        assert (counts.accepted, counts.dropped, counts.pending) == (2, 2, 0)


class TestClose:
    def test_drops_what_is_left_with_one_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            async with Client("KEY", transport=Net(silence), close_timeout=3) as client:
                deliveries = [await client.track("u", "E") for _ in range(7)]
            assert running_clock().time() == pytest.approx(3, abs=0.5)
            assert {delivery.outcome.reason for delivery in deliveries if delivery.outcome} == {"close_timeout"}
            assert client.statistics().dropped == 7

        with caplog.at_level(logging.WARNING, "segment_async"):
            run(main())
        assert [record.getMessage().startswith("Closed with 7 messages unsent") for record in caplog.records] == [True]

    def test_twice_and_at_once(self) -> None:
        async def main() -> None:
            net = Net(silence)
            client = Client("KEY", transport=net, close_timeout=1)
            await client.track("u", "E")
            await asyncio.gather(*(client.aclose() for _ in range(5)))
            await client.aclose()
            assert (net.closed, client.statistics().pending) == (1, 0)

        run(main())

    @pytest.mark.parametrize("how", ["close", "flush", "delivery"])
    def test_leaves_no_task_behind_whatever_waits_beside_it(self, how: str) -> None:
        class SlowToClose(Net):
            async def aclose(self) -> None:
                await asyncio.sleep(0.1)

        async def main() -> None:
            client = Client("KEY", transport=SlowToClose(silence), close_timeout=1)
            delivery = await client.track("u", "E")

            async def wait() -> None:
                await delivery

            beside = {"close": client.aclose, "flush": client.flush, "delivery": wait}[how]
            await asyncio.gather(client.aclose(), *(beside() for _ in range(3)))
            await turns()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run(main())

    def test_is_finished_by_another_loop_if_the_one_that_finishes_it_stands_still(self) -> None:
        async def hook(*_: object) -> None:
            await asyncio.Event().wait()

        net = Net(refused)
        client = Client("KEY", transport=net, on_error=hook)
        standing = VirtualClockLoop()

        async def begin() -> asyncio.Task[None]:
            await client.track("u", "E")
            closing = asyncio.create_task(client.aclose())
            await asyncio.sleep(0.1)
            assert client.statistics().failed == 1
            return closing

        async def close_again() -> float:
            await client.aclose()
            return running_clock().time()

        closing = standing.run_until_complete(begin())
        assert net.closed == 0
        assert run(close_again()) == pytest.approx(5, abs=1)
        assert net.closed == 1
        assert run(close_again()) == 0
        standing.run_until_complete(closing)
        standing.run_until_complete(standing.shutdown_asyncgens())
        standing.close()

    @pytest.mark.parametrize("used", [False, True])
    def test_of_a_client_that_has_nothing(self, used: bool) -> None:
        async def main() -> None:
            client = Client("KEY", transport=Net())
            if used:
                await client.flush()
            await client.aclose()
            assert running_clock().time() == 0

        run(main())

    def test_goes_past_a_transport_that_hangs(self) -> None:
        class Hanging(Net):
            async def aclose(self) -> None:
                await asyncio.Event().wait()

        async def main() -> None:
            async with Client("KEY", transport=Hanging()) as client:
                await client.track("u", "E")
            assert client.statistics().delivered == 1
            assert running_clock().time() < 1

        run(main())

    def test_the_block_s_own_error_goes_on(self) -> None:
        net = Net()

        async def main() -> None:
            with pytest.raises(ZeroDivisionError):
                async with Client("KEY", transport=net) as client:
                    await client.track("u", "E", message_id="a")
                    raise ZeroDivisionError

        run(main())
        assert net.ids == ["a"]


def test_lets_go_of_a_client_that_is_called_for_the_first_time_after_it() -> None:
    async def main() -> weakref.ref[object]:
        client = Client("KEY", transport=Net())
        await client.aclose()
        with suppress(ClientClosed):
            await client.track("u", "E")
        return weakref.ref(client._owner)

    owner = run(main())
    gc.collect()
    assert owner() is None


@pytest.mark.parametrize("end", ["close", "exit"])
def test_reports_each_message_that_is_dropped_however_many_there_are(
    end: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def on_error(_: object, messages: list[dict[str, Any]]) -> None:
        told.extend(message["messageId"] for message in messages)

    async def main() -> None:
        client = Client("KEY", transport=Net(silence), close_timeout=1, on_error=on_error, gzip=False)
        for number in range(300):
            await client.track("u", "E", {"text": "x" * 32_000}, message_id=str(number))
        # More than may wait for a slow hook.
        assert client.statistics().queued_bytes + 4 * 500_000 > 8 * 2**20
        if end == "close":
            await client.aclose()
        else:
            await client._owner.closing.drain_at_exit(1)

    run(main())
    assert sorted(told, key=int) == [str(number) for number in range(300)]
    assert "skipped" not in caplog.text


@pytest.mark.parametrize("end", ["close", "exit"])
@pytest.mark.parametrize(("seconds", "ends"), [(0.9, True), (8.0, False)])
def test_an_asynchronous_hook_gets_a_second_for_what_is_dropped(
    seconds: float, ends: bool, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    async def on_error(*_: object) -> None:
        told.append("begun")
        await asyncio.sleep(seconds)
        told.append("ended")

    async def main() -> float:
        client = Client("KEY", transport=Net(silence), close_timeout=1, on_error=on_error)
        await client.track("u", "E")
        if end == "close":
            await client.aclose()
        else:
            await client._owner.closing.drain_at_exit(1)
        return running_clock().time()

    assert run(main()) == pytest.approx(1 + min(1.0, seconds), abs=0.01)
    assert told == (["begun", "ended"] if ends else ["begun"])
    warnings = [record.getMessage() for record in caplog.records if "on_error" in record.getMessage()]
    assert warnings == ([] if ends else ["on_error was cancelled before it had ended: its loop, or the client, ended."])


def test_a_cancelled_close_says_that_it_cuts_off_hooks(caplog: pytest.LogCaptureFixture) -> None:
    async def wait_for_ever(*_: object) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        client = Client("KEY", transport=Net(silence), close_timeout=1, on_error=wait_for_ever)
        await client.track("u", "E")
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(1.5)
        closing.cancel()
        await asyncio.wait((closing,))
        assert closing.cancelled()

    run(main())
    assert "on_error was cancelled before it had ended" in caplog.text


class TestCancelledBlocks:
    def test_by_a_task_s_cancel_closes_within_its_limit(self) -> None:
        async def main() -> None:
            client = Client("KEY", transport=Net(slowly), close_timeout=5)
            block = asyncio.create_task(self.block(client))
            await turns()
            block.cancel()
            await asyncio.wait((block,))
            assert block.cancelled()
            assert client.statistics().delivered == 1

        run(main())

    @pytest.mark.parametrize("cancels", [0, 1, 2])
    def test_by_a_cancel_while_it_ends_lets_hooks_the_transport_and_the_spool_end_too(self, cancels: int) -> None:
        ended: list[str] = []

        class Parting(Net):
            async def aclose(self) -> None:
                await asyncio.sleep(0.2)
                ended.append("transport")

        class Recording(SlowSpool):
            async def settle(self, keys: Sequence[int], result: BatchResult, answer: str = "") -> None:
                await asyncio.sleep(1.5)
                ended.append("record")

            async def aclose(self) -> None:
                ended.append("spool")

        async def hook(*_: object) -> None:
            await asyncio.sleep(0.9)
            ended.append("hook")

        async def main() -> None:
            spool = Recording()
            client = Client("KEY", transport=Parting(refused), spool=spool, on_error=hook)
            call = asyncio.create_task(client.track("u", "E"))
            await turns()
            spool.answer(0, held=True)
            await call
            closing = asyncio.create_task(client.aclose())
            await asyncio.sleep(0.1)
            assert client.statistics().failed == 1
            for _ in range(cancels):
                closing.cancel()
                await turns()
            await asyncio.wait((closing,))
            assert closing.cancelled() is (cancels > 0)
            hooks = ["hook"] if cancels < 2 else []
            assert ended == [*hooks, "transport", "record", "spool"]

        run(main())

    def test_by_a_cancel_while_hooks_end_closes_the_transport_all_the_same(self) -> None:
        async def hook(*_: object) -> None:
            await asyncio.Event().wait()

        async def main() -> None:
            net = Net(refused)
            client = Client("KEY", transport=net, on_error=hook)
            await client.track("u", "E")
            closing = asyncio.create_task(client.aclose())
            await asyncio.sleep(0.1)
            assert (client.statistics().failed, net.closed) == (1, 0)
            closing.cancel()
            await asyncio.wait((closing,))
            assert closing.cancelled()
            assert net.closed == 1
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run(main())

    async def block(self, client: Client) -> None:
        async with client:
            await client.track("u", "E")
            await asyncio.Event().wait()

    def test_a_second_cancel_shortens_it_to_nothing(self) -> None:
        async def main() -> None:
            client = Client("KEY", transport=Net(slowly), close_timeout=5)
            block = asyncio.create_task(self.block(client))
            await turns()
            block.cancel()
            await turns()
            block.cancel()
            await asyncio.wait((block,))
            assert block.cancelled()
            assert running_clock().time() < 0.9
            assert client.statistics().reasons == {"close_timeout": 1}

        run(main())

    @pytest.mark.parametrize(
        "scope", ["asyncio.timeout", "wait_for", "anyio", "anyio task group", "asyncio task group"]
    )
    def test_by_a_scope_delivers_and_tells_the_scope(self, scope: str) -> None:
        async def main() -> None:
            client = Client("KEY", transport=Net(slowly), close_timeout=5)
            await SCOPES[scope](self.block(client))
            assert client.statistics().delivered == 1
            # What comes after is not cancelled by what went before.
            await asyncio.sleep(1)

        run(main())

    @pytest.mark.parametrize("close", [False, True])
    @pytest.mark.parametrize("scope", ["asyncio.timeout", "wait_for", "anyio"])
    def test_a_scope_around_the_close_itself(self, scope: str, close: bool) -> None:
        async def main() -> None:
            client = Client("KEY", transport=Net(slowly), close_timeout=5, flush_interval=0)
            await client.track("u", "E")
            await SCOPES[scope](client.aclose() if close else client.flush())
            await client.aclose()
            assert client.statistics().delivered == 1

        run(main())


async def _asyncio_timeout(work: Any) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await work


async def _wait_for(work: Any) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work, 0.5)


async def _anyio(work: Any) -> None:
    with anyio.move_on_after(0.5) as scope:
        await work
    assert scope.cancelled_caught


async def _anyio_group(work: Any) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: work)
        await asyncio.sleep(0.5)
        group.cancel_scope.cancel()


async def _asyncio_group(work: Any) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.5)
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(work)
            group.create_task(fail())


SCOPES: dict[str, Callable[[Any], Awaitable[None]]] = {
    "asyncio.timeout": _asyncio_timeout,
    "wait_for": _wait_for,
    "anyio": _anyio,
    "anyio task group": _anyio_group,
    "asyncio task group": _asyncio_group,
}


def test_what_is_in_no_batch_at_the_exit_counts_as_lost() -> None:
    """As when the loop of another thread is between two steps while the drain takes the client over."""
    client = Client("KEY", transport=Net())
    for _ in range(3):
        client.nowait.track("user", "Event")
    client._owner.pipeline.queue.messages.deque.popleft()
    assert client._owner.closing.left_at_exit() == (3, 0)
    assert client._owner.closing.left_at_exit() == (3, 0)


@pytest.mark.parametrize("fault", [SystemExit, KeyboardInterrupt])
def test_what_is_dropped_at_the_exit_is_counted_also_if_a_hook_ends_the_drain(fault: type[BaseException]) -> None:
    def end(*_: object) -> None:
        raise fault

    client = Client("KEY", transport=Net(silence), on_error=end)
    for _ in range(3):
        client.nowait.track("user", "Event")
    with pytest.raises(fault):
        run(client._owner.closing.drain_at_exit(0.1))
    assert client._owner.closing.left_at_exit() == (3, 0)


def test_the_drain_takes_a_client_from_a_running_loop_between_two_of_its_steps() -> None:
    amid, sent = threading.Event(), threading.Event()
    sent_amid: list[bool] = []

    async def answer(_: Arrival) -> Response:
        sent.set()
        return OK

    def begin(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        if coroutine.__qualname__ == "RequestSender.send":
            amid.set()
            sent_amid.append(sent.wait(0.1))
        return asyncio.Task(coroutine, loop=loop, **options)

    async def track_and_go_on() -> None:
        asyncio.get_running_loop().set_task_factory(begin)
        delivery = await client.track("user", "Event")
        await delivery

    net = Net(answer)
    client = Client("KEY", transport=net)
    thread = threading.Thread(target=lambda: asyncio.run(track_and_go_on()))
    thread.start()
    assert amid.wait(PATIENCE)
    asyncio.run(client._owner.closing.drain_at_exit(PATIENCE))
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not sent_amid[0]
    assert client._owner.closing.left_at_exit() == (0, 0)


def test_a_loop_that_ends_as_work_is_handed_to_it_leaves_the_work_to_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("done")

    async def main() -> None:
        ended = asyncio.new_event_loop()
        ended.close()
        # In another thread it runs when it is asked, and has ended a moment later.
        monkeypatch.setattr(ended, "is_running", lambda: True)
        assert await closing_module._ended(work(), ended, 1.0, "transport", closing_module.Cancels(0))

    asyncio.run(main())
    assert done == ["done"]
