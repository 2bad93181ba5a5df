"""The small protocol of a spool: what keeps accepted messages safe while they wait.

The client is its only user. A message is *appended*; once that call has returned it is safe. It is *read* when there
is room in memory for it, in order of acceptance, and from then on held by this process: no other one gets it, and no
later `read` returns it. Before each request its attempt is noted (`sending`), afterwards it is *settled* by its key.
Whatever was neither settled nor given up is there again when the next process opens the spool.

    append ─► safe, pending ─► read ─► held ─► sending ─► settle ─► delivered: gone
                  ▲                                │            └─► failed: kept as a dead letter
                  └── next process, marked ◄─ crash┘            └─► dropped: gone, with a reason

    accepted == delivered + failed + dropped + pending        at every instant, and across restarts

Every call may come from any thread and any event loop, several loops in turn included: nothing is bound to the loop
that made it. Calls are looked at in their order: when one is answered, a `read` that was called before it either has
messages or there are none. Opening happens at the first call, not at construction. After a fork the child begins with nothing held
and nothing handed over; what the parent has stays the parent's.

This file knows no disk. Engines live in files of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult

AppendStatus = Literal["stored", "known", "memory", "full"]


class StoredMessage(NamedTuple):
    """A message that was read and is held by this process until it is settled.

    Attributes:
        key: names the message to `sending` and `settle`, and means nothing else.
        attempts: requests noted by processes that are gone. Above zero the message is possibly delivered, because
            nobody knows how the last of them ended.
        first_attempt: wall-clock seconds of the first of these; `None` without any.
    """

    key: int
    message_id: str
    body: bytes
    attempts: int = 0
    first_attempt: float | None = None


class DroppedMessage(NamedTuple):
    """A message that the spool itself gave up, while nobody held it; it is counted as dropped already.

    `reason` is ``queue_full`` (made room for a newer one), ``too_old``, ``purged`` or ``damaged``: lost on disk. `body` is
    empty for the last two, and so is `message_id` for the last: nobody knows any more.
    """

    message_id: str
    body: bytes
    reason: str


class Appended(NamedTuple):
    """What became of an append.

    Attributes:
        status: ``stored``: safe. ``known``: a message with this id is pending already; this one is the same and is
            not counted again. ``memory``: the disk refuses, the message waits in memory (only where the spool was
            told so). ``full``: no room; the message was not taken.
        dropped: what made room for it.
    """

    status: AppendStatus
    dropped: tuple[DroppedMessage, ...] = ()


class Window(NamedTuple):
    """What `read` returns: messages to send, and those that the spool gave up since the last one."""

    messages: list[StoredMessage]
    dropped: list[DroppedMessage]


@dataclass(frozen=True, slots=True)
class SpoolStatistics:
    """One consistent look at what this process holds of a spool; the counters go on across restarts.

    Attributes:
        accepted: messages ever taken; always `delivered + failed + dropped + pending`.
        pending_bytes: bytes of JSON of the pending messages.
        recovered: messages that other processes had left behind when this one opened or took over their part.
        dead: dead letters kept, `dead_bytes` of JSON.
        in_memory: pending messages that no disk has: lost if the process ends now.
        unrecorded: attempts and outcomes that the disk has not taken yet. They are kept and tried again; were the
            process to end now, their messages would be sent once more.
        damages: times that damage was found since this process opened the spool.
        reasons: how many messages failed or were dropped, by reason. ``damaged``: lost on disk.
    """

    accepted: int = 0
    delivered: int = 0
    failed: int = 0
    dropped: int = 0
    pending: int = 0
    pending_bytes: int = 0
    recovered: int = 0
    dead: int = 0
    dead_bytes: int = 0
    in_memory: int = 0
    unrecorded: int = 0
    damages: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)


class Spool(Protocol):
    """Keeps messages safe until they have an outcome. See the top of this file for their way through it."""

    async def append(self, message_id: str, body: bytes, *, make_room: bool = False) -> Appended:
        """Take one message; returns when it is safe.

        `make_room`: where the spool is full, the oldest messages that nobody holds are dropped for it.
        Cancelled: the message stays accepted, and the cancellation goes through at once.

        Raises:
            SpoolUnavailable: it is not safe and was not accepted.
        """
        ...

    def append_nowait(
        self,
        message_id: str,
        body: bytes,
        done: Callable[[Appended | SpoolUnavailable], None],
        *,
        make_room: bool = False,
    ) -> None:
        """Hand one message over without waiting; it is safe once `done` was called with a status that says so.

        `done` is called once, on a thread of the spool's, in the order of the calls. It must return at once and not
        raise. How much may be handed over and not be done is for the caller to bound.

        Raises:
            SpoolUnavailable: the spool was closed; `done` is not called.
        """

    async def read(self, max_count: int, max_bytes: int) -> Window:
        """Wait for messages that nobody holds, and hold them: the oldest first, at least one whatever its size.

        Returns as soon as there is anything, without waiting for the window to fill. While the disk cannot be read it
        goes on waiting. One read at a time keeps the order. Cancelled: nothing is held by it.

        Raises:
            SpoolUnavailable: the spool was closed.
        """
        ...

    async def sending(self, keys: Sequence[int], attempt: int) -> None:
        """Note that a request with these messages is about to go out: their `attempt`-th. Returns when that is safe.

        A disk that refuses does not stand in the way of sending: the call returns and the note is kept in memory,
        counted as `unrecorded`, until the disk takes it. Cancelled: it may have been noted, which does no harm.
        """

    async def settle(self, keys: Sequence[int], fate: BatchResult) -> None:
        """Record how these messages ended; returns when that is safe. A key that is gone already is passed over.

        A disk that refuses is treated as in `sending`.
        Cancelled: they are settled all the same.
        """

    def statistics(self) -> SpoolStatistics:
        """What is there, without waiting, from any thread; all that has returned is counted."""
        ...

    async def aclose(self) -> None:
        """Write what was handed over, record what was settled, and let go of everything held. Twice is fine.

        Cancelled: closing goes on, without anybody waiting for it.
        """
