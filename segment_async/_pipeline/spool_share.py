"""The spool's share of memory: how many of the messages that it holds may be there. The rest of the queue's bounds is
for new messages.

What is stored may be held in memory at once, and what is on disk only is read. A read that waits until there is something
on disk may bring all that it asked for then, so both keep room for each other. This file knows no spool: the intake asks
how many messages may be held, and the feed how many may be read.
"""

from __future__ import annotations

from segment_async.messages import MAX_MESSAGE_BYTES

from .queue import Queue


class SpoolShare:
    """Attributes:
    max_bytes: bytes of messages from the spool that may be in memory; those that wait for it come on top.
    reading: messages, and bytes, that the read under way may bring.
    """

    __slots__ = ("_queue", "max_bytes", "reading")

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.reading: tuple[int, int] = (0, 0)
        # Half of the bound, as of the messages: the rest is for new ones.
        self.max_bytes = max(1, queue.accounts.max_bytes // 2)

    def left(self) -> tuple[int, int]:
        """Messages, and bytes, that may be brought into memory."""
        queue, accounts = self._queue, self._queue.accounts
        held = accounts.pending - len(queue.incoming) - len(queue.appending)
        # At most: an exact answer would need one more counter.
        held_bytes = min(accounts.pending_bytes, held * MAX_MESSAGE_BYTES)
        count, size = max(1, accounts.max_messages // 2) - held, self.max_bytes - held_bytes
        # A read brings one message at least, however large. In a small share it need not have all of it: one message that
        # never goes through would hold up the others.
        return (count, size) if count > 0 and size >= min(self.max_bytes // 2, MAX_MESSAGE_BYTES) else (0, 0)

    def to_read(self) -> tuple[int, int]:
        """What a read may ask for: all that is left if it returns at once, as there is something on disk; else half of it.

        One message at least: a call of another thread may have taken all that was left a moment ago.
        """
        count, size = self.left() if self._queue.accounts.spooled else self._half()
        return max(1, count), size

    def to_hold(self) -> tuple[int, int]:
        """How much of what is being stored may be held at once: what no read may bring."""
        (count, size), half = self.left(), self._half()
        return max(0, count - max(half[0], self.reading[0])), max(0, size - max(half[1], self.reading[1]))

    def _half(self) -> tuple[int, int]:
        """Of what is left, and one message at least."""
        count, size = self.left()
        return -(-count // 2), -(-size // 2)
