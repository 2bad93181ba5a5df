"""The tables of one shard: their schema, their statements, a checksum for each row, and the counters.

Python's sqlite3 releases the interpreter's lock at each step of a statement, and beside a busy event loop it takes up
to five milliseconds to get it back. So a statement here does in one step what it does for many messages.

Nothing here begins or ends a transaction, opens a file, or decides anything.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from typing import Any, Final, NamedTuple
from zlib import crc32

import orjson

from segment_async._outcome import BatchResult, Counts

PAGE_SIZE: Final = 4096
PAGE: Final = 512
"""Rows that one statement reads, and parameters that one takes: old versions of SQLite take 999."""
_MAX_PARAMETERS: Final = 768

# A file whose tables were made with other words, or other white space, counts as damaged. So a change here needs a new
# `FORMAT` in `_files.py`, and so does a new field of `Counters`.
SCHEMA: Final = [
    "CREATE TABLE counters (id INTEGER PRIMARY KEY, content BLOB NOT NULL)",
    # Pending messages. The position is their order of acceptance, and is never used twice.
    """CREATE TABLE messages (
        position INTEGER PRIMARY KEY, message_id BLOB NOT NULL UNIQUE, accepted_at INTEGER NOT NULL,
        checksum INTEGER NOT NULL, body BLOB NOT NULL)""",
    "CREATE TABLE attempts (position INTEGER PRIMARY KEY, number INTEGER NOT NULL, checksum INTEGER NOT NULL)",
    # Messages that failed; `failure` is a packed `Failure`, and `checksum` the message's own.
    """CREATE TABLE dead (
        position INTEGER PRIMARY KEY, message_id BLOB NOT NULL, accepted_at INTEGER NOT NULL, body BLOB NOT NULL,
        checksum INTEGER NOT NULL, failure BLOB NOT NULL)""",
    # Messages erased by another process, until the one that uses the file has noticed.
    "CREATE TABLE purged (position INTEGER PRIMARY KEY, message_id BLOB NOT NULL)",
]
# Without SQLite's own tables, which analysis tools may have added.
_SCHEMA_QUERY: Final = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid"

# SQLite quotes a damaged file in its errors, and Python fails if the quote is not UTF-8.
ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)


class Damaged(Exception):
    """The file says something that cannot be true."""


def create(connection: sqlite3.Connection) -> None:
    for statement in SCHEMA:
        connection.execute(statement)
    store_counters(connection, Counters())


def check_schema(connection: sqlite3.Connection) -> None:
    """Raise `Damaged` unless the tables are as this version creates them."""
    if [sql for (sql,) in connection.execute(_SCHEMA_QUERY).fetchall()] != SCHEMA:
        raise Damaged("the tables are not as they were created")


def _pack(values: Sequence[object]) -> bytes:
    """Values as JSON, with a checksum."""
    content = orjson.dumps(values)
    return crc32(content).to_bytes(4, "big") + content


def _unpack(packed: object) -> list[Any]:
    """Raises `Damaged` if these are not packed values; a damaged row may have another type."""
    if not isinstance(packed, bytes) or crc32(packed[4:]) != int.from_bytes(packed[:4], "big") or len(packed) < 5:
        raise Damaged("a row does not match its checksum")
    values: list[Any] = orjson.loads(packed[4:])
    return values


# -- the counters


class Counters(NamedTuple):
    """The counters of a shard: `accepted == delivered + failed + dropped + pending`.

    Attributes:
        revision: number of transactions. `position`: the last one given out.
        clock, wall: the clock that messages age by and the wall clock at the last transaction, in milliseconds.
        fingerprint: of the write key and host that the spool belongs to; empty until a client has written.
        reasons: how many messages failed or were dropped, by reason.
    """

    revision: int = 0
    position: int = 0
    accepted: int = 0
    delivered: int = 0
    failed: int = 0
    dropped: int = 0
    pending_bytes: int = 0
    dead: int = 0
    dead_bytes: int = 0
    clock: int = 0
    wall: int = 0
    fingerprint: str = ""
    reasons: Mapping[str, int] = Counts()

    @property
    def pending(self) -> int:
        return self.accepted - self.delivered - self.failed - self.dropped

    def plus(self, **changes: int) -> Counters:
        return self._replace(**{name: getattr(self, name) + change for name, change in changes.items()})

    def settled(self, count: int, size: int, result: BatchResult) -> Counters:
        """The counters after this many pending messages, of this many bytes together, ended like this."""
        counters = self.plus(**{result.status.value: count}, pending_bytes=-size)
        return counters if result.reason is None else counters.with_reason(result.reason, count)

    def with_reason(self, reason: str, change: int) -> Counters:
        reasons = {**self.reasons, reason: self.reasons.get(reason, 0) + change}
        return self._replace(reasons={word: count for word, count in reasons.items() if count})

    def pack(self) -> bytes:
        return _pack([*self[:-1], dict(self.reasons)])

    @classmethod
    def unpack(cls, packed: object) -> Counters:
        """Raises `Damaged` if it does not match its checksum."""
        return cls(*_unpack(packed))


def load_counters(connection: sqlite3.Connection) -> Counters:
    """Raises `Damaged` if the row does not match its checksum."""
    row = connection.execute("SELECT content FROM counters").fetchone()
    if row is None:
        raise Damaged("the counters are missing")
    return Counters.unpack(row[0])


def store_counters(connection: sqlite3.Connection, counters: Counters) -> None:
    connection.execute("INSERT OR REPLACE INTO counters VALUES (1, ?)", (counters.pack(),))


# -- messages


class Failure(NamedTuple):
    """Why a message failed; the same for all of a batch."""

    reason: str
    status_code: int | None
    attempts: int
    possibly_delivered: bool
    failed_at: int
    answer: str


class Row(NamedTuple):
    """A message as stored; the packed failure is a dead letter's."""

    position: int
    message_id: bytes
    accepted_at: int
    body: bytes
    checksum: int
    packed_failure: bytes = b""

    @property
    def size(self) -> int:
        return len(self.body)

    @property
    def is_sound(self) -> bool:
        """Whether the message is what was written; a damaged row may have other types."""
        try:
            start = crc32(_POSITION_AND_TIME.pack(self.position, self.accepted_at) + self.message_id)
            return crc32(self.body, start) == self.checksum
        except (struct.error, TypeError):
            return False

    @property
    def failure(self) -> Failure:
        """Raises `Damaged` if it does not match its checksum."""
        return Failure(*_unpack(self.packed_failure))


def sound_row(values: Sequence[Any]) -> Row | None:
    """The message or dead letter, if all of it is what was written."""
    row = Row(*values)
    with suppress(Damaged):
        if row.is_sound and (len(values) < len(Row._fields) or _unpack(row.packed_failure)):
            return row
    return None


class Head(NamedTuple):
    """What is known of a message without reading its body."""

    position: int
    accepted_at: int
    checksum: int
    id_size: int
    size: int


_POSITION_AND_TIME: Final = struct.Struct(">qq")


def _rows(first: int, accepted_at: int, messages: Sequence[tuple[bytes, bytes]]) -> list[tuple[Any, ...]]:
    pack = _POSITION_AND_TIME.pack
    return [
        # The checksum of a `Row`, without making one.
        (position, message_id, accepted_at, crc32(body, crc32(pack(position, accepted_at) + message_id)), body)
        for position, (message_id, body) in enumerate(messages, first)
    ]


def insert_messages(
    connection: sqlite3.Connection, first: int, accepted_at: int, messages: Sequence[tuple[bytes, bytes]]
) -> int:
    """Insert messages, by id and body, from this position on; returns how many, because pending ids are ignored."""
    return insert(connection, "messages", _rows(first, accepted_at, messages), "IGNORE")


FEW: Final = 32
"""Messages that `append` takes: it has a statement for each number of them."""

_APPEND: Final = """
    CREATE TEMP VIEW appended AS SELECT position, message_id, accepted_at, checksum, body FROM messages;
    CREATE TEMP TRIGGER append_message INSTEAD OF INSERT ON appended WHEN NEW.position IS NOT NULL BEGIN
        INSERT INTO messages VALUES (NEW.position, NEW.message_id, NEW.accepted_at, NEW.checksum, NEW.body);
    END;
    CREATE TEMP TRIGGER append_counters INSTEAD OF INSERT ON appended WHEN NEW.position IS NULL BEGIN
        UPDATE counters SET content = NEW.body WHERE content = NEW.message_id;
        SELECT RAISE(ABORT, 'the counters have changed') WHERE changes() = 0;
    END;
"""


def prepare_append(connection: sqlite3.Connection) -> None:
    """Make what `append` needs; it is the connection's own, and not in the file."""
    connection.executescript(_APPEND)


def append(
    connection: sqlite3.Connection,
    accepted_at: int,
    messages: Sequence[tuple[bytes, bytes]],
    before: Counters,
    after: Counters,
) -> bool:
    """Insert a few messages and store the counters, in one statement that is a transaction of its own.

    `False`: nothing is changed, because an id is pending, or the counters in the file are not those `before`.
    """
    rows = [*_rows(before.position + 1, accepted_at, messages), (None, before.pack(), 0, 0, after.pack())]
    try:
        connection.execute(_insertion("ABORT", "appended", 5, len(rows)), tuple(chain.from_iterable(rows)))
    except sqlite3.IntegrityError:
        return False
    return True


def find_ids(connection: sqlite3.Connection, message_ids: Sequence[bytes]) -> dict[bytes, int]:
    """The positions of those of the ids that are pending."""
    query = "SELECT message_id, position FROM messages WHERE message_id IN ({})"
    return dict(_for_each(connection, query, message_ids))


def find_positions(connection: sqlite3.Connection, positions: Sequence[int], table: str = "messages") -> set[int]:
    """Those of the positions at which the table has a row."""
    query = f"SELECT group_concat(position) FROM {table} WHERE position IN ({{}})"  # noqa: S608 -- a constant
    texts = _for_each(connection, query, positions)
    return {int(position) for (text,) in texts if text is not None for position in str(text).split(",")}


_HEADS: Final = """
    SELECT group_concat(position || ' ' || accepted_at || ' ' || checksum || ' ' || id_size || ' ' || body_size)
    FROM (SELECT position, accepted_at, checksum, length(message_id) AS id_size, length(body) AS body_size
          FROM messages WHERE position > ? ORDER BY position LIMIT ?)
"""


def read_heads(connection: sqlite3.Connection, after: int, count: int = PAGE) -> list[Head]:
    """The next messages after a position, without their bodies. Raises `Damaged` if they are not in order."""
    [text] = connection.execute(_HEADS, (after, count)).fetchone()
    try:
        heads = [] if text is None else [Head(*map(int, head.split())) for head in text.split(",")]
    except (ValueError, TypeError):
        raise Damaged("the numbers of a message are not numbers") from None
    for head in heads:
        if head.position <= after:
            raise Damaged(f"the message at {head.position} is out of order")
        after = head.position
    return heads


_BODIES: Final = """
    SELECT CAST(group_concat(message_id, '') AS BLOB), CAST(group_concat(body, '') AS BLOB)
    FROM (SELECT message_id, body FROM messages WHERE position IN ({}) ORDER BY position)
"""


def read_rows(connection: sqlite3.Connection, heads: Sequence[Head]) -> list[Row]:
    """These messages with their bodies. Raises `Damaged` if one is not what was written."""
    contents = _for_each(connection, _BODIES, [head.position for head in heads])
    ids, bodies = (
        b"".join(part or b"" for part in parts) for parts in (zip(*contents, strict=True) if heads else ((), ()))
    )
    rows: list[Row] = []
    id_start = body_start = 0
    for position, accepted_at, checksum, id_size, size in heads:
        id_end, body_end = id_start + id_size, body_start + size
        row = Row(position, ids[id_start:id_end], accepted_at, bodies[body_start:body_end], checksum)
        if not row.is_sound:
            raise Damaged(f"the message at {position} does not match its checksum")
        rows.append(row)
        id_start, body_start = id_end, body_end
    return rows


def read_messages(connection: sqlite3.Connection, after: int, count: int) -> list[Row]:
    """The next messages after a position, with their bodies. Raises `Damaged` as `read_heads` and `read_rows` do."""
    return read_rows(connection, read_heads(connection, after, count))


def remove_messages(connection: sqlite3.Connection, positions: Sequence[int]) -> tuple[int, int]:
    """Remove those of the messages that are there; returns how many there were, and their bytes."""
    query = "SELECT count(*), coalesce(sum(length(body)), 0) FROM messages WHERE position IN ({})"
    found = _for_each(connection, query, positions)
    remove(connection, "messages", positions)
    remove(connection, "attempts", positions)
    return sum(count for count, _ in found), sum(size for _, size in found)


# -- attempts


def store_attempts(connection: sqlite3.Connection, positions: Sequence[int], number: int) -> None:
    """Note the `number`-th request with these messages."""
    insert(connection, "attempts", [(each, number, _attempt_checksum(each, number)) for each in positions])


def load_attempts(connection: sqlite3.Connection, positions: Sequence[int]) -> dict[int, int]:
    """Requests noted for these messages. Raises `Damaged` if a row does not match its checksum."""
    rows = _for_each(connection, "SELECT * FROM attempts WHERE position IN ({})", positions)
    if not all(_attempt_checksum(position, number) == checksum for position, number, checksum in rows):
        raise Damaged("an attempt does not match its checksum")
    return {position: number for position, number, _ in rows}


def _attempt_checksum(position: int, number: int) -> int:
    return crc32(f"{position} {number}".encode())


# -- dead letters


_MOVE: Final = """
    INSERT OR REPLACE INTO dead
    SELECT position, message_id, accepted_at, body, checksum, ? FROM messages WHERE position IN ({})
"""


def move_to_dead_letters(
    connection: sqlite3.Connection, positions: Sequence[int], result: BatchResult, answer: str, now: int
) -> None:
    """Copy these messages to the dead letters; the caller removes them."""
    failure = Failure(result.reason or "", result.status_code, result.attempts, result.possibly_delivered, now, answer)
    _for_each(connection, _MOVE, positions, (_pack(list(failure)),))


def read_dead(connection: sqlite3.Connection, after: int, count: int) -> list[Row]:
    """Raises `Damaged` if one of them is not what was written."""
    query = "SELECT * FROM dead WHERE position > ? ORDER BY position LIMIT ?"
    letters = [sound_row(values) for values in connection.execute(query, (after, count)).fetchall()]
    if None in letters:
        raise Damaged("a dead letter does not match its checksum")
    return [letter for letter in letters if letter is not None]


def read_purged(connection: sqlite3.Connection) -> dict[int, bytes]:
    return dict(connection.execute("SELECT position, message_id FROM purged").fetchall())


# -- statements for many rows


def remove(connection: sqlite3.Connection, table: str, positions: Sequence[int]) -> None:
    _for_each(connection, f"DELETE FROM {table} WHERE position IN ({{}})", positions)  # noqa: S608 -- a constant


def insert(connection: sqlite3.Connection, table: str, rows: Sequence[tuple[Any, ...]], how: str = "REPLACE") -> int:
    """Returns how many were inserted; `how`: what happens to a row that is there already."""
    inserted = start = 0
    while start < len(rows):
        # Powers of two, so that few statements serve any number of rows.
        width = len(rows[0])
        size = 1 << min(len(rows) - start, _MAX_PARAMETERS // width).bit_length() - 1
        values = tuple(chain.from_iterable(rows[start : start + size]))
        inserted += connection.execute(_insertion(how, table, width, size), values).rowcount
        start += size
    return inserted


@cache
def _insertion(how: str, table: str, width: int, size: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"INSERT OR {how} INTO {table} VALUES {', '.join([row] * size)}"  # noqa: S608 -- constants


def _for_each(
    connection: sqlite3.Connection, query: str, values: Sequence[Any], first: Iterable[Any] = ()
) -> list[tuple[Any, ...]]:
    """Run the query for these values, a page at a time, and return all its rows."""
    rows: list[tuple[Any, ...]] = []
    for start in range(0, len(values), PAGE):
        part = tuple(values[start : start + PAGE])
        # Filled up to a power of two with its last value, so that few statements serve any number of values.
        size = 1 << (len(part) - 1).bit_length()
        values_of_part = (*first, *part, *part[-1:] * (size - len(part)))
        rows += connection.execute(_with_values(query, size), values_of_part).fetchall()
    return rows


@cache
def _with_values(query: str, size: int) -> str:
    return query.format(", ".join("?" * size))
