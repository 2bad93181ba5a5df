"""How a message ends: the statuses, the outcome of one message, the counters of a client, and the table of reasons.

`REASONS` is the only list of reasons; whatever names them (metrics, the CLI, the documentation) reads it. This file
knows neither batches nor the network.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ._exceptions import DeliveryError


class Status(enum.Enum):
    """How a message ended.

    `HANDED_OVER`: it is safe in a shared spool, and another process delivers it. `KEPT`: the client closed while the
    message was on disk; it still counts as pending, and the next process sends it.
    """

    DELIVERED = "delivered"
    FAILED = "failed"
    DROPPED = "dropped"
    HANDED_OVER = "handed_over"
    KEPT = "kept"


class Reason(NamedTuple):
    """Why a message was not delivered: the status that goes with it, and one sentence for people."""

    status: Status
    text: str


REASONS: Final[Mapping[str, Reason]] = {
    "refused": Reason(Status.FAILED, "Segment answered with a status that no retry can change."),
    "unauthorized": Reason(Status.FAILED, "The write key or the OAuth token was not accepted."),
    "redirected": Reason(Status.FAILED, "The host answered with a redirect, which is never followed."),
    "too_large": Reason(Status.FAILED, "A server or proxy refused the message for its size."),
    "unexpected_answer": Reason(Status.FAILED, "A 2xx answer did not come from Segment, such as a login page."),
    "gave_up": Reason(Status.FAILED, "The retry policy ran out."),
    "queue_full": Reason(Status.DROPPED, "The queue or the spool had no room."),
    "no_identity": Reason(Status.DROPPED, "The message had no id, in a block with without_identity='drop'."),
    "before_send": Reason(Status.DROPPED, "The before_send hook dropped the message, or raised."),
    "disabled": Reason(Status.DROPPED, "The client was made with send=False."),
    "close_timeout": Reason(Status.DROPPED, "The client was closed before the message could be sent."),
    "exit": Reason(Status.DROPPED, "The interpreter exited before the message could be sent."),
    "invalid": Reason(Status.DROPPED, "Segment would drop the message, and the client has on_invalid='drop'."),
    "spool_unavailable": Reason(Status.DROPPED, "The spool could not store the message."),
    "too_old": Reason(Status.DROPPED, "The message waited in the spool for longer than max_age."),
    "purged": Reason(Status.DROPPED, "The message was removed from the spool by hand."),
    "damaged": Reason(Status.DROPPED, "The message was lost to damage of the spool's file."),
}
"""Every reason that an `Outcome` can have, with its status."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one message.

    Attributes:
        reason: `None` when delivered, else a stable word. Failed: ``refused``, ``unauthorized``, ``redirected``,
            ``too_large``, ``unexpected_answer``, ``gave_up``. Dropped: ``queue_full``, ``no_identity``,
            ``before_send``, ``disabled``, ``close_timeout``, ``exit``, ``invalid``; with a spool also
            ``spool_unavailable``, ``too_old``, ``purged``, ``damaged``.
        status_code: HTTP status of the last answer; `None` when none came.
        attempts: requests that carried the message.
        possibly_delivered: an attempt may have reached Segment without a usable answer. A delivered message that is
            marked may be there twice, with the same `messageId`; a failed or dropped one may be there after all.
        location: with ``redirected``: the host that the answer pointed to.
    """

    status: Status
    message_id: str
    reason: str | None = None
    status_code: int | None = None
    attempts: int = 0
    possibly_delivered: bool = False
    location: str | None = None

    def raise_for_failure(self) -> None:
        """Do nothing if the message was delivered, handed over, or is kept on disk.

        Raises:
            DeliveryError: it failed or was dropped.
        """
        if self.status in (Status.FAILED, Status.DROPPED):
            raise DeliveryError(self)


class BatchResult(NamedTuple):
    """An outcome without the message: what the messages of a batch, or of a part of one, have in common."""

    status: Status
    reason: str | None = None
    status_code: int | None = None
    attempts: int = 0
    possibly_delivered: bool = False
    location: str | None = None


_PUT_STATUS, _PUT_ID, _PUT_REASON, _PUT_CODE, _PUT_ATTEMPTS, _PUT_POSSIBLY, _PUT_LOCATION = (
    vars(Outcome)[name].__set__ for name in Outcome.__slots__
)


def outcome_of(message_id: str, result: BatchResult) -> Outcome:
    """The outcome of one of the messages, in half the time of `Outcome(...)`, which looks up each field by its name."""
    outcome = object.__new__(Outcome)
    _PUT_STATUS(outcome, result[0])
    _PUT_ID(outcome, message_id)
    _PUT_REASON(outcome, result[1])
    _PUT_CODE(outcome, result[2])
    _PUT_ATTEMPTS(outcome, result[3])
    _PUT_POSSIBLY(outcome, result[4])
    _PUT_LOCATION(outcome, result[5])
    return outcome


class Counts(Mapping[str, int]):
    """A fixed mapping of words to numbers: it can be hashed, copied and pickled."""

    __slots__ = ("_counts",)

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self._counts = dict(counts or {})

    def __getitem__(self, word: str) -> int:
        return self._counts[word]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __hash__(self) -> int:
        return hash(frozenset(self._counts.items()))

    def __repr__(self) -> str:
        return repr(self._counts)


@dataclass(frozen=True, slots=True)
class Statistics:
    """One consistent look at a client's counters, over its whole life.

    `accepted == delivered + failed + dropped + handed_over + pending`, always.

    Attributes:
        accepted: messages that a call took; with a spool including `recovered`.
        delivered, failed, dropped, handed_over: messages by their outcome.
        pending: messages without an outcome: `queued` and `in_flight`.
        queued_bytes: bytes of JSON of the queued messages.
        in_flight: messages in requests that are under way.
        oldest_age: seconds that the oldest pending message has waited in this process.
        requests: requests begun, `retries` of them not the first for their messages.
        recovered: messages found on disk, and dead letters that were put back; or read from a shared spool, as
            `RedisSpool` is, also those of this client's own calls. `accepted - recovered` is how many its calls took.
        reasons: how many messages failed or were dropped, by reason.
        retry_in: seconds until the next request may begin, while the server asked for a pause or does not answer;
            0.0: at once.
        rejected: calls that raised `MessageError`, `QueueFull` or `SpoolUnavailable`; their messages were not accepted.
        capacity, capacity_bytes: what may be pending in memory, in messages and in bytes of JSON.
        server_up: `False` while deliveries fail.
        last_delivery: when messages were last delivered, in seconds since the epoch; `None`: never so far.
        dead_letters: failed messages that the spool keeps.
        disk_bytes: size of the spool's files.
    """

    accepted: int
    delivered: int
    failed: int
    dropped: int
    pending: int
    queued: int
    queued_bytes: int
    in_flight: int
    # Two looks at the same counts are equal, whenever they were taken.
    oldest_age: float = field(compare=False)
    requests: int
    retries: int
    recovered: int
    reasons: Mapping[str, int]
    handed_over: int = 0
    retry_in: float = field(default=0.0, compare=False)
    rejected: int = 0
    capacity: int = 0
    capacity_bytes: int = 0
    server_up: bool = True
    last_delivery: float | None = field(default=None, compare=False)
    dead_letters: int = 0
    disk_bytes: int = field(default=0, compare=False)


class Health(NamedTuple):
    """What statistics say beyond the accounts: of the server, and of the spool."""

    retry_in: float = 0.0
    server_up: bool = True
    last_delivery: float | None = None
    dead_letters: int = 0
    disk_bytes: int = 0


HEALTHY: Final = Health()
