"""The simulation's SQLite is full and has room again as its disk says, and looks after what no call asks for."""

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from segment_async import Status
from segment_async.spool import AppendResult, BatchResult, NewMessage, SpoolUnavailable
from tests.support.simulated_sqlite import (
    RESERVE,
    LoopTime,
    SharedDisk,
    SimulatedSQLiteSpool,
    SQLiteStore,
    a_shrink_to_its_end,
)
from tests.support.virtual_clock import run

DELIVERED = BatchResult(Status.DELIVERED, attempts=1)


class Simulated:
    """A store on a disk that others leave alone, and what was seen."""

    def __init__(self, folder: Path) -> None:
        self.seen: Counter[str] = Counter()
        self.disk = SharedDisk(random.Random(0), LoopTime(), until=0.0)
        self.disk.leave(2**26)
        self.store = SQLiteStore(
            folder / "a.db",
            self.disk,
            LoopTime(),
            lambda kind: self.seen.update([kind]),
            max_bytes=2**30,
            on_failure="raise",
        )


@pytest.fixture
def simulated(tmp_path: Path) -> Simulated:
    return Simulated(tmp_path)


def append(spool: SimulatedSQLiteSpool, *message_ids: str, size: int = 2) -> Any:
    answers: list[Any] = []
    spool.append_nowait([NewMessage(each, b" " * size) for each in message_ids], answers.append)
    [answer] = answers
    return answer


def test_a_full_disk_refuses_until_it_has_room_again(simulated: Simulated) -> None:
    async def main() -> None:
        spool = simulated.store.open()
        append(spool, "before")
        simulated.disk.leave(0)
        assert isinstance(append(spool, "refused"), SpoolUnavailable)
        simulated.disk.leave(2**20)
        assert isinstance(append(spool, "after"), AppendResult)
        assert simulated.store.pending_ids == {"before", "after"}
        await spool.aclose()

    run(main())
    assert simulated.seen == {"the disk was full": 1, "a message after the disk was full": 1}


def test_others_fill_the_disk_for_a_while(tmp_path: Path) -> None:
    times = iter((0.0, 10.0, 15.0, 999.0, 1_000.0))
    disk = SharedDisk(random.Random(0), lambda: next(times), until=1_000.0)
    disk._fills = [(10.0, 20.0, 5_000), (15.0, 2_000.0, 3_000)]
    tmp_path.joinpath("ours").write_bytes(bytes(1_000))
    free = [disk.free_bytes(tmp_path) for _ in range(5)]
    assert free == [disk.capacity - 1_000, 4_000, 2_000, 2_000, disk.capacity - 1_000]


def test_room_for_one_more_message_may_be_that_of_free_pages_alone(simulated: Simulated) -> None:
    async def main() -> None:
        spool = simulated.store.open()
        stored = append(spool, *map(str, range(500)), size=4_000)
        await spool.settle([answer.key for answer in stored.answers], DELIVERED)
        spool.take_turns(asyncio.get_running_loop())
        await asyncio.sleep(100)
        simulated.store.leave_just_enough_room()
        assert simulated.disk.free_bytes(simulated.store._path.parent) < RESERVE
        assert isinstance(append(spool, "one more"), AppendResult)
        spool.end_turns()
        await spool.aclose()

    with a_shrink_to_its_end:
        run(main())
    assert simulated.seen == {"room that only free pages make": 1}


def test_what_another_process_leaves_is_read_without_a_further_call(simulated: Simulated) -> None:
    async def main() -> None:
        spool = simulated.store.open()
        spool.take_turns(asyncio.get_running_loop())
        await spool.read(10, 1_000)
        reading = asyncio.create_task(spool.read(10, 1_000))
        await asyncio.sleep(10_000)
        beside = simulated.store.open_beside()
        append(beside, "left")
        await beside.aclose()
        window = await reading
        await spool.settle([message.key for message in window.messages], DELIVERED)
        spool.end_turns()
        await spool.aclose()

    run(main())
    assert simulated.seen == {"messages of an adopted shard": 1}
    assert simulated.store.ended == {"left": [DELIVERED]}
    simulated.store.check_files()


def test_what_was_told_is_held_against_the_files(simulated: Simulated) -> None:
    spool = simulated.store.open()
    append(spool, "stored")
    simulated.store.check_files()
    simulated.store.note_stored(7, "lost")
    with pytest.raises(AssertionError, match="1 messages are pending on disk, 2"):
        simulated.store.check_files()
    spool.crash()
