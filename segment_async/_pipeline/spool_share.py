"""The spool's share of memory: how many of the messages that it holds may be there. The rest of the queue's bounds is
for new messages.

This file knows no spool: the intake asks how many messages may be held, and the feed how many may be read.
"""

from __future__ import annotations

from .queue import Queue


class SpoolShare:
    """Attributes:
    max_bytes: bytes of messages from the spool that may be in memory; those that wait for it come on top.
    """

    __slots__ = ("_queue", "max_bytes")

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        # Half of the bound, as of the messages: the rest is for new ones.
        self.max_bytes = max(1, queue.accounts.max_bytes // 2)

    def left(self) -> tuple[int, int]:
        """Messages, and bytes, that may be brought into memory."""
        queue, accounts = self._queue, self._queue.accounts
        held = accounts.pending - len(queue.incoming) - len(queue.appending)
        # As if all were of one size: an exact answer would need one more counter.
        held_bytes = accounts.pending_bytes * held // max(accounts.pending, 1)
        count, size = max(1, accounts.max_messages // 2) - held, self.max_bytes - held_bytes
        return (count, size) if count > 0 and size > 0 else (0, 0)
