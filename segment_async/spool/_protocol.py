"""The protocol of a spool: what keeps accepted messages safe while they wait, in two roles.

The **intake** takes messages. The **outlet** gives them out again and learns how they ended. An engine may be both, as
SQLite is; a host of a fleet may have the intake alone, while another process works the outlet.

    append ─► safe, pending ─► read ─► held ─► sending ─► settle ─► delivered: gone
                  ▲                      │         │            └─► failed: kept as a dead letter
                  │                      │         │            └─► dropped: gone, with a reason
                  └── the hold ended ◄───┴─────────┘  (process died, lease expired)

    accepted == delivered + failed + dropped + handed_over + pending        at every instant, and across restarts

Rules for an engine:

- Every call may come from any thread and any event loop. Nothing is bound to the loop that made it.
- Calls take effect in the order in which they are made.
- The files are opened, or the server is reached, at the first call, not at construction.
- After a fork the child starts with nothing held and nothing appended; what the parent has stays the parent's.

An engine whose stored messages are delivered by several processes has a true attribute `shared`, as a Redis stream
does: what a client appends there is handed over, and what it reads may come from any process. An engine without the
attribute is not shared.

The only user of the protocol is the client's spool feed. This file knows no disk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult, Counts

AppendStatus = Literal["stored", "known", "full"]


def without_body(message: Any) -> str:
    """The `repr` of a message: bodies are personal data, and must not end up in logs."""
    values = message._asdict() | {"body": f"<{len(message.body)} bytes>"}
    return f"{type(message).__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"


class NewMessage(NamedTuple):
    """A message to append; `body` is its JSON."""

    message_id: str
    body: bytes

    def __repr__(self) -> str:
        return without_body(self)


class Appended(NamedTuple):
    """What became of one appended message.

    Attributes:
        status: ``stored``: safe. ``known``: a message with this id is pending already; the new one is not stored and
            not counted. ``full``: no room; the message was not taken.
        key: names the message to `sending` and `settle`. `None` with ``full``, and in a shared spool.
        held: this process holds the message as if `read` had returned it; no `read` will return it.
    """

    status: AppendStatus
    key: int | None = None
    held: bool = False


class DroppedMessage(NamedTuple):
    """A message that the spool itself gave up while no process held it; the spool has counted it as dropped.

    `reason` is ``queue_full`` (made room for a newer one), ``too_old``, ``purged`` or ``damaged`` (lost on disk).
    `body` is empty for the last two, and so is `message_id` for the last: they are not known any more. `key` is the one
    that its append was answered with; `None`: not known.
    """

    message_id: str
    body: bytes
    reason: str
    key: int | None = None

    def __repr__(self) -> str:
        return without_body(self)


class AppendResult(NamedTuple):
    """Answers to one `append_nowait`, in the order of its messages, and what was dropped to make room for them."""

    answers: Sequence[Appended]
    dropped: Sequence[DroppedMessage] = ()


class TryLater(NamedTuple):
    """The spool took none of the messages, and callers need not know: keep them in memory and append them again.

    Only from a spool that was configured for that. `seconds`: until the next try.
    """

    seconds: float


class StoredMessage(NamedTuple):
    """A message that `read` returned: this process holds it until it is settled, or the hold ends.

    Attributes:
        key: names the message to `sending` and `settle`, and means nothing else.
        attempts: requests noted by earlier holders. Above zero the message is possibly delivered.
    """

    key: int
    message_id: str
    body: bytes
    attempts: int = 0

    def __repr__(self) -> str:
        return without_body(self)


class Window(NamedTuple):
    """What `read` returns: messages to send, and those that the spool gave up since the last `read`.

    `knows_all`: all that earlier processes left is counted in `statistics().recovered`; a flush waits until it is.
    """

    messages: Sequence[StoredMessage]
    dropped: Sequence[DroppedMessage] = ()
    knows_all: bool = True


@dataclass(frozen=True, slots=True)
class SpoolStatistics:
    """One consistent look at what this process holds of a spool; the counters go on across restarts.

    What another process left stays counted here once it is settled, except for its dead letters.

    `accepted == delivered + failed + dropped + handed_over + pending`, always. Of a shared spool these are the messages
    that this process appended, which are handed over, and those that it read.

    Attributes:
        accepted: messages ever taken.
        handed_over: messages whose delivery is another process's business.
        pending_bytes: bytes of JSON of the pending messages.
        recovered: messages that other processes had left behind when this one opened or adopted their part, and dead
            letters that were put back since.
        dead: dead letters kept; `dead_bytes`: their bytes of JSON.
        disk_bytes: size of the files.
        unrecorded: attempts and outcomes that the disk has not taken yet. They are kept and tried again; if the
            process ended now, their messages would be sent once more.
        damages: times that damage was found since this process opened the spool.
        reasons: how many messages failed or were dropped, by reason.
        capacity: bytes of JSON that this process may keep there; 0: as much as there is room.
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
    disk_bytes: int = 0
    unrecorded: int = 0
    damages: int = 0
    reasons: Mapping[str, int] = field(default_factory=Counts)
    handed_over: int = 0
    capacity: int = 0


class Intake(Protocol):
    """Takes messages and keeps them safe."""

    def claim(self, fingerprint: str) -> None:
        """Called once, when a client is constructed: the spool belongs to this write key and host from now on.

        `fingerprint` is a hash of both. Nothing may be written yet; an engine that finds other owners' messages refuses.

        Raises:
            ValueError: the spool holds messages of another key or host, or the path cannot be a spool.
        """

    def append_nowait(
        self,
        messages: Sequence[NewMessage],
        done: Callable[[AppendResult | TryLater | SpoolUnavailable], None],
        *,
        hold: int = 0,
        make_room: bool = False,
    ) -> None:
        """Take a group of messages without waiting; they are safe once `done` was called with an `AppendResult`.

        `done` is called exactly once, on any thread; it returns at once and does not raise. With `SpoolUnavailable`
        none of the messages was taken; its `maybe_stored` says that a reply was lost and they may be there anyway. With
        `TryLater` the caller keeps the messages, and appends the same group again.

        `hold`: up to so many of the messages, from the first on, may be held by this process right away, but only if
        no older message waits to be read, and the last window has been put away: a new `read` says so. An engine may
        always hold none. `make_room`: if the spool is full, drop the oldest messages that are not held.

        Raises:
            SpoolUnavailable: the spool was closed; `done` is not called.
        """

    def statistics(self) -> SpoolStatistics:
        """What is there now, without waiting, from any thread; everything that was answered is counted."""
        ...

    async def aclose(self) -> None:
        """Write what was appended, record what was settled, and release every hold. Calling it twice is fine.

        Cancelled: closing goes on in the background.
        """


class Outlet(Protocol):
    """Gives stored messages out and learns how they ended."""

    async def read(self, max_count: int, max_bytes: int) -> Window:
        """Wait for messages that no process holds, and hold them: the oldest first, at least one whatever its size.

        Returns as soon as there is anything, without waiting for the window to fill. The first call of a process
        returns at once, with an empty window if need be; so does the first one that `knows_all`. One `read` at a
        time; a new one replaces an earlier one whose loop stands still, which holds nothing from then on. Cancelled:
        nothing is held by it.

        Raises:
            SpoolUnavailable: the disk cannot be read for now, or the spool was closed.
        """
        ...

    async def sending(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        """Note that a request with these messages is about to go out, their `attempt`-th. Returns when that is safe.

        Returns the keys whose hold has ended: another process may have them, and the caller does not send them.
        SQLite never returns any. A disk that refuses does not stop the sending: the note is kept in memory, counted
        as `unrecorded`, and written later. Cancelled: the attempt may have been noted, which does no harm.
        """
        ...

    async def settle(self, keys: Sequence[int], result: BatchResult, answer: str = "") -> None:
        """Record how these messages ended; returns when that is safe. Keys that are gone already are passed over.

        Failed messages are kept as dead letters with the reason, the status code and `answer`, the beginning of the
        server's answer text. A disk that refuses is treated as in `sending`. Cancelled: they are settled all the same.
        """

    async def aclose(self) -> None:
        """As `Intake.aclose`; an engine that is both closes once."""


class Spool(Intake, Outlet, Protocol):
    """Both roles: what `Client(spool=...)` takes to deliver by itself."""


def is_shared(spool: Intake) -> bool:
    """Whether several processes deliver what the spool stores."""
    return bool(getattr(spool, "shared", False))
