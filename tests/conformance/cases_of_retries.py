"""The cases about trying again: after no usable answer, when `Retry-After` asks for it, how often, and until when.

Data only. A client that waits too long is as wrong as one that does not wait: gaps have two ends.
"""

import datetime as dt
from collections.abc import Callable
from email.utils import format_datetime

from tests.support import faults
from tests.support.fault_server import Script
from tests.support.faults import answer

from . import checks
from .case import AGAIN, ONE, Case, Expect, always, counted_as, steps, track, tracks

FIRST_BACKOFF = (0.0, 2.5)
"""Seconds: here 0.5 with jitter, elsewhere nothing or up to two; what is wrong is a wait made of the bad value."""

ONCE_OR_TWICE = Expect(requests=(1, 2), twice_is_fine=True)


def _after(seconds: float) -> str:
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    return format_datetime(moment, usegmt=True)


# No usable answer

NO_ANSWER = [
    *(
        Case("no usable answer: sent again", name, ONE, expect, steps(step), {"timeout": 2})
        for name, step, expect in (
            ("FIN at once", faults.fin_on_accept(), Expect(requests=(1, 1), retry_counts=(1,))),
            ("RST at once", faults.rst_on_accept(), Expect(requests=(1, 1), retry_counts=(1,))),
            ("never read", faults.never_read(), Expect(requests=(1, 1), retry_counts=(1,))),
            ("reset in the body", faults.reset_in_body(after=50), AGAIN),
            ("silence", faults.silence(), AGAIN),
            ("answer lost", faults.lose_answer(), Expect(requests=(2, 2), retry_counts=(0, 1), twice_is_fine=True)),
            ("garbage", faults.garbage(), AGAIN),
            ("slow bytes", faults.slow_bytes(), Expect(requests=(1, 1))),
        )
    ),
    Case("no usable answer: sent again", "refused, then up", ONE, Expect(requests=(1, 1)), up_after=1.0),
    *(
        Case("100 and 103 before the answer are passed over", str(status), ONE, Expect(requests=(1, 1)), steps(step))
        for status, step in ((status, faults.informational(status)) for status in (100, 103))
    ),
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
            steps(counted_as(200, step)),
        )
        for name, step in (
            ("short body", faults.short_body()),
            ("cut body", faults.cut_body()),
            ("mis-chunked", faults.mis_chunked()),
            ("bad gzip", faults.bad_gzip()),
        )
    ),
    *(
        Case("an answer that is meant to do harm does none", name, ONE, ONCE_OR_TWICE, steps(step))
        for name, step in (("200 MB in 200 KB", faults.gzip_bomb()), ("1 MB of headers", faults.huge_headers()))
    ),
    Case(
        "a connection that was closed while idle: sent again at once",
        "closed on reuse",
        ((0.0, (track("m-1"),)), (1.0, (track("m-2"),))),
        Expect(requests=(2, 2), retry_counts=(0, 1), looks=(checks.sent_again_at_once,)),
        steps(faults.close_on_reuse()),
        {"flushAt": 1},
    ),
]

# Retry-After


def _asking(status: int, value: str, *, name: str = "Retry-After") -> Callable[[], Script]:
    return steps(answer(status, {name: value}))


HONOURED = "`Retry-After` is honoured on any retryable answer"
THREE_SECONDS = (2.9, 3.5)
AS_IF_ABSENT = "`Retry-After` that is zero, negative, past or unreadable: as if absent"

RETRY_AFTER = [
    *(
        Case(HONOURED, f"3 s on {status}", ONE, Expect(requests=(2, 2), gaps={1: THREE_SECONDS}), _asking(status, "3"))
        for status in (429, 408, 410, 460, 500, 503)
    ),
    Case("`Retry-After` may have a fraction", "1.5 s", ONE, Expect(gaps={1: (1.4, 1.9)}), _asking(429, "1.5")),
    Case(
        "`Retry-After` may be a date",
        "a date ahead",
        ONE,
        Expect(gaps={1: (3.5, 5.0)}),
        lambda: [answer(429, {"Retry-After": _after(5)})],
    ),
    *(
        Case(AS_IF_ABSENT, f"{value} on {status}", ONE, Expect(gaps={1: FIRST_BACKOFF}), _asking(status, value))
        for status in (429, 503)
        for value in ("0", "-5", "nan", "inf", "soon", "", "Wed, 21 Oct 2015 07:28:00 GMT")
    ),
    Case(
        "`X-RateLimit-Reset` stands in on a 429",
        "3 s",
        ONE,
        Expect(gaps={1: THREE_SECONDS}),
        _asking(429, "3", name="X-RateLimit-Reset"),
    ),
    Case(
        "`Retry-After` does not count against `maxRetries`",
        "three times, one retry allowed",
        ONE,
        Expect(requests=(5, 5)),
        steps(*[answer(429, {"Retry-After": "1"})] * 3, answer(503)),
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
        steps(answer(429, {"Retry-After": "2"}), faults.slow_bytes(pause=0.01)),
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
        steps(answer(503), answer(429, {"Retry-After": "1"}), faults.lose_answer(503)),
    ),
    Case(
        "there is a back-off before each re-send, longer each time",
        "three times 503",
        ONE,
        Expect(requests=(4, 4), gaps={1: (0.2, 2.5), 2: (0.4, 5.0), 3: (0.8, 10.0)}),
        steps(*[answer(503)] * 3),
    ),
    *(
        Case(
            "it gives up after `maxRetries`",
            f"{retries} retries",
            ONE,
            Expect(success=False, delivered=(), requests=(retries + 1, retries + 1)),
            always(answer(503)),
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
