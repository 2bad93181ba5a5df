"""The way into a spool: each message is handed over once, and gets the answer that is its own."""

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest

from segment_async import Client, ClientClosed, Delivery, QueueFull, SpoolUnavailable, Status
from segment_async._lifecycle.waiting import settle_all
from segment_async._pipeline.accounts import Accounts
from segment_async._pipeline.spool_recorder import is_among
from segment_async.spool._protocol import Appended, AppendResult, DroppedMessage, StoredMessage, TryLater, Window
from tests.support.interruptions import Interrupted, MemoryRefused, Points, before_line, cpu_limit
from tests.support.scripted_transport import ScriptedTransport, Slow
from tests.support.slow_spool import SlowSpool
from tests.support.virtual_clock import run


def interrupt() -> None:
    raise Interrupted


def test_answers_that_come_as_a_group_is_about_to_be_handed_over_are_dealt_with_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the same messages would be stored again, and later ones would get their answers."""

    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport) as client:
            feed = client._owner.pipeline.feed
            assert feed is not None
            intake = feed.intake
            deliveries = [
                client.nowait.track("user-1", "Order Completed", message_id=f"m{number}") for number in range(3)
            ]
            assert spool.ids == [["m0"]]
            spool.answer(0, held=True)
            assert spool.ids == [["m0"], ["m1", "m2"]]

            # Another thread has looked whether there are answers, and then the spool's thread brings some.
            take, pump = intake.answers.take, intake.pump

            def take_too_early() -> None:
                take()
                monkeypatch.setattr(intake.answers, "take", take)
                monkeypatch.setattr(intake, "pump", lambda: None)
                spool.answer(1, held=True)
                monkeypatch.setattr(intake, "pump", pump)

            monkeypatch.setattr(intake.answers, "take", take_too_early)
            intake.pump()
            assert len(spool.groups) == 2
            deliveries.append(client.nowait.track("user-1", "Order Completed", message_id="m3"))
            assert spool.ids == [["m0"], ["m1", "m2"], ["m3"]]
            spool.answer(2, held=True)
            assert await client.flush() == 0
            assert [(await delivery).status for delivery in deliveries] == [Status.DELIVERED] * 4
        assert transport.taken == ["m0", "m1", "m2", "m3"]

    run(main())


def test_they_are_one_group_whatever_the_spools_thread_does_as_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them in a group would have the others wait for it."""
    spool = SlowSpool()
    is_queued, is_answered = threading.Event(), threading.Event()

    def answer() -> None:
        spool.answer(0, held=True)
        # The spool's thread stops where it has woken the loop, until the first call has queued its next message.
        is_answered.set()

    def settle_and_stop(results: Any) -> None:
        settle_all(results)
        if results and threading.current_thread() is not threading.main_thread():
            is_queued.wait(10)

    monkeypatch.setattr("segment_async._pipeline.spool_calls.settle_all", settle_and_stop)

    async def main() -> None:
        async with Client("key", spool=spool, transport=ScriptedTransport()) as client:

            async def call_twice(number: int) -> None:
                await client.track("user-1", "Order Completed", message_id=f"a{number}")
                if number == 1:
                    is_queued.set()
                    assert is_answered.wait(10)
                await client.track("user-1", "Order Completed", message_id=f"b{number}")

            calls = [asyncio.create_task(call_twice(number)) for number in range(3)]
            await turns()
            thread = threading.Thread(target=answer)
            thread.start()
            await asyncio.to_thread(is_answered.wait, 10)
            await turns()
            assert spool.ids == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]
            spool.answer(1, held=True)
            await asyncio.gather(*calls)
            thread.join()

    asyncio.run(main())


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def store_half(spool: SlowSpool) -> Window:
    """The first group is stored, its first half held; returns the rest, as a read would."""
    messages, done = spool.groups[0]
    half = len(messages) // 2
    done(AppendResult([Appended("stored", key, key <= half) for key, _ in enumerate(messages, 1)]))
    return Window([StoredMessage(key, *message) for key, message in enumerate(messages, 1)][half:])


def test_stored_messages_stay_on_disk_when_there_is_no_room_for_them() -> None:
    """They are sent once they are read, in their order, by the deliveries that the application keeps."""

    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport, flush_at=2, flush_interval=60) as client:
            calls = [
                asyncio.create_task(client.track("user-1", "Order Completed", message_id=f"m{number}"))
                for number in range(4)
            ]
            await turns()
            rest = store_half(spool)
            deliveries = await asyncio.gather(*calls)
            statistics = client.statistics()
            assert (statistics.accepted, statistics.pending) == (4, 4)
            spool.windows.put_nowait(rest)
            assert [(await delivery).status for delivery in deliveries] == [Status.DELIVERED] * 4
        assert transport.taken == ["m0", "m1", "m2", "m3"]

    run(main())


@pytest.mark.parametrize("awaited", [True, False])
def test_a_message_that_is_read_before_the_spool_has_answered_is_one_message(awaited: bool) -> None:
    """An engine with several threads or a server commits first, and answers a moment later."""

    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport, close_timeout=1) as client:
            await client.flush()
            if awaited:
                call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
                await turns()
            else:
                delivery = client.nowait.track("user-1", "Order Completed", message_id="m0")
            spool.windows.put_nowait(Window([StoredMessage(1, *spool.groups[0][0][0])]))
            await turns()
            spool.answer(0)
            if awaited:
                delivery = await call
            async with asyncio.timeout(10):
                assert (await delivery).status is Status.DELIVERED
            assert await client.flush(timeout=10) == 0
            statistics = client.statistics()
            assert (statistics.accepted, statistics.delivered, statistics.recovered) == (1, 1, 0)
        assert transport.taken == ["m0"]

    run(main())


def test_a_spool_that_takes_none_gives_out_what_it_has_of_the_same_ids() -> None:
    """A full disk has room again only once that is delivered."""

    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport, close_timeout=1) as client:
            await client.flush()
            client.nowait.track("user-1", "Order Completed", message_id="m0")
            body = spool.groups[0][0][0].body
            spool.windows.put_nowait(Window([StoredMessage(1, "m0", body)]))
            await turns()
            spool.groups[0][1](TryLater(0.5))
            await asyncio.sleep(5)
            assert [keys for keys, _ in spool.settled] == [[1]]

    run(main())


def test_a_message_with_a_known_id_has_its_outcome_whatever_else_is_in_its_group() -> None:
    """What waits for it looks again, although the rest of the group is stored as usual."""

    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport([Slow(5)])
        async with Client("key", spool=spool, transport=transport, flush_at=1, close_timeout=1) as client:
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
            await turns()
            spool.answer(0, held=True)
            await call
            # While another group is under way, the next one gathers.
            client.nowait.track("user-1", "Order Completed", message_id="m1")
            again = client.nowait.track("user-1", "Order Completed", message_id="m0")
            client.nowait.track("user-1", "Order Completed", message_id="m2")
            waiting = asyncio.ensure_future(again)
            await turns()
            spool.answer(1, held=True)
            assert spool.ids[2] == ["m0", "m2"]
            # Nothing else moves any more.
            await asyncio.sleep(1)
            _, done = spool.groups[2]
            done(AppendResult([Appended("known", 1), Appended("stored", 3)]))
            async with asyncio.timeout(10):
                assert (await waiting).status is Status.DELIVERED

    run(main())


def test_a_message_that_is_brought_into_memory_keeps_its_delivery_if_that_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signal handler that raises leaves it half done, and it is done again."""
    load, loads = Accounts.load, 0

    def interrupted_once(accounts: Accounts, size: int) -> None:
        nonlocal loads
        loads += 1
        if loads == 1:
            raise Interrupted
        load(accounts, size)

    monkeypatch.setattr(Accounts, "load", interrupted_once)

    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport) as client:
            delivery = client.nowait.track("user-1", "Order Completed", message_id="m0")
            [([stored], _)] = spool.groups
            spool.answer(0)
            await asyncio.sleep(0)
            spool.windows.put_nowait(Window([StoredMessage(1, stored.message_id, stored.body)]))
            assert (await delivery).status is Status.DELIVERED
            assert (client.statistics().accepted, client.statistics().delivered) == (1, 1)
        assert (transport.taken, loads) == (["m0"], 2)

    run(main())


@pytest.mark.parametrize("answer", [None, OSError("no"), AppendResult([]), AppendResult([Appended("stored", 1)] * 2)])
def test_an_answer_that_does_not_fit_is_a_refusal(answer: Any) -> None:
    """From an engine of the application's own; it would stop the client, or the loop."""

    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport, close_timeout=1) as client:
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
            await turns()
            with suppress(AttributeError):
                spool.groups[0][1](answer)
            with pytest.raises(SpoolUnavailable) as refused:
                await call
            assert refused.value.maybe_stored
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m1"))
            await turns()
            spool.answer(1, held=True)
            assert (await (await call)).status is Status.DELIVERED
            assert (client.statistics().accepted, client.statistics().rejected) == (1, 1)

    run(main())


def test_the_recorder_has_nothing_to_do_once_another_thread_has_woken_the_interrupted_calls() -> None:
    """It would go round for ever, and the application's loop with it."""

    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport) as client:
            await client.flush()
            pipeline = client._owner.pipeline
            assert pipeline.feed is not None
            calls = pipeline.feed.intake._calls
            calls.is_interrupted = True
            pipeline.queue.notify()
            with cpu_limit(2.0):
                await turns()
            assert not calls.is_interrupted

    run(main())


@pytest.mark.parametrize("makes_room", [False, True])
def test_an_answer_at_which_memory_runs_out_is_dealt_with_later(makes_room: bool) -> None:
    """The spool says it once: its group would stay under way, and every later call be refused."""
    dropped = [DroppedMessage("gone", b"{}", "queue_full")] if makes_room else []

    async def once(number: int) -> bool:
        spool, transport = SlowSpool(), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport, close_timeout=1) as client:
            await client.flush()
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
            await turns()
            with MemoryRefused("_pipeline", at=number) as refused, suppress(MemoryError):
                spool.groups[0][1](AppendResult([Appended("stored", 1, held=True)], dropped))
            async with asyncio.timeout(10):
                assert (await (await call)).status is Status.DELIVERED
            assert spool.ids == [["m0"]]
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m1"))
            await turns()
            spool.groups[1][1](AppendResult([Appended("stored", 2, held=True)]))
            assert (await (await call)).status is Status.DELIVERED
            assert client.statistics().dropped == len(dropped)
        return refused.where != ""

    number = 0
    while run(once(number)):
        number += 1
    assert number > 0


class Stalled(SlowSpool):
    """Records outcomes when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.records = asyncio.Event()

    async def settle(self, keys: Any, result: Any, answer: str = "") -> None:
        await self.records.wait()
        await super().settle(keys, result, answer)


async def deliver_one(client: Client, spool: SlowSpool) -> None:
    call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
    await turns()
    spool.answer(0, held=True)
    assert (await (await call)).status is Status.DELIVERED


def test_calls_wait_no_longer_than_for_the_disk_while_an_outcome_has_to_be_recorded_first() -> None:
    async def main() -> None:
        spool, loop = Stalled(), asyncio.get_running_loop()
        async with Client("key", spool=spool, transport=ScriptedTransport(), overflow_timeout=2) as client:
            await deliver_one(client, spool)
            # The same id again, before the spool knows that the first one has ended; and another one behind it.
            calls = [
                asyncio.create_task(client.track("user-1", "Order Completed", message_id=message_id))
                for message_id in ("m0", "m1")
            ]
            await turns()
            begin = loop.time()
            spool.groups[1][1](AppendResult([Appended("known", 1), Appended("stored", 2, held=True)]))
            await calls[1]
            calls.append(asyncio.create_task(client.track("user-1", "Order Completed", message_id="m2")))
            async with asyncio.timeout(10):
                for call in (calls[0], calls[2]):
                    with pytest.raises(SpoolUnavailable):
                        await call
            assert loop.time() - begin == pytest.approx(2, abs=0.1)
            spool.records.set()
            await turns()
            assert spool.ids[2] == ["m0", "m2"]
            spool.answer(2, held=True)

    run(main())


def test_an_answer_that_comes_after_the_outcome_of_its_id_was_recorded_leaves_no_delivery_without_one() -> None:
    """The first message is gone by then: the second one is stored by itself."""

    async def main() -> None:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport()) as client:
            calls = [asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))]
            await turns()
            spool.answer(0, held=True)
            first = await calls[0]
            calls.append(asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0")))
            await turns()
            assert (await first).status is Status.DELIVERED
            await turns()
            assert [keys for keys, _ in spool.settled] == [[1]]
            spool.groups[1][1](AppendResult([Appended("known", 1)]))
            await turns()
            assert spool.ids[2:] == [["m0"]]
            spool.answer(2, held=True)
            assert (await (await calls[1])).status is Status.DELIVERED
            statistics = client.statistics()
            assert (statistics.accepted, statistics.delivered) == (2, 2)

    run(main())


def test_a_signal_handler_that_raises_as_an_outcome_was_just_recorded_delays_no_message_that_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else would be recorded, and the spool be given nothing more."""

    async def main() -> None:
        spool = Stalled()
        async with Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=1) as client:
            await deliver_one(client, spool)
            feed = client._owner.pipeline.feed
            assert feed is not None
            client.nowait.track("user-1", "Order Completed", message_id="m0")
            spool.groups[1][1](AppendResult([Appended("known", 1)]))

            def interrupt_once() -> None:
                monkeypatch.undo()
                interrupt()

            monkeypatch.setattr(feed.intake, "recorded", interrupt_once)
            spool.records.set()
            # The task that records begins again.
            await asyncio.sleep(1)
            assert spool.ids[2:] == [["m0"]]
            spool.answer(2, held=True)

    run(main())


class Announced:
    """A lock that says when another thread is about to take it."""

    def __init__(self, lock: Any, event: threading.Event) -> None:
        self.lock, self.event, self.thread = lock, event, threading.current_thread()
        self._is_owned = lock._is_owned

    def __enter__(self) -> None:
        if threading.current_thread() is not self.thread:
            self.event.set()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_an_outcome_that_is_recorded_just_as_an_answer_waits_for_it_delays_no_later_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else would be recorded, and the spool be given nothing more."""

    async def main() -> None:
        spool = Stalled()
        async with Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=1) as client:
            await deliver_one(client, spool)
            feed, queue, waits = client._owner.pipeline.feed, client._owner.pipeline.queue, threading.Event()
            assert feed is not None
            client.nowait.track("user-1", "Order Completed", message_id="m0")

            # The client's loop, while the spool's thread deals with the answer.
            recorded = threading.Thread(target=feed.intake.recorded)

            def is_ending_for_now(key: int) -> bool:
                monkeypatch.setattr(feed.intake.answers, "_is_ending", lambda _: False)
                assert is_among(feed.recorder._outcomes, key)
                recorded.start()
                assert waits.wait(10)
                return True

            monkeypatch.setattr(feed.intake.answers, "_is_ending", is_ending_for_now)
            monkeypatch.setattr(queue, "lock", Announced(queue.lock, waits))
            spool.groups[1][1](AppendResult([Appended("known", 1)]))
            await asyncio.to_thread(recorded.join)
            await turns()
            assert spool.ids[1:] == [["m0"], ["m0"]]
            spool.records.set()
            spool.answer(2, held=True)

    run(main())


class Torn(SlowSpool):
    """A signal handler raises, once, as the spool has just taken a group."""

    was_interrupted = False

    def append_nowait(self, *arguments: Any, **options: Any) -> None:
        super().append_nowait(*arguments, **options)
        if not self.was_interrupted:
            self.was_interrupted = True
            interrupt()


@pytest.mark.parametrize("awaited", [True, False])
def test_a_signal_handler_that_raises_amid_an_append_costs_no_message(awaited: bool) -> None:
    """The spool holds the messages for this process, and nothing else would send them."""

    async def main() -> None:
        spool, transport = Torn(), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport, close_timeout=1) as client:
            if awaited:
                call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
                await turns()
            else:
                delivery = client.nowait.track("user-1", "Order Completed", message_id="m0")
            assert spool.ids == [["m0"], ["m0"]]
            spool.answer(0, held=True)
            # Too late: the answer was there.
            spool.groups[1][1](AppendResult([Appended("known", 1)]))
            if awaited:
                delivery = await call
            async with asyncio.timeout(10):
                assert (await delivery).status is Status.DELIVERED
            statistics = client.statistics()
            assert (statistics.accepted, statistics.delivered, statistics.rejected) == (1, 1, 0)
        assert transport.taken == ["m0"]

    run(main())


@pytest.mark.parametrize("is_taken", [True, False])
@pytest.mark.parametrize("awaited", [True, False])
def test_ctrl_c_amid_an_append_in_a_program_that_goes_on_costs_no_message(awaited: bool, is_taken: bool) -> None:
    """As an interactive shell does."""

    class TornByCtrlC(SlowSpool):
        appends = 0

        def append_nowait(self, *arguments: Any, **options: Any) -> None:
            self.appends += 1
            if is_taken or self.appends > 1:
                super().append_nowait(*arguments, **options)
            if self.appends == 1:
                raise KeyboardInterrupt

    spool, transport = TornByCtrlC(), ScriptedTransport()
    client = Client("key", spool=spool, transport=transport, close_timeout=1)

    async def interrupted() -> None:
        if awaited:
            await client.track("user-1", "Order Completed", message_id="m0")
        else:
            client.nowait.track("user-1", "Order Completed", message_id="m0")

    async def goes_on() -> None:
        # Of this loop.
        spool.windows = asyncio.Queue()
        async with client:
            await turns()
            assert spool.ids == [["m0"]] * (2 if is_taken else 1)
            for number, (_, done) in enumerate(spool.groups):
                done(AppendResult([Appended("known" if number else "stored", 1, not number)]))
            assert await client.flush(timeout=10) == 0
            counted = client.statistics()
            assert (counted.accepted, counted.delivered, counted.handed_over) == (1, 1, 0)
        assert transport.taken == ["m0"]

    with pytest.raises(KeyboardInterrupt):
        run(interrupted())
    run(goes_on())


@pytest.mark.parametrize("fault", [OSError("a bug of the engine's"), asyncio.CancelledError()])
def test_a_call_is_told_that_the_spool_raised_whatever_that_was(fault: BaseException) -> None:
    class Failing(SlowSpool):
        def append_nowait(self, *args: Any, **options: Any) -> None:
            raise fault

    async def main() -> None:
        async with Client("key", spool=Failing(), transport=ScriptedTransport()) as client:
            async with asyncio.timeout(10):
                with pytest.raises(SpoolUnavailable, match="the spool raised"):
                    await client.track("user-1", "Order Completed")
            delivery = client.nowait.track("user-1", "Order Completed")
            assert delivery.outcome is not None
            assert delivery.outcome.reason == "spool_unavailable"
            counters = client.statistics()
            assert (counters.accepted, counters.dropped, counters.pending) == (1, 1, 0)

    run(main())


def test_a_close_tells_which_messages_the_spool_may_have_stored() -> None:
    """What it was given is perhaps on disk, and the next process sends it."""

    async def main() -> None:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0) as client:
            calls = []
            for number in range(2):
                calls.append(asyncio.create_task(client.track("user-1", "Order Completed", message_id=f"m{number}")))
                await turns()
            assert spool.ids == [["m0"]]
            closing = asyncio.create_task(client.aclose())
            refused = await asyncio.gather(*calls, return_exceptions=True)
            assert [getattr(each, "maybe_stored", None) for each in refused] == [True, False]
            await closing

    run(main())


@pytest.mark.parametrize("is_answered", [False, True])
def test_a_message_that_the_spool_may_have_stored_at_the_close_is_possibly_delivered(*, is_answered: bool) -> None:
    """By the next process, or by a relay. Not one that the spool was not given, or of which it said so."""
    reported: dict[str, bool] = {}

    def on_error(error: Any, messages: list[dict[str, Any]]) -> None:
        reported.update((message["messageId"], error.outcome.possibly_delivered) for message in messages)

    async def main() -> None:
        spool = SlowSpool()
        client = Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0, on_error=on_error)
        deliveries = [client.nowait.track("user-1", "Order Completed", message_id=f"m{number}") for number in range(2)]
        assert spool.ids == [["m0"]]
        if is_answered:
            spool.groups[0][1](TryLater(60.0))
        await client.aclose()
        outcomes = [delivery.outcome for delivery in deliveries]
        assert [each and each.possibly_delivered for each in outcomes] == [not is_answered, False]
        assert reported == {"m0": not is_answered, "m1": False}
        assert [each and each.reason for each in outcomes] == ["close_timeout"] * 2

    run(main())


def test_a_close_counts_no_message_that_the_spool_was_not_given_if_its_call_raises() -> None:
    lost: list[str] = []

    def on_error(_: object, messages: list[dict[str, Any]]) -> None:
        lost.extend(message["messageId"] for message in messages)

    async def main() -> None:
        spool = SlowSpool()
        client = Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0, on_error=on_error)
        calls = []
        for number in range(2):
            calls.append(asyncio.create_task(client.track("user-1", "Order Completed", message_id=f"m{number}")))
            await turns()
        delivery = client.nowait.track("user-1", "Order Completed", message_id="m2")
        assert spool.ids == [["m0"]]
        await client.aclose()
        for call in calls:
            with pytest.raises(SpoolUnavailable):
                await call
        assert delivery.outcome is not None
        assert delivery.outcome.reason == "close_timeout"
        # The first one may be stored.
        assert lost == ["m0", "m2"]
        counters = client.statistics()
        assert (counters.accepted, counters.dropped, counters.pending) == (2, 2, 0)

    run(main())


def test_a_close_looks_at_each_message_a_few_times_however_many_the_spool_is_storing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = [0]

    def noted(delivery: Delivery) -> int:
        looks[0] += 1
        return object.__hash__(delivery)

    async def main() -> None:
        spool = SlowSpool()
        client = Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0)
        for number in range(101):
            client.nowait.track("user-1", "Order Completed", message_id=f"m{number}")
        spool.answer(0)
        for number in range(101, 201):
            client.nowait.track("user-1", "Order Completed", message_id=f"m{number}")
        assert list(map(len, spool.ids)) == [1, 100]
        monkeypatch.setattr(Delivery, "__hash__", noted)
        await client.aclose()
        monkeypatch.undo()
        assert client.statistics().dropped == 200

    run(main())
    assert 0 < looks[0] < 10 * 200


def test_a_signal_handler_that_raises_as_calls_are_ended_keeps_none_waiting_when_the_spool_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        spool, transport, loop = SlowSpool(), ScriptedTransport(), asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: monkeypatch.undo())
        async with Client("key", spool=spool, transport=transport, close_timeout=1) as client:
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
            await turns()
            monkeypatch.setattr("segment_async._pipeline.spool_calls.settle_all", lambda _: interrupt())
            # Longer than a stalled disk may hold calls up.
            await asyncio.sleep(2)
            spool.answer(0, held=True)
            async with asyncio.timeout(10):
                with pytest.raises(SpoolUnavailable):
                    await call
            assert await client.flush() == 0
            assert client.statistics().delivered == 1

    run(main())


def test_a_signal_handler_that_raises_as_an_outcome_is_recorded_costs_no_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The spool would keep the message, and send it once more."""

    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport()
        settle = spool.settle

        async def settle_later(*_arguments: Any) -> None:
            monkeypatch.setattr(spool, "settle", settle)
            interrupt()

        monkeypatch.setattr(spool, "settle", settle_later)
        async with Client("key", spool=spool, transport=transport) as client:
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
            await turns()
            spool.answer(0, held=True)
            assert (await (await call)).status is Status.DELIVERED
            assert await client.flush() == 0
            assert [keys for keys, _ in spool.settled] == [[1]]

    run(main())


def test_a_signal_handler_that_raises_as_a_group_begins_delays_that_group_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The calls after it do not wait for the recorder to look after them."""

    async def main() -> None:
        spool, transport, loop = SlowSpool(), ScriptedTransport(), asyncio.get_running_loop()
        async with Client("key", spool=spool, transport=transport) as client:
            await client.flush()
            call_soon = loop.call_soon

            def call_others_soon(callback: Any, *arguments: Any, **options: Any) -> asyncio.Handle | None:
                if "SpoolIntake" in getattr(callback, "__qualname__", ""):
                    return None
                return call_soon(callback, *arguments, **options)

            monkeypatch.setattr(loop, "call_soon", call_others_soon)
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
            await turns()
            assert spool.ids == []
            monkeypatch.undo()
            await asyncio.sleep(2)
            assert spool.ids == [["m0"]]
            spool.answer(0, held=True)
            await call
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m1"))
            await turns()
            assert spool.ids == [["m0"], ["m1"]]
            spool.answer(1, held=True)
            await call

    run(main())


def test_the_calls_that_an_answer_wakes_are_one_group() -> None:
    """Else the first of them would be a group of its own, for which the others wait."""

    async def main() -> None:
        spool = SlowSpool(shared=True)
        async with Client("key", spool=spool, deliver=False) as client:

            async def caller(name: str) -> None:
                for number in range(2):
                    await client.track("user-1", "Order Completed", message_id=f"{name}{number}")

            callers = asyncio.gather(*(caller(name) for name in "abc"))
            for number in range(2):
                await asyncio.sleep(0.01)
                spool.answer(number)
            await callers
        assert spool.ids == [["a0", "b0", "c0"], ["a1", "b1", "c1"]]

    run(main())


def test_an_exception_at_any_call_amid_the_answers_costs_no_message_that_is_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signal handler may raise there; the recorder goes on with the rest."""

    async def once(number: int) -> bool:
        spool = SlowSpool(shared=True)
        async with Client("key", spool=spool, deliver=False) as client:
            calls = [asyncio.ensure_future(client.track("user-1", "Order Completed")) for _ in range(2)]
            await asyncio.sleep(0.01)
            other = client.nowait.track("user-1", "Order Completed")
            feed = client._owner.pipeline.feed
            assert feed is not None
            with monkeypatch.context() as patched:
                # The spool's thread has brought them, and this one deals with them.
                patched.setattr(feed.intake, "pump", lambda: None)
                spool.answer(0)
            with Points("_pipeline", act=interrupt, at=number) as points, suppress(Interrupted):
                feed.intake.pump()
            feed.intake.pump()
            spool.answer(1)
            deliveries = [*[await call for call in calls], other]
            assert [(await each).status for each in deliveries] == [Status.HANDED_OVER] * 3, points.where
            counted = client.statistics()
            assert (counted.accepted, counted.handed_over, counted.queued_bytes) == (3, 3, 0), points.where
        return points.where != ""

    number = 0
    while run(once(number)):
        number += 1
    assert number > 10


def test_an_exception_at_any_call_amid_the_answers_costs_no_message_that_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def once(number: int) -> bool:
        spool, transport = SlowSpool(), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport) as client:
            calls = [
                asyncio.ensure_future(client.track("user-1", "Order Completed", message_id=f"m{number}"))
                for number in range(4)
            ]
            await asyncio.sleep(0.01)
            feed = client._owner.pipeline.feed
            assert feed is not None
            with monkeypatch.context() as patched:
                # The spool's thread has brought them, and this one deals with them.
                patched.setattr(feed.intake, "pump", lambda: None)
                rest = store_half(spool)
            with Points("_pipeline", act=interrupt, at=number) as points, suppress(Interrupted):
                feed.intake.pump()
            feed.intake.pump()
            deliveries = await asyncio.gather(*calls)
            spool.windows.put_nowait(rest)
            assert [(await each).status for each in deliveries] == [Status.DELIVERED] * 4, points.where
            counted = client.statistics()
            assert (counted.accepted, counted.delivered, counted.queued_bytes) == (4, 4, 0), points.where
            assert transport.taken == ["m0", "m1", "m2", "m3"], points.where
        return points.where != ""

    number = 0
    while run(once(number)):
        number += 1
    assert number > 10


def test_an_exception_at_any_call_amid_the_answers_leaves_no_bytes_of_messages_that_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They would take room for ever. One message is known, one on disk only, one refused, and one was given up."""

    async def once(number: int) -> bool:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport()) as client:
            feed = client._owner.pipeline.feed
            assert feed is not None
            calls = [asyncio.ensure_future(client.track("user-1", "Order Completed", message_id="m0"))]
            await asyncio.sleep(0.01)
            queued = [client.nowait.track("user-1", "Order Completed", message_id=f"m{number}") for number in (1, 2)]
            calls.append(asyncio.ensure_future(client.track("user-1", "Order Completed", message_id="m2")))
            await asyncio.sleep(0.01)
            spool.answer(0)
            earlier = await calls.pop(0)
            stored, full, known = Appended("stored", 2), Appended("full"), Appended("known", 2)
            given_up = DroppedMessage("m0", spool.groups[0][0][0].body, "queue_full", 1)
            with monkeypatch.context() as patched:
                # The spool's thread has brought them, and this one deals with them.
                patched.setattr(feed.intake, "pump", lambda: None)
                spool.groups[1][1](AppendResult([full, stored, known], [given_up]))
            with Points("_pipeline", act=interrupt, at=number) as points, suppress(Interrupted):
                feed.intake.pump()
            feed.intake.pump()
            deliveries = [earlier, *queued, await calls[0]]
            spool.windows.put_nowait(Window([StoredMessage(2, "m2", spool.groups[1][0][1].body)]))
            ended = [(await each).status for each in deliveries]
            assert ended == [Status.DROPPED] * 2 + [Status.DELIVERED] * 2, points.where
            counted = client.statistics()
            numbers = (counted.accepted, counted.delivered, counted.dropped, counted.queued_bytes)
            assert numbers == (3, 1, 2, 0), points.where
        return points.where != ""

    number = 0
    while run(once(number)):
        number += 1
    assert number > 10


def test_a_caller_that_waits_for_room_in_a_full_spool_learns_at_once_that_the_client_is_closed() -> None:
    async def main() -> None:
        spool, loop = SlowSpool(), asyncio.get_running_loop()
        async with Client(
            "key", spool=spool, transport=ScriptedTransport(), overflow_timeout=None, close_timeout=0
        ) as client:
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
            await turns()
            # It asks again after so many seconds.
            for number, pause in enumerate((0.5, 1, 2, 4, 8, 16, 30, 30)):
                spool.groups[number][1](AppendResult([Appended("full")]))
                await asyncio.sleep(pause - 0.01)
                assert len(spool.groups) == number + 1
                await asyncio.sleep(0.02)
            spool.groups[-1][1](AppendResult([Appended("full")]))
            await turns()
            begin = loop.time()
            closing = asyncio.create_task(client.aclose())
            with pytest.raises(ClientClosed):
                await call
            assert loop.time() == begin
            await closing

    run(main())


@pytest.mark.parametrize("limit", [0.2, 1.0, 20.0])
def test_a_full_spool_holds_a_caller_up_no_longer_than_the_overflow_timeout(limit: float) -> None:
    """The pauses between two tries grow, and the last one ends with the limit."""

    async def main() -> None:
        spool, loop = SlowSpool(), asyncio.get_running_loop()
        async with Client(
            "key", spool=spool, transport=ScriptedTransport(), overflow_timeout=limit, close_timeout=0
        ) as client:
            begin = loop.time()
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
            answered = 0
            while not call.done():
                await asyncio.sleep(0.01)
                for _, done in spool.groups[answered:]:
                    done(AppendResult([Appended("full")]))
                answered = len(spool.groups)
            assert (await (await call)).reason == "queue_full"
            assert limit <= loop.time() - begin < limit + 0.1

    run(main())


@pytest.mark.parametrize("line", range(3))
def test_an_answer_may_come_amid_the_look_for_what_was_left_undone(line: int) -> None:
    """Whatever notifies makes that look: a call of any thread."""

    async def main() -> None:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport()) as client:
            feed = client._owner.pipeline.feed
            assert feed is not None
            delivery = client.nowait.track("user-1", "Order Completed")
            look = type(feed.intake).is_interrupted.fget
            assert look is not None
            with before_line(line, look.__code__, lambda: spool.answer(0, held=True)):
                assert not feed.intake.is_interrupted
            assert (await delivery).status is Status.DELIVERED

    run(main())


def test_a_message_that_found_no_room_is_taken_when_the_handler_of_that_exception_queues_it_again() -> None:
    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport()
        client = Client("key", spool=spool, transport=transport, max_queue_size=1, overflow="raise")
        async with client:
            client.nowait.track("user-1", "Order Completed", message_id="first")
            try:
                client.nowait.track("user-1", "Order Completed", message_id="second")
            except QueueFull:
                spool.answer(0, held=True)
                assert await client.flush() == 0
                delivery = client.nowait.track("user-1", "Order Completed", message_id="second")
                assert client.statistics().pending == 1
                spool.answer(1, held=True)
            assert (await delivery).status is Status.DELIVERED

    run(main())
