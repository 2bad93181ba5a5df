"""Load: ten thousand calls at once, eight threads with a loop each, other loops and task factories, a loop never held up.

What callers were told is what is counted, and what is counted has arrived.
"""

import asyncio
import random
import sys
import threading
from collections.abc import Coroutine, Mapping
from typing import Any

import pytest
import uvloop
from blockbuster import blockbuster_ctx

from segment_async import Client, Delivery, Response, Status, messages
from segment_async._pipeline.room import Room
from tests.support.fault_server import FaultServer
from tests.support.law import check_counters
from tests.support.simulated_segment import Arrival
from tests.support.virtual_clock import run

PATIENCE = 60.0


class Net:
    """Takes everything, a moment later; from any loop."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.ids: list[str] = []

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        await asyncio.sleep(self.seconds)
        self.ids += Arrival.read(body, headers).ids
        return Response(200, {}, b'{"success": true}')

    async def aclose(self) -> None:
        pass


class TestTenThousandCalls:
    def test_a_thousand_tasks_do_not_look_at_each_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Callers that wait are looked at when there is news for them; not with each message, each wait and each that goes."""
        looks = 0
        look = Room.to_wake

        def counted(room: Room, readable: int) -> list[asyncio.Future[None]]:
            nonlocal looks
            looks += 1
            return look(room, readable)

        monkeypatch.setattr(Room, "to_wake", counted)

        async def main() -> None:
            async with Client("KEY", transport=Net(0.01)) as client:

                async def calls() -> None:
                    for number in range(5):
                        await client.track("u", "E", {"n": number})

                async with asyncio.TaskGroup() as tasks:
                    for _ in range(1_000):
                        tasks.create_task(calls())
            assert client.statistics().delivered == 5_000

        run(main())
        assert looks <= 500

    @pytest.mark.parametrize("max_queue_size", [100, 10_000], ids=["a full queue", "room for all"])
    def test_half_of_them_cancelled(self, max_queue_size: int) -> None:
        async def main() -> None:
            net, chance = Net(0.01), random.Random(4)
            client = Client("KEY", transport=net, max_queue_size=max_queue_size, overflow_timeout=None)
            calls = [asyncio.create_task(client.track("u", "E", {"n": number})) for number in range(10_000)]
            victims = chance.sample(calls, 5_000)
            while victims:
                for _ in range(chance.randint(1, 500)):
                    if victims:
                        victims.pop().cancel()
                await asyncio.sleep(chance.choice((0, 0, 0.005)))
            await asyncio.wait(calls)
            told = {call.result().message_id for call in calls if not call.cancelled()}
            assert client.statistics().accepted == len(told) >= 5_000
            await client.aclose()
            check_counters(client.statistics())
            assert (client.statistics().delivered, set(net.ids)) == (len(told), told)
            assert len(net.ids) == len(told)

        run(main())


class TestThreads:
    def test_eight_with_a_loop_each(self) -> None:
        net = Net()
        client = Client("KEY", transport=net, flush_at=10, flush_interval=0)
        told: list[str] = []
        faults: list[BaseException] = []

        async def work() -> None:
            deliveries = [await client.track("u", "E", {"n": number}) for number in range(200)]
            outcomes = await asyncio.gather(*deliveries)
            assert {outcome.status for outcome in outcomes} == {Status.DELIVERED}
            told.extend(outcome.message_id for outcome in outcomes)

        def thread() -> None:
            try:
                for _ in range(3):
                    asyncio.run(asyncio.wait_for(work(), PATIENCE))
            except BaseException as fault:
                faults.append(fault)

        threads = [threading.Thread(target=thread) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(PATIENCE)
        assert not faults
        asyncio.run(client.aclose())
        check_counters(client.statistics())
        assert client.statistics().delivered == len(told) == 8 * 3 * 200
        assert set(net.ids) == set(told)

    def test_without_loops_beside_one_that_sends(self) -> None:
        net = Net()

        async def main() -> None:
            async with Client("KEY", transport=net, flush_at=10) as client:

                def call() -> list[Delivery]:
                    return [client.enqueue_nowait(messages.track("u", "E", {"n": n})) for n in range(500)]

                called = await asyncio.gather(*(asyncio.to_thread(call) for _ in range(8)))
                assert await client.flush() == 0
                assert {delivery.message_id for deliveries in called for delivery in deliveries} == set(net.ids)

        asyncio.run(main())


async def a_day() -> None:
    """A client's whole life over real sockets."""
    async with FaultServer() as server:
        async with Client("KEY", host=server.url, flush_at=50) as client:
            deliveries = await asyncio.gather(*(client.track("u", "E", {"n": n}) for n in range(1_000)))
            assert await client.flush() == 0
            assert (await deliveries[-1]).status is Status.DELIVERED
        assert server.taken.keys() == {delivery.message_id for delivery in deliveries}


def eager(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
    """As `asyncio.eager_task_factory`, which does not take what uvloop hands it on Python 3.13.0."""
    return asyncio.Task(work, loop=loop, **{**options, "eager_start": True})


async def with_eager_tasks(work: Coroutine[Any, Any, None]) -> None:
    asyncio.get_running_loop().set_task_factory(eager)
    await asyncio.create_task(work)


class TestOtherLoops:
    def test_uvloop(self) -> None:
        uvloop.run(a_day())

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
    def test_eager_tasks(self) -> None:
        asyncio.run(with_eager_tasks(a_day()))

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
    def test_eager_tasks_under_uvloop(self) -> None:
        uvloop.run(with_eager_tasks(a_day()))

    def test_debug_mode(self) -> None:
        asyncio.run(a_day(), debug=True)

    def test_uvloop_and_asyncio_in_turns(self) -> None:
        net = Net()
        client = Client("KEY", transport=net)

        async def once(name: str) -> None:
            await client.track("u", "E", message_id=name)

        for number in range(5):
            asyncio.run(once(f"asyncio {number}"))
            uvloop.run(once(f"uvloop {number}"))
        uvloop.run(client.aclose())
        assert len(set(net.ids)) == client.statistics().delivered == 10


def test_nothing_blocks_the_loop() -> None:
    """Neither the client nor what it stands on asks the system for anything that may take its time."""

    async def main() -> None:
        async with FaultServer() as server:
            with blockbuster_ctx():
                async with Client("KEY", host=server.url) as client:
                    for number in range(300):
                        await client.track("u", "E", {"n": number})
                    assert await client.flush() == 0
            assert len(server.taken) == 300

    asyncio.run(main())
