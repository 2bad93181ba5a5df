"""The cases about answers: what each one means, how often and when a batch is sent again, and what then becomes of it.

Data only. The rules come from Segment's documentation of its HTTP API and from what its own SDKs agree on; each row is
one promise, and may need several cases. Cases about the request itself are in `cases_of_requests`.
"""

import datetime
from collections.abc import Callable, Mapping
from email.utils import format_datetime

from multidict import CIMultiDict

from tests.support import faults
from tests.support.exchange import Exchange, ReceivedRequest
from tests.support.fault_server import Script
from tests.support.faults import OnRequest, Step, answer

from . import checks
from .case import Case, Expect, at_once, track, tracks
from .cases_of_requests import REQUEST_CASES

ONE = at_once(track())
FIRST_BACKOFF = (0.0, 2.5)
"""Seconds: here 0.5 with jitter, elsewhere nothing or up to two; what is wrong is a wait made of the bad value."""

FINAL = Expect(success=False, delivered=(), requests=(1, 1))
AGAIN = Expect(requests=(2, 2), retry_counts=(0, 1))
ONCE_OR_TWICE = Expect(requests=(1, 2), twice_is_fine=True)


def _steps(*steps: Step) -> Callable[[], Script]:
    return lambda: list(steps)


def _always(step: OnRequest) -> Callable[[], Script]:
    return lambda: lambda request: step


def _statuses(
    row: str, statuses: tuple[int, ...], expect: Expect, *, config: Mapping[str, int] | None = None
) -> list[Case]:
    # After the one answer comes a 200: what is refused must not be sent again all the same.
    return [Case(row, f"status {status}", ONE, expect, _steps(answer(status)), config or {}) for status in statuses]


def _after(seconds: float) -> str:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return format_datetime(moment, usegmt=True)


# 2xx

HTML = answer(200, {"Content-Type": "text/html"}, b"<!doctype html><title>Log in to the hotel's network</title>")
NO = answer(200, {"Content-Type": "application/json"}, b'{"success": false}')


def _counted_as(status: int | None, step: OnRequest) -> OnRequest:
    """Answer so, and count the request as answered with `status`, `None`: it is not Segment that answers."""

    async def act(exchange: Exchange) -> None:
        await step.act(exchange)
        exchange.request.status = status

    return OnRequest(act)


ACCEPTED = [
    *_statuses("2xx is delivered, sent once", (200, 201, 202, 204), Expect(requests=(1, 1))),
    Case("2xx is delivered, sent once", "no JSON", ONE, Expect(requests=(1, 1)), _steps(answer(200, {}, b"ok"))),
    Case(
        "HTML with 200 (a captive portal) is not delivered",
        "html once",
        ONE,
        AGAIN,
        _steps(_counted_as(None, HTML)),
    ),
    Case(
        "HTML with 200 (a captive portal) is not delivered",
        "html for ever",
        ONE,
        Expect(success=False, delivered=(), requests=(4, 4)),
        _always(_counted_as(None, HTML)),
    ),
    Case('`"success": false` with 200 is not delivered', "no once", ONE, AGAIN, _steps(_counted_as(None, NO))),
    Case(
        '`"success": false` with 200 is not delivered',
        "no for ever",
        ONE,
        Expect(success=False, delivered=(), requests=(4, 4)),
        _always(_counted_as(None, NO)),
    ),
]

# 3xx

REDIRECTED = [
    *(
        Case(
            "3xx is never followed, and not delivered",
            f"redirect {status}",
            ONE,
            Expect(success=False, delivered=(), requests=(1, 1), looks=(checks.nobody_elsewhere,)),
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
    Case("400: a single message is not sent again", "a single one", ONE, FINAL, _steps(answer(400))),
    Case(
        "413: the batch is halved until it fits",
        "five fit",
        at_once(*tracks(16)),
        Expect(requests=(5, 15)),
        _up_to(5),
        {"flushAt": 16},
    ),
    Case("413: a single message is not sent again", "a single one", ONE, FINAL, _steps(answer(413))),
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

# No usable answer

NO_ANSWER = [
    *(
        Case("no usable answer: sent again", name, ONE, expect, _steps(step), {"timeout": 2})
        for name, step, expect in (
            ("FIN at once", faults.fin_on_accept(), Expect(requests=(1, 1), retry_counts=(1,))),
            ("RST at once", faults.rst_on_accept(), Expect(requests=(1, 1), retry_counts=(1,))),
            ("never read", faults.never_read(), Expect(requests=(1, 1), retry_counts=(1,))),
            ("reset in the body", faults.reset_in_body(after=50), AGAIN),
            ("silence", faults.silence(), AGAIN),
            ("answer lost", faults.lose_answer(), Expect(requests=(2, 2), retry_counts=(0, 1), twice_is_fine=True)),
            ("garbage", faults.garbage(), AGAIN),
            ("slow bytes", faults.slow_bytes(), Expect(requests=(1, 1))),
            ("1xx first", faults.informational(100, 103), Expect(requests=(1, 1))),
        )
    ),
    Case("no usable answer: sent again", "refused, then up", ONE, Expect(requests=(1, 1)), up_after=1.0),
    Case(
        "an untrusted certificate gets nothing",
        "self-signed",
        ONE,
        Expect(success=False, delivered=(), requests=(0, 0)),
        config={"maxRetries": 1},
        untrusted=True,
    ),
    *(
        Case(
            "200 with a broken body: not lost, at most sent again",
            name,
            ONE,
            ONCE_OR_TWICE,
            _steps(_counted_as(200, step)),
        )
        for name, step in (
            ("short body", faults.short_body()),
            ("cut body", faults.cut_body()),
            ("mis-chunked", faults.mis_chunked()),
            ("bad gzip", faults.bad_gzip()),
        )
    ),
    Case(
        "a connection that was closed while idle: sent again at once",
        "closed on reuse",
        ((0.0, (track("m-1"),)), (1.0, (track("m-2"),))),
        Expect(requests=(2, 2), retry_counts=(0, 1), gaps={1: (0.9, 1.0)}),
        _steps(faults.close_on_reuse()),
        {"flushAt": 1},
    ),
]

# Retry-After


def _asking(status: int, value: str, *, name: str = "Retry-After") -> Callable[[], Script]:
    return _steps(answer(status, {name: value}))


HONOURED = "`Retry-After` is honoured on any retryable answer"
AS_IF_ABSENT = "`Retry-After` that is zero, negative, past or unreadable: as if absent"
TWICE = CIMultiDict([("Retry-After", "2"), ("Retry-After", "2")])

RETRY_AFTER = [
    *(
        Case(HONOURED, f"2 s on {status}", ONE, Expect(requests=(2, 2), gaps={1: (1.9, 2.5)}), _asking(status, "2"))
        for status in (429, 408, 410, 460, 500, 503)
    ),
    Case("`Retry-After` may have a fraction", "1.5 s", ONE, Expect(gaps={1: (1.4, 1.9)}), _asking(429, "1.5")),
    Case(
        "`Retry-After` may be a date",
        "a date ahead",
        ONE,
        Expect(gaps={1: (1.5, 4.0)}),
        lambda: [answer(429, {"Retry-After": _after(3)})],
    ),
    *(
        Case(AS_IF_ABSENT, f"{value} on {status}", ONE, Expect(gaps={1: FIRST_BACKOFF}), _asking(status, value))
        for status in (429, 503)
        for value in ("0", "-5", "nan", "inf", "soon", "", "Wed, 21 Oct 2015 07:28:00 GMT")
    ),
    Case(
        "`X-RateLimit-Reset` stands in on a 429",
        "2 s",
        ONE,
        Expect(gaps={1: (1.9, 2.5)}),
        _asking(429, "2", name="X-RateLimit-Reset"),
    ),
    Case(
        "`Retry-After` does not count against `maxRetries`",
        "three times, one retry allowed",
        ONE,
        Expect(requests=(5, 5), retry_counts=(0, 1, 2, 3, 4)),
        _steps(*[answer(429, {"Retry-After": "1"})] * 3, answer(503)),
        {"maxRetries": 1},
    ),
    Case(
        "`Retry-After` pauses everything, not only the batch that met it",
        "a second batch in the pause",
        ((0.0, (track("m-1"),)), (0.5, (track("m-2"),))),
        Expect(gaps={1: (1.9, 2.5)}),
        _asking(429, "2"),
        {"flushAt": 1},
    ),
    Case(
        "after a pause one request goes first",
        "four batches waiting",
        ((0.0, (track("m-0"),)), (0.5, tracks(5)[1:])),
        Expect(gaps={1: (1.9, 2.5), 2: (0.3, 1.5)}),
        _steps(answer(429, {"Retry-After": "2"}), faults.slow_bytes(pause=0.01)),
        {"flushAt": 1},
    ),
]

# Counting and giving up

COUNTING = [
    Case(
        "`X-Retry-Count` is absent, then 1, 2, 3, whatever the cause",
        "mixed causes",
        ONE,
        Expect(retry_counts=(0, 1, 2, 3)),
        _steps(answer(503), answer(429, {"Retry-After": "1"}), faults.lose_answer(503)),
    ),
    Case(
        "`X-Retry-Count` goes on in the halves of a split batch",
        "503, then split",
        at_once(*tracks(2)),
        Expect(requests=(4, 4), looks=(checks.halves_go_on_counting,)),
        lambda: _first_503_then_one_at_a_time(),
        {"flushAt": 2},
    ),
    Case(
        "there is a back-off before each re-send, longer each time",
        "three times 503",
        ONE,
        Expect(requests=(4, 4), gaps={1: (0.2, 2.5), 2: (0.4, 5.0), 3: (0.8, 10.0)}),
        _steps(*[answer(503)] * 3),
    ),
    *(
        Case(
            "it gives up after `maxRetries`",
            f"{retries} retries",
            ONE,
            Expect(success=False, delivered=(), requests=(retries + 1, retries + 1)),
            _always(answer(503)),
            {"maxRetries": retries},
        )
        for retries in (0, 1, 2)
    ),
    Case(
        "`sentAt` is fresh on each attempt, `messageId` the same",
        "2 s apart",
        ONE,
        Expect(requests=(2, 2), looks=(checks.sent_at_is_fresh, checks.same_ids)),
        _asking(429, "2"),
    ),
]


def _first_503_then_one_at_a_time() -> Script:
    first = iter([answer(503)])

    def choose(request: ReceivedRequest) -> OnRequest:
        return next(first, answer(413 if len(request.arrival.ids) > 1 else 200))

    return choose


CASES = [
    *REQUEST_CASES,
    *ACCEPTED,
    *REDIRECTED,
    *REFUSED_FOR_CONTENT,
    *STATUSES,
    *NO_ANSWER,
    *RETRY_AFTER,
    *COUNTING,
]
