"""What the log says of an outage: nothing of one failure, when it begins, now and then, and once it is over."""

import pytest

from segment_async._pipeline.outage import Outage


class Said:
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.infos: list[str] = []
        self.outage = Outage("api.segment.io", self._warn, self._inform)

    def _warn(self, text: str, *arguments: object) -> None:
        self.warnings.append(text % arguments)

    def _inform(self, text: str, *arguments: object) -> None:
        self.infos.append(text % arguments)

    def fail(self, now: float, *, pending: int = 1, dropped: int = 0) -> None:
        self.outage.note_failure("status 503", now, pending=pending, dropped=dropped, retry_in=0.5)


def test_failures_that_pass_are_not_worth_a_word() -> None:
    said = Said()
    for now in range(10):
        said.fail(now)
        said.fail(now + 0.5)
        said.outage.note_success(now + 0.6, dropped=0, wall_clock=0.0)
    assert said.warnings == said.infos == []


def test_it_is_told_when_it_begins_each_few_minutes_and_when_it_is_over() -> None:
    said = Said()
    for now in range(0, 601, 10):
        said.fail(now, pending=now + 1, dropped=now)
    assert said.warnings == [
        "Deliveries to api.segment.io have failed for 20 s: status 503. 21 messages were waiting; the next attempt is in 0.5 s.",
        "Deliveries to api.segment.io have failed for 320 s: status 503. 321 messages were waiting; the next attempt is in 0.5 s.",
    ]
    said.outage.note_success(610, dropped=601, wall_clock=0.0)
    assert said.infos == [
        "Deliveries to api.segment.io work again after 610 s. At most 601 messages were waiting; 601 messages were dropped."
    ]
    assert said.outage.since is None
    said.outage.note_success(620, dropped=601, wall_clock=0.0)
    assert len(said.infos) == 1


def test_one_failure_with_a_long_pause_is_told() -> None:
    """The second one would come after minutes."""
    said = Said()
    said.outage.note_failure("status 429", 0.0, pending=5, dropped=0, retry_in=300.0)
    assert said.warnings == [
        "Deliveries to api.segment.io fail: status 429. 5 messages were waiting; the next attempt is in 300.0 s."
    ]
    said.outage.note_success(301.0, dropped=0, wall_clock=0.0)
    assert len(said.infos) == 1


def test_of_many_short_ones_in_a_row_one_a_minute_is_told() -> None:
    """Such as a server that answers half of all requests with 503."""
    said = Said()
    for now in range(150):
        for part in (0.0, 0.1, 0.2):
            said.fail(now + part)
        said.outage.note_success(now + 0.5, dropped=0, wall_clock=0.0)
    assert (len(said.warnings), len(said.infos)) == (3, 3)


def test_it_is_over_although_what_is_told_raises() -> None:
    """A handler of `logging` may: else it would again at each delivery."""

    def refuse(*_: object) -> None:
        raise RuntimeError

    outage = Outage("api.segment.io", lambda *_: None, refuse)
    outage.note_failure("status 429", 0.0, pending=5, dropped=0, retry_in=300.0)
    with pytest.raises(RuntimeError):
        outage.note_success(301.0, dropped=0, wall_clock=0.0)
    assert outage.since is None
    outage.note_success(302.0, dropped=0, wall_clock=0.0)


def test_what_the_last_failure_said_is_kept_while_it_lasts() -> None:
    said = Said()
    said.fail(1.0)
    assert (said.outage.error, said.outage.since) == ("status 503", 1.0)
    said.outage.note_success(2.0, dropped=0, wall_clock=0.0)
    assert (said.outage.error, said.outage.since) == ("", None)
