"""What an answer means: finish, retry and when, split, or fetch a fresh token.

Each of the rules that Segment's own SDKs converged on in 2026 is in one place here. This file is pure: an answer, the
history of the batch, a clock's reading and a random number go in, an action comes out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from sys import float_info
from typing import Final, NamedTuple, Protocol

import orjson

from segment_async._http.origin import split
from segment_async._outcome import BatchResult, Status

# Beyond the 5xx: a request timeout, gone for now, too many requests, a proxy's closed client connection.
_TRANSIENT: Final = frozenset({408, 410, 429, 460})
# Not supported, not this version of HTTP, a network that wants a login: no later attempt will differ.
_FINAL_5XX: Final = frozenset({501, 505, 511})
_CREDENTIALS: Final = frozenset({401, 403})
# Reasons of refusals that may be due to a message, and to every one: `AttemptContext.refuses_everything` counts them.
REFUSALS: Final = frozenset({"refused"})
# White space and a byte order mark, which some proxies put before their pages.
_BEFORE_THE_TEXT: Final = b" \t\r\n\xef\xbb\xbf"
# A page may begin with a comment, or as XML.
_HTML: Final = re.compile(rb"<(!doctype|html)\b", re.IGNORECASE)
_WITHIN: Final = 1_024
# Retries after a 2xx that is not Segment's.
_UNEXPECTED_ANSWERS: Final = 3
# Failures in a row after which one batch is suspected of being the cause.
SUSPECT_AFTER: Final = 5
# Timeouts in a row after which a batch is halved, and bytes of JSON that get through even the slowest link in time.
_TIMEOUTS: Final = 2
_SMALL_BATCH: Final = 32_768
# Retries of a single message that fails while others are delivered, if `max_retries` is unset; and the probability below
# which so many 5xx in a row are not chance, by how many of the others' attempts meet one.
_RETRIES_ALONE: Final = 10
_BY_CHANCE: Final = 1e-6
_LONGEST_HOST: Final = 253
_NO_HOST: Final = "an unreadable address"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and for how long a batch is retried.

    Attributes:
        max_retries: retries before a batch is given up. `None`: only `give_up_after` decides, except for a single
            message that is answered with 5xx while others are delivered, which gets ten retries, and more if so many
            others fail as well that it may be chance. Retries that a `Retry-After` asked for, the halves of a batch
            that was split for an answer, and the one retry on a stale connection don't count.
        give_up_after: seconds from a batch's first failure until it is given up.
        backoff: seconds before the first retry; doubled for each further one.
        max_backoff: the longest back-off, in seconds.
        max_retry_after: the longest `Retry-After` that is obeyed, in seconds. 0: it is ignored and the back-off applies.

    Raises:
        ValueError: a number is negative or not finite, or `max_retries` is not an integer.
    """

    max_retries: int | None = None
    give_up_after: float = 43_200
    backoff: float = 0.5
    max_backoff: float = 60
    max_retry_after: float = 300

    def __post_init__(self) -> None:
        retries = self.max_retries
        if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
            raise ValueError("max_retries must be None or an integer from 0")
        for name in ("give_up_after", "backoff", "max_backoff", "max_retry_after"):
            seconds = getattr(self, name)
            if not is_seconds(seconds):
                raise ValueError(f"{name} must be a finite number of seconds from 0")

    def delay(self, failures: int, random: float) -> float:
        """Seconds to wait after so many failures in a row; `random` (0 to 1) takes off up to a half ("equal jitter")."""
        doublings = min(failures - 1, 60)
        return min(self.max_backoff, self.backoff * 2.0**doublings) * (1 - random / 2)


def is_seconds(value: object) -> bool:
    """Whether it is a number of seconds to calculate with: an integer beyond the floats is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= float_info.max


class History(NamedTuple):
    """What happened to a batch so far.

    Attributes:
        sends: requests that carried it, `X-Retry-Count` plus one.
        counted: re-sends that count against `max_retries`.
        failures: failures in a row that called for a back-off.
        server_faults: how many of the last failures in a row were a 5xx; `timeouts`: how many were timeouts.
        answered: attempts of all batches that were delivered, and that met a 5xx, before the first of these.
        first_failure: the clock's reading at the first one.
        maybe_sent: an attempt may have arrived without a usable answer.
        unexpected_answers: 2xx answers that were not Segment's.
        stale: the last attempt met a stale connection, so that the free re-send is used up.
        refreshed: the last attempt went out with a token fetched for it.
        status_code: of the last answer.
        location: the host that the last answer pointed to, if it was a redirect.
    """

    sends: int = 0
    counted: int = 0
    failures: int = 0
    server_faults: int = 0
    timeouts: int = 0
    answered: tuple[int, int] = (0, 0)
    first_failure: float | None = None
    maybe_sent: bool = False
    unexpected_answers: int = 0
    stale: bool = False
    refreshed: bool = False
    status_code: int | None = None
    location: str | None = None

    def result(self, status: Status, reason: str | None = None) -> BatchResult:
        return BatchResult(status, reason, self.status_code, self.sends, self.maybe_sent, self.location)


class Answer(Protocol):
    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...


class NoResponse(NamedTuple):
    """No usable answer: refused, reset, timed out, garbage. `error` is the transport's own text, for people."""

    maybe_sent: bool
    stale_connection: bool = False
    error: str = ""
    timed_out: bool = False


class NoCredentials:
    """The token server refused for good: the batch cannot be sent."""


Failure = NoResponse | NoCredentials


class Finish(NamedTuple):
    """The batch ends like this."""

    status: Status
    reason: str | None = None


class Retry(NamedTuple):
    """Send the batch again, `delay` seconds from now; `pause`: the whole pipeline waits for that time."""

    delay: float
    pause: bool = False
    counted: bool = True


class Split(NamedTuple):
    """Send each half by itself; `too_large`: and send smaller batches for a while; `first_alone`: the first message and
    the rest, instead of halves.
    """

    too_large: bool = False
    first_alone: bool = False


class Refresh:
    """Send the batch again with a fresh token."""


REFRESH: Final = Refresh()


Action = Finish | Retry | Split | Refresh


class AttemptContext(NamedTuple):
    """What a decision depends on besides the answer.

    Attributes:
        now: the monotonic clock.
        wall_clock: seconds since the epoch, for dates in `Retry-After`.
        random: a random number from 0 to 1.
        messages: in the batch; `size`: their bytes of JSON; `body_size`: bytes that travel.
        body_size_delivered: the largest ones that were delivered lately, and quickly.
        with_token: the client uses OAuth, so that fresh credentials can be fetched.
        others_delivered: others were delivered between two failures of this batch, and none has begun to fail.
        refuses_everything: the server refused many single messages in a row, and took none in between.
        one_refused: a message that was split off this batch was refused alone.
        answered: attempts of all batches so far that were delivered, and that met a 5xx.
        others_failing: the share of others' attempts that met a 5xx since this batch met its first one in a row.
    """

    now: float
    wall_clock: float
    random: float
    messages: int
    size: int = 0
    body_size: int = 0
    body_size_delivered: int = 0
    with_token: bool = False
    others_delivered: bool = False
    refuses_everything: bool = False
    one_refused: bool = False
    answered: tuple[int, int] = (0, 0)
    others_failing: float = 0.0


def decide(
    answer: Answer | Failure, history: History, context: AttemptContext, policy: RetryPolicy
) -> tuple[Action, History]:
    """What to do, and the batch's history with this answer in it; `history.sends` counts the attempt already."""
    if isinstance(answer, NoCredentials):
        return Finish(Status.FAILED, "unauthorized"), history
    if isinstance(answer, NoResponse):
        return _after_failure(answer, history, context, policy)
    location = redirect_host(answer) if 300 <= answer.status < 400 else None
    history = history._replace(status_code=answer.status, location=location, stale=False, timeouts=0)
    meaning = _meaning(answer, history, context)
    if meaning is None:
        faults = history.server_faults + 1 if answer.status >= 500 else 0
        answered = context.answered if faults == 1 else history.answered
        return _retry(answer, history._replace(server_faults=faults, answered=answered), context, policy)
    if isinstance(meaning, Refresh):
        return meaning, history._replace(refreshed=True)
    return meaning, history


def _after_failure(
    answer: NoResponse, history: History, context: AttemptContext, policy: RetryPolicy
) -> tuple[Action, History]:
    stale_before = history.stale
    history = history._replace(
        maybe_sent=history.maybe_sent or answer.maybe_sent,
        stale=answer.stale_connection,
        server_faults=0,
        timeouts=history.timeouts + 1 if answer.timed_out else 0,
    )
    if answer.stale_connection and not stale_before:
        return Retry(0.0, counted=False), history
    return _retry(None, history, context, policy)


def _meaning(answer: Answer, history: History, context: AttemptContext) -> Finish | Split | Refresh | None:
    """`None`: transient, worth a retry."""
    status = answer.status
    if 200 <= status < 300:
        if is_segments(answer):
            return Finish(Status.DELIVERED)
        return None if history.unexpected_answers < _UNEXPECTED_ANSWERS else Finish(Status.FAILED, "unexpected_answer")
    if 300 <= status < 400:
        return Finish(Status.FAILED, "redirected")
    if status in (400, 413):
        return _refused_for_its_content(status, context)
    if status in _CREDENTIALS or (status == 511 and context.with_token):
        if context.with_token and not history.refreshed:
            return REFRESH
        return Finish(Status.FAILED, "unauthorized")
    if status in _TRANSIENT:
        return None
    if 400 <= status < 500 or status in _FINAL_5XX:
        return Finish(Status.FAILED, "refused")
    return None


def _refused_for_its_content(status: int, context: AttemptContext) -> Finish | Split:
    if context.messages > 1:
        if status == 400 and context.refuses_everything:
            # It is not the messages. Splitting every batch to its single ones would cost two requests a message: one
            # message of a batch is asked about, and if it is refused as well, the rest goes with it.
            return Finish(Status.FAILED, "refused") if context.one_refused else Split(first_alone=True)
        return Split(too_large=status == 413)
    return Finish(Status.FAILED, "too_large" if status == 413 else "refused")


def is_segments(answer: Answer) -> bool:
    """Whether a 2xx comes from Segment: a captive portal's HTML and `"success": false` do not."""
    text = answer.body.lstrip(_BEFORE_THE_TEXT)
    if text.startswith(b"<") and _HTML.search(text, 0, _WITHIN):
        return False
    if text and "html" in (header(answer, "content-type") or "").lower():
        return False
    if not text.startswith(b"{"):
        return True
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError:
        return True
    return said.get("success") is not False


def _retry(
    answer: Answer | None, history: History, context: AttemptContext, policy: RetryPolicy
) -> tuple[Action, History]:
    first_failure = context.now if history.first_failure is None else history.first_failure
    is_unexpected = answer is not None and 200 <= answer.status < 300
    history = history._replace(
        first_failure=first_failure, unexpected_answers=history.unexpected_answers + is_unexpected, refreshed=False
    )
    if context.now >= first_failure + policy.give_up_after:
        return Finish(Status.FAILED, "gave_up"), history
    asked = retry_after(answer, context.wall_clock) if answer is not None else None
    if asked is not None and policy.max_retry_after > 0:
        # Not shorter than the first back-off: a few milliseconds, again and again, would be no pause at all.
        pause = max(min(asked, policy.max_retry_after), policy.delay(1, context.random))
        return Retry(pause, pause=True, counted=False), history
    if policy.max_retries is not None and history.counted >= policy.max_retries:
        return Finish(Status.FAILED, "gave_up"), history
    history = history._replace(failures=history.failures + 1)
    if history.server_faults >= SUSPECT_AFTER:
        # One message may be the cause. If others are delivered that is likely, and the halves are split as soon as
        # they fail; if nothing is delivered, the halves get as many tries as the whole batch had.
        if context.messages > 1:
            return Split(), history if context.others_delivered else history._replace(server_faults=0)
        is_by_chance = context.others_failing**history.server_faults >= _BY_CHANCE
        may_end = context.others_delivered and policy.max_retries is None and not is_by_chance
        if may_end and history.counted >= _RETRIES_ALONE:
            return Finish(Status.FAILED, "gave_up"), history
    history = history._replace(counted=history.counted + 1)
    is_large = context.size > _SMALL_BATCH and context.body_size > context.body_size_delivered
    if history.timeouts >= _TIMEOUTS and context.messages > 1 and is_large:
        # The link may be too slow for it. Sent whole, it would arrive without an answer again and again. If as much was
        # delivered lately, it is not the size.
        return Split(too_large=True), history._replace(timeouts=0)
    return Retry(policy.delay(history.failures, context.random)), history


def retry_after(answer: Answer, wall_clock: float) -> float | None:
    """Seconds that the server asks to wait; `None`: it says nothing usable."""
    asked = _seconds(header(answer, "retry-after"), wall_clock)
    if asked is None and answer.status == 429:
        asked = _reset(header(answer, "x-ratelimit-reset"), wall_clock)
    return asked


def _seconds(text: str | None, wall_clock: float) -> float | None:
    # Underscores and the digits of other scripts are numbers to Python alone.
    if text is None or "_" in text or not text.isascii():
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = http_date(text) - wall_clock
        except (ValueError, OverflowError):
            return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def http_date(text: str) -> float:
    """Seconds since the epoch; a date that names no zone is in UTC.

    Raises:
        ValueError, OverflowError: it is no date.
    """
    # Dates are rare, and the parser's import costs a tenth of the whole package's.
    from email.utils import parsedate_to_datetime

    moment = parsedate_to_datetime(text)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _reset(text: str | None, wall_clock: float) -> float | None:
    """Seconds from now; numbers as large as the epoch's are a moment."""
    seconds = _seconds(text, wall_clock)
    if seconds is not None and seconds > 1e9:
        seconds -= wall_clock
    return seconds if seconds is not None and seconds > 0 else None


def header(answer: Answer, name: str) -> str | None:
    """The first header of that name, in whatever case a transport keeps them."""
    return next((value for key, value in answer.headers.items() if key.lower() == name), None)


def advice(status: int, host: str, *, with_token: bool) -> str:
    """What is likely wrong if one of Segment's own hosts answers 401, 403 or 404, and what to check; else nothing."""
    if not host.endswith((".segment.io", ".segmentapis.com")):
        return ""
    here, other = ("EU", "US") if ".eu1." in host else ("US", "EU")
    region = f'{host} serves {here} workspaces; a workspace in the {other} needs region="{other.lower()}".'
    if status == 404:
        return f"Check host= and SEGMENT_HOST in the environment. {region}"
    if status not in _CREDENTIALS:
        return ""
    if with_token:
        return (
            "Segment rejects this OAuth application's token. In the source's settings, under OAuth, check that the "
            f"application is connected, and check its scope. {region}"
        )
    return (
        "Check the write key: it is under API Keys in the source's settings. If OAuth is required there, set oauth=. "
        f"{region}"
    )


def redirect_host(answer: Answer) -> str:
    """The host that a redirect points to, without whatever else its address may hold."""
    try:
        host = split(header(answer, "location") or "").hostname or "the same host"
    except ValueError:
        return _NO_HOST
    # Errors, logs and reports name the host; a header may be of any length, and hold lone surrogates.
    return host if host.isprintable() and len(host) <= _LONGEST_HOST else _NO_HOST
