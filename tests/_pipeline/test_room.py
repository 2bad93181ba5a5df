"""Room: which waiters are woken, when a queue counts as full, and for how long that may hold callers up."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment_async._lifecycle.waiting import MOMENT
from segment_async._pipeline.accounts import Accounts
from segment_async._pipeline.clock import LoopClock
from segment_async._pipeline.room import Room, Waiter
from segment_async.messages import MAX_MESSAGE_BYTES
from tests.support.interruptions import before_line
from tests.support.virtual_clock import VirtualClockLoop, run, running_clock


def room_with(max_messages: int = 10, max_bytes: int = 100, timeout: float | None = 1.0) -> tuple[Room, Accounts]:
    clock = LoopClock()
    clock.attach(running_clock())
    accounts = Accounts(max_messages, max_bytes)
    return Room(accounts, clock, timeout), accounts


def join(room: Room, *sizes: int, paced: bool = False, has_limit: bool = True) -> list[Waiter]:
    joined = [Waiter(size, paced) for size in sizes]
    for waiter in joined:
        waiter.has_limit = has_limit
        room.waiters[waiter] = None
    return joined


def woken(room: Room, waiters: list[Waiter], readable: int = 500) -> list[int]:
    """The indices of those that a look wakes."""
    futures = room.to_wake(readable)
    return [index for index, waiter in enumerate(waiters) if waiter.future in futures]


class TestFull:
    @pytest.mark.parametrize("line", range(4))
    def test_the_time_left_may_be_asked_for_while_another_thread_makes_room(self, line: int) -> None:
        async def main() -> None:
            room, _ = room_with()
            room.note_full()
            with before_line(line, Room.time_left.__code__, room.note_room):
                assert room.time_left() in (1.0, None)
            assert room.time_left() is None

        run(main())

    def test_by_count(self) -> None:
        async def main() -> None:
            room, accounts = room_with()
            accounts.pending = 9
            assert not room.is_full
            accounts.pending = 10
            assert room.is_full

        run(main())

    def test_from_when_a_message_found_no_room_until_there_was_room_again(self) -> None:
        async def main() -> None:
            room, _ = room_with()
            room.note_full()
            assert room.is_full
            room.note_room()
            assert not room.is_full

        run(main())

    def test_time_counts_from_the_first_moment(self) -> None:
        async def main() -> None:
            room, _ = room_with(timeout=1.0)
            assert room.time_left() is None
            room.note_full()
            assert room.time_left() == 1.0
            running_clock().advance(0.75)
            room.note_full()
            assert room.time_left() == 0.25
            running_clock().advance(0.25 - MOMENT / 2)
            assert room.time_left() == 0.0
            running_clock().advance(10)
            assert room.time_left() == 0.0
            room.note_room()
            room.note_full()
            assert room.time_left() == 1.0

        run(main())

    @pytest.mark.parametrize(("late", "more"), [(0.05, 0.0), (0.5, 0.5), (30.0, 1.0)])
    def test_time_in_which_the_loop_stood_still_is_given_again_once(self, late: float, more: float) -> None:
        async def main() -> None:
            room, _ = room_with(timeout=1.0)
            room.note_late(late)
            assert room.time_left() is None
            room.note_full()
            running_clock().advance(0.5)
            # Another waiter's limit, of before there was room.
            room.note_late(late)
            assert room.time_left() == 0.5
            running_clock().advance(0.5 + late)
            room.note_late(late)
            assert room.time_left() == pytest.approx(more)
            running_clock().advance(more + late)
            room.note_late(late)
            assert room.time_left() == 0.0
            room.note_room()
            room.note_full()
            running_clock().advance(1.0 + late)
            room.note_late(late)
            assert room.time_left() == pytest.approx(more)

        run(main())

    def test_without_a_limit_it_takes_as_long_as_it_takes(self) -> None:
        async def main() -> None:
            room, _ = room_with(timeout=None)
            room.note_full()
            assert room.time_left() is None

        run(main())


class TestWaking:
    def test_as_many_as_there_is_room_for_and_in_order(self) -> None:
        async def main() -> None:
            room, accounts = room_with(max_messages=3)
            waiters = join(room, 1, 1, 1, 1, 1)
            accounts.pending = 1
            assert woken(room, waiters) == [0, 1]
            assert [waiter.woken for waiter in waiters] == [True, True, False, False, False]

        run(main())

    def test_by_bytes_too_and_no_small_one_overtakes_a_large_one(self) -> None:
        async def main() -> None:
            room, accounts = room_with(max_bytes=100)
            waiters = join(room, 40, 50, 30, 1)
            accounts.pending_bytes = 5
            assert woken(room, waiters) == [0, 1]

        run(main())

    def test_none_twice_while_the_first_wake_up_is_on_its_way(self) -> None:
        async def main() -> None:
            room, accounts = room_with(max_messages=3)
            waiters = join(room, 1, 1, 1)
            accounts.pending = 2
            assert woken(room, waiters) == [0]
            # The room is the first one's: there is none for the second.
            assert woken(room, waiters) == []
            accounts.pending = 1
            assert woken(room, waiters) == [1]

        run(main())

    def test_again_once_it_waits_again(self) -> None:
        async def main() -> None:
            room, _ = room_with()
            (waiter,) = join(room, 1)
            future = waiter.future
            assert room.to_wake(500) == [future]
            future.set_result(None)
            waiter.wait_again(has_limit=True)
            assert not waiter.woken
            assert waiter.future is not future
            assert room.to_wake(500) == [waiter.future]

        run(main())

    def test_paced_ones_wait_while_unread_messages_are_piled_up(self) -> None:
        async def main() -> None:
            room, _ = room_with()
            waiters = join(room, 1, paced=True, has_limit=False)
            assert woken(room, waiters, readable=0) == []
            assert woken(room, waiters) == [0]

        run(main())

    def test_others_do_not(self) -> None:
        async def main() -> None:
            room, _ = room_with()
            waiters = join(room, 1)
            assert woken(room, waiters, readable=0) == [0]

        run(main())

    def test_no_more_paced_ones_than_messages_may_be_unread(self) -> None:
        async def main() -> None:
            room, _ = room_with(max_messages=10_000, max_bytes=10_000)
            waiters = join(room, *[1] * 5_000, paced=True, has_limit=False)
            assert woken(room, waiters, readable=400) == list(range(400))
            # Those have not taken their room yet.
            assert woken(room, waiters, readable=400) == []
            for waiter in waiters[:400]:
                del room.waiters[waiter]
            assert woken(room, waiters, readable=3) == [400, 401, 402]

        run(main())

    def test_a_look_does_not_pass_all_waiters(self) -> None:
        async def main() -> None:
            room, _ = room_with(max_messages=10_000, max_bytes=10_000)
            waiters = join(room, *[1] * 5_000)
            assert len(woken(room, waiters, readable=0)) < 200
            # When one of them goes, the next ones are woken.
            for waiter in waiters[:50]:
                del room.waiters[waiter]
            assert len(woken(room, waiters, readable=0)) == 50

        run(main())

    def test_one_that_found_room_before_learns_that_there_is_none_now(self) -> None:
        async def main() -> None:
            room, accounts = room_with(max_messages=3)
            waiters = join(room, 1, paced=True, has_limit=False)
            accounts.pending = 3
            assert woken(room, waiters) == [0]
            # It is not promised anything, and sets its limit.
            assert not waiters[0].woken
            waiters[0].wait_again(has_limit=True)
            assert woken(room, waiters) == []

        run(main())

    @given(st.integers(0, 6), st.integers(0, 60), st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=8))
    def test_those_that_are_woken_all_find_room(
        self, pending: int, pending_bytes: int, joined: list[tuple[int, bool]]
    ) -> None:
        async def main() -> None:
            room, accounts = room_with(6, 60)
            waiters = [join(room, size, paced=paced)[0] for size, paced in joined]
            accounts.pending, accounts.pending_bytes = pending, pending_bytes
            indices = woken(room, waiters)
            assert indices == list(range(len(indices)))
            for index in indices:
                assert accounts.has_room(waiters[index].size)
                accounts.pending += 1
                accounts.pending_bytes += waiters[index].size
            # And the next one does not, or there is none.
            rest = waiters[len(indices) :]
            assert not rest or not accounts.has_room(rest[0].size)

        loop = VirtualClockLoop()
        loop.run_until_complete(main())
        loop.close()


class TestForAll:
    """Whether a call that cannot wait may take a message although others wait."""

    @pytest.mark.parametrize(("size", "fits"), [(40, True), (41, False)])
    def test_nothing_waits(self, size: int, *, fits: bool) -> None:
        async def main() -> None:
            room, accounts = room_with()
            accounts.pending_bytes = 60
            assert room.is_for_all(size) is fits

        run(main())

    def test_something_waits_for_room(self) -> None:
        async def main() -> None:
            room, accounts = room_with()
            accounts.pending_bytes = 60
            join(room, 41)
            assert not room.is_for_all(1)

        run(main())

    def test_what_waits_only_waits_for_messages_to_be_read(self) -> None:
        async def main() -> None:
            room, _ = room_with()
            join(room, 10, 10, paced=True, has_limit=False)
            assert room.is_for_all(100)

        run(main())

    @pytest.mark.parametrize(("size", "fits"), [(40, True), (41, False)])
    def test_a_woken_waiter_has_not_taken_its_room_yet(self, size: int, *, fits: bool) -> None:
        async def main() -> None:
            room, _ = room_with()
            join(room, 30, 30)
            assert len(room.to_wake(500)) == 2
            assert room.is_for_all(size) is fits

        run(main())

    def test_nor_its_place(self) -> None:
        async def main() -> None:
            room, accounts = room_with(max_messages=10)
            join(room, 1, 1)
            room.to_wake(500)
            accounts.pending = 7
            assert room.is_for_all(1)
            accounts.pending = 8
            assert not room.is_for_all(1)

        run(main())

    def test_behind_woken_ones_one_waits_for_room(self) -> None:
        async def main() -> None:
            room, _ = room_with(max_bytes=100)
            waiters = join(room, 30, 71)
            assert woken(room, waiters) == [0]
            assert not room.is_for_all(1)

        run(main())

    def test_where_there_is_room_for_the_largest_messages_sizes_do_not_matter(self) -> None:
        async def main() -> None:
            room, _ = room_with(max_messages=10, max_bytes=10 * MAX_MESSAGE_BYTES)
            join(room, *[10] * 8)
            assert len(room.to_wake(500)) == 8
            assert room.is_for_all(2 * MAX_MESSAGE_BYTES)
            assert not room.is_for_all(10 * MAX_MESSAGE_BYTES - 9)

        run(main())


class TestNewcomers:
    def test_they_go_at_once_where_no_caller_waits(self) -> None:
        async def main() -> None:
            room, _ = room_with()
            assert room.is_for_newcomer(1_000)

        run(main())

    def test_they_wait_behind_those_that_wait(self) -> None:
        async def main() -> None:
            room, _ = room_with()
            join(room, 10, 10, paced=True)
            assert not room.is_for_newcomer(1)
            room.to_wake(1)
            assert not room.is_for_newcomer(1)

        run(main())

    @pytest.mark.parametrize(("size", "fits"), [(40, True), (41, False)])
    def test_they_need_not_wait_for_those_that_are_about_to_go(self, size: int, *, fits: bool) -> None:
        async def main() -> None:
            room, _ = room_with()
            join(room, 30, 30)
            room.to_wake(500)
            assert room.is_for_newcomer(size) is fits

        run(main())


async def _waiter(size: int = 1, *, paced: bool = False) -> Waiter:
    return Waiter(size, paced)


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "standing"])
class TestOfALoopThatDoesNotRun:
    """Callers that an application left behind on it, which may never go."""

    @pytest.fixture
    def left(self, *, is_closed: bool) -> Iterator[list[Waiter]]:
        loop = asyncio.new_event_loop()
        waiters = [loop.run_until_complete(_waiter(10, paced=True)) for _ in range(1_500)]
        if is_closed:
            loop.close()
        yield waiters
        loop.close()

    @pytest.mark.parametrize("were_woken", [True, False])
    def test_they_are_woken_and_hold_up_no_other(self, left: list[Waiter], *, were_woken: bool) -> None:
        async def main() -> None:
            room, accounts = room_with(max_messages=1)
            room.waiters.update(dict.fromkeys(left[:1_000]))
            first = join(room, 100, paced=True)
            room.waiters.update(dict.fromkeys(left[1_000:]))
            last = join(room, 100, paced=True)
            for waiter in left:
                waiter.woken = were_woken
            futures = room.to_wake(1)
            assert [*room.waiters] == [*first, *last]
            assert woken(room, first + last) == []
            assert futures == [waiter.future for waiter in (*left[:1_000], *left[1_000:], *first)]
            assert first[0].woken
            accounts.pending = 1
            del room.waiters[first[0]]
            assert room.to_wake(1) == []

        run(main())

    def test_they_keep_no_room_from_calls_that_cannot_wait(self, left: list[Waiter]) -> None:
        async def main() -> None:
            room, _ = room_with(max_messages=3)
            room.waiters.update(dict.fromkeys(left))
            for waiter in left:
                waiter.woken = True
            assert room.is_for_all(100)
            join(room, 60)[0].woken = True
            assert room.is_for_all(40)
            assert not room.is_for_all(41)

        run(main())


def test_a_waiter_s_future_is_its_own_loop_s() -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    waiters = [loop.run_until_complete(_waiter()) for loop in (first, second)]
    assert [waiter.future.get_loop() for waiter in waiters] == [first, second]
    first.close()
    second.close()
