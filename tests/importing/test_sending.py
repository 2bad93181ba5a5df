"""Records on their way: order, how many requests at once, and what a disk that refuses does to the position."""

import asyncio

import pytest

from segment_async.importing import run_import
from segment_async.importing._records import Problem, Record
from segment_async.importing._rejects import RejectsFile
from segment_async.importing._sources import find
from tests.support.virtual_clock import run

from .support import RecordingSegment, answer, options, orders, write_csv


class SlowSegment(RecordingSegment):
    """Each request takes a second; the first of them three."""

    def __init__(self):
        super().__init__()
        self.at_once = 0
        self.most_at_once = 0
        self.arrived = []

    async def send(self, body, headers):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        answered = await super().send(body, headers)
        batch = self.batches[-1]
        await asyncio.sleep(3 if len(self.batches) == 2 else 1)
        self.arrived += [message["userId"] for message in batch]
        self.at_once -= 1
        return answered


@pytest.mark.parametrize(("ordered", "most_at_once"), [(True, 1), (False, 4)])
def test_ordered_means_one_request_at_a_time(tmp_path, ordered, most_at_once):
    path = write_csv(tmp_path / "orders.csv", orders(5_000))
    segment = SlowSegment()
    report = run(run_import(options(path, ordered=ordered, transport=segment)))
    assert (report.exit_code, segment.most_at_once) == (0, most_at_once)
    in_order = [f"u{number}" for number in range(5_000)]
    assert (segment.arrived == in_order) is ordered
    assert sorted(segment.arrived) == sorted(in_order)


def test_without_a_limit_batches_are_large_and_four_at_a_time_all_the_same(tmp_path):
    segment = SlowSegment()
    run(run_import(options(write_csv(tmp_path / "orders.csv", orders(9_001)), transport=segment)))
    assert segment.most_at_once == 4
    # The first message goes alone, and a pause of the reading may end a batch early.
    assert len(segment.batches) <= 13


def test_in_order_also_where_a_request_fails(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(3_000))
    segment = RecordingSegment(lambda batch: next(answers, None))
    answers = iter([None, None, answer(503), answer(503), None, answer(429, {"Retry-After": "5"})])
    report = run(run_import(options(path, ordered=True, transport=segment)))
    assert report.exit_code == 0
    assert [message["userId"] for message in segment.messages] == [f"u{number}" for number in range(3_000)]


def test_a_reject_that_was_lost_is_never_taken_for_written(tmp_path):
    (source,) = find([str(write_csv(tmp_path / "orders.csv", orders(1)))])
    rejects = RejectsFile(tmp_path / "rejects.jsonl", 0)
    record = Record(source, 1, 2, 14, ["u"], (2, 20))
    rejects.add(record, ["user"], Problem("a", "", "b."), None)
    rejects.sync()

    class Full:
        def write(self, content):
            raise OSError(28, "No space left on device")

    kept, rejects._file = rejects._file, Full()
    with pytest.raises(OSError, match="space"):
        rejects.add(record, ["user"], Problem("a", "", "b."), None)
    rejects._file = kept
    with pytest.raises(OSError, match="space"):
        rejects.sync()
    rejects.close()
