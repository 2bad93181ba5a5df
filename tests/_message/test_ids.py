"""Message ids: each differs, each begins with the time of its call, and a forked child shares none with its parent."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from segment_async import messages
from segment_async._message import ids as _ids
from segment_async._message.build import checked, identify, track
from segment_async._message.ids import fork_safe_message_id, new_message_id, prefill_ids, reseed
from segment_async._message.timestamps import clock_text

both = pytest.mark.parametrize("new_id", [new_message_id, fork_safe_message_id])


def milliseconds() -> int:
    return int(time.time() * 1000)


class TestIds:
    @both
    def test_they_differ(self, new_id: Callable[[], str]) -> None:
        ids = {new_id() for _ in range(1_000)}
        assert len(ids) == 1_000
        assert {len(each) for each in ids} == {32}

    def test_prefilled_ones_differ_too(self) -> None:
        ids = set()
        for _ in range(10):
            prefill_ids()
            ids |= {new_message_id() for _ in range(150)}
        assert len(ids) == 1_500

    def test_what_was_prefilled_before_a_fork_is_not_used_after_it(self) -> None:
        prefill_ids()
        parents = {new_message_id()[12:] for _ in range(20)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_ids, "_prefilled", list(parents))
            reseed()
            assert not parents & {new_message_id()[12:] for _ in range(40)}


class TestTime:
    """A spool's index grows at its end for ids that sort by time, and at three times the cost for others."""

    @both
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
    def test_an_id_begins_with_the_time_of_its_call(
        self, new_id: Callable[[], str], build: Callable[[], object]
    ) -> None:
        clock_text(1.0)
        before = milliseconds()
        build()
        assert before <= int(new_id()[:12], 16) <= milliseconds()

    def test_ids_of_later_calls_sort_after_those_of_earlier_ones(self) -> None:
        found: list[Mapping[str, Any]] = []
        for year in (2024, 2003, 2011):
            found.append(messages.track("u", "e", timestamp=f"{year}-01-01T00:00:00Z"))
            now = milliseconds()
            while milliseconds() == now:
                pass
        ids = [message["messageId"] for message in found]
        assert ids == sorted(ids)
