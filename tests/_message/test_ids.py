"""Message ids: each differs, also in copies of one process, and each begins with the time of its call."""

import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from segment_async import messages
from segment_async._message.build import checked, identify, track
from segment_async._message.ids import new_message_id
from segment_async._message.timestamps import clock_text

# Copies of one process, as they are resumed from a snapshot in the middle of a millisecond: no hook runs, and no process
# id or clock tells them apart.
COPIES = """
import ctypes, os
from segment_async._message.ids import new_message_id
from segment_async._message.timestamps import clock_text
clock_text(1_800_000_000.0)
before = [new_message_id() for _ in range(200)]
fork = ctypes.PyDLL(None).fork  # os.fork would run hooks
for _ in range(10):
    if fork() == 0:
        os.write(1, "".join(new_message_id() + "\\n" for _ in range(20)).encode())
        os._exit(0)
for _ in range(10):
    os.wait()
"""
FORKED = """
import os
from segment_async._message.ids import new_message_id
from segment_async._message.timestamps import clock_text
clock_text(1_800_000_000.0)
os.write(1, (new_message_id() + "\\n").encode())
if os.fork() == 0:
    os.write(1, (new_message_id() + "\\n").encode())
    os._exit(0)
os.wait()
os.write(1, (new_message_id() + "\\n").encode())
"""


def milliseconds() -> int:
    return int(time.time() * 1000)


class TestIds:
    def test_they_differ(self) -> None:
        ids = {new_message_id() for _ in range(10_000)}
        assert len(ids) == 10_000

    def test_they_are_short_text(self) -> None:
        assert {len(new_message_id()) for _ in range(100)} == {28}
        assert all(new_message_id().isalnum() for _ in range(100))

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the fork of the C library")
    def test_copies_of_a_process_share_none(self) -> None:
        ids = printed(COPIES)
        assert len(set(ids)) == len(ids) == 200
        # Each call draws for itself: the copies' digits are not those of the others, nor in the same order.
        assert len({each[12:20] for each in ids}) == 200
        assert len({each[20:] for each in ids}) == 1

    @pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
    def test_a_forked_process_has_a_block_of_its_own(self) -> None:
        before, in_child, after = printed(FORKED)
        assert before[20:] == after[20:] != in_child[20:]

    def test_no_digits_are_used_twice_in_a_millisecond(self) -> None:
        draws = iter((b"blok", b"once", b"once", b"once", b"more", b"once"))

        def draw(count: int) -> bytes:
            return next(draws)[:count]

        clock_text(5.0)
        first, second = new_message_id(draw), new_message_id(draw)
        assert (first[12:20], second[12:20]) == (b"once".hex(), b"more".hex())
        clock_text(5.001)
        assert new_message_id(draw)[12:] == first[12:]

    def test_a_block_lasts_for_a_second(self) -> None:
        def block(now: float) -> str:
            clock_text(now)
            return new_message_id()[20:]

        first = block(2.0)
        assert block(2.5) == block(2.999) == first
        second = block(3.0)
        assert second != first
        # The clock was set back: ids of that time may exist.
        assert block(2.5) not in (first, second)

    def test_what_is_remembered_is_bounded(self) -> None:
        clock_text(7.0)
        ids = [new_message_id() for _ in range(10_000)]
        assert len(set(ids)) == 10_000
        assert len({each[20:] for each in ids}) == 3

    def test_they_take_few_bytes_on_the_wire(self) -> None:
        clock_text(time.time())
        together = ",".join(new_message_id() for _ in range(1_000)).encode()
        # 4 random bytes each, which nothing compresses, and little else.
        assert len(zlib.compress(together, 6)) < 7_000


def printed(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


class TestTime:
    """A spool's index grows at its end for ids that sort by time, and at three times the cost for others."""

    @pytest.mark.parametrize(
        "build",
        [
            lambda: track("u", "e"),
            lambda: track("u", "e", timestamp="2001-02-03T04:05:06Z"),
            lambda: identify("u", timestamp="2001-02-03T04:05:06Z"),
            lambda: checked({"type": "identify", "timestamp": "2001-02-03T04:05:06Z"}),
        ],
        ids=["without a timestamp", "track", "identify", "checked"],
    )
    def test_an_id_begins_with_the_time_of_its_call(self, build: Callable[[], object]) -> None:
        clock_text(1.0)
        before = milliseconds()
        build()
        assert before <= int(new_message_id()[:12], 16) <= milliseconds()

    def test_ids_of_later_calls_sort_after_those_of_earlier_ones(self) -> None:
        found: list[Mapping[str, Any]] = []
        for year in (2024, 2003, 2011):
            found.append(messages.track("u", "e", timestamp=f"{year}-01-01T00:00:00Z"))
            now = milliseconds()
            while milliseconds() == now:
                pass
        ids = [message["messageId"] for message in found]
        assert ids == sorted(ids)
