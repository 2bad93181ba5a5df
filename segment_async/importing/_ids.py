"""Where messageIds come from, and which were used before in this run.

Every id that is made here depends on the write key's fingerprint: Segment deduplicates by id across sources, so the same
file under two keys must have different ids. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

from ._records import Record
from ._values import Unreadable, as_id, as_text, dumps

_REMEMBERED: Final = 200_000


def fingerprint_of(write_key: str) -> str:
    """A hash that stands for the write key in the state file and in ids."""
    # A dry run gets here with a key that the client would refuse.
    key = write_key.strip().encode(errors="surrogatepass")
    return hashlib.sha256(b"segment-async import\n" + key).hexdigest()[:16]


class MessageIds:
    """Gives every message its id.

    Args:
        mode: ``content``, ``columns``, ``row`` or ``keep``.
        columns: with ``columns``: the columns whose values make the id.
        fingerprint: of the write key.
    """

    def __init__(self, mode: str, columns: tuple[str, ...], fingerprint: str) -> None:
        self._mode = mode
        self.columns = columns
        # Copied for each id, in two thirds of the time that a new one takes.
        self._keyed = hashlib.blake2b(digest_size=16, key=fingerprint.encode())

    def assign(
        self, message: dict[str, Any], content: bytes, index: int, record: Record, cell: Callable[[Any, str], Any]
    ) -> str:
        """The id of the message, the `index`-th one of its record.

        `content` is its JSON with sorted keys; `cell` takes a column's value from a row.

        Raises:
            Unreadable: with ``keep``, the message has no id; with ``columns``, all of them are empty.
        """
        if self._mode == "content":
            return self._hash(content)
        if self._mode == "keep":
            kept = message.get("messageId")
            if kept in (None, ""):
                raise Unreadable("message-id-missing", "The message has no id to keep.", "messageId")
            return as_id(kept)
        if self._mode == "row":
            return self._hash(dumps([record.source.identity, record.number, index]))
        values = [
            None if (value := cell(record.row, column)) in (None, "") else as_text(value) for column in self.columns
        ]
        if not any(value is not None for value in values):
            raise Unreadable("message-id-missing", "All columns of the id are empty.", "messageId")
        return self._hash(dumps([*values, index] if index else values))

    def _hash(self, content: bytes) -> str:
        hashed = self._keyed.copy()
        hashed.update(content)
        return hashed.hexdigest()


def sorted_json(message: dict[str, Any]) -> bytes:
    """The message's JSON without its id, the same for equal messages."""
    if "messageId" in message:
        message = {name: value for name, value in message.items() if name != "messageId"}
    try:
        return orjson.dumps(message, None, orjson.OPT_SORT_KEYS)
    except TypeError:
        # What JSON itself does not know takes twice the time.
        return dumps(message, orjson.OPT_SORT_KEYS)


class RecentIds:
    """The last ids of a run: at least `remembered` of them, at most twice as many, so that memory is bounded.

    An id that comes again later is sent again; Segment drops it.
    """

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._new: set[str] = set()
        self._old: set[str] = set()

    def seen_before(self, message_id: str) -> bool:
        if message_id in self._new or message_id in self._old:
            return True
        self._new.add(message_id)
        if len(self._new) >= self._remembered:
            self._old, self._new = self._new, set()
        return False

    def forget(self, message_ids: Iterable[str]) -> None:
        """These were not sent after all."""
        gone = [*message_ids]
        self._new.difference_update(gone)
        self._old.difference_update(gone)
