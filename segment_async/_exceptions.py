"""The errors, sorted by who must act.

    SegmentError
    ├── MessageError (ValueError)      the call is wrong: raised where it was made
    │   └── MessageTooLarge            Segment would refuse it for its size
    ├── QueueFull                      only under overflow="raise"
    ├── ClientClosed (RuntimeError)    the call came after aclose()
    ├── SpoolUnavailable               the disk, or the relay's Redis, refused; not accepted, unless `maybe_stored`
    └── DeliveryError                  an accepted message failed or was dropped
    TransportError                     what a Transport raises: no usable answer

No error here ever holds a message's values, the write key or a token: they end up in logs.
"""

from __future__ import annotations

import traceback
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._outcome import Outcome


class SegmentError(Exception):
    """The root of what this library raises to an application."""


class MessageError(SegmentError, ValueError):
    """The call is wrong: Segment would refuse the message, or answer 200 and drop it.

    Attributes:
        path: the field as it is called on the wire, such as ``userId`` or ``properties.cart[3].owner``.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem

    def __reduce__(self) -> tuple[type[MessageError], tuple[str, str]]:
        return type(self), (self.path, self.problem)


class MessageTooLarge(MessageError):
    """The message is larger than Segment takes, or than the queue could ever hold.

    Attributes:
        size: bytes of the message's JSON.
        limit: bytes that it may have.
    """

    def __init__(self, size: int, limit: int, largest: dict[str, int]) -> None:
        fields = ", ".join(f"{path} ({length:,} bytes)" for path, length in largest.items())
        path = next(iter(largest), "message")
        super().__init__(path, f"the message has {size:,} bytes, the limit is {limit:,}; its largest fields: {fields}")
        self.size = size
        self.limit = limit
        self._largest = largest

    def __reduce__(self) -> tuple[type[MessageTooLarge], tuple[int, int, dict[str, int]]]:  # type: ignore[override]
        # The signature differs from the parent's, and so does what rebuilds it.
        return type(self), (self.size, self.limit, self._largest)


class QueueFull(SegmentError):
    """The queue is full and the client was made with ``overflow="raise"``; the message was not accepted."""


class ClientClosed(SegmentError, RuntimeError):
    """The client was closed; the message was not accepted."""


class SpoolUnavailable(SegmentError):
    """The spool could not store the message; it was not accepted, as far as is known.

    Attributes:
        maybe_stored: the spool did not answer in time, or its reply was lost: the message may be stored and delivered anyway.
    """

    def __init__(self, text: str = "", *, maybe_stored: bool = False) -> None:
        super().__init__(text)
        self.maybe_stored = maybe_stored

    def __reduce__(self) -> tuple[partial[SpoolUnavailable], tuple[object, ...]]:
        return partial(type(self), maybe_stored=self.maybe_stored), self.args


class DeliveryError(SegmentError):
    """An accepted message, or several of one batch, did not reach Segment.

    Attributes:
        outcome: what became of the message (of the first one, where several are reported together).
    """

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        status = f", status {outcome.status_code}" if outcome.status_code is not None else ""
        where = f" to {outcome.location}" if outcome.location is not None else ""
        super().__init__(f"message {outcome.message_id} {outcome.status.value}: {outcome.reason}{where}{status}")

    def __reduce__(self) -> tuple[type[DeliveryError], tuple[Outcome]]:
        return type(self), (self.outcome,)


class TransportError(Exception):
    """There is no usable answer: refused, reset, timed out, not resolved, garbage.

    Attributes:
        maybe_sent: any byte of the request may have left, so that the server may have taken it.
        stale_connection: a pooled connection turned out to be closed; one more try at once is worth it.
        timed_out: the request was under way, and the time for it was over: fewer bytes may get through.
    """

    def __init__(self, text: str, *, maybe_sent: bool, stale_connection: bool = False, timed_out: bool = False) -> None:
        super().__init__(text)
        self.maybe_sent = maybe_sent
        self.stale_connection = stale_connection
        self.timed_out = timed_out

    def __reduce__(self) -> tuple[partial[TransportError], tuple[object, ...]]:
        copy: partial[TransportError]
        copy = partial(type(self), maybe_sent=self.maybe_sent, stale_connection=self.stale_connection)
        if self.timed_out:
            # A subclass may not know it.
            copy = partial(copy, timed_out=True)
        return copy, self.args


def stack_of(error: BaseException) -> str:
    """Where an error was raised, for a log: no text, source line or local variable, which may hold a message's values."""
    places = traceback.extract_tb(error.__traceback__)
    lines = (f'  File "{place.filename}", line {place.lineno}, in {place.name}\n' for place in places)
    return "".join((*lines, type(error).__qualname__))
