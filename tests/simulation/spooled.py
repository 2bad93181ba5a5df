"""One seed's life of a spool: several processes in turn, small windows before a long backlog, and a disk in trouble.

As `Scenario`, with a client that keeps its messages in a spool. Processes close, or end without a word, and the next one
goes on with what they left; ids come again; another process takes messages over. After the faults everything
settles without another call, across all processes.
"""

import asyncio
from contextlib import suppress
from itertools import islice
from random import Random
from typing import Any

from segment_async import Client, RetryPolicy, Status, messages
from segment_async.spool import SpoolUnavailable
from tests.support.memory_spool import SpoolStore
from tests.support.simulated_disk import SimulatedDisk
from tests.support.simulated_network import SimulatedNetwork, Weather
from tests.support.simulated_segment import SimulatedSegment
from tests.support.spool_law import SpoolLedger
from tests.support.virtual_clock import without_pauses

from .scenario import REFUSALS, Scenario


class SpooledScenario(Scenario):
    # What a slow disk gets to write down at a close.
    _close_slack = 10.0
    # Whether a process may end without a word, and whether other processes may deliver from the spool as well.
    _may_crash = True
    _may_be_shared = True
    # How many messages may come at once.
    _rushes: tuple[int, ...] = (*(50, 100, 100, 200, 200, 400) * 3, 3_000)

    def __init__(self, seed: int) -> None:
        # A third of them.
        self._is_shared = self._may_be_shared and seed % 9 == 8
        super().__init__(seed)

    def _make_client(self) -> Client:
        # Everything here is of the first process; the next ones come from `_begin_process`.
        self._calm_from = min(self._calm_from, 3_600.0)
        self._accounts = self._make_store()
        self._past: list[dict[str, Any]] = []
        self._past_by_id: dict[str, dict[str, Any]] = {}
        # Which ids come again, and how often; and whose deliveries the application keeps.
        self._habits = Random(self._chance.random())
        self._again_share = self._habits.choice((0.04, 0.9))
        self._kept_share = self._habits.choice((1.0, 0.5))
        self._process_number = 0
        self._has_crashed = False
        return self._open()

    def _make_store(self) -> SpoolLedger:
        self._disk: Any = SimulatedDisk(self._chance, until=self._calm_from)
        max_messages = self._chance.choice((None, None, 20, 300))
        self._is_store_small = max_messages is not None
        self._store: Any = SpoolStore(self._disk, max_messages=max_messages)
        return SpoolLedger(self._store)

    def _open(self) -> Client:
        self._spool = self._store.open(shared=self._is_shared)
        return without_pauses(Client("key", transport=self._network, spool=self._spool, **self._options))

    def _draw_options(self) -> dict[str, Any]:
        choice = self._chance.choice
        options = super()._draw_options()
        if self._is_shared and options["overflow"] == "drop_oldest":
            # Which a client refuses: they are not its own to drop.
            options["overflow"] = "wait"
        options["max_queue_size"] = choice((5, 5, 20, 50, 300, 2_000))
        options["max_queue_bytes"] = choice((20_000, 200_000, 33_554_432, 33_554_432))
        # A hundred callers that look twice a second whether there is room are enough for a minute.
        options["overflow_timeout"] = choice((0.0, 1.0, 20.0, 60.0))
        # Twelve hours of retries are the memory's matter; here they would cost time and show nothing more.
        retries = options["retry"].max_retries
        options["retry"] = RetryPolicy(max_retries=retries, give_up_after=choice((600, 3_600)), max_backoff=30)
        return options

    # -- users

    def _next_message(self) -> dict[str, Any]:
        if self._past and self._chance.random() < self._again_share:
            again = self._again()
            ended = self._store.ended.get(again["message_id"], ())
            self.seen("an id came again", again["message_id"] in self._store.pending_ids)
            self.seen("an id came again after a failure", any(each.status is Status.FAILED for each in ended))
            self._offer(again)
            return again
        fields = super()._next_message()
        self._past.append(fields)
        self._past_by_id[fields["message_id"]] = fields
        self._offer(fields)
        return fields

    def _again(self) -> dict[str, Any]:
        """A message that came before: any of them, one of the last, one that is the next to make room, or was dropped."""
        habit, ended, pending = self._habits.random(), self._store.ended, self._store.pending_ids
        if habit < 0.5:
            return self._habits.choice(self._past[-20:])
        if habit < 0.7 and (oldest := [*islice((each for each in self._past if each["message_id"] in pending), 3)]):
            return self._habits.choice(oldest)
        dropped = (each for each in reversed(ended) if ended[each][-1].status is Status.DROPPED)
        # Not those of other processes, which this one has not been told of.
        last = [*islice((each for each in dropped if each in self._past_by_id), 5)]
        if habit < 0.9 and last:
            self.seen("an id came again after it was dropped")
            return self._past_by_id[self._habits.choice(last)]
        return self._habits.choice(self._past)

    def _offer(self, fields: dict[str, Any]) -> None:
        self._accounts.offer(
            {
                "type": "track",
                "userId": fields["user_id"],
                "event": fields["event"],
                "properties": fields["properties"],
                "messageId": fields["message_id"],
            }
        )

    def _accept(self, delivery: Any, fields: dict[str, Any]) -> None:
        self._note_accepted(delivery, stored=True)

    def _note_accepted(self, delivery: Any, *, stored: bool) -> None:
        # What still runs after a crash stands for nothing: no process was told of it.
        if not self._has_crashed and (stored or self._habits.random() < self._kept_share):
            self._accounts.accept(delivery, stored=stored)

    def _enqueue(self) -> None:
        fields = self._next_message()
        with suppress(*REFUSALS):
            self._note_accepted(self._client.enqueue_nowait(messages.track(**fields)), stored=False)

    async def _without_identity(self) -> None:
        """A message without an identity has no id that could be offered: it is dropped, and is `Scenario`'s matter."""

    async def _see_callers_through(self) -> None:
        """An outage, and the disk is well: many calls at once leave memory for the ones after them."""
        size = self._options["max_queue_size"]
        if self._is_shared or self._is_store_small or size > 300:
            return
        self._network.weather = Weather(faults={"refused": 1.0})
        if self._options["max_queue_bytes"] == 200_000 and self._chance.random() < 0.7:
            await self._store_small_ones_behind_large_ones()
        await asyncio.gather(*(self._track_fresh() for _ in range(size + size // 2)))
        await asyncio.sleep(10)
        in_memory = self._client.statistics()
        for _ in range(5):
            await self._track_fresh()
            await asyncio.sleep(1)
        after = self._client.statistics()
        dropped = after.reasons.get("queue_full", 0) - in_memory.reasons.get("queue_full", 0)
        assert (after.accepted - in_memory.accepted, dropped) == (5, 0), f"memory is full: {in_memory}, then {after}"
        self.seen("calls after a burst in an outage")
        self._network.weather = Weather()
        assert await self._client.flush() == 0

    async def _store_small_ones_behind_large_ones(self) -> None:
        """Few large messages on disk, and small ones that come many at once: memory does not fill with the large ones."""
        for _ in range(20):
            await self._track_fresh("x" * 20_000)
        for _ in range(5):
            for _ in range(self._options["max_queue_size"] // 2):
                fields = self._fresh_message("")
                with suppress(*REFUSALS):
                    self._note_accepted(self._client.enqueue_nowait(messages.track(**fields)), stored=False)
            await asyncio.sleep(10)
        self.seen("small messages behind large ones in an outage")

    def _deliveries(self) -> list[Any]:
        return list(self._accounts.deliveries)

    async def _one_thing(self) -> None:
        thing = self._chance.random()
        if thing < 0.03:
            self._rush()
        elif thing < 0.06:
            await asyncio.gather(*(self._track() for _ in range(self._chance.randint(20, 100))))
        elif thing < 0.1 and self._store.taken_over:
            self._end_the_other_process()
        else:
            await super()._one_thing()

    def _rush(self) -> None:
        """Many messages at once: a backlog before the window."""
        for _ in range(self._chance.choice(self._rushes)):
            fields = self._next_message()
            if self._chance.random() < 0.9:
                self._poison.pop(fields["properties"]["n"], None)
            with suppress(*REFUSALS):
                self._note_accepted(self._client.enqueue_nowait(messages.track(**fields)), stored=False)
        self.seen("a backlog before the window", self._store.pending > self._options["max_queue_size"])

    def _end_the_other_process(self) -> None:
        if self._chance.random() < 0.5:
            self._store.deliver_elsewhere()
            self.seen("another process delivered")
        else:
            self._store.release_elsewhere()
            self.seen("another process gave back")

    def _check(self) -> None:
        self._accounts.check(self._client.statistics(), self._segment.arrivals)

    # -- processes

    def run(self) -> None:
        for _ in range(self._chance.choice((0, 0, 1, 2))):
            self._run_days()
            if self._may_crash and self._chance.random() < 0.5:
                self._on_a_loop(self._crash())
            else:
                self._on_a_loop(self._close_with_a_rest())
            self._end_process()
            self._begin_process()
        self._run_days()
        self._on_a_loop(self._last_day())
        self._check()
        self._end_process()
        self._accounts.check_the_end()
        assert not self._segment.violations, self._segment.violations
        self._note_what_was_seen()

    def _note_what_was_seen(self) -> None:
        super()._note_what_was_seen()
        self._note_what_the_disk_did()

    def _note_what_the_disk_did(self) -> None:
        for fault, count in self._disk.injected.items():
            self.seen(f"spool: {fault}", count)
        self.seen("spool: full by itself", self._store.reasons["queue_full"])

    def _run_days(self) -> None:
        days = self._chance.choice((0, 0, 1, 2))
        self.seen("the client changed its loop before a spool", days)
        if self._chance.random() < 0.1:
            self._enqueue()
        for _ in range(days):
            self._on_a_loop(self._day())
            self._check()

    def _on_a_loop(self, main: Any) -> None:
        super()._on_a_loop(main)
        # The spool answers on a thread of its own, whatever becomes of a loop.
        self._spool.catch_up()

    def _cancel_everything(self) -> None:
        super()._cancel_everything()
        self.seen("all tasks cancelled before a spool")

    async def _crash(self) -> None:
        """The process ends between two steps: what it had not written never happened."""
        users = [asyncio.create_task(self._user()) for _ in range(self._chance.randint(1, 3))]
        await asyncio.sleep(self._chance.choice((0, 0.01, 0.5, 20)))
        self._accounts.check(self._client.statistics(), self._segment.arrivals)
        self._accounts.end_process()
        self.seen("a crash", 1)
        self.seen("a crash with messages held", any(row.holder is self._spool for row in self._store.rows.values()))
        self._spool.crash()
        # Nothing that is still under way reaches the world.
        self._network.segment = SimulatedSegment()
        self._network.weather = Weather(faults={"refused": 1.0})
        self._has_crashed = True
        for user in users:
            user.cancel()
        await asyncio.gather(*users, return_exceptions=True)
        # Only so that the test's own process keeps nothing of it.
        closing = asyncio.create_task(self._client.aclose())
        for _ in range(2):
            await asyncio.sleep(0)
            closing.cancel()
        await asyncio.wait((closing,))

    async def _close_with_a_rest(self) -> None:
        await self._day()
        await self._close()

    async def _close(self) -> None:
        cancelled = self.seen.kinds["a close cancelled"]
        await super()._close()
        self._spool.catch_up()
        kept = {each.message_id for each in self._deliveries() if each.outcome and each.outcome.status is Status.KEPT}
        self.seen("kept at a close", len(kept))
        # A close that is cancelled twice waits for no disk.
        if self._disk.works and self.seen.kinds["a close cancelled"] == cancelled:
            assert kept <= self._store.pending_ids | self._store.ended.keys(), "kept, and not in the spool"
        for delivery in self._deliveries():
            assert delivery.outcome is not None, f"{delivery} has no outcome after the close"

    def _end_process(self) -> None:
        if not self._has_crashed:
            self._check()
            self._accounts.end_process()
        self._spool.crash()
        self._has_crashed = False

    def _begin_process(self) -> None:
        self._process_number += 1
        self.seen("a restart with a backlog", self._store.pending > 0)
        self._options = self._draw_options()
        weather = self._weather()
        self._network = SimulatedNetwork(self._segment, weather, seed=self._chance.randrange(1 << 30))
        self._client = self._open()

    # -- the end

    async def _see_it_settle_by_itself(self) -> None:
        self._disk.calm()
        if self._store.taken_over:
            self._end_the_other_process()
            self._store.deliver_elsewhere()
        self._network.weather = Weather()
        # One request at a time, with poison among thousands of messages, takes its hours.
        await asyncio.sleep(400_000)
        left = self._client.statistics()
        assert (left.pending, self._store.pending) == (0, 0), f"messages wait for good: {left}"
        self._accounts.check_settled(left, self._segment.arrivals)
        self.seen("everything settled by itself before a spool")
        self.seen("everything settled by itself before a shared spool", self._is_shared)
        self.seen("messages of an earlier process", left.recovered)

    async def _track_fresh(self, fill: str | None = None) -> None:
        fields = self._fresh_message(fill)
        with suppress(*REFUSALS):
            self._accept(await self._client.track(**fields), fields)

    def _fresh_message(self, fill: str | None = None) -> dict[str, Any]:
        """Without poison, and with an id that did not come before."""
        fields = super()._next_message()
        if fill is not None:
            fields["properties"]["fill"] = fill
        self._offer(fields)
        self._poison.pop(fields["properties"]["n"], None)
        return fields

    async def _see_a_fresh_message_through(self) -> None:
        assert await self._client.flush() == 0
        fields = self._fresh_message()
        with suppress(SpoolUnavailable):
            delivery = await self._client.track(**fields)
            self._accept(delivery, fields)
            outcome = await delivery
            assert outcome.status in (Status.DELIVERED, Status.HANDED_OVER) or outcome.reason in (
                "too_large",
                "before_send",
            ), outcome
            return
        raise AssertionError("a calm spool refused a message")
