"""The reading side of a shard: the messages that nobody holds, oldest first.

    ┌ gone ┐┌──── held ────┐┌─── ready ───┐┌── in the store only ──┐
    └──────┘└──────────────┘└─────────────┘│                       │
                                        cursor            the ledger's position

What is appended while a reader keeps up goes to *ready* straight away and is never read back.

This file knows neither transactions nor who holds what.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

from . import _tables as tables
from ._tables import Row

_PAGE: Final = 256
"""Messages that are read in one step."""
_MAX_READY: Final = 2 * 2**20
"""Bytes of messages that wait in *ready*."""


class Backlog:
    """Attributes:
    cursor: the last position that is held, ready or gone.
    """

    def __init__(self) -> None:
        self.cursor = 0
        self._ready: deque[Row] = deque()
        self._ready_bytes = 0
        # Positions that are held, of those that are read for a second time.
        self._held: Collection[int] = ()

    def next(self, connection: sqlite3.Connection, end: int) -> Row | None:
        """Take the next message up to a position; `None` where there is none.

        Raises:
            Damaged: it is not what was written.
        """
        if not self._ready and self.cursor < end:
            self._turn_page(connection)
        if not self._ready:
            return None
        row = self._ready.popleft()
        self._ready_bytes -= len(row[3])
        return row

    def _turn_page(self, connection: sqlite3.Connection) -> None:
        while not self._ready and (rows := tables.read_messages(connection, self.cursor, _PAGE)):
            for row in rows:
                if row[0] in self._held:
                    self.cursor = row[0]
                else:
                    self._line_up(row)

    def begin_again(self, held: Collection[int]) -> None:
        """What was seen of the store may not have been all: read it anew, but for what is held."""
        self.cursor = 0
        self._ready.clear()
        self._ready_bytes = 0
        self._held = frozenset(held)

    def put_back(self, rows: Sequence[Row]) -> None:
        """To the front, in their order."""
        self._ready.extendleft(reversed(rows))
        self._ready_bytes += sum(len(row[3]) for row in rows)

    def follow(self, base: int, rows: Sequence[Row], position: int) -> None:
        """Take note of fresh messages, all those between two positions, if the reader had come so far."""
        if self.cursor != base:
            return
        for row in rows:
            if self._ready_bytes > _MAX_READY:
                return
            self._line_up(row)
        self.cursor = position

    def forget(self, message_ids: Collection[bytes]) -> None:
        """Messages that are not there any more."""
        kept = [row for row in self._ready if row[1] not in message_ids]
        self._ready.clear()
        self._ready_bytes = 0
        self.put_back(kept)

    def skip_to(self, position: int) -> None:
        """There is nothing up to this position that has not been read."""
        self.cursor = max(self.cursor, position)

    def _line_up(self, row: Row) -> None:
        self._ready.append(row)
        self._ready_bytes += len(row[3])
        self.cursor = row[0]
