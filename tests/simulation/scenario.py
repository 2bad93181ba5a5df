"""One seed's life of a client: options, users, weather, several loops in a row, a close, and the law throughout.

Everything is drawn from the seed, and nothing waits for the real clock, so that a seed repeats its run step by step.
"""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import anyio

from segment_async import Client, ClientClosed, QueueFull, RetryPolicy, SpoolUnavailable, Status, bound, messages
from tests.support.law import Ledger, check_retry_counts
from tests.support.simulated_network import SimulatedNetwork, Weather
from tests.support.simulated_segment import Arrival, SimulatedSegment
from tests.support.virtual_clock import VirtualClockLoop, running_clock, without_pauses

# What a call raises that did not accept its message.
REFUSALS = (QueueFull, ClientClosed, SpoolUnavailable)
# Seconds after the last fault in which everything settles without another call, beyond what the retry policy allows.
GOING_ON = 3_600.0
# Seconds in which a message gets through when the network is well, and seconds that the work on one loop may take.
_SOON = 3_600.0
_LONGEST_LOOP = 1e7
POLICIES = ("wait", "drop_newest", "drop_oldest", "raise")


@dataclass
class Seen:
    """What a run met: the simulation as a whole fails unless each kind was seen."""

    kinds: Counter[str] = field(default_factory=Counter)

    def __call__(self, kind: str, count: int = 1) -> None:
        if count:
            self.kinds[kind] += count


class Scenario:
    # Seconds that a close may take beyond its limit.
    _close_slack = 1.0

    def __init__(self, seed: int) -> None:
        self.seen = Seen()
        self._chance = random.Random(seed)
        # The client's own jitter comes from here.
        random.seed(seed)
        self._number = 0
        self._poison: dict[int, int] = {}
        self._ledger = Ledger()
        self._calm_from = self._chance.choice((1.0, 60.0, 3600.0, 50_000.0))
        self._segment = SimulatedSegment(
            verdict=lambda message: self._poison.get(message["properties"]["n"]),
            max_body_bytes=self._chance.choice((None, None, None, 600)),
        )
        self._network = SimulatedNetwork(self._segment, self._weather(), seed=seed)
        self._options = self._draw_options()
        self._client = self._make_client()
        self._clock = 0.0

    def _make_client(self) -> Client:
        return without_pauses(Client("key", transport=self._network, **self._options))

    def _weather(self) -> Weather:
        if self._chance.random() < 0.1:
            return Weather()
        return Weather.seeded(self._chance, until=self._calm_from)

    def _draw_options(self) -> dict[str, Any]:
        choice = self._chance.choice
        return {
            "flush_at": choice((1, 2, 10, 100)),
            "flush_interval": choice((0.0, 0.1, 0.5, 30.0)),
            "max_queue_size": choice((1, 5, 50, 10_000)),
            "max_queue_bytes": choice((1_000, 33_554_432)),
            "overflow": choice(POLICIES),
            "overflow_timeout": choice((0.0, 1.0, 20.0, None)),
            "max_in_flight": choice((1, 2, 4)),
            "gzip": choice((True, True, False)),
            "timeout": choice((1.0, 25.0)) if self._network.weather.latency[1] < 0.4 else 25.0,
            "close_timeout": choice((0.0, 5.0, 100_000.0)),
            "retry": RetryPolicy(max_retries=choice((None, None, 0, 3)), give_up_after=choice((43_200, 600))),
            "before_send": choice((None, None, self._redact)),
            "on_error": choice((None, self._complain, self._complain_later)),
        }

    # -- hooks of the application

    def _redact(self, message: dict[str, Any]) -> dict[str, Any] | None:
        if message["properties"]["n"] % 17 == 5:
            return None
        if message["properties"]["n"] % 19 == 7:
            raise RuntimeError("a bug in the application's hook")
        return message

    def _complain(self, error: Exception, failed: list[dict[str, Any]]) -> None:
        self.seen("on_error called")
        assert failed
        if len(failed) % 3 == 1:
            raise RuntimeError("a bug in the application's hook")

    async def _complain_later(self, error: Exception, failed: list[dict[str, Any]]) -> None:
        await asyncio.sleep(self._chance.choice((0, 0.1, 1e6)))
        self._complain(error, failed)

    # -- users

    def _next_message(self) -> dict[str, Any]:
        self._number += 1
        number = self._number
        if self._chance.random() < 0.03:
            self._poison[number] = self._chance.choice((400, 400, 400, 500))
        fill = "x" * self._chance.choice((0, 10, 10, 100, 400))
        return {"user_id": "u", "event": "E", "properties": {"n": number, "fill": fill}, "message_id": f"m{number}"}

    def _accept(self, delivery: Any, fields: dict[str, Any]) -> None:
        self._ledger.accept(
            delivery,
            {
                "type": "track",
                "userId": fields["user_id"],
                "event": fields["event"],
                "properties": fields["properties"],
                "messageId": fields["message_id"],
            },
        )

    async def _track(self, *, poisoned: bool = True) -> None:
        fields = self._next_message()
        if not poisoned:
            self._poison.pop(self._number, None)
        with suppress(*REFUSALS):
            self._accept(await self._client.track(**fields), fields)

    def _enqueue(self) -> None:
        fields = self._next_message()
        with suppress(*REFUSALS):
            self._accept(self._client.enqueue_nowait(messages.track(**fields)), fields)

    async def _without_identity(self) -> None:
        self._number += 1
        with bound(without_identity="drop"), suppress(ClientClosed):
            delivery = await self._client.track(event="E", properties={"n": self._number})
            self._ledger.accept(delivery, {"messageId": delivery.message_id})

    async def _user(self) -> None:
        for _ in range(self._chance.randint(1, 30)):
            await self._one_thing()
            await asyncio.sleep(self._chance.choice((0, 0, 0, 0.01, 0.3, 5, 400)))

    async def _one_thing(self) -> None:
        thing = self._chance.random()
        if thing < 0.5:
            await self._track()
        elif thing < 0.6:
            self._enqueue()
        elif thing < 0.68:
            await asyncio.gather(*(self._track() for _ in range(self._chance.randint(2, 60))))
        elif thing < 0.78:
            await self._give_up(self._track())
        elif thing < 0.82:
            await self._give_up(self._client.flush())
        elif thing < 0.86:
            await self._client.flush(timeout=self._chance.choice((0, 0.1, 5)))
        elif thing < 0.9:
            await self._watch_one()
        elif thing < 0.93:
            await self._without_identity()
        elif thing < 0.96:
            running_clock().advance(self._chance.choice((0.5, 30, 8 * 3600)))
            self.seen("the loop stood still")
        else:
            self._check()

    async def _give_up(self, doing: Any) -> None:
        """Cancelled at whatever point it has reached, by a task's own cancel or by a scope of anyio's."""
        steps = self._chance.randint(0, 3)
        if self._chance.random() < 0.5:
            task = asyncio.ensure_future(doing)
            for _ in range(steps):
                await asyncio.sleep(0)
            self.seen("a call cancelled", task.cancel())
            with suppress(asyncio.CancelledError):
                await task
        else:
            with anyio.move_on_after(0.001 * steps) as scope:
                await doing
            self.seen("a call's scope cancelled", scope.cancelled_caught)

    def _deliveries(self) -> list[Any]:
        return list(self._ledger._deliveries.values())

    async def _watch_one(self) -> None:
        outcomes = self._deliveries()
        if outcomes:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._chance.choice((0.01, 1, 100))):
                    await self._chance.choice(outcomes)

    # -- one loop

    async def _day(self) -> None:
        users = [asyncio.create_task(self._user()) for _ in range(self._chance.randint(1, 4))]
        if self._chance.random() < 0.2:
            await asyncio.sleep(self._chance.choice((0, 0.2, 3)))
            self._cancel_everything()
        if self._chance.random() < 0.3:
            await asyncio.sleep(self._chance.choice((0, 0.01, 1)))
            self.seen("a loop ended amid its work")
            for user in users:
                user.cancel()
        await asyncio.gather(*users, return_exceptions=True)
        for user in users:
            if not user.cancelled() and user.exception() is not None:
                raise user.exception()  # type: ignore[misc]  # it is not None

    def _cancel_everything(self) -> None:
        self.seen("all tasks cancelled")
        current = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task is not current and "_user" not in repr(task):
                task.cancel()

    async def _last_day(self) -> None:
        # Whatever the users do, this loop works for the client.
        await self._client.flush(timeout=0)
        await self._day()
        await asyncio.sleep(self._calm_from)
        await self._see_it_settle_by_itself()
        async with asyncio.timeout(_SOON):
            await self._see_a_fresh_message_through()
        await self._see_callers_through()
        if self._chance.random() < 0.3:
            users = [asyncio.create_task(self._user()) for _ in range(2)]
            await asyncio.sleep(self._chance.choice((0, 0.3)))
            await self._close()
            await asyncio.gather(*users)
        else:
            await self._close()

    async def _see_it_settle_by_itself(self) -> None:
        """The faults are over, and there is no further call: no flush, no message."""
        self._network.weather = Weather()
        await asyncio.sleep(self._options["retry"].give_up_after + GOING_ON)
        left = self._client.statistics()
        assert left.pending == 0, f"{left.pending} messages wait for good: {left}"
        self.seen("everything settled by itself")

    async def _see_a_fresh_message_through(self) -> None:
        """Nothing waits any more, and a new message gets through."""
        assert await self._client.flush() == 0
        fields = self._next_message()
        self._poison.pop(self._number, None)
        if fields["properties"]["n"] % 17 == 5 or fields["properties"]["n"] % 19 == 7:
            return
        delivery = await self._client.track(**fields)
        self._accept(delivery, fields)
        outcome = await delivery
        too_large = outcome.reason == "too_large"
        too_large = too_large or (outcome.reason == "queue_full" and self._options["max_queue_size"] == 1)
        assert outcome.status is Status.DELIVERED or too_large, outcome

    async def _see_callers_through(self) -> None:
        """More callers than there is room for, and a loop that stands still: with the network well, none is given up."""
        options = self._options
        if options["overflow"] != "wait" or options["overflow_timeout"] != 1.0 or options["max_queue_size"] > 50:
            return
        before = self._client.statistics().reasons.get("queue_full", 0)
        calls = [asyncio.create_task(self._track(poisoned=False)) for _ in range(2 * options["max_queue_size"] + 10)]
        await asyncio.sleep(0)
        self.seen("the loop stood still under callers that wait", not all(call.done() for call in calls))
        running_clock().advance(self._chance.choice((1.5, 30, 8 * 3600)))
        await asyncio.gather(*calls)
        assert self._client.statistics().reasons.get("queue_full", 0) == before

    async def _close(self) -> None:
        clock = running_clock()
        began = clock.time()
        if self._chance.random() < 0.3:
            closing = asyncio.create_task(self._client.aclose())
            await asyncio.sleep(0)
            closing.cancel()
            await asyncio.sleep(0)
            self.seen("a close cancelled", closing.cancel())
            await asyncio.wait((closing,))
        await asyncio.gather(self._client.aclose(), self._client.aclose())
        assert (
            clock.time() - began <= self._options["close_timeout"] + self._close_slack
            or self.seen.kinds["the loop stood still"]
        )
        with suppress(ClientClosed):
            await self._client.track("u", "too late")
            raise AssertionError("a closed client took a message")

    def _check(self) -> None:
        self._ledger.check(self._client.statistics(), self._segment.arrivals)

    # -- the whole life

    def run(self) -> None:
        days = self._chance.choice((1, 1, 2, 5))
        self.seen("the client changed its loop", days - 1)
        if self._chance.random() < 0.2:
            self._enqueue()
        for _ in range(days - 1):
            self._on_a_loop(self._day())
            self._check()
        self._on_a_loop(self._last_day())
        self._ledger.check_settled(self._client.statistics(), self._segment.arrivals)
        check_retry_counts(self._segment.arrivals)
        assert not self._segment.violations, self._segment.violations
        assert self._network.most_at_once <= self._options["max_in_flight"] * 2
        self._note_what_was_seen()

    def _on_a_loop(self, main: Any) -> None:
        def make() -> VirtualClockLoop:
            return VirtualClockLoop(self._clock)

        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(self._within_the_limit(main))
            self._clock = runner.get_loop().time()

    async def _within_the_limit(self, main: Any) -> None:
        """Fail if it hangs, although something else goes on for ever and there is no `Deadlock`."""
        async with asyncio.timeout(_LONGEST_LOOP):
            await main

    def _note_what_was_seen(self) -> None:
        statistics = self._client.statistics()
        for fault, count in self._network.injected.items():
            self.seen(f"fault: {fault}", count)
        for reason, count in statistics.reasons.items():
            name = f"{reason} under {self._options['overflow']}" if reason == "queue_full" else reason
            self.seen(f"reason: {name}", count)
        self.seen("a message taken twice", sum(len(times) > 1 for times in self._segment.taken.values()))
        self.seen("a batch split", self._count_splits())
        self.seen("a retry", statistics.retries)
        self.seen("a batch halved after timeouts", self._count_halved())

    def _count_halved(self) -> int:
        last: dict[str, Arrival] = {}
        count = 0
        for attempt in self._network.attempts:
            ids = attempt.arrival.ids
            before = last.get(ids[0])
            count += before is not None and before.status is None and len(ids) < len(before.ids)
            last |= dict.fromkeys(ids, attempt.arrival)
        return count

    def _count_splits(self) -> int:
        arrivals = self._segment.arrivals
        return sum(
            set(later.ids) < set(earlier.ids)
            for earlier, later in pairwise(arrivals)
            if earlier.status in (400, 413, 500)
        )
