"""Damage: carry what is sound over to a new file, set the damaged one aside, and keep the books right.

Every row is checked on its way, so that nothing damaged is ever sent. What cannot be read is counted as dropped, with
the reason ``damaged``. Whatever may have gone out before is marked so, because the notes of it may be among the losses.

The new file is made whole before the old one is touched. At the name ``.mended`` it is complete: whoever opens the
spool next, after whatever interruption, only has to finish the exchange.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from . import _tables as tables
from ._files import Place, sync_file
from ._ledger import Ledger, dead_checksum, message_checksum

# Fields of the first page that change in the life of a file: the change counter and the size, the list of free
# pages and the schema's number, the version that last wrote. All others are the same in every file of ours.
_CHANGING: Final = frozenset((*range(24, 44), *range(92, 100)))
_FEW_SCRATCHES: Final = 8
_MESSAGES: Final = """
    SELECT position, CAST(message_id AS BLOB), accepted_at, CAST(body AS BLOB), checksum
    FROM messages NOT INDEXED WHERE position > ? AND position < ? ORDER BY position
"""
_DEAD: Final = "SELECT * FROM dead NOT INDEXED WHERE position > ? AND position < ? ORDER BY position "
# Positions to look ahead, over what cannot be read, before the rest is given up.
_FARTHEST: Final = 2**40
_LAST: Final = 2**63 - 1


def mend_first_page(database: Path, model: Path) -> bool:
    """Restore what is known of the first page, header and table definitions, if it is scratched but recognisable."""
    with model.open("rb") as file:
        wanted = file.read(tables.PAGE_SIZE)
    with database.open("r+b") as file:
        found = file.read(tables.PAGE_SIZE)
        scratches = [at for at in range(len(found)) if at not in _CHANGING and found[at] != wanted[at]]
        if len(found) < tables.PAGE_SIZE or not 0 < len(scratches) <= _FEW_SCRATCHES:
            return False
        for at in scratches:
            os.pwrite(file.fileno(), wanted[at : at + 1], at)
        os.fsync(file.fileno())
    return True


def make_file(place: Place, fill: Callable[[sqlite3.Connection], None]) -> None:
    """Make a whole new database at the name ``.new``, safe on disk."""
    for leftover in (place.new, place.new.with_name(place.new.name + "-wal")):
        leftover.unlink(missing_ok=True)
    os.close(os.open(place.new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = tables.create(place.new)
    try:
        connection.execute("BEGIN")
        fill(connection)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    sync_file(place.new)


def carry_over(
    source: sqlite3.Connection | None, target: sqlite3.Connection, watermark: Ledger | None, now: int
) -> None:
    """Copy all that is sound, and set the ledger by what was found. `None`: nothing at all could be opened."""
    count = size = last = 0
    for row in _sound_messages(source):
        if tables.insert_messages(target, [row]):
            count, size, last = count + 1, size + len(row[3]), max(last, row[0])
    dead = list(_sound_dead_letters(source))
    tables.insert_dead(target, dead)
    ledger = _latest(source, watermark) or Ledger(accepted=count + len(dead), failed=len(dead))
    lost = ledger.pending - count
    ledger = ledger.damaged(lost) if lost > 0 else ledger.after(accepted=-lost)
    ledger = ledger._replace(
        position=max(ledger.position, last),
        pending_bytes=size,
        dead=len(dead),
        dead_bytes=sum(len(row[3]) for row in dead),
    )
    tables.store_ledger(target, ledger)
    if count:
        tables.store_attempts(target, (1, ledger.position), 1, now)


def _latest(source: sqlite3.Connection | None, watermark: Ledger | None) -> Ledger | None:
    try:
        own = None if source is None else tables.load_ledger(source)
    except (*tables.ERRORS, tables.Damaged):
        own = None
    return watermark if own is None else own.caught_up(watermark)


def _sound_messages(source: sqlite3.Connection | None) -> Iterator[tables.Row]:
    return (row[:4] for row in _readable(source, _MESSAGES, _is_sound_message))


def _sound_dead_letters(source: sqlite3.Connection | None) -> Iterator[tables.DeadRow]:
    return (row[:-1] for row in _readable(source, _DEAD, _is_sound_dead_letter))


def _is_sound_message(row: tuple[Any, ...]) -> bool:
    try:
        return bool(message_checksum(*row[:4]) == row[4])
    except (struct.error, TypeError):
        return False


def _is_sound_dead_letter(row: tuple[Any, ...]) -> bool:
    return isinstance(row[0], int) and dead_checksum(row[:-1]) == row[-1]


_Check = Callable[[tuple[Any, ...]], bool]


def _readable(source: sqlite3.Connection | None, query: str, is_sound: _Check) -> Iterator[tuple[Any, ...]]:
    """The sound rows in the order of their positions, stepping over pages that cannot be read.

    Of a row that is not sound, the position may be what is damaged: it means nothing.
    """
    last = 0
    step = 0
    while source is not None and step < _FARTHEST:
        try:
            for row in source.execute(query + "ASC", (last + step, _LAST)):
                if is_sound(row) and row[0] > last:
                    if step:
                        yield from _backwards(source, query, is_sound, last, row[0])
                    last, step = row[0], 0
                    yield row
            break
        except tables.ERRORS:
            # The page after the last row cannot be read: look beyond it, farther each time.
            step = step * 2 or 1


def _backwards(
    source: sqlite3.Connection, query: str, is_sound: _Check, after: int, before: int
) -> list[tuple[Any, ...]]:
    """Rows between two positions, from the end up to the first one that cannot be read."""
    rows: list[tuple[Any, ...]] = []
    with contextlib.suppress(*tables.ERRORS):
        for row in source.execute(query + "DESC", (after, before)):
            if is_sound(row) and after < row[0] < (rows[-1][0] if rows else before):
                rows.append(row)
    return rows[::-1]
