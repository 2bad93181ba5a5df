"""The end of a loop that has worked for a client: what it sends, how long it waits, and what it leaves behind.

Under the virtual clock, and before a real server where connections matter.
"""

import asyncio
import gc
import warnings

import pytest

from segment_async import Client, Response, Status
from tests.support.lives import OK, PATIENCE, Net
from tests.support.served import Served
from tests.support.simulated_segment import Arrival
from tests.support.virtual_clock import VirtualClockLoop, run, running_clock, without_pauses


class TestWhatItSends:
    @pytest.mark.parametrize("first", ["slow", "failed"])
    def test_one_bad_answer_does_not_stop_what_the_ends_of_loops_send(self, first: str) -> None:
        """As in one `asyncio.run` for each invocation, without a flush."""

        async def respond(arrival: Arrival) -> Response:
            is_first = len(net.arrivals) == 1
            if is_first and first == "failed":
                return Response(503)
            await asyncio.sleep(3 if is_first else 0.1)
            return OK

        async def main() -> None:
            await client.track("u", "E")
            await asyncio.sleep(0.02)

        net = Net(respond)
        client = Client("KEY", transport=net, flush_at=1 if first == "failed" else 100)
        seconds = 0.0
        client._owner.clock.monotonic = lambda: seconds
        for _ in range(3):
            run(main())
            seconds += 10
        assert client.statistics().delivered == 3
        run(client.aclose())

    def test_a_server_that_does_not_answer_holds_up_the_end_of_one_loop(self) -> None:
        async def respond(arrival: Arrival) -> Response:
            await asyncio.Event().wait()
            return OK

        async def main() -> None:
            await client.track("u", "E")
            await asyncio.sleep(0.02)

        client = without_pauses(Client("KEY", transport=Net(respond), flush_at=1, close_timeout=1))
        ends: list[float] = []
        for _ in range(4):
            with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
                runner.run(main())
                loop = runner.get_loop()
            ends.append(loop.time())
        assert ends[0] > 1
        assert max(ends[1:]) < 0.1
        run(client.aclose())

    def test_the_end_of_a_loop_waits_out_no_pause(self) -> None:
        async def respond(arrival: Arrival) -> Response:
            return Response(429, {"Retry-After": "60"}) if len(net.arrivals) == 1 else OK

        async def main() -> None:
            await client.track("u", "E")
            await asyncio.sleep(0.5)

        net = Net(respond)
        client = without_pauses(Client("KEY", transport=net, flush_at=1))
        for _ in range(3):
            with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
                runner.run(main())
                loop = runner.get_loop()
            assert loop.time() < 0.6
        assert (len(net.arrivals), client.statistics().pending) == (1, 3)
        run(client.aclose())

    def test_slow_reports_get_their_time_at_the_end_of_a_loop(self) -> None:
        told = 0

        def on_error(*_: object) -> None:
            nonlocal told
            told += 1
            running_clock().advance(0.005)

        client = Client("KEY", transport=Net(), on_error=on_error, on_invalid="drop")

        async def main() -> None:
            await (await client.track("user", "Event"))
            for _ in range(50):
                await client.track("user", "")
            await client._owner.guards._send_before_the_end()
            assert told == 50
            await client.aclose()

        run(main())


class TestALoopThatLostTheClient:
    def test_as_it_ended_closes_its_connections(self) -> None:
        """`asyncio.run` stops its loop a few times while it ends, and another thread's may take over meanwhile."""
        first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
        with Served() as server, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            client = Client("KEY", host=server.url, flush_interval=0)

            async def send() -> int:
                await client.track("u", "E")
                return await client.flush(timeout=PATIENCE)

            assert first.run_until_complete(send()) == 0
            delivery = second.run_until_complete(client.track("u", "E"))
            first.run_until_complete(first.shutdown_asyncgens())
            first.close()
            assert second.run_until_complete(client.flush(timeout=PATIENCE)) == 0
            assert delivery.outcome is not None and delivery.outcome.status is Status.DELIVERED
            second.run_until_complete(client.aclose())
            second.run_until_complete(second.shutdown_asyncgens())
            second.close()
            gc.collect()
        assert [str(warning.message) for warning in said] == []

    def test_leaves_the_other_alone(self) -> None:
        """Its end neither stops the deliveries nor closes the connections of the loop that works now."""
        first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
        with Served() as server:
            client = Client("KEY", host=server.url, flush_interval=0)

            async def send() -> int:
                await client.track("u", "E")
                return await client.flush(timeout=PATIENCE)

            assert first.run_until_complete(send()) == 0
            assert second.run_until_complete(send()) == 0
            first.run_until_complete(first.shutdown_asyncgens())
            first.close()
            assert second.run_until_complete(send()) == 0
            assert server.connections == 2
            second.run_until_complete(client.aclose())
            second.run_until_complete(second.shutdown_asyncgens())
            second.close()

    def test_waits_for_no_hook_of_a_loop_that_was_closed(self) -> None:
        """Which never ends."""

        async def on_error(*_: object) -> None:
            begun.set()
            await asyncio.Event().wait()

        async def respond(arrival: Arrival) -> Response:
            return Response(400) if len(net.arrivals) == 1 else OK

        async def fail() -> None:
            begun.clear()
            await client.track("u", "E")
            await client.flush()
            await begun.wait()

        begun, net = asyncio.Event(), Net(respond)
        client = Client("KEY", transport=net, on_error=on_error)
        closed, left, owner = VirtualClockLoop(), VirtualClockLoop(), VirtualClockLoop()
        closed.run_until_complete(fail())
        for loop in (left, owner):
            loop.run_until_complete(call(client))
            # Unlike `asyncio.run`, which ends its tasks.
            closed.close()
        left.run_until_complete(asyncio.wait_for(left.shutdown_asyncgens(), 60))
        owner.run_until_complete(client.aclose())
        for loop in (left, owner):
            loop.close()

    def test_is_forgotten_once_it_has_ended_however_often_it_worked_for_the_client(self) -> None:
        client = Client("KEY", transport=Net())
        other = VirtualClockLoop()
        for _ in range(3):
            loop = VirtualClockLoop()
            for turn in (loop, other, loop):
                turn.run_until_complete(call(client))
            assert loop in client._owner.guards._left
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            assert loop not in client._owner.guards._left
        other.run_until_complete(client.aclose())
        other.close()


async def call(client: Client) -> None:
    await client.track("u", "E")
    await asyncio.sleep(0.02)
