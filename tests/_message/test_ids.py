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

# Copies of one process, as they are resumed from a snapshot: no hook runs, and no process id or clock tells them apart.
COPIES = """
import os
from segment_async._message.ids import new_message_id
from segment_async._message.timestamps import clock_text
clock_text(1_800_000_000.0)
before = [new_message_id() for _ in range(200)]
for _ in range(10):
    if os.fork() == 0:
        os.write(1, "".join(new_message_id() + "\\n" for _ in range(100)).encode())
        os._exit(0)
for _ in range(10):
    os.wait()
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

    @pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
    def test_copies_of_a_process_share_none(self) -> None:
        done = subprocess.run([sys.executable, "-c", COPIES], capture_output=True, text=True, check=True, timeout=60)
        ids = done.stdout.split()
        assert len(ids) == 1_000
        assert len(set(ids)) == 1_000
        assert len({each[12:] for each in ids}) == 1_000

    def test_they_take_few_bytes_on_the_wire(self) -> None:
        clock_text(time.time())
        together = ",".join(new_message_id() for _ in range(1_000)).encode()
        # 8 random bytes each, which nothing compresses, and little else.
        assert len(zlib.compress(together, 6)) < 12_000


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
