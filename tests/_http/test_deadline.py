"""The time limit of a request, under a virtual clock."""

import asyncio

import pytest

from segment_async._http.deadline import Deadline
from tests.support.virtual_clock import run, running_clock


class TestDeadline:
    def test_it_ends_the_block(self) -> None:
        async def main() -> float:
            with pytest.raises(TimeoutError):
                async with Deadline(15):
                    await asyncio.sleep(100)
            return running_clock().time()

        assert run(main()) == 15

    def test_time_in_which_the_loop_is_blocked_does_not_count(self) -> None:
        async def main() -> float:
            async with Deadline(15):
                answer_comes = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_later(20, answer_comes.set_result, None)
                running_clock().advance(30)
                await answer_comes
            return running_clock().time()

        assert run(main()) == 30

    def test_it_is_extended_by_its_own_length_at_most(self) -> None:
        async def main() -> float:
            with pytest.raises(TimeoutError):
                async with Deadline(15):
                    running_clock().advance(10_000)
                    await asyncio.sleep(100_000)
            return running_clock().time()

        assert run(main()) == 10_015

    def test_a_cancellation_passes_through(self) -> None:
        async def main() -> None:
            async def block() -> None:
                async with Deadline(15):
                    await asyncio.sleep(100)

            task = asyncio.create_task(block())
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(main())
