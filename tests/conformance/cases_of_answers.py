"""The cases about what an answer means: delivered, failed, to be split, or to be tried again.

Data only. The rules come from Segment's documentation of its HTTP API and from what its own SDKs agree on; each row is
one promise, and may need several cases.
"""

from collections.abc import Callable, Mapping

from tests.support.exchange import ReceivedRequest
from tests.support.fault_server import Script
from tests.support.faults import OnRequest, answer

from . import checks
from .case import AGAIN, ONE, Case, Expect, always, at_once, counted_as, steps, tracks

FINAL = Expect(success=False, delivered=(), requests=(1, 1))
THREE_TIMES_AGAIN = Expect(success=False, delivered=(), requests=(4, 4))


def _statuses(
    row: str, statuses: tuple[int, ...], expect: Expect, *, config: Mapping[str, int] | None = None
) -> list[Case]:
    # After the one answer comes a 200: what is refused must not be sent again all the same.
    return [Case(row, f"status {status}", ONE, expect, steps(answer(status)), config or {}) for status in statuses]


# 2xx

HTML = answer(200, {"Content-Type": "text/html"}, b"<!doctype html><title>Log in to the hotel's network</title>")
NO = answer(200, {"Content-Type": "application/json"}, b'{"success": false}')
NO_YES = "200 that is not Segment's yes (a portal's HTML, `\"success\": false`) is not delivered"

ACCEPTED = [
    *_statuses("2xx is delivered, sent once", (200, 201, 202, 204), Expect(requests=(1, 1))),
    Case("2xx is delivered, sent once", "no JSON", ONE, Expect(requests=(1, 1)), steps(answer(200, {}, b"ok"))),
    *(
        case
        for name, step in (("html", counted_as(None, HTML)), ("success false", counted_as(None, NO)))
        for case in (
            Case(NO_YES, f"{name} once", ONE, AGAIN, steps(step)),
            Case(NO_YES, f"{name} for ever", ONE, THREE_TIMES_AGAIN, always(step)),
        )
    ),
]

# 3xx

REDIRECTED = [
    *(
        Case(
            "3xx is never followed, and not delivered",
            f"redirect {status}",
            ONE,
            Expect(success=False, delivered=(), requests=(1, 1), looks=(checks.nothing_elsewhere,)),
            redirects=status,
        )
        for status in (301, 302, 303, 307, 308)
    ),
    *_statuses("3xx is never followed, and not delivered", (300, 304), FINAL),
]

# 400 and 413


def _refusing(message_id: str) -> Callable[[], Script]:
    def choose(request: ReceivedRequest) -> OnRequest:
        return answer(400 if message_id in request.arrival.ids else 200)

    return lambda: choose


def _up_to(messages: int) -> Callable[[], Script]:
    return lambda: lambda request: answer(413 if len(request.arrival.ids) > messages else 200)


def _first_503_then_one_at_a_time() -> Script:
    first = iter([answer(503)])

    def choose(request: ReceivedRequest) -> OnRequest:
        return next(first, answer(413 if len(request.arrival.ids) > 1 else 200))

    return choose


ALL_BUT_ONE = tuple(f"m-{number}" for number in range(16) if number != 11)

REFUSED_FOR_CONTENT = [
    Case(
        "400: the refused message fails alone, its neighbours are delivered",
        "one of sixteen",
        at_once(*tracks(16)),
        Expect(success=False, delivered=ALL_BUT_ONE, requests=(2, 9)),
        _refusing("m-11"),
        {"flushAt": 16},
    ),
    Case("400: a single message is not sent again", "a single one", ONE, FINAL, steps(answer(400))),
    Case(
        "413: the batch is halved until it fits",
        "five fit",
        at_once(*tracks(16)),
        Expect(requests=(5, 15)),
        _up_to(5),
        {"flushAt": 16},
    ),
    Case(
        "413: the batch is halved until it fits",
        "the next batch is small from the start",
        ((0.0, tracks(16)), (4.0, tracks(16, name="n"))),
        Expect(looks=(checks.not_refused_again("n-"),)),
        _up_to(5),
        {"flushAt": 16},
    ),
    Case(
        "413: the batch is halved until it fits",
        "after a 503, the halves count on",
        at_once(*tracks(2)),
        Expect(requests=(4, 4), looks=(checks.halves_go_on_counting,)),
        _first_503_then_one_at_a_time,
        {"flushAt": 2},
    ),
    Case("413: a single message is not sent again", "a single one", ONE, FINAL, steps(answer(413))),
]

# Other statuses

STATUSES = [
    *_statuses("401 and 403 are final without OAuth", (401, 403), FINAL),
    *_statuses("408, 410, 429 and 460 are tried again", (408, 410, 429, 460), AGAIN),
    *_statuses("other 4xx are final", (402, 404, 405, 406, 409, 411, 415, 418, 422, 431, 451, 499), FINAL),
    *_statuses("501, 505 and 511 are final", (501, 505, 511), FINAL),
    *_statuses("other 5xx are tried again", (500, 502, 503, 504, 506, 507, 508, 520, 529, 599), AGAIN),
    *_statuses("statuses below 200 or above 599 are tried again", (101, 600, 999), AGAIN, config={"timeout": 2}),
]
