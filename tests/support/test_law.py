"""The checker of the law finds each way of breaking it, and leaves an honest account alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from segment_async import Outcome, Status
from tests.support.law import LawBroken, Ledger, check_counters, check_retry_counts
from tests.support.simulated_segment import Arrival, Message


@dataclass(frozen=True)
class Account:
    accepted: int = 0
    delivered: int = 0
    failed: int = 0
    dropped: int = 0
    pending: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Watch:
    message_id: str
    outcome: Outcome | None = None


GIVEN: Message = {"type": "track", "event": "Order", "userId": "u", "properties": {"total": 1}}


def on_the_wire(message_id: str, **fields: Any) -> Message:
    added = {"messageId": message_id, "timestamp": "now", "context": {"library": {}}}
    return {**GIVEN, **added, **fields}


def arrival(*messages: Message, status: int | None = 200, retry_count: int = 0) -> Arrival:
    headers = {"X-Retry-Count": str(retry_count)} if retry_count else {}
    read = Arrival.read(orjson.dumps({"batch": messages}), headers)
    read.status = status
    return read


def ledger_of(*outcomes: Outcome | None) -> Ledger:
    ledger = Ledger()
    for number, outcome in enumerate(outcomes):
        ledger.accept(Watch(f"id-{number}", outcome), GIVEN)
    return ledger


def delivered(number: int, **more: Any) -> Outcome:
    return replace(Outcome(Status.DELIVERED, f"id-{number}", attempts=1), **more)


def dropped(number: int, **more: Any) -> Outcome:
    return replace(Outcome(Status.DROPPED, f"id-{number}", "close_timeout", attempts=1), **more)


ONE = Account(accepted=1, delivered=1)


def test_an_honest_account_passes() -> None:
    ledger = ledger_of(delivered(0), dropped(1), None, delivered(3, possibly_delivered=True, attempts=2))
    account = Account(4, 2, 0, 1, 1, {"close_timeout": 1})
    ledger.check(account, [arrival(on_the_wire("id-0")), *[arrival(on_the_wire("id-3"))] * 2])
    assert len(ledger) == 4


@pytest.mark.parametrize(
    ("account", "complaint"),
    [
        (Account(accepted=2, delivered=1), "accepted !="),
        (Account(accepted=1, delivered=2, pending=-1), "below zero"),
        (Account(accepted=1, failed=1), "reasons"),
        (Account(accepted=1, delivered=1, reasons={"refused": 1}), "reasons"),
    ],
)
def test_counters_that_do_not_add_up(account: Account, complaint: str) -> None:
    with pytest.raises(LawBroken, match=complaint):
        check_counters(account)


def test_counters_that_the_deliveries_contradict() -> None:
    with pytest.raises(LawBroken, match="1 messages are counted as delivered, the deliveries say 0"):
        ledger_of(None).check(ONE, [arrival(on_the_wire("id-0"))])


def test_a_message_accepted_beside_the_ledger() -> None:
    with pytest.raises(LawBroken, match="2 messages are counted as delivered, the deliveries say 1"):
        ledger_of(delivered(0)).check(Account(accepted=2, delivered=2), [arrival(on_the_wire("id-0"))])


@pytest.mark.parametrize(
    ("arrivals", "complaint"),
    [
        ([], "delivered and never received: id-0"),
        ([arrival(on_the_wire("id-0"), status=503)], "delivered and never received"),
        ([arrival(on_the_wire("id-0")), arrival(on_the_wire("id-0"))], "received twice"),
        ([arrival(on_the_wire("id-0")), arrival(on_the_wire("id-9"))], "never accepted"),
        ([arrival(on_the_wire("id-0", event="Other"))], "not what was accepted"),
        ([arrival(on_the_wire("id-0", extra=1))], "not what was accepted"),
        (
            [arrival(on_the_wire("id-0"), status=None), arrival(on_the_wire("id-0", timestamp="later"))],
            "changed between",
        ),
        ([arrival(on_the_wire("id-0"), status=503), arrival(on_the_wire("id-0"))], "fewer attempts than arrived"),
    ],
)
def test_what_arrived_contradicts_what_was_told(arrivals: list[Arrival], complaint: str) -> None:
    with pytest.raises(LawBroken, match=complaint):
        ledger_of(delivered(0)).check(ONE, arrivals)


def test_a_message_that_arrived_and_was_called_dropped() -> None:
    account = Account(accepted=1, dropped=1, reasons={"close_timeout": 1})
    arrivals = [arrival(on_the_wire("id-0"))]
    ledger_of(dropped(0, possibly_delivered=True)).check(account, arrivals)
    with pytest.raises(LawBroken, match="neither delivered nor possibly delivered"):
        ledger_of(dropped(0)).check(account, arrivals)


def test_settled_means_that_nothing_is_pending() -> None:
    account = Account(accepted=7, pending=7)
    ledger_of(*[None] * 7).check(account, [])
    with pytest.raises(LawBroken, match=r"7 messages are still pending: id-0, id-1, id-2, id-3, id-4 …"):
        ledger_of(*[None] * 7).check_settled(account, [])


def test_an_id_given_twice() -> None:
    ledger = ledger_of(None)
    with pytest.raises(LawBroken, match="given twice"):
        ledger.accept(Watch("id-0"), GIVEN)


def test_the_callers_later_changes_do_not_count() -> None:
    ledger, given = Ledger(), {**GIVEN, "context": {"ip": "1.2.3.4"}}
    ledger.accept(Watch("id-0", delivered(0)), given)
    given["event"] = "changed afterwards"
    ledger.check(ONE, [arrival(on_the_wire("id-0", context={"ip": "1.2.3.4", "library": {}}))])
    with pytest.raises(LawBroken, match="not what was accepted"):
        ledger.check(ONE, [arrival(on_the_wire("id-0"))])


def batch(count: int, retry_count: int) -> Arrival:
    return arrival(*(on_the_wire(f"id-{number}") for number in range(count)), retry_count=retry_count)


def test_retry_counts_rise_with_each_resend_and_stay_with_a_half() -> None:
    check_retry_counts([batch(4, 0), batch(4, 1), batch(4, 3), batch(2, 3), batch(2, 4)])


@pytest.mark.parametrize("counts", [(0, 0), (2, 1), (3, 0)])
def test_a_retry_count_that_does_not_rise(counts: tuple[int, int]) -> None:
    with pytest.raises(LawBroken, match=f"id-0 went from {counts[0]} to {counts[1]}"):
        check_retry_counts([batch(4, counts[0]), batch(4, counts[1])])


def test_a_half_that_forgets_the_count_of_its_batch() -> None:
    with pytest.raises(LawBroken, match="went from 3 to 0"):
        check_retry_counts([batch(4, 3), batch(2, 0)])
