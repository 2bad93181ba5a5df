"""What an answer does to its batch: settled, retried, taken apart, handed over; without a loop and a request."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from segment_async import Response, RetryPolicy, Status
from segment_async._outcome import BatchResult
from segment_async._pipeline.attempt import HoldsEnded
from segment_async._pipeline.auth import Basic
from segment_async._pipeline.batch import Batch
from segment_async._pipeline.circuit import CircuitBreaker
from segment_async._pipeline.clock import LoopClock
from segment_async._pipeline.limited_log import LimitedLog
from segment_async._pipeline.outage import Outage
from segment_async._pipeline.queue import Queue
from segment_async._pipeline.reports import Reports
from segment_async._pipeline.retry import NoCredentials, NoResponse
from segment_async._pipeline.settlement import Settlement
from tests.support.stations import queue_with, sealed

LOST = NoResponse(maybe_sent=True)


class Recorder:
    """A spool's recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[list[int], BatchResult, str]] = []

    def settle(self, keys: Iterable[int], result: BatchResult, answer: str) -> None:
        self.outcomes.append((list(keys), result, answer))


class Hand:
    """A loop that nothing runs on; its time is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def call_soon_threadsafe(self, callback: object, *arguments: object, context: object) -> None:
        """Reports are made by hand."""


class Bench:
    """A settlement with real parts around it; batches begin in flight."""

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        *,
        auth: Any = None,
        hostname: str = "",
        recorder: Recorder | None = None,
        on_error: Any = None,
    ) -> None:
        self.loop = Hand()
        self.clock = LoopClock()
        self.clock.attach(self.loop)  # type: ignore[arg-type]
        policy = policy or RetryPolicy()
        self.circuit = CircuitBreaker(policy, lambda: 0.0)
        self.queue: Queue = queue_with(10_000, circuit=self.circuit, has_spool=recorder is not None)
        self.backlog = self.queue.backlog
        self.schedule = self.queue.schedule
        self.reports = Reports(on_error, LimitedLog(lambda: 0.0), lambda: 0.0, self.queue.notify)
        self.said: list[str] = []
        self.settlement = Settlement(
            self.queue,
            self.circuit,
            policy,
            auth or Basic("key"),
            self.reports,
            recorder,  # type: ignore[arg-type]
            self.clock,
            hostname=hostname,
            outage=Outage("example.com", self._say, self._say),
            random=lambda: 0.0,
            wall_clock=lambda: 1_763_000_000.0,
        )
        self.place = 0

    def _say(self, text: str, *arguments: object) -> None:
        self.said.append(text % arguments)

    def in_flight(self, count: int = 4, *, sends: int = 1, keys: Collection[int] | None = None) -> Batch:
        """A batch whose request has just been made."""
        batch = sealed(
            [b'{"messageId":"m%d"}' % number for number in range(count)],
            start=self.place,
            keys=list(keys) if keys is not None else None,
        )
        self.place += count
        batch.history = batch.history._replace(sends=sends)
        batch.not_before = self.clock.now()
        self.queue.accounts.pending += count
        self.queue.accounts.pending_bytes += batch.size
        self.backlog.wait(batch)
        self.backlog.mark_in_flight(batch)
        return batch

    def results(self, batch: Batch, count: int = 4) -> list[str | None]:
        results = [batch.record.result(index) for index in range(count)]
        return [None if result is None else result.reason or result.status.value for result in results]

    def wait_until(self, moment: float) -> None:
        self.loop.now = moment


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestFailures:
    def test_a_policy_without_a_back_off_does_not_hide_them(self) -> None:
        bench = Bench(RetryPolicy(backoff=0))
        batch = bench.in_flight()
        for _ in range(3):
            bench.settlement.conclude(batch, Response(503))
            bench.backlog.mark_in_flight(batch)
        assert len(bench.said) == 1
        assert "status 503" in bench.said[0]

    def test_a_success_that_is_not_segments_is_explained(self) -> None:
        bench = Bench(RetryPolicy(backoff=0))
        batch = bench.in_flight()
        for _ in range(3):
            bench.settlement.conclude(batch, Response(200, {"Content-Type": "text/html"}, b"<html>Log in</html>"))
            bench.backlog.mark_in_flight(batch)
        assert ": status 200 without Segment's confirmation, perhaps from a proxy or a login page. " in bench.said[0]

    def test_a_stale_connection_is_none(self) -> None:
        bench = Bench()
        batch = bench.in_flight()
        bench.settlement.conclude(batch, NoResponse(maybe_sent=True, stale_connection=True))
        assert bench.settlement._outage.since is None


class TestFinish:
    def test_a_batch_that_is_delivered_has_ended(self, bench: Bench) -> None:
        batch = bench.in_flight()
        seen = bench.queue.changed.mark
        bench.settlement.conclude(batch, Response(200))
        assert bench.results(batch) == ["delivered"] * 4
        assert not list(bench.backlog.batches())
        assert bench.queue.statistics().delivered == 4
        assert bench.queue.changed.mark is not seen

    def test_one_that_is_refused_is_explained_and_reported(self, caplog: pytest.LogCaptureFixture) -> None:
        reported: list[tuple[BatchResult, list[str]]] = []
        bench = Bench(
            on_error=lambda error, group: reported.append((error.outcome, [one["messageId"] for one in group]))
        )
        batch = bench.in_flight(2)
        bench.settlement.conclude(batch, Response(404))
        bench.reports.make(1.0)
        ((outcome, ids),) = reported
        assert (outcome.reason, outcome.status_code, outcome.attempts, ids) == ("refused", 404, 1, ["m0", "m1"])
        (record,) = caplog.records
        assert record.getMessage() == (
            "Messages failed: 2 messages, refused (last status: 404). "
            "This is logged once a minute; client.statistics().reasons counts them as refused."
        )

    def test_missing_credentials_were_explained_already(self, caplog: pytest.LogCaptureFixture, bench: Bench) -> None:
        batch = bench.in_flight()
        bench.settlement.conclude(batch, NoCredentials())
        assert bench.results(batch) == ["unauthorized"] * 4
        assert not caplog.records

    @pytest.mark.parametrize("status", [401, 404])
    def test_advice_is_given_once_and_for_segment_s_own_hosts(
        self, caplog: pytest.LogCaptureFixture, status: int
    ) -> None:
        bench = Bench(hostname="api.segment.io")
        for _ in range(3):
            bench.settlement.conclude(bench.in_flight(), Response(status))
        advice = [record for record in caplog.records if "from Segment" in record.getMessage()]
        assert len(advice) == 1

    def test_the_spool_learns_of_it_with_the_beginning_of_the_answer(self) -> None:
        recorder = Recorder()
        bench = Bench(recorder=recorder)
        bench.settlement.conclude(bench.in_flight(2, keys=[7, 8]), Response(404, {}, b"not here" + b"!" * 1_000))
        bench.settlement.conclude(bench.in_flight(1, keys=[9]), NoCredentials())
        (first, second) = recorder.outcomes
        assert first == ([7, 8], BatchResult(Status.FAILED, "refused", 404, 1), "not here" + "!" * 492)
        assert (second[0], second[2]) == ([9], "")

    def test_an_answer_that_is_none_is_taken_for_none(self, caplog: pytest.LogCaptureFixture, bench: Bench) -> None:
        batch = bench.in_flight()
        bench.settlement.conclude(batch, "200 OK")  # type: ignore[arg-type]
        assert batch.history.maybe_sent
        assert bench.backlog.waiting == [batch]
        assert caplog.text.count("The transport returned an unreadable answer") == 1

    @pytest.mark.parametrize("answer", [None, "200 OK", Response(200, {}, None), Response("200")])  # type: ignore[arg-type]
    def test_one_that_is_none_fails_as_if_none_had_come(self, answer: Any) -> None:
        bench = Bench(policy=RetryPolicy(max_retries=0), recorder=Recorder())
        batch = bench.in_flight(1, keys=[1])
        bench.settlement.conclude(batch, answer)
        assert bench.results(batch, 1) == ["gave_up"]

    @pytest.mark.parametrize("body", [None, "text", object()])
    def test_one_whose_body_is_none(self, body: Any) -> None:
        recorder = Recorder()
        bench = Bench(recorder=recorder)
        batch = bench.in_flight(1, keys=[1])
        bench.settlement.conclude(batch, Response(404, {}, body))
        assert bench.results(batch, 1) == ["refused"]
        assert [outcome[2] for outcome in recorder.outcomes] == [""]

    @pytest.mark.parametrize("status", [404, 200])
    def test_one_whose_body_cannot_be_read(self, status: int) -> None:
        class Lazy:
            def __init__(self) -> None:
                self.status, self.headers = status, dict[str, str]()

            @property
            def body(self) -> bytes:
                raise ConnectionError("the rest was never read")

        recorder = Recorder()
        bench = Bench(policy=RetryPolicy(max_retries=0), recorder=recorder)
        batch = bench.in_flight(1, keys=[1])
        bench.settlement.conclude(batch, Lazy())  # type: ignore[arg-type]
        assert bench.results(batch, 1) == ["refused" if status == 404 else "gave_up"]
        assert [outcome[2] for outcome in recorder.outcomes] == [""]


class TestRetry:
    def test_the_batch_waits_for_its_back_off(self, bench: Bench) -> None:
        batch = bench.in_flight()
        bench.wait_until(10.0)
        bench.settlement.conclude(batch, Response(503))
        assert bench.backlog.waiting == [batch]
        assert not bench.backlog.in_flight
        assert batch.not_before == 10.5
        assert batch.baseline == (0, 1)

    def test_a_pause_is_for_all_of_them(self, bench: Bench) -> None:
        other = bench.in_flight()
        bench.backlog.wait(other)
        bench.settlement.conclude(bench.in_flight(), Response(429, {"Retry-After": "30"}))
        assert bench.circuit.not_before == 30.0
        assert bench.schedule.next(29.0, is_full=False) is None

    def test_once_the_server_is_back_no_other_waits_out_its_back_off(self, bench: Bench) -> None:
        batches = [bench.in_flight() for _ in range(6)]
        for batch in batches[:5]:
            bench.settlement.conclude(batch, LOST)
        assert bench.circuit.half_open
        bench.settlement.conclude(batches[5], Response(200))
        assert not bench.circuit.half_open
        assert {batch.not_before for batch in batches[:5]} == {0.0}

    def test_one_that_failed_for_too_long_is_given_up_with_its_history(
        self, caplog: pytest.LogCaptureFixture, bench: Bench
    ) -> None:
        batch = bench.in_flight()
        bench.settlement.conclude(batch, LOST)
        bench.settlement.give_up(batch)
        assert batch.record.result(0) == BatchResult(Status.FAILED, "gave_up", None, 1, possibly_delivered=True)
        assert not list(bench.backlog.batches())
        assert "gave_up" in caplog.text

    def test_a_fresh_token_is_asked_for_and_the_batch_goes_again(self) -> None:
        class Tokens:
            has_tokens = True

            def __init__(self) -> None:
                self.renewed: list[float] = []

            def renew(self, sent_at: float) -> None:
                self.renewed.append(sent_at)

        tokens = Tokens()
        bench = Bench(auth=tokens)
        batch = bench.in_flight()
        batch.sent_at = 3.5
        bench.settlement.conclude(batch, Response(401))
        assert tokens.renewed == [3.5]
        assert bench.schedule.next(bench.clock.now(), is_full=False) is batch
        bench.backlog.mark_in_flight(batch)
        bench.settlement.conclude(batch, Response(401))
        assert bench.results(batch) == ["unauthorized"] * 4


class TestInterrupted:
    """The request's task was cut off although its loop goes on."""

    def test_it_waits_for_a_back_off_that_grows(self, bench: Bench) -> None:
        batch = bench.in_flight()
        waits = []
        for _ in range(4):
            bench.settlement.interrupted(batch)
            assert bench.backlog.waiting == [batch]
            assert bench.schedule.next(bench.clock.now(), is_full=False) is None
            waits.append(batch.not_before - bench.clock.now())
            bench.wait_until(batch.not_before)
            assert bench.schedule.next(bench.clock.now(), is_full=False) is batch
            bench.backlog.mark_in_flight(batch)
        assert waits == pytest.approx([0.5, 1, 2, 4])

    @pytest.mark.parametrize(("sends", "maybe_sent"), [(0, False), (1, True)])
    def test_it_may_have_been_delivered_if_it_was_sent(self, bench: Bench, sends: int, *, maybe_sent: bool) -> None:
        batch = bench.in_flight(sends=sends)
        bench.settlement.interrupted(batch)
        assert batch.history.maybe_sent is maybe_sent

    def test_it_is_given_up_after_as_long_as_any_other(self, bench: Bench) -> None:
        batch = bench.in_flight()
        bench.wait_until(5.0)
        for _ in range(2):
            bench.settlement.interrupted(batch)
            assert bench.schedule.overdue(5.0 + 43_199) == []
            assert bench.schedule.overdue(5.0 + 43_200) == [batch]
            bench.wait_until(batch.not_before)
            bench.backlog.mark_in_flight(batch)
        bench.settlement.interrupted(batch)
        assert [text for text in bench.said if "cut off" in text] == bench.said != []


class TestSplits:
    def test_a_refused_batch_is_taken_apart_at_once(self, bench: Bench) -> None:
        batch = bench.in_flight(5)
        bench.wait_until(3.0)
        bench.settlement.conclude(batch, Response(400))
        assert [(part.start, part.count, part.not_before) for part in bench.backlog.waiting] == [
            (0, 2, 3.0),
            (2, 3, 3.0),
        ]
        assert not bench.backlog.in_flight
        assert bench.queue.statistics().pending == 5

    def test_after_a_413_later_batches_are_smaller(self, bench: Bench) -> None:
        batch = bench.in_flight(4)
        bench.settlement.conclude(batch, Response(413))
        assert bench.backlog.limit(bench.clock.now()) == batch.size // 2
        assert len(bench.backlog.waiting) == 2

    def test_a_batch_that_is_over_the_limit_is_split_without_a_request(self, bench: Bench) -> None:
        bench.settlement.conclude(bench.in_flight(4), Response(413))
        waiting = bench.in_flight(8)
        bench.backlog.wait(waiting)
        assert bench.backlog.exceeds_limit(waiting, bench.clock.now())
        bench.settlement.split_to_limit(waiting)
        assert waiting not in bench.backlog.waiting
        assert [part.count for part in bench.backlog.waiting] == [2, 2, 4, 4]
        assert bench.queue.accounts.requests == 0


class TestEverythingIsRefused:
    """Fifty messages in a row were refused alone, and none was delivered in between."""

    def refuse_alone(self, bench: Bench, count: int) -> None:
        for _ in range(count):
            bench.settlement.conclude(bench.in_flight(1), Response(400))

    def test_what_is_left_of_a_batch_fails_whole_with_one_warning(
        self, caplog: pytest.LogCaptureFixture, bench: Bench
    ) -> None:
        batch = bench.in_flight(4)
        self.refuse_alone(bench, 49)
        bench.settlement.conclude(batch, Response(400))
        first, second = bench.backlog.waiting
        single, other = first.split()
        for part in (single, other):
            bench.backlog.wait(part)
        bench.backlog.remove(first)
        for part in (single, second):
            bench.backlog.mark_in_flight(part)
            bench.settlement.conclude(part, Response(400))
        assert bench.results(batch) == ["refused", None, "refused", "refused"]
        assert caplog.text.count("The server refuses every message") == 1
        self.refuse_alone(bench, 10)
        assert caplog.text.count("The server refuses every message") == 1

    def test_a_batch_of_which_none_was_refused_alone_is_still_taken_apart(self, bench: Bench) -> None:
        self.refuse_alone(bench, 60)
        bench.settlement.conclude(bench.in_flight(4), Response(400))
        assert len(bench.backlog.waiting) == 2

    def test_a_delivered_batch_ends_it(self, bench: Bench) -> None:
        batch = bench.in_flight(4)
        self.refuse_alone(bench, 60)
        batch.record.has_refusal = True
        bench.settlement.conclude(bench.in_flight(1), Response(200))
        bench.settlement.conclude(batch, Response(400))
        assert len(bench.backlog.waiting) == 2


class TestHoldsEnded:
    """The spool says that other processes may have some of the messages now."""

    def test_those_are_handed_over_and_the_rest_is_sent(self) -> None:
        recorder = Recorder()
        bench = Bench(recorder=recorder)
        batch = bench.in_flight(6, keys=[10, 11, 12, 13, 14, 15])
        bench.settlement.conclude(batch, HoldsEnded([11, 14, 15]))
        assert bench.results(batch, 6) == [None, "handed_over", None, None, "handed_over", "handed_over"]
        assert [list(part.keys) for part in bench.backlog.waiting] == [[10], [12, 13]]
        assert not bench.backlog.in_flight
        # They are not this process's to settle.
        assert not recorder.outcomes
        counters = bench.queue.statistics()
        assert (counters.handed_over, counters.pending, counters.accepted) == (3, 3, 6)
        assert counters.accepted == counters.delivered + counters.failed + counters.dropped + counters.handed_over + 3

    def test_the_rest_goes_at_once_and_keeps_what_it_met(self) -> None:
        bench = Bench(recorder=Recorder())
        batch = bench.in_flight(2, keys=[10, 11], sends=3)
        bench.settlement.conclude(batch, HoldsEnded([10]))
        part = bench.schedule.next(bench.clock.now(), is_full=False)
        assert isinstance(part, Batch)
        assert (list(part.keys), part.history.sends) == ([11], 3)

    def test_all_of_them(self) -> None:
        bench = Bench(recorder=Recorder())
        batch = bench.in_flight(3, keys=[1, 2, 3])
        seen = bench.queue.changed.mark
        bench.settlement.conclude(batch, HoldsEnded({1, 2, 3}))
        assert bench.results(batch, 3) == ["handed_over"] * 3
        assert not list(bench.backlog.batches())
        assert bench.queue.changed.mark is not seen

    def test_it_says_nothing_about_the_server(self) -> None:
        bench = Bench(recorder=Recorder())
        for _ in range(20):
            bench.settlement.conclude(bench.in_flight(1, keys=[1]), HoldsEnded([1]))
        assert not bench.circuit.half_open
        assert bench.circuit.delivered == 0
