"""What each answer means: one line a status, `Retry-After` in every form, back-off, giving up, splitting."""

import asyncio
import math
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime, formatdate
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from segment_async import Client, Response, RetryPolicy, Status, TransportError
from segment_async._pipeline.retry import (
    REFRESH,
    Action,
    AttemptContext,
    Finish,
    History,
    NoCredentials,
    NoResponse,
    Retry,
    Split,
    advice,
    decide,
    http_date,
    is_segments,
    redirect_host,
    retry_after,
)
from tests.support.virtual_clock import run, running_clock

NOW, WALL = 1_000.0, 1_763_000_000.0
DEFAULT = RetryPolicy()
LOST = NoResponse(maybe_sent=True)

DELIVERED = Finish(Status.DELIVERED)
RETRY = Retry(0.5)
PAUSE = Retry(7.0, pause=True, counted=False)


def failed(reason: str) -> Finish:
    return Finish(Status.FAILED, reason)


def context(now: float = NOW, *, random: float = 0.0, count: int = 100, **more: bool) -> AttemptContext:
    return AttemptContext(now=now, wall_clock=WALL, random=random, messages=count, **more)


def meet(
    answer: Response | NoResponse | NoCredentials,
    history: History | None = None,
    where: AttemptContext | None = None,
    policy: RetryPolicy = DEFAULT,
) -> tuple[Action, History]:
    return decide(answer, history or History(sends=1), where or context(), policy)


class Row:
    """What WIRE's table says of a status: for a batch, with OAuth, and for a message alone."""

    def __init__(self, action: Action, *, oauth: Action | None = None, alone: Action | None = None) -> None:
        self.plain = action
        self.oauth = oauth
        self.alone = alone

    def expected(self, *, oauth: bool, alone: bool, asked: bool) -> Action:
        action = (self.oauth if oauth else None) or (self.alone if alone else None) or self.plain
        return PAUSE if asked and action == RETRY else action


def table() -> Iterator[tuple[int, Row]]:
    """One line a status, in the order of the page."""
    rows = {
        (*range(200, 300),): Row(DELIVERED),
        (*range(300, 400),): Row(failed("redirected")),
        (400,): Row(Split(), alone=failed("refused")),
        (413,): Row(Split(too_large=True), alone=failed("too_large")),
        (401, 403): Row(failed("unauthorized"), oauth=REFRESH),
        (408, 410, 429, 460): Row(RETRY),
        (501, 505): Row(failed("refused")),
        (511,): Row(failed("refused"), oauth=REFRESH),
        (-1, 0, 99, *range(100, 200), 600, 601, 999, 1_000): Row(RETRY),
    }
    named = {status for statuses in rows for status in statuses}
    rows[*(status for status in range(400, 500) if status not in named),] = Row(failed("refused"))
    rows[*(status for status in range(500, 600) if status not in named),] = Row(RETRY)
    for statuses, row in rows.items():
        for status in statuses:
            yield status, row


TABLE = dict(sorted(table()))


class TestTable:
    def test_no_status_is_left_out(self) -> None:
        assert set(TABLE) >= set(range(100, 600))

    @pytest.mark.parametrize("status", TABLE)
    def test_line(self, status: int) -> None:
        for oauth, alone, asked in product((False, True), repeat=3):
            answer = Response(status, {"Retry-After": "7"} if asked else {})
            where = context(count=1 if alone else 100, with_token=oauth)
            action, history = meet(answer, where=where)
            assert action == TABLE[status].expected(oauth=oauth, alone=alone, asked=asked)
            assert history.counted == (action == RETRY)
            assert history.status_code == status
            assert not history.maybe_sent

    @pytest.mark.parametrize("status", [401, 403, 511])
    def test_a_token_is_fetched_once_and_then_no_more(self, status: int) -> None:
        where = context(with_token=True)
        action, history = meet(Response(status), where=where)
        assert action == REFRESH
        assert meet(Response(status), history, where)[0] == failed("unauthorized")

    def test_a_token_is_fetched_anew_after_something_else_went_wrong(self) -> None:
        where = context(with_token=True)
        _, history = meet(Response(401), where=where)
        _, history = meet(Response(503), history, where)
        assert meet(Response(401), history, where)[0] == REFRESH

    def test_nothing_to_send_with(self) -> None:
        assert meet(NoCredentials()) == (failed("unauthorized"), History(sends=1))


class TestNoResponse:
    @pytest.mark.parametrize("maybe_sent", [False, True])
    def test_it_is_retried_and_counted(self, *, maybe_sent: bool) -> None:
        action, history = meet(NoResponse(maybe_sent))
        assert action == RETRY
        assert history.counted == 1
        assert history.maybe_sent is maybe_sent

    def test_what_may_have_been_sent_once_stays_so(self) -> None:
        _, history = meet(LOST)
        for answer in (NoResponse(maybe_sent=False), Response(503), Response(200)):
            _, history = meet(answer, history)
            assert history.maybe_sent

    def test_two_timeouts_in_a_row_halve_a_batch_that_may_be_too_large_for_the_link(self) -> None:
        late = NoResponse(maybe_sent=True, timed_out=True)
        large = context()._replace(size=32_769, body_size=9_000)
        action, history = meet(late, where=large)
        assert (action, history.timeouts) == (RETRY, 1)
        # What comes in between has them counted again.
        for answer in (LOST, Response(503), Response(401)):
            assert meet(answer, history, large._replace(with_token=True))[1].timeouts == 0
        action, history = meet(late, history, large)
        assert action == Split(too_large=True)
        # Each half has been sent as often as the whole, and gets as many tries.
        assert (history.counted, history.timeouts) == (2, 0)
        _, history = meet(late, where=large)
        for no_reason in (
            large._replace(messages=1),
            large._replace(size=32_768),
            # As much gets through.
            large._replace(body_size_delivered=9_000),
        ):
            assert isinstance(meet(late, history, no_reason)[0], Retry)

    def test_a_stale_connection_gets_one_re_send_free_of_all(self) -> None:
        stale = NoResponse(maybe_sent=True, stale_connection=True)
        action, history = meet(stale)
        assert action == Retry(0.0, counted=False)
        assert (history.counted, history.failures) == (0, 0)
        action, history = meet(stale, history)
        assert action == RETRY
        assert history.counted == 1

    def test_and_another_one_once_something_else_came(self) -> None:
        stale = NoResponse(maybe_sent=True, stale_connection=True)
        _, history = meet(stale)
        _, history = meet(Response(503), history)
        assert meet(stale, history)[0] == Retry(0.0, counted=False)


class TestRetryAfter:
    DATE = datetime.fromtimestamp(WALL + 30, UTC)

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("2", 2.0),
            ("0.5", 0.5),
            (" 7 ", 7.0),
            ("1e9", 300.0),
            ("301", 300.0),
            (formatdate(WALL + 30, usegmt=True), 30.0),
            (formatdate(WALL + 30), 30.0),
            (format_datetime(DATE).removesuffix(" +0000"), 30.0),
            (format_datetime(DATE.astimezone(timezone(timedelta(hours=-5)))), 30.0),
            (DATE.strftime("%A, %d-%b-%y %H:%M:%S GMT"), 30.0),
            (DATE.strftime("%a %b %d %H:%M:%S %Y"), 30.0),
            ("Thu, 01 Jan 2099 00:00:00 GMT", 300.0),
        ],
    )
    @pytest.mark.parametrize("status", [429, 503, 408, 100, 600])
    def test_it_holds_the_whole_pipeline_and_is_not_counted(self, status: int, text: str, seconds: float) -> None:
        action, history = meet(Response(status, {"Retry-After": text}))
        assert action == Retry(seconds, pause=True, counted=False)
        assert (history.counted, history.failures) == (0, 0)

    @pytest.mark.parametrize("text", ["1e-9", "0.001", "0.49"])
    def test_a_pause_is_never_shorter_than_the_first_back_off(self, text: str) -> None:
        # Nor is it longer than that, however often the batch has failed.
        action, history = meet(Response(429, {"Retry-After": text}), History(failures=7))
        assert action == Retry(0.5, pause=True, counted=False)
        assert history.counted == 0

    @pytest.mark.parametrize(
        "text",
        [
            *("0", "-5", "-0.0", "nan", "inf", "-inf", "soon", "", " ", "2, 5", "\0", ",", "1_0", "\u0665"),
            formatdate(WALL, usegmt=True),
            formatdate(WALL - 30, usegmt=True),
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
            "Thu, 32 Jan 2099 99:00:00 GMT",
        ],
    )
    @pytest.mark.parametrize("status", [429, 503])
    def test_what_is_not_ahead_or_cannot_be_read_is_as_if_absent(self, status: int, text: str) -> None:
        action, history = meet(Response(status, {"Retry-After": text}))
        assert action == RETRY
        assert history.counted == 1

    def test_a_date_without_a_zone_is_not_in_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TZ", "America/New_York")
        time.tzset()
        try:
            assert http_date("Tue, 14 Nov 2023 22:13:20 -0000") == 1_700_000_000
            assert http_date("Tue, 14 Nov 2023 22:13:20") == 1_700_000_000
        finally:
            monkeypatch.undo()
            time.tzset()

    def test_of_doubled_headers_the_first_counts(self) -> None:
        doubled = CIMultiDict([("Retry-After", "3"), ("retry-after", "5")])
        assert meet(Response(503, doubled))[0] == Retry(3.0, pause=True, counted=False)

    def test_any_case_of_the_name(self) -> None:
        assert meet(Response(503, {"rEtRy-AfTeR": "3"}))[0] == Retry(3.0, pause=True, counted=False)

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"X-RateLimit-Reset": "9"}, 9.0),
            ({"X-RateLimit-Reset": str(WALL + 9)}, 9.0),
            ({"X-RateLimit-Reset": formatdate(WALL + 9, usegmt=True)}, 9.0),
            ({"X-RateLimit-Reset": "9", "Retry-After": "3"}, 3.0),
            ({"X-RateLimit-Reset": "9", "Retry-After": "soon"}, 9.0),
            ({"X-RateLimit-Reset": str(WALL - 9)}, None),
            ({"X-RateLimit-Reset": "0"}, None),
            ({"X-RateLimit-Reset": "soon"}, None),
        ],
    )
    def test_the_reset_of_a_rate_limit_is_the_fallback(self, headers: Mapping[str, str], seconds: float | None) -> None:
        assert retry_after(Response(429, headers), WALL) == seconds

    def test_the_reset_means_nothing_elsewhere(self) -> None:
        assert retry_after(Response(503, {"X-RateLimit-Reset": "9"}), WALL) is None

    def test_none_is_obeyed_under_a_limit_of_zero(self) -> None:
        # Obeyed for zero seconds, it would be an endless re-send without a pause.
        action, history = meet(Response(429, {"Retry-After": "5"}), policy=RetryPolicy(max_retry_after=0))
        assert action == RETRY
        assert history.counted == 1

    @given(st.text(), st.sampled_from(["Retry-After", "X-RateLimit-Reset"]))
    def test_any_text_at_all(self, text: str, name: str) -> None:
        action, _ = meet(Response(429, {name: text}))
        assert isinstance(action, Retry)
        assert 0 < action.delay <= 300


class TestBackOff:
    def test_it_doubles_up_to_the_limit(self) -> None:
        delays = [DEFAULT.delay(failures, 0.0) for failures in range(1, 12)]
        assert delays == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]

    @given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
    def test_random_takes_off_up_to_a_half(self, failures: int, random: float) -> None:
        whole = min(60, 0.5 * 2.0 ** min(failures - 1, 60))
        assert whole / 2 <= DEFAULT.delay(failures, random) <= whole

    def test_a_batch_backs_off_by_its_failures_in_a_row(self) -> None:
        history, delays = History(sends=1), []
        for _ in range(4):
            action, history = meet(LOST, history)
            assert isinstance(action, Retry)
            delays.append(action.delay)
        assert delays == [0.5, 1, 2, 4]

    @pytest.mark.parametrize(
        "options",
        [
            *({"max_retries": value} for value in (-1, 1.5, True, math.inf, math.nan, "3")),
            *({name: -0.1} for name in ("give_up_after", "backoff", "max_backoff", "max_retry_after")),
            *({name: math.inf} for name in ("give_up_after", "backoff", "max_backoff", "max_retry_after")),
            {"backoff": math.nan},
            *({"backoff": value} for value in (None, "1", True)),
        ],
    )
    def test_a_policy_out_of_range(self, options: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            RetryPolicy(**options)  # type: ignore[arg-type]

    def test_defaults(self) -> None:
        assert DEFAULT == RetryPolicy(
            max_retries=None, give_up_after=43_200, backoff=0.5, max_backoff=60, max_retry_after=300
        )


class TestGivingUp:
    @pytest.mark.parametrize(("seconds", "gave_up"), [(43_199.999, False), (43_200.0, True), (43_201.0, True)])
    @pytest.mark.parametrize("answer", [LOST, Response(503), Response(429, {"Retry-After": "5"})])
    def test_after_twelve_hours_since_the_first_failure(
        self, answer: Response | NoResponse, seconds: float, *, gave_up: bool
    ) -> None:
        _, history = meet(answer)
        action, _ = meet(answer, history, context(NOW + seconds))
        assert (action == failed("gave_up")) is gave_up

    def test_thirteen_hours_of_429(self) -> None:
        now, history, sends = NOW, History(sends=1), 0
        while now < NOW + 13 * 3_600:
            action, history = meet(Response(429, {"Retry-After": "300"}), history, context(now))
            sends += 1
            if not isinstance(action, Retry):
                break
            now += action.delay
        assert action == failed("gave_up")
        assert now - NOW == 43_200
        assert (sends, history.counted) == (145, 0)

    @pytest.mark.parametrize("most", [0, 1, 3])
    def test_after_max_retries_counted_ones(self, most: int) -> None:
        policy, history, retries = RetryPolicy(max_retries=most), History(sends=1), 0
        while (step := meet(LOST, history, policy=policy))[0] != failed("gave_up"):
            _, history = step
            retries += 1
        assert retries == most

    def test_uncounted_ones_do_not_bring_it_nearer(self) -> None:
        policy = RetryPolicy(max_retries=1)
        history = History(sends=1)
        free = (Response(429, {"Retry-After": "1"}), NoResponse(maybe_sent=True, stale_connection=True), Response(400))
        for answer in free * 2:
            _, history = meet(answer, history, policy=policy)
        assert history.counted == 0
        assert isinstance(meet(LOST, history, policy=policy)[0], Retry)


class TestOddAnswers:
    @pytest.mark.parametrize(
        ("headers", "body"),
        [
            ({}, b"<!DOCTYPE html><p>Please log in"),
            ({}, b"\r\n  <HTML lang=en>"),
            ({}, b"\xef\xbb\xbf<html>"),
            ({"content-TYPE": "Text/HTML; charset=utf-8"}, b"Please log in"),
            ({}, b'{"success": false}'),
            ({}, b" " * 100 + b'{"success":false,"message":"no"}'),
            ({}, b'\xef\xbb\xbf{"success":false}'),
            ({}, b"<!-- a comment first --><html>"),
            ({}, b'<?xml version="1.0"?>\n<!DOCTYPE html>'),
            ({"Content-Type": "application/xhtml+xml"}, b"Please log in"),
        ],
    )
    def test_a_2xx_that_is_not_segments(self, headers: Mapping[str, str], body: bytes) -> None:
        answer = Response(200, headers, body)
        assert not is_segments(answer)
        history = History(sends=1)
        for _ in range(3):
            action, history = meet(answer, history)
            assert isinstance(action, Retry)
        assert meet(answer, history)[0] == failed("unexpected_answer")

    @pytest.mark.parametrize(
        "body",
        [
            *(b"", b"ok", b"OK\n", b"1", b"[]", b'"success": false', b"{", b"{}", b"\xff\xfe", b'{"success": true}'),
            *(b'{"success": null}', b'{"success": "false"}', b'{"success": 0}', b'{"other": {"success": false}}'),
            b'{"success": false' + b" " * 65_536,
        ],
    )
    @pytest.mark.parametrize("status", [200, 202, 204, 299])
    def test_any_other_is_a_yes(self, status: int, body: bytes) -> None:
        assert meet(Response(status, {"Content-Type": "text/plain"}, body))[0] == DELIVERED

    @pytest.mark.parametrize("body", [b"", b"\r\n"])
    def test_nothing_at_all_is_no_page_whatever_it_calls_itself(self, body: bytes) -> None:
        assert meet(Response(204, {"Content-Type": "text/html"}, body))[0] == DELIVERED

    def test_other_markup_is_no_page(self) -> None:
        assert meet(Response(200, {"Content-Type": "text/xml"}, b"<ok/>"))[0] == DELIVERED

    def test_a_yes_after_two_odd_ones(self) -> None:
        odd, history = Response(200, {}, b"<html>"), History(sends=1)
        for _ in range(2):
            _, history = meet(odd, history)
        assert meet(Response(200), history)[0] == DELIVERED

    @given(st.binary(max_size=200))
    def test_any_body_at_all(self, body: bytes) -> None:
        assert isinstance(is_segments(Response(200, {}, body)), bool)


class TestSuspicion:
    """A batch that keeps failing with 5xx: perhaps one of its messages is the cause."""

    def faults(self, count: int, where: AttemptContext, policy: RetryPolicy = DEFAULT) -> list[Action]:
        history, actions = History(sends=1), []
        for _ in range(count):
            action, history = meet(Response(500), history, where, policy)
            actions.append(action)
        return actions

    def test_while_others_are_delivered_it_is_split_and_its_halves_at_once(self) -> None:
        where = context(others_delivered=True)
        kinds = [type(action) for action in self.faults(6, where)]
        assert kinds == [Retry, Retry, Retry, Retry, Split, Split]

    def test_while_nothing_is_its_halves_get_as_many_tries(self) -> None:
        kinds = [type(action) for action in self.faults(10, context())]
        assert kinds == [Retry, Retry, Retry, Retry, Split] * 2

    def test_alone_it_fails_after_ten_retries_while_others_are_delivered(self) -> None:
        actions = self.faults(11, context(count=1, others_delivered=True))
        assert all(isinstance(action, Retry) for action in actions[:-1])
        assert actions[-1] == failed("gave_up")

    @pytest.mark.parametrize(("share", "tries"), [(0.25, 11), (0.5, 20), (0.9, 132)])
    def test_or_later_if_others_fail_as_well_so_that_it_may_be_chance(self, share: float, tries: int) -> None:
        actions = self.faults(tries, context(count=1, others_delivered=True, others_failing=share))
        assert all(isinstance(action, Retry) for action in actions[:-1])
        assert actions[-1] == failed("gave_up")

    def test_alone_it_goes_on_while_nothing_is_delivered(self) -> None:
        assert all(isinstance(action, Retry) for action in self.faults(50, context(count=1)))

    def test_or_as_often_as_max_retries_says(self) -> None:
        where = context(count=1, others_delivered=True)
        actions = self.faults(21, where, RetryPolicy(max_retries=20))
        assert [isinstance(action, Retry) for action in actions] == [True] * 20 + [False]

    @pytest.mark.parametrize("between", [LOST, Response(429), Response(408)])
    def test_it_takes_five_in_a_row(self, between: Response | NoResponse) -> None:
        history = History(sends=1)
        for answer in [Response(500)] * 4 + [between] + [Response(500)] * 4:
            action, history = meet(answer, history)
            assert isinstance(action, Retry)
        assert isinstance(meet(Response(500), history)[0], Split)


class TestEverythingIsRefused:
    """The server refuses one message after the other: taking batches apart would cost two requests a message."""

    @pytest.mark.parametrize("count", [1, 2, 2_500])
    def test_what_is_left_of_a_batch_fails_whole(self, count: int) -> None:
        assert meet(Response(400), where=context(count=count, refuses_everything=True, one_refused=True))[0] == failed(
            "refused"
        )

    @pytest.mark.parametrize("status", [status for status in TABLE if status != 400])
    def test_no_other_answer_means_anything_else_for_it(self, status: int) -> None:
        assert meet(Response(status), where=context(refuses_everything=True, one_refused=True)) == meet(
            Response(status)
        )


class TestAdvice:
    US, EU = "api.segment.io", "events.eu1.segmentapis.com"

    @pytest.mark.parametrize("status", [401, 403])
    @pytest.mark.parametrize(("host", "other"), [(US, 'region="eu"'), (EU, 'region="us"')])
    def test_a_wrong_key_may_be_one_of_the_other_region(self, status: int, host: str, other: str) -> None:
        assert "write key" in advice(status, host, with_token=False)
        assert "OAuth application" in advice(status, host, with_token=True)
        assert other in advice(status, host, with_token=False)
        assert other in advice(status, host, with_token=True)

    def test_a_wrong_address(self) -> None:
        assert "SEGMENT_HOST" in advice(404, self.US, with_token=False)

    @pytest.mark.parametrize("status", [200, 400, 405, 413, 500, 511])
    def test_what_is_neither(self, status: int) -> None:
        assert advice(status, self.US, with_token=False) == ""

    @pytest.mark.parametrize("host", ["proxy.example", "segment.io.example", "127.0.0.1"])
    def test_of_other_hosts_nothing_is_known(self, host: str) -> None:
        assert advice(401, host, with_token=False) == ""


class TestRedirectHost:
    @pytest.mark.parametrize(
        ("location", "host"),
        [
            ("https://elsewhere.example/path?key=THE-KEY", "elsewhere.example"),
            ("https://user:secret@elsewhere.example:8443/", "elsewhere.example"),
            ("//elsewhere.example/path", "elsewhere.example"),
            ("/login", "the same host"),
            ("", "the same host"),
            (None, "the same host"),
            ("https://[secret", "an unreadable address"),
            ("https://cdn\udcff.example/", "an unreadable address"),
            ("https://cdn\x00.example/", "an unreadable address"),
            (f"https://{'a' * 254}/", "an unreadable address"),
        ],
    )
    def test_names_the_host_and_nothing_else(self, location: str | None, host: str) -> None:
        headers = {} if location is None else {"location": location}
        assert redirect_host(Response(307, headers)) == host


ANSWERS = st.one_of(
    st.builds(
        Response,
        st.integers(0, 1_000),
        st.dictionaries(
            st.sampled_from(["Retry-After", "X-RateLimit-Reset"]), st.sampled_from(["1", "400", "-1", "x"])
        ),
        st.sampled_from([b"", b"<html>", b'{"success":false}']),
    ),
    st.builds(NoResponse, st.booleans(), st.booleans()),
    st.just(NoCredentials()),
)


@given(
    st.lists(ANSWERS, min_size=1, max_size=40),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 5)),
    st.floats(0, 1, exclude_max=True),
)
def test_whatever_comes_the_rules_hold(
    answers: list[Response | NoResponse | NoCredentials],
    count: int,
    with_token: bool,
    others_delivered: bool,
    refuses_everything: bool,
    max_retries: int | None,
    random: float,
) -> None:
    policy = RetryPolicy(max_retries=max_retries)
    history, now = History(), NOW
    for answer in answers:
        before = replace_sends(history)
        flags = {
            "with_token": with_token,
            "others_delivered": others_delivered,
            "refuses_everything": refuses_everything,
        }
        where = context(now, random=random, count=count, **flags)
        action, history = decide(answer, before, where, policy)
        assert history.sends == before.sends
        assert history.maybe_sent >= before.maybe_sent
        assert history.counted - before.counted == (isinstance(action, Retry) and action.counted)
        if max_retries is not None:
            assert history.counted <= max_retries
        if isinstance(action, Split):
            assert count > 1
        if isinstance(action, Finish):
            assert (action.status is Status.DELIVERED) == (action.reason is None)
            return
        if isinstance(action, Retry):
            assert 0 <= action.delay <= 300
            assert action.delay > 0 or not action.counted
            now += action.delay


def replace_sends(history: History) -> History:
    """One more attempt, as the request sender counts it."""
    return history._replace(sends=history.sends + 1)


class Down:
    """A server that answers nothing but this, or nothing at all; notes when it was asked and how often at once."""

    def __init__(self, answer: Response | None) -> None:
        self.asked: list[tuple[float, int]] = []
        self._answer = answer
        self._at_once = 0

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        self._at_once += 1
        self.asked.append((running_clock().time(), self._at_once))
        await asyncio.sleep(0.01)
        self._at_once -= 1
        if self._answer is None:
            raise TransportError("down", maybe_sent=False)
        return self._answer

    async def aclose(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize(
    ("answer", "policy"), [(Response(503), RetryPolicy()), (None, RetryPolicy(max_retries=3))], ids=["503", "silence"]
)
def test_a_dead_server_gets_one_request_at_a_time_for_hours(answer: Response | None, policy: RetryPolicy) -> None:
    async def main() -> list[tuple[float, int]]:
        down = Down(answer)
        client = Client("key", transport=down, flush_at=10, flush_interval=0.1, close_timeout=0, retry=policy)
        for _ in range(40):
            for _ in range(10):
                await client.track("user", "Event")
            await asyncio.sleep(0.01)
        await asyncio.sleep(3 * 3_600)
        await client.aclose()
        return down.asked

    settled = [(moment, at_once) for moment, at_once in run(main()) if moment > 60]
    assert len(settled) > 10
    assert max(at_once for _, at_once in settled) == 1
    # From half the longest back-off on.
    assert min(later - earlier for (earlier, _), (later, _) in pairwise(settled)) >= 30
