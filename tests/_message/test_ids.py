"""Message ids: each differs, also in copies of one process, and each begins with the time of its call."""

import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import pytest

from segment_async import messages
from segment_async._message.build import checked, identify, track
from segment_async._message.ids import stamp

# Copies of one process, as they are resumed from a snapshot in the middle of a millisecond: no hook runs, and no process
# id or clock tells them apart.
COPIES = """
import ctypes, os
from segment_async._message.ids import stamp
now = 1_800_000_000.0
before = [stamp(now)[1] for _ in range(200)]
fork = ctypes.PyDLL(None).fork  # os.fork would run hooks
for _ in range(10):
    if fork() == 0:
        os.write(1, "".join(stamp(now)[1] + "\\n" for _ in range(20)).encode())
        os._exit(0)
for _ in range(10):
    os.wait()
"""
FORKED = """
import os
from segment_async._message.ids import stamp
now = 1_800_000_000.0
os.write(1, (stamp(now)[1] + "\\n").encode())
if os.fork() == 0:
    os.write(1, (stamp(now)[1] + "\\n").encode())
    os._exit(0)
os.wait()
os.write(1, (stamp(now)[1] + "\\n").encode())
"""


def milliseconds() -> int:
    return int(time.time() * 1000)


class TestIds:
    def test_they_differ(self) -> None:
        ids = {stamp(time.time())[1] for _ in range(10_000)}
        assert len(ids) == 10_000

    def test_they_are_short_text(self) -> None:
        ids = [stamp(time.time())[1] for _ in range(100)]
        assert {len(each) for each in ids} == {28}
        assert all(each.isalnum() for each in ids)

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

        (_, first), (_, second) = stamp(5.0, draw), stamp(5.0, draw)
        assert (first[12:20], second[12:20]) == (b"once".hex(), b"more".hex())
        assert stamp(5.001, draw)[1][12:] == first[12:]

    def test_a_block_lasts_for_a_second(self) -> None:
        def block(now: float) -> str:
            return stamp(now)[1][20:]

        first = block(2.0)
        assert block(2.5) == block(2.999) == first
        second = block(3.0)
        assert second != first
        # The clock was set back: ids of that time may exist.
        assert block(2.5) not in (first, second)

    def test_what_is_remembered_is_bounded(self) -> None:
        ids = [stamp(7.0)[1] for _ in range(10_000)]
        assert len(set(ids)) == 10_000
        assert len({each[20:] for each in ids}) == 3

    def test_they_take_few_bytes_on_the_wire(self) -> None:
        together = ",".join(stamp(time.time())[1] for _ in range(1_000)).encode()
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
    def test_an_id_begins_with_the_time_of_its_call(self, build: Callable[[], dict[str, Any]]) -> None:
        before = milliseconds()
        made = build()
        assert before <= int(made["messageId"][:12], 16) <= milliseconds()

    @pytest.mark.parametrize("line", range(8))
    @pytest.mark.parametrize("other", [999.0, 1_000.9, 1_001.0])
    def test_another_thread_may_run_before_any_line(self, line: int, other: float) -> None:
        lines = []

        def interrupt(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
            if frame.f_code is not stamp.__code__:
                return None
            if event == "line":
                lines.append(frame.f_lineno)
                if len(lines) == line + 1:
                    stamp(other)
            return interrupt

        stamp(5.0)
        tracer = sys.gettrace()
        sys.settrace(interrupt)
        try:
            text, message_id = stamp(1_000.5)
        finally:
            sys.settrace(tracer)
        assert len(lines) > line
        assert text == "1970-01-01T00:16:40.500Z"
        assert int(message_id[:12], 16) == 1_000_500

    def test_ids_of_later_calls_sort_after_those_of_earlier_ones(self) -> None:
        found: list[Mapping[str, Any]] = []
        for year in (2024, 2003, 2011):
            found.append(messages.track("u", "e", timestamp=f"{year}-01-01T00:00:00Z"))
            now = milliseconds()
            while milliseconds() == now:
                pass
        ids = [message["messageId"] for message in found]
        assert ids == sorted(ids)
