"""What an answer does to its batch: settled, retried, split, or sent again with a fresh token.

`retry.decide` says which; here it is carried out. This file starts no request and waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from segment_async._exceptions import stack_of
from segment_async._http.transport import Response
from segment_async._outcome import BatchResult, Status

from .attempt import HoldsEnded
from .auth import Auth
from .batch import Batch, OpenBatch
from .circuit import CircuitBreaker
from .clock import LoopClock
from .outage import Outage
from .queue import Queue
from .reports import Reports
from .retry import (
    REFUSALS,
    Action,
    AttemptContext,
    Failure,
    Finish,
    History,
    NoCredentials,
    NoResponse,
    Refresh,
    Retry,
    RetryPolicy,
    Split,
    advice,
    decide,
)

if TYPE_CHECKING:
    from .spool_recorder import SpoolRecorder

# Bytes of an answer's text that are kept with a message that failed.
_ANSWER_BYTES = 500
# What reading an answer of a custom transport may raise, and what stops nothing here.
_RAISED_BY_ANSWERS = (Exception, asyncio.CancelledError, GeneratorExit)
# Seconds within which a request is delivered whose size is no reason for timeouts of others.
_QUICK_SECONDS: Final = 5.0


class Settlement:
    """Carries out what an answer means. `hostname`: of the server, for the log; empty if the transport does not tell it."""

    def __init__(
        self,
        queue: Queue,
        circuit: CircuitBreaker,
        policy: RetryPolicy,
        auth: Auth,
        reports: Reports,
        recorder: SpoolRecorder | None,
        clock: LoopClock,
        *,
        hostname: str,
        outage: Outage,
        random: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._circuit = circuit
        self._policy = policy
        self._auth = auth
        self._hostname = hostname
        self._reports = reports
        self._recorder = recorder
        self._clock = clock
        self._outage = outage
        self._random = random
        self._wall_clock = wall_clock

    def conclude(self, batch: Batch, answer: Response | Failure | HoldsEnded) -> None:
        """A request is over."""
        if isinstance(answer, HoldsEnded):
            self._give_up_holds(batch, answer.keys)
            return
        now = self._clock.now()
        action, batch.history, answer = self._decide(batch, answer, now)
        if isinstance(action, (Finish, Split)) and self._circuit.note_end(action, answer, batch.count, now):
            # The others need not wait out their own back-off.
            with self._queue.lock:
                self._queue.backlog.retry_now()
        match action:
            case Finish():
                self._finish(batch, action, answer, now)
                if action.status is Status.DELIVERED and now - batch.sent_at < _QUICK_SECONDS:
                    # One that took longer may have had a slow link for itself.
                    self._queue.backlog.note_delivered(batch.body_size, now)
            case Retry():
                self._retry(batch, answer, action, now)
            case Split():
                self._split(batch, action, now)
            case Refresh():
                self._auth.renew(batch.sent_at)
                self._wait(batch)

    def interrupted(self, batch: Batch) -> None:
        """A request was cut off although its loop goes on: the batch may have arrived, and waits for a back-off.

        Without the back-off, a transport that cancels its own task would be tried again at once, without end.
        """
        now, history = self._clock.now(), batch.history
        batch.history = history._replace(
            maybe_sent=history.sends > 0,
            failures=history.failures + 1,
            first_failure=now if history.first_failure is None else history.first_failure,
        )
        delay = self._policy.delay(batch.history.failures, self._random())
        batch.not_before = now + delay
        self._wait(batch)
        self.note_failure("the request was cut off", delay)

    def give_up(self, batch: Batch) -> None:
        """The retry policy has run out for a batch that waits."""
        result = batch.history.result(Status.FAILED, "gave_up")
        self.settle(batch, result, "")
        self._explain(result, batch.count)

    def settle(self, batch: Batch | OpenBatch, result: BatchResult, answer: str = "") -> None:
        """The messages of a batch have their outcome: count it, record it, report it."""
        try:
            with self._queue.lock:
                if self._recorder is not None and isinstance(batch, Batch) and self._queue.backlog.has(batch):
                    # First: an exception in between must not cost the record, and a second one does no harm. And a
                    # message that the spool knows is found at any time: in its batch, or among the outcomes.
                    self._recorder.settle(batch.keys, result, answer)
                if not self._queue.settle(batch, result):
                    return
            if result.status in (Status.FAILED, Status.DROPPED):
                self._reports.add(result, batch.bodies, batch.size)
        finally:
            # Last, as a flush on another loop waits for the report as well.
            self._queue.notify()

    # -- what decides

    def _decide(
        self, batch: Batch, answer: Response | Failure, now: float
    ) -> tuple[Action, History, Response | Failure]:
        """What to do, the batch's history with the answer in it, and the answer, or what an unreadable one counts as.

        Notes first whether the batch is suspected of causing the failures.
        """
        circuit = self._circuit
        batch.is_poison_suspect = circuit.is_poison_suspect(batch.baseline, batch.is_poison_suspect)
        context = AttemptContext(
            now=now,
            wall_clock=self._wall_clock(),
            random=self._random(),
            messages=batch.count,
            size=batch.size,
            body_size=batch.body_size,
            body_size_delivered=self._queue.backlog.body_size_delivered(now),
            with_token=self._auth.has_tokens,
            others_delivered=batch.is_poison_suspect,
            refuses_everything=circuit.refuses_everything,
            one_refused=batch.record.has_refusal,
            answered=circuit.answered,
            others_failing=circuit.others_failing(batch.history.answered, batch.history.server_faults),
        )
        try:
            return *decide(answer, batch.history, context, self._policy), answer
        except _RAISED_BY_ANSWERS as error:
            # A custom transport whose answer is malformed.
            self._reports.limited_log.warn(
                "answer", "The transport returned an unreadable answer.\n%s", stack_of(error)
            )
            unreadable = NoResponse(maybe_sent=True, error="an unreadable answer")
            return *decide(unreadable, batch.history, context, self._policy), unreadable

    # -- what is done

    def _finish(self, batch: Batch, action: Finish, answer: Response | Failure, now: float) -> None:
        if action.reason in REFUSALS and batch.count == 1:
            batch.record.has_refusal = True
        result = batch.history.result(action.status, action.reason)
        self.settle(batch, result, _text_of(answer))
        if action.status is Status.DELIVERED:
            self._outage.note_success(now, dropped=self._queue.accounts.dropped, wall_clock=self._wall_clock())
        if action.status is Status.FAILED and not isinstance(answer, NoCredentials):
            self._explain(result, batch.count)

    def _retry(self, batch: Batch, answer: Response | Failure, action: Retry, now: float) -> None:
        baseline = self._circuit.note_retry(action, batch.history, now)
        if baseline is not None:
            batch.baseline = baseline
        batch.not_before = now + action.delay
        self._wait(batch)
        if action.counted or action.pause:
            # Not a stale connection, which is tried again at once.
            self.note_failure(_error_of(answer), action.delay)

    def note_failure(self, error: str, delay: float) -> None:
        """Nothing was delivered for this reason, and it is tried again in so many seconds, or when the circuit allows."""
        accounts, now = self._queue.accounts, self._clock.now()
        self._outage.note_failure(
            error,
            now,
            pending=accounts.pending + accounts.spooled,
            dropped=accounts.dropped,
            retry_in=max(delay, self._circuit.not_before - now),
        )

    def _wait(self, batch: Batch) -> None:
        with self._queue.lock:
            # Else another thread has given it up meanwhile, or taken it over.
            if batch in self._queue.backlog.in_flight:
                self._queue.backlog.wait(batch)
        self._queue.notify()

    def _split(self, batch: Batch, action: Split, now: float) -> None:
        parts = batch.split(first_alone=action.first_alone)
        for part in parts:
            part.not_before = now
        with self._queue.lock:
            if action.too_large:
                self._queue.backlog.learn_limit(batch, now)
            self._replace(batch, parts)
        self._queue.notify()

    def split_to_limit(self, batch: Batch) -> None:
        """A batch is larger than the server has turned out to take."""
        self._split(batch, Split(), self._clock.now())

    def _replace(self, batch: Batch, parts: list[Batch]) -> None:
        if not self._queue.backlog.has(batch):
            # As in `_wait`.
            return
        # In this order: `repair` can remove parts beside the whole, but messages that are nowhere are lost.
        for part in parts:
            self._queue.backlog.wait(part)
        self._queue.backlog.remove(batch)

    def _give_up_holds(self, batch: Batch, keys: Collection[int]) -> None:
        """Messages that other processes deliver now: this one neither sends nor settles them any more."""
        lost = set(keys)
        ours, theirs = batch.parts({index for index, key in enumerate(batch.keys) if key in lost})
        with self._queue.lock:
            self._replace(batch, [*ours, *theirs])
        for part in theirs:
            self._queue.settle(part, part.history.result(Status.HANDED_OVER))
        self._queue.notify()

    # -- what the log learns

    def _explain(self, result: BatchResult, count: int) -> None:
        reason, status = result.reason or "", result.status_code
        messages = "1 message" if count == 1 else f"{count:,} messages"
        hint = f" to {result.location}; set host= to Segment's own address" if result.location is not None else ""
        host = f" from {self._hostname}" if self._hostname else ""
        answer = "no response" if status is None else f"last status: {status}{host}"
        self._reports.limited_log.warn(
            reason,
            "Messages failed: %s, %s%s (%s). "
            "This is logged once a minute; client.statistics().reasons counts them as %s.",
            *(messages, reason, hint, answer, reason),
        )
        if reason in REFUSALS and self._circuit.refuses_everything:
            self._reports.limited_log.warn(
                "refuses", "The server refuses every message; batches fail whole until it takes one."
            )
        if status is not None:
            text = advice(status, self._hostname, with_token=self._auth.has_tokens)
            if text:
                self._reports.limited_log.warn_once("advice", "Status %d from Segment. %s", status, text)


def _error_of(answer: Response | Failure) -> str:
    """What went wrong, as a person reads it."""
    if isinstance(answer, NoResponse):
        return answer.error or "no usable answer"
    if isinstance(answer, NoCredentials):
        return "no OAuth token"
    if 200 <= answer.status < 300:
        return f"status {answer.status} without Segment's confirmation, perhaps from a proxy or a login page"
    return f"status {answer.status}"


def _text_of(answer: Response | Failure) -> str:
    """The beginning of an answer's text, as a person reads it; none if there is no answer."""
    if isinstance(answer, (NoResponse, NoCredentials)):
        return ""
    # A custom transport's may be anything, and reading it may raise.
    try:
        body = answer.body
    except _RAISED_BY_ANSWERS:
        return ""
    is_bytes = isinstance(body, (bytes, bytearray, memoryview))
    return bytes(body[:_ANSWER_BYTES]).decode("utf-8", "replace") if is_bytes else ""
