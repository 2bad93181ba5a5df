"""What becomes of messages once a spool has answered."""

import asyncio
import logging
from typing import Any

import pytest

from segment_async import Client, Delivery, DeliveryError, Outcome, Response, SpoolUnavailable, Status, messages
from segment_async.spool._protocol import Appended, AppendResult, DroppedMessage, StoredMessage, Window
from tests.support.scripted_transport import ScriptedTransport, Slow
from tests.support.slow_spool import SlowSpool
from tests.support.virtual_clock import run


@pytest.mark.parametrize("how", ["read", "append", "earlier_one_with_the_same_id"])
def test_nothing_is_logged_with_the_queues_lock_held(how: str) -> None:
    """A handler of `logging` that tracks what it logs holds its own lock, and waits for the queue's."""
    # More than may wait for `on_error`, so that the first one is skipped, which is logged.
    body = b'{"messageId":"m","text":"%s"}' % (b"x" * 5 * 2**20)
    dropped = [DroppedMessage(name, body, "queue_full") for name in ("m0", "lost")]

    async def main() -> None:
        spool = SlowSpool()
        async with Client(
            "key", spool=spool, transport=ScriptedTransport(), close_timeout=1, on_error=lambda *_: None
        ) as client:
            queue = client._owner.pipeline.queue
            held: list[bool] = []

            class Handler(logging.Handler):
                def emit(self, record: logging.LogRecord) -> None:
                    held.append(queue.lock._is_owned())  # type: ignore[attr-defined]

            handler = Handler()
            logging.getLogger("segment_async").addHandler(handler)
            try:
                call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
                await asyncio.sleep(0.01)
                if how == "read":
                    spool.answer(0)
                    await call
                    spool.windows.put_nowait(Window((), dropped))
                elif how == "append":
                    spool.groups[0][1](AppendResult([Appended("stored", 1, held=True)], dropped))
                    assert (await (await call)).status is Status.DELIVERED
                else:
                    spool.answer(0)
                    first = await call
                    call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
                    await asyncio.sleep(0.01)
                    # The message with this id was given up to make room for the group of the next one.
                    spool.groups[1][1](AppendResult([Appended("stored", 2)], dropped[::-1]))
                    await call
                    assert (await first).status is Status.DROPPED
                await asyncio.sleep(0.01)
                assert client.statistics().dropped == 2
                assert held == [False]
            finally:
                logging.getLogger("segment_async").removeHandler(handler)

    run(main())


def test_a_message_that_was_stored_after_all_and_made_room_keeps_its_outcome() -> None:
    async def main() -> None:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0) as client:
            delivery = client.enqueue_nowait(messages.track("user-1", "Order Completed", message_id="m0"))
            await asyncio.sleep(0.01)
            spool.groups[0][1](SpoolUnavailable("no answer", maybe_stored=True))
            await asyncio.sleep(0.01)
            outcome = delivery.outcome
            assert outcome is not None
            assert outcome.reason == "spool_unavailable"
            spool.windows.put_nowait(Window((), [DroppedMessage("m0", b"{}", "queue_full")]))
            await asyncio.sleep(0.01)
            assert delivery.outcome == outcome

    run(main())


def test_a_message_that_made_room_within_its_own_group_ends_although_its_id_was_delivered_before() -> None:
    async def main() -> None:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0) as client:
            first = client.enqueue_nowait(messages.track("user-1", "Order Completed", message_id="m0"))
            await asyncio.sleep(0.01)
            spool.answer(0, held=True)
            assert (await first).status is Status.DELIVERED
            await asyncio.sleep(0.01)
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
            await asyncio.sleep(0.01)
            spool.groups[1][1](
                AppendResult([Appended("stored", 2)], [DroppedMessage("m0", b"{}", "queue_full")]),
            )
            second = await call
            assert second.outcome is not None
            assert second.outcome.reason == "queue_full"
            assert first.outcome is not None
            assert first.outcome.status is Status.DELIVERED

    run(main())


@pytest.mark.parametrize("key", [2, None])
def test_a_message_that_made_room_within_its_own_group_ends_although_one_with_its_id_was_dropped_before(
    key: int | None,
) -> None:
    """Its key says which of them it is; a spool may not say it."""

    async def main() -> None:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0) as client:
            first = client.enqueue_nowait(messages.track("user-1", "Order Completed", message_id="m0"))
            await asyncio.sleep(0.01)
            spool.groups[0][1](AppendResult([Appended("full")]))
            await asyncio.sleep(0.01)
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
            await asyncio.sleep(0.01)
            body = spool.groups[1][0][0].body
            spool.groups[1][1](AppendResult([Appended("stored", 2)], [DroppedMessage("m0", body, "queue_full", key)]))
            second = await call
            assert first.outcome is not None
            assert second.outcome is not None
            assert second.outcome.reason == "queue_full"

    run(main())


@pytest.mark.parametrize("key", [99, None])
@pytest.mark.parametrize("place", ["not stored", "held", "in flight"])
def test_a_message_in_memory_is_not_the_one_with_its_id_that_the_spool_gave_up(place: str, key: int | None) -> None:
    """An earlier process left that one, or the application did not keep its delivery."""

    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport(lambda _: Slow(1))
        async with Client("key", spool=spool, transport=transport, close_timeout=0) as client:
            other = client.enqueue_nowait(messages.track("user-1", "Order Completed", message_id="m0"))
            await asyncio.sleep(0.01)
            delivery = client.enqueue_nowait(messages.track("user-1", "Order Completed", message_id="m1"))
            dropped = [DroppedMessage("m1", b"{}", "queue_full", key)]
            if place == "not stored":
                spool.groups[0][1](AppendResult([Appended("stored", 1, held=True)], dropped))
                await asyncio.sleep(0.01)
                assert spool.groups[1][0][0].body
                spool.answer(1, held=True)
            else:
                spool.answer(0, held=True)
                await asyncio.sleep(0.01)
                spool.answer(1, held=True)
                if place == "in flight":
                    await asyncio.sleep(1)
                    assert client.statistics().in_flight
                spool.windows.put_nowait(Window((), dropped))
            await asyncio.sleep(0.01)
            assert delivery.outcome is None
            assert [(await each).status for each in (other, delivery)] == [Status.DELIVERED] * 2
            assert client.statistics().queued_bytes == 0
            assert client.statistics().dropped == 1

    run(main())


@pytest.mark.parametrize("key", [99, None])
@pytest.mark.parametrize("place", ["ready", "open batch"])
def test_a_message_in_memory_is_not_one_with_its_id_and_json_that_the_spool_gave_up(
    place: str, key: int | None
) -> None:
    """The application has sent the same thing twice."""

    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport, close_timeout=0) as client:
            deliveries: list[Delivery] = []
            for number, message_id in enumerate(("m0", "m1")):
                message = messages.track(
                    "user-1", "Order Completed", message_id=message_id, timestamp="2026-01-01T00:00:00Z"
                )
                deliveries.append(client.enqueue_nowait(message))
                await asyncio.sleep(0.01)
                spool.answer(number, held=True)
            queue = client._owner.pipeline.queue
            if place == "open batch":
                queue.read(1_000)
            assert bool(queue.ready) == (place == "ready")
            body = spool.groups[1][0][0].body
            spool.windows.put_nowait(Window((), [DroppedMessage("m1", body, "too_old", key)]))
            await asyncio.sleep(0.01)
            assert [each.outcome for each in deliveries] == [None, None]
            assert [(await each).status for each in deliveries] == [Status.DELIVERED] * 2
            assert sorted(transport.taken) == ["m0", "m1"]
            assert client.statistics().queued_bytes == 0
            assert client.statistics().dropped == 1

    run(main())


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_message_on_disk_is_not_the_one_with_its_id_that_the_spool_gave_up_before(is_kept: bool) -> None:
    """The spool says so after it has stored the later one: as what an operator erased is noticed with the next change."""

    async def main() -> None:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0) as client:
            deliveries: list[Delivery] = []
            for number in range(2):
                call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
                await asyncio.sleep(0.01)
                spool.answer(number)
                deliveries.append(await call)
                if not is_kept:
                    deliveries = deliveries[-1:]
                del call
            spool.windows.put_nowait(Window((), [DroppedMessage("m0", b"", "purged", 1)]))
            await asyncio.sleep(0.01)
            assert deliveries[-1].outcome is None
            if is_kept:
                assert deliveries[0].outcome is not None
                assert deliveries[0].outcome.reason == "purged"
            spool.windows.put_nowait(Window([StoredMessage(2, "m0", spool.groups[1][0][0].body)]))
            assert (await deliveries[-1]).status is Status.DELIVERED
            assert client.statistics().dropped == 1

    run(main())


@pytest.mark.parametrize("is_known", [False, True])
def test_a_message_that_made_room_does_not_end_as_one_with_its_id_whose_commit_was_in_doubt(*, is_known: bool) -> None:
    """The later one was refused, as its commit failed, and was stored after all; only then the spool says what made room."""

    async def main() -> None:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0) as client:

            async def track() -> asyncio.Task[Delivery]:
                call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
                await asyncio.sleep(0.01)
                return call

            call = await track()
            spool.answer(0)
            earlier = await call
            call = await track()
            refusal: Any = SpoolUnavailable("the disk refuses", maybe_stored=True)
            spool.groups[1][1](refusal)
            with pytest.raises(SpoolUnavailable):
                await call
            later: Delivery | None = None
            if is_known:
                call = await track()
                spool.groups[2][1](AppendResult([Appended("known", 2)]))
                later = await call
            spool.windows.put_nowait(Window([StoredMessage(2, "m0", b'{"messageId":"m0"}')]))
            await asyncio.sleep(1)
            assert client.statistics().delivered == 1
            assert earlier.outcome is None
            spool.windows.put_nowait(Window((), [DroppedMessage("m0", b"", "queue_full", 1)]))
            assert (await earlier).reason == "queue_full"
            assert later is None or (await later).status is Status.DELIVERED

    run(main())


def test_two_messages_on_disk_with_one_id_end_each_as_its_own_does() -> None:
    """Another process left one, and the spool names that to a call although it has stored one of this client's."""

    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport([Response(400, {}, b"{}")])
        async with Client("key", spool=spool, transport=transport, close_timeout=0) as client:
            deliveries: list[Delivery] = []
            for number, answer in enumerate((Appended("stored", 1), Appended("known", 7), Appended("known", 1))):
                call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
                await asyncio.sleep(0.01)
                spool.groups[number][1](AppendResult([answer]))
                deliveries.append(await call)
            own, others, again = deliveries
            del deliveries, call
            spool.windows.put_nowait(Window([StoredMessage(7, "m0", b'{"messageId":"m0"}')]))
            assert (await others).status is Status.FAILED
            assert (own.outcome, again.outcome) == (None, None)
            del others
            spool.windows.put_nowait(Window([StoredMessage(1, "m0", spool.groups[0][0][0].body)]))
            assert (await own).status is Status.DELIVERED
            assert (await again).status is Status.DELIVERED

    run(main())


def test_a_message_that_waits_to_be_stored_is_not_the_one_that_a_spool_calls_0() -> None:
    """As a spool of the application's may call its first one."""

    async def main() -> None:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0) as client:
            for number, message_id in enumerate(("m0", "m1")):
                call = asyncio.create_task(client.track("user-1", "Order Completed", message_id=message_id))
                await asyncio.sleep(0.01)
                if message_id == "m1":
                    later = client.nowait.track("user-1", "Order Completed", message_id="m1")
                spool.groups[number][1](AppendResult([Appended("stored", number)]))
                await call
            spool.windows.put_nowait(Window((), [DroppedMessage("m0", b"", "queue_full", 0)]))
            await asyncio.sleep(0.01)
            assert client.statistics().dropped == 1
            assert later.outcome is None

    run(main())


def test_a_known_message_does_not_end_as_a_later_one_that_waits_to_be_stored() -> None:
    async def main() -> None:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0) as client:
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
            await asyncio.sleep(0.01)
            later = client.enqueue_nowait(messages.track("user-1", "Order Completed", message_id="m0"))
            # An earlier process left it.
            spool.groups[0][1](AppendResult([Appended("known", 7)]))
            delivery = await call
            spool.groups[1][1](AppendResult([Appended("full")]))
            assert (await later).status is Status.DROPPED
            assert delivery.outcome is None
            spool.windows.put_nowait(Window([StoredMessage(7, "m0", b'{"messageId":"m0"}')]))
            assert (await delivery).status is Status.DELIVERED

    run(main())


def test_a_known_message_does_not_end_as_an_earlier_one_that_has_ended() -> None:
    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport([Response(400, {}, b"{}")])
        async with Client("key", spool=spool, transport=transport, close_timeout=0) as client:
            earlier = client.enqueue_nowait(messages.track("user-1", "Order Completed", message_id="m0"))
            await asyncio.sleep(0.01)
            spool.answer(0, held=True)
            assert (await earlier).status is Status.FAILED
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
            await asyncio.sleep(0.01)
            # An earlier process left it.
            spool.groups[1][1](AppendResult([Appended("known", 7)]))
            delivery = await call
            assert delivery.outcome is None
            spool.windows.put_nowait(Window([StoredMessage(7, "m0", b'{"messageId":"m0"}')]))
            assert (await delivery).status is Status.DELIVERED

    run(main())


@pytest.mark.parametrize("maybe_stored", [False, True])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_message_that_the_spool_may_have_stored_although_it_refused_it_is_possibly_delivered(
    *, maybe_stored: bool, is_cancelled: bool
) -> None:
    """What a failed commit has stored after all is read, and sent. Its call does not learn of the refusal any more."""
    reported: list[bool] = []

    def on_error(error: DeliveryError, messages: list[dict[str, Any]]) -> None:
        reported.append(error.outcome.possibly_delivered)

    async def main() -> None:
        spool = SlowSpool()
        refusal: Any = SpoolUnavailable("the disk refuses", maybe_stored=maybe_stored)
        async with Client("key", spool=spool, transport=ScriptedTransport(), on_error=on_error) as client:
            if is_cancelled:
                call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                call.cancel()
                await asyncio.wait([call])
                spool.groups[0][1](refusal)
            else:
                delivery = client.nowait.track("user-1", "Order Completed", message_id="m0")
                spool.groups[0][1](refusal)
                dropped = Outcome(Status.DROPPED, "m0", "spool_unavailable", possibly_delivered=maybe_stored)
                assert delivery.outcome == dropped
            assert client.statistics().reasons == {"spool_unavailable": 1}
        assert reported == [maybe_stored]

    run(main())


def test_a_message_on_disk_that_the_spool_gives_up_is_no_longer_waited_for() -> None:
    async def main() -> None:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0) as client:
            delivery = client.enqueue_nowait(messages.track("user-1", "Order Completed", message_id="m0"))
            waiting = asyncio.create_task(_outcome_of(delivery))
            await asyncio.sleep(0.01)
            spool.answer(0)
            await asyncio.sleep(0.01)
            spool.windows.put_nowait(Window((), [DroppedMessage("m0", b"{}", "too_old")]))
            await asyncio.sleep(0.01)
            assert waiting.done()
            assert waiting.result().reason == "too_old"

    run(main())


def test_a_message_whose_id_is_only_on_disk_ends_as_the_one_there_does() -> None:
    """An earlier process has left it, and it is not read yet."""

    async def main() -> None:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0) as client:
            call = asyncio.create_task(client.track("user-1", "Order Completed", message_id="m0"))
            await asyncio.sleep(0.01)
            spool.groups[0][1](AppendResult([Appended("known", 7)]))
            delivery = await call
            assert delivery.outcome is None
            spool.windows.put_nowait(Window([StoredMessage(7, "m0", b'{"messageId":"m0"}')]))
            await asyncio.sleep(60)
            assert delivery.outcome is not None
            assert delivery.outcome.status is Status.DELIVERED

    run(main())


def test_a_message_on_disk_that_is_waited_for_is_kept_at_the_close() -> None:
    async def main() -> None:
        spool = SlowSpool()
        async with Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=0) as client:
            delivery = client.enqueue_nowait(messages.track("user-1", "Order Completed", message_id="m0"))
            waiting = asyncio.create_task(_outcome_of(delivery))
            await asyncio.sleep(0.01)
            spool.answer(0)
            await asyncio.sleep(0.01)
        assert waiting.done()
        assert waiting.result().status is Status.KEPT

    run(main())


async def _outcome_of(delivery: Delivery) -> Outcome:
    return await delivery


def test_a_queue_that_the_disk_has_emptied_holds_callers_up_again_once_it_is_full_again() -> None:
    """While nothing is delivered, only the spool's answers make room."""

    async def main() -> None:
        spool = SlowSpool()
        async with Client(
            "key", spool=spool, transport=ScriptedTransport(), max_queue_size=2, overflow_timeout=1, close_timeout=0
        ) as client:
            for _ in range(2):
                await asyncio.sleep(10)
                client.nowait.track("user-1", "Order Completed")
                client.nowait.track("user-1", "Order Completed")
                call = asyncio.create_task(client.track("user-1", "Order Completed"))
                await asyncio.sleep(0.5)
                for number in range(len(spool.groups) - 1, len(spool.groups) + 2):
                    spool.answer(number)
                    await asyncio.sleep(0.01)
                await call
            assert client.statistics().dropped == 0

    run(main())
