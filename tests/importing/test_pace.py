"""The pace, over time that is an argument, and over a minute of virtual time."""

import itertools

import pytest

from segment_async.importing import run_import
from segment_async.importing._pace import Pace
from tests.support.virtual_clock import run, running_clock

from .support import RecordingSegment, answer, options, orders, write_csv


def test_messages_are_spread_evenly():
    pace = Pace(100, now=0)
    now = 0.0
    for _ in range(1_000):
        now += pace.take(1, now)
    assert now == pytest.approx(9.95, abs=0.05)


def test_there_is_no_burst_after_a_pause():
    pace = Pace(100, now=0)
    sent = sum(1 for _ in itertools.takewhile(lambda _: pace.take(1, 3_600.0) == 0, range(1_000)))
    assert sent <= 5


def test_what_an_outage_held_back_counts():
    pace = Pace(100, now=0)
    pace.charge(100, 10)
    assert pace.take(1, 10) == pytest.approx(1.01)


def test_no_limit():
    assert Pace(0, now=0).take(10**9, 0) == 0


class TimedSegment(RecordingSegment):
    def __init__(self, *args):
        super().__init__(*args)
        self.times = []

    async def send(self, body, headers):
        response = await super().send(body, headers)
        if response.status == 200:
            self.times += [running_clock().time()] * len(self.batches[-1])
        return response


def most_within(times, seconds):
    return max(sum(1 for each in times if start <= each < start + seconds) for start in sorted(set(times)))


def test_a_minute_at_150_a_second(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(12_000))
    segment = TimedSegment()
    report = run(run_import(options(path, rate=150, transport=segment)))
    assert report.exit_code == 0
    assert len(segment.times) == 12_000
    # One batch more, of the size that is the client's default.
    assert most_within(segment.times, 60) <= 150 * 60 + 100
    assert segment.times[-1] - segment.times[0] == pytest.approx(80, abs=2)


def test_an_outage_of_ten_minutes_loses_nothing_and_the_pace_holds_after_it(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(6_000))
    down = {"from": 10.0, "to": 610.0}

    def fails_in_between(batch):
        return answer(503) if down["from"] < running_clock().time() < down["to"] else None

    segment = TimedSegment(fails_in_between)
    report = run(run_import(options(path, rate=100, transport=segment)))
    assert report.exit_code == 0
    assert report.retries > 0
    assert len(set(segment.ids)) == len(segment.ids) == 6_000
    # What was on its way when the outage began goes out at once; nothing else does.
    assert most_within(segment.times, 60) <= 100 * 60 + 100


def test_retry_after_pauses_everything(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(500))
    answers = iter([None, answer(429, {"Retry-After": "30"})])
    segment = TimedSegment(lambda batch: next(answers, None))
    report = run(run_import(options(path, rate=100, transport=segment)))
    assert report.exit_code == 0
    assert sorted(segment.ids) == sorted(set(segment.ids))
    assert len(segment.ids) == 500
    gaps = [after - before for before, after in itertools.pairwise(segment.times)]
    assert max(gaps) >= 29
