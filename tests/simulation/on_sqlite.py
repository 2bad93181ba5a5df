"""One seed's life of a spool in files: several processes in turn, and a disk that is full for a while.

As `SpooledScenario`, with SQLite in place of the model. Other processes leave messages beside, in shards of their own.
Every process closes: what a kill does to the files is tested with real ones, by `tests.spool.crash`.
"""

import asyncio
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from segment_async.spool import AppendResult, NewMessage
from tests.support.simulated_network import Weather
from tests.support.simulated_sqlite import LoopTime, SharedDisk, SQLiteStore, a_shrink_to_its_end
from tests.support.spool_law import SpoolLedger
from tests.support.virtual_clock import running_clock

from .scenario import Scenario
from .spooled import SpooledScenario

# Files in memory are synced at once.
_MEMORY = Path("/dev/shm")
# Seconds after which a disk that has room again is used again, and in which messages that wait for it are tried again.
_ROOM_AGAIN = 600.0
_A_FEW_TRIES = 5.0
# Seconds in which a rush is delivered, poison among it.
_DELIVERED = 20_000.0


class SQLiteScenario(SpooledScenario):
    _may_crash = False
    _may_be_shared = False
    # Each is a transaction.
    _rushes = (50, 100, 200, 400)

    def _make_store(self) -> SpoolLedger:
        chance, now = self._chance, LoopTime()
        self._folder = TemporaryDirectory(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None)
        self._disk = SharedDisk(chance, now, until=self._calm_from)
        # On a small disk there is room for all of it, as dead letters stay.
        max_bytes = chance.choice((2**16, 2**18, 2**18 if self._disk.is_small else 2**30))
        self._is_store_small = max_bytes < 2**30 or self._disk.is_small
        on_failure = chance.choice(("raise", "raise", "memory"))
        self._store = SQLiteStore(
            Path(self._folder.name, "messages.db"),
            self._disk,
            now,
            lambda kind: self.seen(f"SQLite: {kind}"),
            max_bytes=max_bytes,
            on_failure=on_failure,
        )
        return SpoolLedger(self._store, keeps_in_memory=on_failure == "memory")

    def _draw_options(self) -> dict[str, Any]:
        options = super()._draw_options()
        # The smallest windows on a backlog are the model's matter; here each of them is a search.
        options["max_queue_size"] = max(50, options["max_queue_size"])
        return options

    def _note_what_the_disk_did(self) -> None:
        """The store does, when it happens."""

    # -- one loop

    def _on_a_loop(self, main: Any) -> None:
        super()._on_a_loop(self._with_the_spools_turns(main))

    async def _with_the_spools_turns(self, main: Any) -> None:
        self._spool.take_turns(asyncio.get_running_loop())
        try:
            await main
        finally:
            self._spool.end_turns()

    async def _day(self) -> None:
        if self._chance.random() < 0.4:
            await self._leave_messages_beside()
        await super()._day()

    async def _leave_messages_beside(self) -> None:
        """Another process on the path stores some, in a shard of its own, and closes."""
        beside = self._store.open_beside()
        for _ in range(self._chance.choice((1, 5, 100))):
            # Never an id that the other one has as well: processes do not know each other's, and both would be sent.
            fields = Scenario._next_message(self)
            self._offer(fields)
            message = {
                "type": "track",
                "userId": fields["user_id"],
                "event": fields["event"],
                "properties": fields["properties"],
                "messageId": fields["message_id"],
            }
            answers: list[Any] = []
            beside.append_nowait([NewMessage(fields["message_id"], orjson.dumps(message))], answers.append)
            [answer] = answers
            if isinstance(answer, AppendResult) and answer.answers[0].status != "full":
                self._accounts.accept_elsewhere(fields["message_id"])
        await beside.aclose()

    # -- processes

    def run(self) -> None:
        try:
            with a_shrink_to_its_end:
                super().run()
        finally:
            self._spool.crash()
            self._folder.cleanup()

    def _end_process(self) -> None:
        super()._end_process()
        self._store.check_files()

    def _begin_process(self) -> None:
        self.seen("SQLite: a restart with a backlog", self._store.pending > 0)
        super()._begin_process()

    # -- the end

    async def _see_it_settle_by_itself(self) -> None:
        self._disk.calm()
        self._network.weather = Weather()
        # Without this, messages that wait in memory would be tried again for days, twice a second.
        await asyncio.sleep(_ROOM_AGAIN)
        refused_at = self._spool.refused_at
        assert refused_at is None or running_clock().time() - refused_at > _A_FEW_TRIES, "a disk with room is refused"
        await super()._see_it_settle_by_itself()
        self._store.check_files()
        if self._chance.random() < 0.5:
            # Once these are delivered, free pages are left in the file.
            for _ in range(3):
                self._rush()
            await asyncio.sleep(_DELIVERED)
        if self._chance.random() < 0.7:
            self._store.leave_just_enough_room()

    async def _see_callers_through(self) -> None:
        # The disk may have just enough room for one message.
        self._disk.leave(2**30)
        await super()._see_callers_through()
