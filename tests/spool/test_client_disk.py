"""A client whose disk refuses: the call says why, nothing that was accepted is lost, and it goes on once that is mended."""

import asyncio
import contextlib
import itertools
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segment_async import Client, Response, SpoolUnavailable, Status, TransportError
from segment_async.spool import SpoolInspector, SQLiteSpool
from segment_async.testing import RecordingTransport

Change = Callable[[Path], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "analytics.db"


OK = Response(200, {"Content-Type": "application/json"}, b'{"success":true}')


def down(batch: object) -> Response:
    raise TransportError("no connection", maybe_sent=False)


async def leave(path: Path, *message_ids: str) -> None:
    """A process that could not send, and closed."""
    async with Client("key", transport=RecordingTransport(down), spool=path, close_timeout=0) as client:
        for each in message_ids:
            await client.track("user-1", "Left", message_id=each)


async def refused_until(path: Path, spoil: Change, mend: Change, why: str, *left: str) -> None:
    """The file is spoilt between the client's construction and its first call. `left`: by an earlier process."""
    await leave(path, *left)
    transport = RecordingTransport()
    async with Client("key", transport=transport, spool=SQLiteSpool(path, check_interval=0.01)) as client:
        spoil(path)
        for _ in range(2):
            with pytest.raises(SpoolUnavailable, match=why):
                await client.track("user-1", "Refused")
        assert client.statistics().accepted == 0
        mend(path)
        delivery = await client.track("user-1", "Taken", message_id="taken")
        assert (await delivery).status is Status.DELIVERED
        assert await client.flush(timeout=30) == 0
        counts = client.statistics()
        assert (counts.accepted, counts.delivered, counts.recovered) == (len(left) + 1, len(left) + 1, len(left))
    assert {message["messageId"] for message in transport.messages} == {*left, "taken"}


def put_aside(path: Path) -> None:
    """The spool with its lock, which says that a file in this place is one of ours."""
    for each in (path, path.with_name(f"{path.name}.lock")):
        each.rename(each.with_name(each.name.replace(path.name, "aside")))


def bring_back(path: Path) -> None:
    # The lock first: with neither in its place, the spool would begin a new one there.
    for name in (f"{path.name}.lock", path.name):
        path.with_name(name.replace(path.name, "aside")).replace(path.with_name(name))


def by_a_foreign_file(path: Path) -> None:
    put_aside(path)
    path.write_bytes(b"another program's notes" * 100)


def by_a_foreign_database(path: Path) -> None:
    put_aside(path)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()


def by_a_newer_version(path: Path) -> None:
    put_aside(path)
    shutil.copy(path.with_name("aside"), path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {9 << 16 | ~9 & 0xFFFF}")
    connection.close()


def by_a_link(path: Path) -> None:
    put_aside(path)
    path.symlink_to(path.with_name("aside"))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (by_a_foreign_file, "is not a spool; it was left as it is"),
        (by_a_foreign_database, "is not a spool; it was left as it is"),
        (by_a_newer_version, "was written by a newer version of segment_async"),
        (by_a_link, "is a symbolic link"),
    ],
)
def test_what_is_in_its_place_is_left_alone(path: Path, spoil: Change, why: str) -> None:
    asyncio.run(refused_until(path, spoil, bring_back, why, "left-1", "left-2"))


@pytest.mark.parametrize("spoil", [by_a_foreign_file, by_a_foreign_database, by_a_newer_version, by_a_link])
def test_what_is_in_its_place_is_refused_at_construction(path: Path, spoil: Change) -> None:
    asyncio.run(leave(path, "left"))
    spoil(path)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        Client("key", transport=RecordingTransport(), spool=path)


def test_a_folder_that_everybody_may_write_to(path: Path) -> None:
    asyncio.run(
        refused_until(
            path,
            lambda path: path.parent.chmod(0o777),
            lambda path: path.parent.chmod(0o700),
            "other users may write to the spool's folder",
            "left-1",
        )
    )


def test_a_folder_that_is_no_folder(path: Path) -> None:
    path.parent.write_bytes(b"a file")
    with pytest.raises(ValueError, match=re.escape(str(path.parent))):
        Client("key", transport=RecordingTransport(), spool=path)
    path.parent.unlink()
    Client("key", transport=RecordingTransport(), spool=path)


def test_a_folder_that_is_removed_under_a_running_client(path: Path) -> None:
    async def main() -> None:
        await leave(path, "left")
        transport = RecordingTransport()
        async with Client("key", transport=transport, spool=path, flush_interval=60) as client:
            await client.track("user-1", "Taken", message_id="before")
            shutil.rmtree(path.parent)
            with pytest.raises(SpoolUnavailable, match="was removed; its messages wait until it is back"):
                await client.track("user-1", "Refused")
            path.parent.mkdir(mode=0o700)
            await client.track("user-1", "Taken", message_id="after")
            assert await client.flush(timeout=30) == 0
        assert sorted(message["messageId"] for message in transport.messages) == ["after", "before", "left"]

    asyncio.run(main())


def test_a_read_only_disk(disk) -> None:
    path = disk.folder / "spool" / "analytics.db"
    asyncio.run(
        refused_until(path, lambda _: disk.remount("ro"), lambda _: disk.remount("rw"), "[Rr]ead-only", "left-1")
    )


def test_a_full_disk_refuses_delivers_what_it_has_and_takes_again(disk) -> None:
    path = disk.folder / "spool" / "analytics.db"

    async def main() -> None:
        up = asyncio.Event()
        transport = RecordingTransport(lambda batch: OK if up.is_set() else down(batch))
        taken = 0
        spool = SQLiteSpool(path, check_interval=0.01)
        async with Client("key", transport=transport, spool=spool, close_timeout=30) as client:
            with pytest.raises(SpoolUnavailable, match="full"):
                while True:
                    await client.track("user-1", "Large", {"text": "x" * 30_000})
                    taken += 1
            assert taken > 200
            assert client.statistics().accepted == taken
            up.set()
            assert await client.flush(timeout=60) == 0
            assert client.statistics().delivered == taken
            # What is not needed any more is given back to the disk at the next look.
            while client.statistics().accepted == taken:
                with contextlib.suppress(SpoolUnavailable):
                    await client.track("user-1", "Taken")
        assert client.statistics().delivered == taken + 1

    asyncio.run(main())


def test_the_files_are_for_their_owner_alone(path: Path) -> None:
    asyncio.run(leave(path, "left"))
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


class TestMemoryInstead:
    """`SQLiteSpool(on_failure="memory")`: the client keeps what the disk does not take."""

    def test_calls_go_on_and_their_messages_are_sent_once_the_disk_takes_them(self, path: Path) -> None:
        async def main() -> None:
            transport = RecordingTransport()
            spool = SQLiteSpool(path, on_failure="memory")
            async with Client("key", transport=transport, spool=spool) as client:
                path.parent.write_bytes(b"no folder")
                deliveries = [await client.track("user-1", "Kept", message_id=str(n)) for n in range(3)]
                counts = client.statistics()
                assert (counts.accepted, counts.pending) == (3, 3)
                path.parent.unlink()
                # Without another call.
                assert [(await each).status for each in deliveries] == [Status.DELIVERED] * 3
            assert [message["messageId"] for message in transport.messages] == ["0", "1", "2"]
            assert (spool.statistics().delivered, spool.statistics().pending) == (3, 0)

        asyncio.run(main())

    def test_what_the_disk_has_not_taken_at_the_close_is_dropped_and_counted(self, path: Path) -> None:
        async def main() -> None:
            spool = SQLiteSpool(path, on_failure="memory")
            client = Client("key", transport=RecordingTransport(), spool=spool, close_timeout=0)
            path.parent.write_bytes(b"no folder")
            delivery = await client.track("user-1", "Kept")
            await client.aclose()
            assert (await delivery).reason == "close_timeout"
            assert client.statistics().dropped == 1

        asyncio.run(main())


def test_a_flush_sends_all_that_dead_processes_left(path: Path) -> None:
    """Also if the file that this process goes on with has messages of its own."""

    async def main() -> None:
        others = [SQLiteSpool(path, durability="process") for _ in range(30)]
        clients = [Client("key", transport=RecordingTransport(down), spool=each, close_timeout=0) for each in others]
        for client in clients:
            await client.track("user-1", "Left")
        for client in clients:
            await client.aclose()
        # By this clock a turn has only time to open one of their files.
        seconds = itertools.count(step=0.1)
        spool = SQLiteSpool(path, monotonic=lambda: next(seconds), check_interval=1e9)
        async with Client("key", transport=RecordingTransport(), spool=spool) as client:
            assert await client.flush(timeout=30) == 0
            assert (client.statistics().recovered, client.statistics().delivered) == (30, 30)

    asyncio.run(main())


def test_a_flush_waits_for_its_own_messages_beside_dead_letters_that_were_put_back(path: Path) -> None:
    async def main() -> None:
        answer = Response(403, {}, b"")
        transport = RecordingTransport(lambda _: answer)
        spool = SQLiteSpool(path, check_interval=0.01)
        async with Client("key", transport=transport, spool=spool, max_queue_size=10, flush_interval=0.01) as client:
            for _ in range(30):
                await client.track("user-1", "Refused")
            assert await client.flush(timeout=30) == 0
            answer = Response(503, {}, b"")
            await asyncio.to_thread(SpoolInspector(path).retry, lambda _: True)
            own = [await client.track("user-1", "Own") for _ in range(30)]
            answer = OK
            assert await client.flush(timeout=30) == 0
            assert [each.outcome.status for each in own if each.outcome] == [Status.DELIVERED] * 30
            counts = client.statistics()
            assert (counts.recovered, counts.failed, counts.delivered) == (30, 30, 60)

    asyncio.run(main())


def test_what_an_earlier_process_left_may_make_room_before_it_is_read(path: Path) -> None:
    """It is counted first: else it would be pending for ever, and a flush would wait for it."""

    async def leave_many() -> None:
        async with Client("key", transport=RecordingTransport(down), spool=path, close_timeout=0) as client:
            for _ in range(60):
                await client.track("user-1", "Left", {"text": "x" * 500})

    async def main() -> None:
        async with client:
            assert await client.flush(timeout=30) == 0
        counts, stored = client.statistics(), spool.statistics()
        assert (counts.recovered, counts.accepted, counts.pending) == (60, 62, 0)
        assert counts.dropped == stored.dropped > 50

    asyncio.run(leave_many())
    spool = SQLiteSpool(path, max_bytes=60_000)
    client = Client("key", transport=RecordingTransport(), spool=spool, overflow="drop_oldest")
    # Stored before a loop runs, and so before anything is read.
    client.nowait.track("user-1", "Large", {"text": "x" * 30_000})
    client.nowait.track("user-1", "Large", {"text": "x" * 30_000})
    while spool.statistics().accepted < 62:
        time.sleep(0.001)
    asyncio.run(main())


def test_a_flush_at_the_start_has_what_is_in_memory_sent_to_read_the_rest(path: Path) -> None:
    """No other message comes into memory, and so none is waited for."""

    async def main() -> None:
        await leave(path, *(f"left-{number}" for number in range(5)))
        options: dict[str, Any] = {"max_queue_size": 2, "flush_at": 2, "flush_interval": 60, "close_timeout": 0}
        async with Client("key", transport=RecordingTransport(), spool=path, **options) as client:
            assert await client.flush(timeout=5) == 0
            assert client.statistics().delivered == 5

    asyncio.run(main())
