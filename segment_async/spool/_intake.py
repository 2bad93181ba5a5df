"""Room for messages: what fits, what is there already, what has to go for it.

The size limit counts the bytes of pending messages and of dead letters. Dead letters go first, the oldest first: their
outcome is told. Then, if the caller wants it so, the oldest messages that nobody holds.

One `Intake` serves one transaction, and is thrown away with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from segment_async._outcome import BatchResult, Status

from . import _tables as tables
from ._backlog import Backlog
from ._ledger import Ledger
from ._protocol import Appended, DroppedMessage
from ._tables import Row

_STORED: Final = Appended("stored")
_KNOWN: Final = Appended("known")
_FULL: Final = Appended("full")
_MADE_ROOM: Final = BatchResult(Status.DROPPED, "queue_full")


class NewMessage(NamedTuple):
    message_id: bytes
    body: bytes
    make_room: bool


class Intake:
    """Attributes:
    base: the last position before.
    ledger: as it is to be after.
    rows: the messages taken.
    given_up: messages taken from the backlog to make room.
    """

    def __init__(self, connection: sqlite3.Connection, ledger: Ledger, backlog: Backlog, max_bytes: int) -> None:
        self.base = ledger.position
        self.ledger = ledger
        self.rows: list[Row] = []
        self.given_up: list[Row] = []
        self._connection = connection
        self._backlog = backlog
        self._max_bytes = max_bytes
        self._room = max_bytes - ledger.pending_bytes - ledger.dead_bytes
        # Where among the results each id's is.
        self._places: dict[bytes, int] = {}

    def take(self, messages: Sequence[NewMessage], now: int) -> list[Appended]:
        results: list[Appended] = []
        for message_id, body, at_any_price in messages:
            if message_id in self._places:
                results.append(_KNOWN)
                continue
            result = _STORED if len(body) <= self._room else self._make_room(len(body), at_any_price)
            if result.status == "stored":
                self._room -= len(body)
                self._places[message_id] = len(results)
                self.rows.append((self.base + 1 + len(self.rows), message_id, now, body))
            results.append(result)
        position = self.base + len(self.rows)
        if tables.insert_messages(self._connection, self.rows) < len(self.rows):
            self._leave_out_known(results)
        size = sum(len(row[3]) for row in self.rows)
        self.ledger = self.ledger.after(accepted=len(self.rows), pending_bytes=size)._replace(position=position)
        return results

    def _leave_out_known(self, results: list[Appended]) -> None:
        inserted = tables.positions_after(self._connection, self.base)
        for position, message_id, _, _ in self.rows:
            if position not in inserted:
                place = self._places[message_id]
                results[place] = results[place]._replace(status="known")
        self.rows = [row for row in self.rows if row[0] in inserted]

    def _make_room(self, size: int, at_any_price: bool) -> Appended:
        dropped: list[DroppedMessage] = []
        if size <= self._max_bytes:
            while self._room < size and self._remove_dead_letter():
                pass
            while self._room < size and at_any_price and (row := self._backlog.next(self._connection, self.base)):
                dropped.append(self._drop(row))
        return Appended("stored" if size <= self._room else "full", tuple(dropped))

    def _remove_dead_letter(self) -> bool:
        position = tables.oldest_dead(self._connection)
        if position is None:
            return False
        count, size = tables.remove_dead(self._connection, position)
        self.ledger = self.ledger.after(dead=-count, dead_bytes=-size)
        self._room += size
        return True

    def _drop(self, row: Row) -> DroppedMessage:
        position, message_id, _, body = row
        self.given_up.append(row)
        count, size = tables.remove_messages(self._connection, (position, position))
        self.ledger = self.ledger.ended(count, size, _MADE_ROOM)
        self._room += size
        return DroppedMessage(message_id.decode(), body, "queue_full")
