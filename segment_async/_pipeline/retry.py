"""What an answer means: settle, again and when, split, or a fresh token.

The rules that Segment's own SDKs converged on in 2026, one place each. This file is pure: an answer, the history of
the batch, a clock's reading and a random number come in, an action comes out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Final, NamedTuple, Protocol
from urllib.parse import urlsplit

import orjson

from segment_async._outcome import Status

from .delivery import History

# Beyond the 5xx: a request timeout, gone for now, too many requests, a proxy's closed client connection.
_TRANSIENT: Final = frozenset({408, 410, 429, 460})
# Not supported, not this version of HTTP, a network that wants a login: no later attempt will differ.
_FINAL_5XX: Final = frozenset({501, 505, 511})
_CREDENTIALS: Final = frozenset({401, 403})
# White space and a byte order mark, which some proxies put before their pages.
_BEFORE_THE_TEXT: Final = b" \t\r\n\xef\xbb\xbf"
# A page may begin with a comment, or as XML.
_HTML: Final = re.compile(rb"<(!doctype|html)\b", re.IGNORECASE)
_WITHIN: Final = 1_024
# A 2xx that is not Segment's: so many more times it is tried.
_ODD_ANSWERS: Final = 3
# Failures in a row after which one batch is suspected of being the cause.
SUSPICIOUS: Final = 5
# What a single message that fails while others are delivered gets, where `max_retries` is unset.
_ALONE: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to try, and how often.

    Attributes:
        max_retries: re-sends before a batch is given up; `None`: only time decides, but for a single message that is
            answered with 5xx while others are delivered: that gets ten. What a `Retry-After` asks for, the halves of
            a split batch and the one re-send on a stale connection are not counted.
        give_up_after: seconds from a batch's first failure until it is given up.
        backoff: seconds before the first re-send; doubles with each.
        max_backoff: seconds that the doubling ends at.
        max_retry_after: seconds of a server's `Retry-After` that are obeyed; 0: none is, the back-off decides.

    Raises:
        ValueError: a number is negative or not finite, or `max_retries` not whole.
    """

    max_retries: int | None = None
    give_up_after: float = 43_200
    backoff: float = 0.5
    max_backoff: float = 60
    max_retry_after: float = 300

    def __post_init__(self) -> None:
        retries = self.max_retries
        if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
            raise ValueError("max_retries must be None, or a whole number from 0")
        for name in ("give_up_after", "backoff", "max_backoff", "max_retry_after"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
                raise ValueError(f"{name} must be a finite number of seconds from 0")

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures in a row; `chance` (0 to 1) takes off up to a half."""
        doublings = min(failures - 1, 60)
        return min(self.max_backoff, self.backoff * 2.0**doublings) * (1 - chance / 2)


class Answer(Protocol):
    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...


class NoAnswer(NamedTuple):
    """Refused, reset, timed out, garbage."""

    maybe_sent: bool
    stale_connection: bool = False


@dataclass(frozen=True, slots=True)
class NoCredentials:
    """There was nothing to send the batch with, and there will not be."""


Silence = NoAnswer | NoCredentials


class Settle(NamedTuple):
    status: Status
    reason: str | None = None


class Again(NamedTuple):
    """Send the batch once more, `delay` seconds from now; `pause`: the whole pipeline waits for as long."""

    delay: float
    pause: bool = False
    counted: bool = True


class Split(NamedTuple):
    """Send each half for itself; `too_large`: and smaller batches from now on."""

    too_large: bool = False


@dataclass(frozen=True, slots=True)
class Refresh:
    """Send the batch once more, with a token that is fetched for it."""


Action = Settle | Again | Split | Refresh


class Situation(NamedTuple):
    """What a decision rests on besides the answer.

    Attributes:
        now: the monotonic clock.
        wall: seconds since the epoch, for dates in `Retry-After`.
        chance: a random number from 0 to 1.
        messages: in the batch.
        with_token: the client has OAuth, so that fresh credentials can be had.
        others_delivered: others were delivered between two failures of this batch, and none has begun to fail.
    """

    now: float
    wall: float
    chance: float
    messages: int
    with_token: bool = False
    others_delivered: bool = False


def decide(
    answer: Answer | Silence, history: History, situation: Situation, policy: RetryPolicy
) -> tuple[Action, History]:
    """What to do, and the batch's history with this answer in it; `history.sends` counts the attempt already."""
    if isinstance(answer, NoCredentials):
        return Settle(Status.FAILED, "unauthorized"), history
    if isinstance(answer, NoAnswer):
        return _after_silence(answer, history, situation, policy)
    location = redirect_host(answer) if 300 <= answer.status < 400 else None
    history = history._replace(status_code=answer.status, location=location, stale=False)
    meaning = _meaning(answer, history, situation)
    if meaning is None:
        faults = history.server_faults + 1 if answer.status >= 500 else 0
        return _again(answer, history._replace(server_faults=faults), situation, policy)
    if isinstance(meaning, Refresh):
        return meaning, history._replace(refreshed=True)
    return meaning, history


def _after_silence(
    answer: NoAnswer, history: History, situation: Situation, policy: RetryPolicy
) -> tuple[Action, History]:
    stale_before = history.stale
    history = history._replace(
        maybe_sent=history.maybe_sent or answer.maybe_sent, stale=answer.stale_connection, server_faults=0
    )
    if answer.stale_connection and not stale_before:
        return Again(0.0, counted=False), history
    return _again(None, history, situation, policy)


def _meaning(answer: Answer, history: History, situation: Situation) -> Settle | Split | Refresh | None:
    """`None`: transient, so that it is worth another try."""
    status = answer.status
    if 200 <= status < 300:
        if is_segments(answer):
            return Settle(Status.DELIVERED)
        return None if history.odd_answers < _ODD_ANSWERS else Settle(Status.FAILED, "unexpected_answer")
    if 300 <= status < 400:
        return Settle(Status.FAILED, "redirected")
    if status in (400, 413):
        return _refused_for_its_content(status, situation)
    if status in _CREDENTIALS or (status == 511 and situation.with_token):
        if situation.with_token and not history.refreshed:
            return Refresh()
        return Settle(Status.FAILED, "unauthorized")
    if status in _TRANSIENT:
        return None
    if 400 <= status < 500 or status in _FINAL_5XX:
        return Settle(Status.FAILED, "refused")
    return None


def _refused_for_its_content(status: int, situation: Situation) -> Settle | Split:
    if situation.messages > 1:
        return Split(too_large=status == 413)
    return Settle(Status.FAILED, "too_large" if status == 413 else "refused")


def is_segments(answer: Answer) -> bool:
    """Whether a 2xx is a yes: a captive portal's HTML and `"success": false` are not."""
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


def _again(
    answer: Answer | None, history: History, situation: Situation, policy: RetryPolicy
) -> tuple[Action, History]:
    first_failure = situation.now if history.first_failure is None else history.first_failure
    odd = answer is not None and 200 <= answer.status < 300
    history = history._replace(first_failure=first_failure, odd_answers=history.odd_answers + odd, refreshed=False)
    if situation.now >= first_failure + policy.give_up_after:
        return Settle(Status.FAILED, "gave_up"), history
    asked = retry_after(answer, situation.wall) if answer is not None else None
    if asked is not None and policy.max_retry_after > 0:
        return Again(min(asked, policy.max_retry_after), pause=True, counted=False), history
    if policy.max_retries is not None and history.counted >= policy.max_retries:
        return Settle(Status.FAILED, "gave_up"), history
    history = history._replace(failures=history.failures + 1)
    if history.server_faults >= SUSPICIOUS:
        # Perhaps one message is the cause. Where others are delivered that is likely, and the halves are split as
        # soon as they fail; where nothing is, the halves get as many tries as the whole had.
        if situation.messages > 1:
            return Split(), history if situation.others_delivered else history._replace(server_faults=0)
        if situation.others_delivered and policy.max_retries is None and history.counted >= _ALONE:
            return Settle(Status.FAILED, "gave_up"), history
    history = history._replace(counted=history.counted + 1)
    return Again(policy.delay(history.failures, situation.chance)), history


def retry_after(answer: Answer, wall: float) -> float | None:
    """Seconds that the server asks to wait; `None` where it says nothing usable."""
    asked = _seconds(header(answer, "retry-after"), wall)
    if asked is None and answer.status == 429:
        asked = _reset(header(answer, "x-ratelimit-reset"), wall)
    return asked


def _seconds(text: str | None, wall: float) -> float | None:
    # Underscores and the digits of other scripts are numbers to Python alone.
    if text is None or "_" in text or not text.isascii():
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = http_date(text) - wall
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


def _reset(text: str | None, wall: float) -> float | None:
    """Seconds from now; numbers as large as the epoch's are a moment."""
    seconds = _seconds(text, wall)
    if seconds is not None and seconds > 1e9:
        seconds -= wall
    return seconds if seconds is not None and seconds > 0 else None


def header(answer: Answer, name: str) -> str | None:
    """The first header of that name, in whatever case a transport keeps them."""
    return next((value for key, value in answer.headers.items() if key.lower() == name), None)


def advice(status: int, host: str, *, with_token: bool) -> str:
    """What is likely wrong where one of Segment's own hosts answers 401, 403 or 404, and where to look; else nothing."""
    if not host.endswith((".segment.io", ".segmentapis.com")):
        return ""
    here, other = ("EU", "US") if ".eu1." in host else ("US", "EU")
    region = f'{host} serves workspaces of the {here}; a workspace of the {other} needs region="{other.lower()}".'
    if status == 404:
        return f"Is the address right? Look at host= and at SEGMENT_HOST in the environment. {region}"
    if status not in _CREDENTIALS:
        return ""
    if with_token:
        return (
            "Segment takes no token of this OAuth application. Look into the source's settings, under OAuth, whether "
            f"the application is connected, and at its scope. {region}"
        )
    return (
        "Is the write key right? It stands in the source's settings, under API Keys; there, under OAuth, is also "
        f"whether the source takes tokens alone, which need oauth=. {region}"
    )


def redirect_host(answer: Answer) -> str:
    """The host that a redirect points to, without whatever else its address may hold."""
    try:
        return urlsplit(header(answer, "location") or "").hostname or "the same host"
    except ValueError:
        return "an unreadable address"
