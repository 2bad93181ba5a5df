"""The circuit breaker: what the answers so far say of the server; without a clock and without a network."""

from __future__ import annotations

from segment_async import RetryPolicy, Status
from segment_async._http.transport import Response
from segment_async._pipeline.circuit import CircuitBreaker
from segment_async._pipeline.retry import Failure, Finish, History, NoCredentials, NoResponse, Retry, Split

MOST = 4
FAILS = Retry(1.0)
DELIVERED = Finish(Status.DELIVERED)
REFUSED = Finish(Status.FAILED, "refused")


def closed(random: float = 0.5) -> CircuitBreaker:
    return CircuitBreaker(RetryPolicy(), lambda: random)


def fail(circuit: CircuitBreaker, times: int = 1, now: float = 0.0, action: Retry = FAILS, **history: int) -> None:
    for _ in range(times):
        circuit.note_retry(action, History(**history), now)  # type: ignore[arg-type]


def half_open() -> CircuitBreaker:
    circuit = closed()
    fail(circuit, 5)
    return circuit


def end(
    circuit: CircuitBreaker,
    action: Finish | Split = DELIVERED,
    answer: Response | Failure | None = None,
    *,
    messages: int = 10,
    now: float = 1000.0,
) -> bool:
    return circuit.note_end(action, answer or Response(200, {}), messages, now)


class TestOpening:
    def test_four_failures_change_nothing_and_the_fifth_leaves_one_place(self) -> None:
        circuit = closed()
        fail(circuit, 4)
        assert (circuit.places(MOST), circuit.not_before) == (MOST, 0.0)
        fail(circuit, now=7.0)
        assert circuit.half_open
        assert circuit.places(MOST) == 1
        assert circuit.not_before > 7.0

    def test_failures_count_in_a_row_only(self) -> None:
        circuit = closed()
        for _ in range(20):
            fail(circuit, 4)
            end(circuit)
        assert circuit.places(MOST) == MOST

    def test_probes_come_further_and_further_apart(self) -> None:
        circuit = half_open()
        waits = []
        for _ in range(4):
            now = circuit.not_before
            fail(circuit, now=now)
            waits.append(circuit.not_before - now)
        assert waits == sorted(waits)
        assert waits[-1] > waits[0]

    def probe_waits(self, circuit: CircuitBreaker, now: float, count: int) -> list[float]:
        waits = []
        for _ in range(count):
            fail(circuit, now=now, failures=9)
            waits.append(circuit.not_before - now)
            now = circuit.not_before
        return waits

    def test_the_first_probe_waits_for_the_first_step_however_often_the_last_batch_failed(self) -> None:
        circuit = closed(random=0.0)
        fail(circuit, 4, failures=9)
        assert self.probe_waits(circuit, 7.0, 9) == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]

    def test_and_however_long_an_earlier_outage_was(self) -> None:
        circuit = closed(random=0.0)
        fail(circuit, 20)
        assert end(circuit)
        fail(circuit, 4, now=2_000.0)
        assert self.probe_waits(circuit, 2_000.0, 2) == [0.5, 1]

    def test_also_if_a_pause_has_opened_it(self) -> None:
        circuit = closed(random=0.0)
        fail(circuit, 20)
        assert end(circuit)
        fail(circuit, action=Retry(1.0, pause=True, counted=False), now=2_000.0)
        fail(circuit, 4, now=2_001.0)
        assert self.probe_waits(circuit, 2_001.0, 2) == [0.5, 1]

    def test_a_retry_that_does_not_count_says_nothing(self) -> None:
        circuit = closed()
        fail(circuit, 50, action=Retry(0.0, counted=False))
        assert circuit.places(MOST) == MOST

    def test_batches_that_are_given_up_count_as_failures(self) -> None:
        for reason in ("gave_up", "unexpected_answer"):
            circuit = closed()
            for _ in range(5):
                assert not end(circuit, Finish(Status.FAILED, reason), Response(503))
            assert circuit.half_open


class TestClosing:
    def test_an_answer_closes_it_and_says_so_once(self) -> None:
        circuit = half_open()
        assert end(circuit)
        assert (circuit.places(MOST), end(circuit)) == (MOST, False)

    def test_a_refusal_is_an_answer(self) -> None:
        for action, status in (
            (REFUSED, 400),
            (Split(too_large=True), 413),
            (Finish(Status.FAILED, "redirected"), 301),
        ):
            assert end(half_open(), action, Response(status))

    def test_giving_up_a_suspected_batch_and_missing_credentials_are_none(self) -> None:
        gave_up = Finish(Status.FAILED, "gave_up")
        for action, answer in (
            (gave_up, Response(503)),
            (gave_up, NoResponse(True)),
            (Split(), Response(500)),
            (Split(), NoResponse(True)),
        ):
            circuit = half_open()
            assert not end(circuit, action, answer)
            assert circuit.half_open
        circuit = half_open()
        assert not end(circuit, Finish(Status.FAILED, "unauthorized"), NoCredentials())
        assert circuit.half_open

    def test_probing_now_takes_the_back_off_and_leaves_the_pause(self) -> None:
        circuit = half_open()
        circuit.probe_now()
        assert circuit.not_before == 0.0
        circuit.note_retry(Retry(30.0, pause=True), History(), 0.0)
        circuit.probe_now()
        assert circuit.not_before == 30.0


class TestPauses:
    def test_one_ends_with_one_request_and_not_before_its_time(self) -> None:
        circuit = closed()
        assert circuit.note_retry(Retry(30.0, pause=True, counted=False), History(), 10.0) is None
        assert (circuit.not_before, circuit.places(MOST)) == (40.0, 1)
        # To a request from before the pause.
        assert not end(circuit, now=20.0)
        assert (circuit.not_before, circuit.places(MOST)) == (40.0, 1)
        assert end(circuit, now=41.0)
        assert circuit.places(MOST) == MOST

    def test_a_shorter_one_does_not_end_a_longer_one(self) -> None:
        circuit = closed()
        circuit.note_retry(Retry(30.0, pause=True), History(), 0.0)
        circuit.note_retry(Retry(1.0, pause=True), History(), 0.0)
        assert circuit.not_before == 30.0

    def test_the_probe_after_it_does_not_wait_for_an_earlier_back_off(self) -> None:
        circuit = half_open()
        for _ in range(20):
            fail(circuit, now=circuit.not_before)
        now = circuit.not_before
        fail(circuit, now=now)
        circuit.note_retry(Retry(1.0, pause=True), History(), now)
        assert circuit.not_before == now + 1.0


class TestSuspects:
    """A batch fails again and again: is it the batch, or the server?"""

    def test_a_batch_that_never_failed_keeps_what_it_was(self) -> None:
        assert not closed().is_poison_suspect(None, False)
        assert closed().is_poison_suspect(None, True)

    def test_it_is_suspected_once_others_were_delivered_between_its_failures(self) -> None:
        circuit = closed()
        baseline = circuit.note_retry(FAILS, History(), 0.0)
        assert baseline is not None
        assert not circuit.is_poison_suspect(baseline, False)
        end(circuit)
        assert circuit.is_poison_suspect(baseline, False)

    def test_and_no_more_once_another_begins_to_fail(self) -> None:
        circuit = closed()
        baseline = circuit.note_retry(FAILS, History(), 0.0)
        end(circuit)
        fail(circuit)
        assert not circuit.is_poison_suspect(baseline, False)
        assert not circuit.is_poison_suspect(baseline, True)

    def test_it_stays_one_while_nothing_else_fails(self) -> None:
        circuit = closed()
        baseline = circuit.note_retry(FAILS, History(), 0.0)
        assert circuit.is_poison_suspect(baseline, True)

    def test_a_batch_that_failed_often_says_nothing_about_the_server(self) -> None:
        circuit = closed()
        baseline = circuit.note_retry(FAILS, History(), 0.0)
        end(circuit)
        fail(circuit, server_faults=5)
        assert circuit.is_poison_suspect(baseline, False)

    def test_a_failed_batch_is_no_delivered_one(self) -> None:
        circuit = closed()
        baseline = circuit.note_retry(FAILS, History(), 0.0)
        end(circuit, REFUSED, Response(404))
        assert not circuit.is_poison_suspect(baseline, False)
        assert circuit.delivered == 0


class TestOthers:
    """How many of their attempts meet a 5xx tells bad luck from a message that causes it."""

    def test_half_of_them_may_if_there_were_none(self) -> None:
        assert closed().others_failing((0, 0), 0) == 0.5

    def test_those_since_a_moment_without_ones_own(self) -> None:
        circuit = closed()
        fail(circuit, server_faults=1)
        end(circuit)
        since = circuit.answered
        assert since == (1, 1)
        for _ in range(8):
            end(circuit)
        assert circuit.others_failing(since, 0) == 0.1
        for faults in range(1, 12):
            fail(circuit, server_faults=faults)
        assert circuit.others_failing(since, 11) == 0.1
        for _ in range(10):
            fail(circuit, server_faults=1)
        assert circuit.others_failing(since, 11) == 0.55

    def test_one_that_never_passes_counts_for_a_while_only(self) -> None:
        """Otherwise several of them would keep each other alive."""
        circuit = closed()
        for faults in range(1, 1_000):
            fail(circuit, server_faults=faults)
        assert circuit.answered == (0, 20)
        for _ in range(18):
            end(circuit)
        assert circuit.others_failing((0, 0), 0) == 21 / 40
        assert circuit.others_failing((0, 0), 999) == 1 / 20

    def test_no_answer_is_no_5xx(self) -> None:
        circuit = closed()
        fail(circuit, server_faults=0)
        assert circuit.answered == (0, 0)


class TestRefusals:
    """Single messages that are refused one after the other are not to blame."""

    def test_fifty_in_a_row(self) -> None:
        circuit = closed()
        for _ in range(49):
            end(circuit, REFUSED, Response(400), messages=1)
        assert not circuit.refuses_everything
        end(circuit, REFUSED, Response(400), messages=1)
        assert circuit.refuses_everything

    def test_one_that_is_delivered_ends_it(self) -> None:
        circuit = closed()
        for _ in range(60):
            end(circuit, REFUSED, Response(400), messages=1)
        end(circuit)
        assert not circuit.refuses_everything
        for _ in range(49):
            end(circuit, REFUSED, Response(400), messages=1)
        assert not circuit.refuses_everything

    def test_refused_batches_and_other_reasons_do_not_count(self) -> None:
        circuit = closed()
        for _ in range(60):
            end(circuit, REFUSED, Response(404), messages=2)
            end(circuit, Split(), Response(400), messages=2)
            end(circuit, Finish(Status.FAILED, "too_large"), Response(413), messages=1)
        assert not circuit.refuses_everything
