"""What the server is taken for, by the answers so far; without a clock and without a network."""

from __future__ import annotations

from segment_async import RetryPolicy, Status
from segment_async._http.transport import Response
from segment_async._pipeline.batch import Batch
from segment_async._pipeline.circuit import Server
from segment_async._pipeline.delivery import History, Record
from segment_async._pipeline.retry import Again, NoCredentials, Settle, Split

MOST = 4
FAILS = Again(1.0)
DELIVERED = Settle(Status.DELIVERED)


class Host:
    def ensure_served(self) -> None:
        return None


def batch(**history: int) -> Batch:
    return Batch(Record(Host()), 0, 500_000, 0.0, History(**history), gzip=False)  # type: ignore[arg-type]


def server() -> Server:
    return Server(RetryPolicy(), lambda: 0.5)


def dead(now: float = 0.0) -> Server:
    """That failed as often as it takes."""
    one = server()
    for _ in range(5):
        one.note_again(batch(), FAILS, now)
    return one


def end(one: Server, action: Settle | Split = DELIVERED, status: int = 200, now: float = 1000.0) -> bool:
    return one.note_end(batch(), action, Response(status, {}), now)


def test_four_failures_change_nothing_and_the_fifth_leaves_one_place() -> None:
    one = server()
    for _ in range(4):
        one.note_again(batch(), FAILS, 0.0)
    assert (one.places(MOST), one.not_before) == (MOST, 0.0)
    one.note_again(batch(), FAILS, 7.0)
    assert one.places(MOST) == 1
    assert one.not_before > 7.0


def test_failures_count_in_a_row_only() -> None:
    one = server()
    for _ in range(20):
        for _ in range(4):
            one.note_again(batch(), FAILS, 0.0)
        end(one)
    assert one.places(MOST) == MOST


def test_probes_come_further_and_further_apart() -> None:
    one = dead()
    waits = []
    for _ in range(4):
        now = one.not_before
        one.note_again(batch(), FAILS, now)
        waits.append(one.not_before - now)
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]


def test_an_answer_brings_it_back_and_says_so_once() -> None:
    one = dead()
    assert end(one)
    assert (one.places(MOST), end(one)) == (MOST, False)


def test_losing_patience_a_suspected_batch_and_missing_credentials_are_no_answer() -> None:
    for action, status in ((Settle(Status.FAILED, "gave_up"), 503), (Split(), 500)):
        one = dead()
        assert not end(one, action, status)
        assert one.is_probed
    one = dead()
    assert not one.note_end(batch(), Settle(Status.FAILED, "unauthorized"), NoCredentials(), 1000.0)
    assert one.is_probed


def test_a_refusal_is_an_answer() -> None:
    for action, status in ((Settle(Status.FAILED, "refused"), 400), (Split(too_large=True), 413)):
        assert end(dead(), action, status)


def test_a_pause_ends_with_one_request_and_not_before_its_time() -> None:
    one = server()
    one.note_again(batch(), Again(30.0, pause=True), 10.0)
    assert (one.not_before, one.places(MOST)) == (40.0, 1)
    # To a request from before the pause.
    assert not end(one, now=20.0)
    assert (one.not_before, one.places(MOST)) == (40.0, 1)
    assert end(one, now=41.0)
    assert one.places(MOST) == MOST


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    one = server()
    one.note_again(batch(), Again(30.0, pause=True), 0.0)
    one.note_again(batch(), Again(1.0, pause=True), 0.0)
    assert one.not_before == 30.0


def test_hurrying_takes_the_back_off_and_leaves_the_pause() -> None:
    one = dead()
    one.hurry()
    assert one.not_before == 0.0
    one.note_again(batch(), Again(30.0, pause=True), 0.0)
    one.hurry()
    assert one.not_before == 30.0


def test_the_odd_one_fails_while_others_are_delivered() -> None:
    one, odd = server(), batch()
    assert not one.delivers_others(odd)
    one.note_again(odd, FAILS, 0.0)
    assert not one.delivers_others(odd)
    end(one)
    assert one.delivers_others(odd)
    # Another begins to fail: the fault may be the server's again.
    one.note_again(batch(), FAILS, 0.0)
    assert not one.delivers_others(odd)


def test_a_failure_that_does_not_count_says_nothing() -> None:
    one = server()
    for _ in range(50):
        one.note_again(batch(), Again(0.0, counted=False), 0.0)
    assert one.places(MOST) == MOST
