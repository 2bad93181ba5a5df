"""What the SQLite engine keeps, and what it gives up: by size, by age."""

import asyncio

import pytest

from segment_async.spool import BatchResult, DroppedMessage, NewMessage, SpoolInspector, SQLiteSpool, Status, _database

from .contract import (
    DELIVERED,
    REFUSED,
    append,
    append_one,
    body_of,
    call_append,
    check_law,
    has_nothing_to_read,
    read,
    read_ids,
    statuses,
)

SIZE = len(body_of("a"))


def run(path, part, **options):
    async def life():
        spool = SQLiteSpool(path, **options)
        await part(spool)
        check_law(spool)
        await spool.aclose()

    asyncio.run(life())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "analytics.db"


def test_full_is_an_answer_and_room_comes_back_with_outcomes(path):
    async def part(spool):
        assert statuses(await append(spool, "a", "b", "c")) == ["stored", "stored", "full"]
        assert spool.statistics().accepted == 2
        [first, _] = (await read(spool)).messages
        await spool.settle([first.key], DELIVERED)
        assert statuses(await append(spool, "c", "d")) == ["stored", "full"]

    run(path, part, max_bytes=2 * SIZE)


def test_a_group_is_taken_as_far_as_there_is_room(path):
    async def part(spool):
        assert statuses(await append(spool, *"abcde")) == ["stored", "stored", "stored", "full", "full"]
        assert await read_ids(spool) == ["a", "b", "c"]
        assert spool.statistics().accepted == 3

    run(path, part, max_bytes=3 * SIZE + 1)


def test_what_could_never_fit_drops_nothing(path):
    async def part(spool):
        await append(spool, "a")
        result = await call_append(spool, [("b", b"x" * (3 * SIZE))], make_room=True)
        assert (statuses(result.answers), result.dropped) == (["full"], ())
        assert result.answers[0].key is None
        assert await read_ids(spool) == ["a"]

    run(path, part, max_bytes=2 * SIZE)


def test_the_oldest_that_are_not_held_make_room(path):
    async def part(spool):
        _, second, third, _ = await append(spool, *"abcd")
        assert await read_ids(spool, count=1) == ["a"]
        result = await call_append(spool, [("e", body_of("e") + b"x")], make_room=True)
        assert statuses(result.answers) == ["stored"]
        assert result.dropped == (
            DroppedMessage("b", body_of("b"), "queue_full", second.key),
            DroppedMessage("c", body_of("c"), "queue_full", third.key),
        )
        assert await read_ids(spool) == ["d", "e"]
        counts = spool.statistics()
        assert (counts.accepted, counts.dropped, counts.reasons) == (5, 2, {"queue_full": 2})

    run(path, part, max_bytes=4 * SIZE)


@pytest.mark.parametrize("reason", ["queue_full", "too_old", "purged"])
def test_what_is_given_up_is_told_from_a_later_message_with_its_id(path, reason):
    now = [1_000_000.0]

    async def part(spool):
        body = b'{"messageId":"a","userId":"u1"}'
        [first] = (await call_append(spool, [("a", body)])).answers
        if reason == "queue_full":
            [dropped] = (await call_append(spool, [("b", body)], make_room=True)).dropped
        elif reason == "too_old":
            now[0] += 101
            [dropped] = (await read(spool)).dropped
        else:
            assert SpoolInspector(path).purge("u1") == 1
            await call_append(spool, [("a", body)])
            [dropped] = (await read(spool)).dropped
        assert (dropped.message_id, dropped.reason, dropped.key) == ("a", reason, first.key)

    run(path, part, max_bytes=40, max_age=100, clock=lambda: now[0], monotonic=lambda: now[0])


def test_room_is_made_from_what_was_never_read_too(path):
    async def first(spool):
        await append(spool, *"abcd")

    async def second(spool):
        result = await call_append(spool, [("e", body_of("e"))], make_room=True)
        assert [each.message_id for each in result.dropped] == ["a"]
        assert await read_ids(spool) == ["b", "c", "d", "e"]

    run(path, first, max_bytes=4 * SIZE)
    run(path, second, max_bytes=4 * SIZE)


def test_what_is_held_makes_no_room(path):
    async def part(spool):
        await append(spool, "a", "b")
        await read(spool)
        assert statuses([await append_one(spool, "c", body_of("c"), make_room=True)]) == ["full"]

    run(path, part, max_bytes=2 * SIZE)


def test_dead_letters_go_first(path):
    async def part(spool):
        await append(spool, "a", "b", "c")
        await spool.settle([each.key for each in (await read(spool, count=2)).messages], REFUSED)
        assert spool.statistics().dead == 2
        result = await call_append(spool, [("d", body_of("d"))])
        assert (statuses(result.answers), result.dropped) == (["stored"], ())
        counts = spool.statistics()
        assert (counts.dead, counts.failed, counts.pending) == (1, 2, 2)
        assert await read_ids(spool) == ["c", "d"]

    run(path, part, max_bytes=3 * SIZE)


def test_what_is_too_old_is_given_up_instead_of_read(path):
    now = [1_000_000.0]
    clocks = {"clock": lambda: now[0], "monotonic": lambda: now[0]}

    async def part(spool):
        answers = await append(spool, "a", "b")
        now[0] += 50
        await append(spool, "c")
        now[0] += 51
        window = await read(spool)
        keys = [answer.key for answer in answers]
        assert window.dropped == [
            DroppedMessage(each, body_of(each), "too_old", key) for each, key in zip("ab", keys, strict=True)
        ]
        assert [each.message_id for each in window.messages] == ["c"]
        counts = spool.statistics()
        assert (counts.dropped, counts.reasons, counts.pending, counts.unrecorded) == (2, {"too_old": 2}, 1, 0)

    async def later(spool):
        window = await read(spool)
        assert [each.message_id for each in window.dropped] == ["c"]
        assert not window.messages
        assert await has_nothing_to_read(spool)
        assert spool.statistics().pending == 0

    run(path, part, max_age=100, **clocks)
    now[0] += 100
    run(path, later, max_age=100, **clocks)


class Clocks:
    """A wall clock that can be set, and one that runs on, whatever happens to the other."""

    def __init__(self):
        self.wall = 1_000_000_000.0
        self.monotonic = 500.0

    def pass_seconds(self, seconds):
        self.wall += seconds
        self.monotonic += seconds

    def restart(self):
        """Another process, or another boot: this clock starts anywhere."""
        self.monotonic = 7.0

    @property
    def options(self):
        return {"clock": lambda: self.wall, "monotonic": lambda: self.monotonic}


DAY = 86_400


@pytest.mark.parametrize("jump", [-50 * 365 * DAY, -DAY, DAY, 50 * 365 * DAY])
def test_a_wall_clock_that_is_set_while_the_process_runs_makes_nothing_older(path, jump):
    clocks = Clocks()

    async def part(spool):
        await append(spool, "a")
        clocks.pass_seconds(50)
        clocks.wall += jump
        await append(spool, "b")
        assert await read_ids(spool, count=1) == ["a"]
        clocks.pass_seconds(101)
        await append(spool, "c")
        window = await read(spool)
        assert [(each.message_id, each.reason) for each in window.dropped] == [("b", "too_old")]
        assert [each.message_id for each in window.messages] == ["c"]

    run(path, part, max_age=100, **clocks.options)

    async def later(spool):
        assert await read_ids(spool) == ["a", "c"]

    clocks.restart()
    clocks.pass_seconds(40)
    run(path, later, max_age=1000, **clocks.options)


@pytest.mark.parametrize("jump", [-50 * 365 * DAY, -DAY, 50 * 365 * DAY])
def test_a_wall_clock_that_is_set_between_two_processes_makes_nothing_older(path, jump):
    clocks = Clocks()

    async def first(spool):
        await append(spool, "a")

    async def second(spool):
        assert await read_ids(spool) == ["a"]

    run(path, first, max_age=100, **clocks.options)
    clocks.restart()
    clocks.wall += jump
    run(path, second, max_age=100, **clocks.options)


def test_a_clock_that_is_set_in_an_idle_process_is_noted_for_the_next_one(path):
    """A machine without a battery starts in 1970, and its clock is set once the network is there."""
    clocks = Clocks()

    async def first(spool):
        await append(spool, "a")
        clocks.wall += 30 * DAY
        assert await read_ids(spool) == ["a"]
        revision = path.with_name(path.name + "-wal").stat().st_size
        while path.with_name(path.name + "-wal").stat().st_size == revision:
            clocks.pass_seconds(0.02)
            await spool.settle([], DELIVERED)

    async def second(spool):
        assert await read_ids(spool) == ["a"]

    run(path, first, max_age=100, check_interval=0.02, **clocks.options)
    clocks.restart()
    run(path, second, max_age=100, **clocks.options)


def test_time_between_two_processes_counts(path):
    clocks = Clocks()

    async def first(spool):
        await append(spool, "a")

    async def second(spool):
        assert [each.reason for each in (await read(spool)).dropped] == ["too_old"]

    run(path, first, max_age=100, **clocks.options)
    clocks.restart()
    clocks.wall += 101
    run(path, second, max_age=100, **clocks.options)


def test_many_that_are_too_old_hide_nothing(path):
    now = [1_000_000.0]
    clocks = {"clock": lambda: now[0], "monotonic": lambda: now[0]}

    async def part(spool):
        await asyncio.gather(*(append_one(spool, f"{n:04}", b"{}") for n in range(1_500)))
        now[0] += 200
        await append(spool, "fresh")
        dropped, found = 0, []
        while not found:
            window = await read(spool, count=100)
            dropped += len(window.dropped)
            found += window.messages
        assert (dropped, [each.message_id for each in found]) == (1_500, ["fresh"])

    run(path, part, max_age=100, **clocks)


def test_a_dead_letter_of_an_unknown_size_is_kept_whole(path):
    body = bytes(range(256)) * 128

    async def part(spool):
        await append_one(spool, "a", body)
        [message] = (await read(spool)).messages
        await spool.settle([message.key], BatchResult(Status.FAILED, "gave_up", None, 7, possibly_delivered=True))
        assert spool.statistics().dead_bytes == len(body)

    run(path, part)


def test_room_that_an_outage_took_is_given_back_to_the_disk(path):
    async def part(spool):
        for number in range(700):
            spool.append_nowait([NewMessage(f"{number}", bytes(32_000))], lambda _: None)
        await spool.settle([], DELIVERED)
        size = path.stat().st_size
        assert size > 20_000_000
        while spool.statistics().pending:
            await spool.settle([each.key for each in (await read(spool, size=10**8)).messages], DELIVERED)
        await append(spool, "small")
        while path.stat().st_size > 100_000:
            await spool.settle([], DELIVERED)
        assert await read_ids(spool) == ["small"]

    run(path, part, check_interval=0.05)


@pytest.mark.parametrize("seconds", [float("inf"), 1e12, 10**400])
def test_an_interval_that_no_thread_can_wait_for_is_as_good_as_never(path, seconds):
    async def part(spool):
        assert statuses(await append(spool, "a")) == ["stored"]
        assert await read_ids(spool) == ["a"]

    run(path, part, check_interval=seconds)


@pytest.mark.parametrize(
    "options",
    [{"max_bytes": 0}, {"max_age": 0}, {"durability": "none"}, {"on_failure": "ignore"}, {"check_interval": 0}],
)
def test_options_out_of_range_are_refused(path, options):
    with pytest.raises(ValueError):
        SQLiteSpool(path, **options)


def test_room_that_free_pages_make_is_room_although_the_log_grows_as_they_are_given_back(path, monkeypatch):
    monkeypatch.setattr(_database, "_SHRINK_SECONDS", float("inf"))
    clocks = Clocks()

    async def part(spool):
        answers = await asyncio.gather(*(append_one(spool, str(number), b" " * 4_000) for number in range(400)))
        await spool.settle([answer.key for answer in answers[:200]], DELIVERED)
        assert spool._engine()._writer._own.database.run(_database.empty_log)

        def bytes_in(folder):
            return sum(each.stat().st_size for each in folder.iterdir())

        # 128 KiB more than what has to be free beside a message, once the pages of 200 are given back.
        size = bytes_in(path.parent) - 200 * 4_096 + 4 * 2**20 + 2 * 128 * 1_024
        clocks.pass_seconds(2)
        spool._options.free_bytes = lambda folder: size - bytes_in(folder)
        assert statuses(await append(spool, "new")) == ["stored"]

    run(path, part, **clocks.options)
