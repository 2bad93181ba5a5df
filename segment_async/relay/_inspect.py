"""What waits in Redis for one write key, shown and changed, with or without relays at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

import orjson

from segment_async.spool._inspect import DeadLetter, PendingMessage, check_identity

from . import _checkup
from ._entries import GROUP, Entry, Fields, entry_of, fields_of_letter, is_for_newer, milliseconds, pairs_of
from ._reader import Consumer, StreamReader

_IDENTITIES: Final = ("userId", "anonymousId", "previousId")


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """What is in Redis for one write key.

    Attributes:
        fingerprint: of the write key, as in the names of the keys.
        backlog: messages that wait or are being sent.
        oldest_age: seconds since the oldest of them was appended; `None` without any.
        unread: messages that no relay was given yet.
        dead: dead letters.
        bytes: memory that the stream takes in Redis.
        unknown: messages that wait for a newer version of the relay.
    """

    fingerprint: str
    backlog: int
    oldest_age: float | None
    unread: int
    dead: int
    bytes: int
    unknown: int
    consumers: tuple[Consumer, ...]


class RelayInspector:
    """What waits in Redis for one write key.

    Every call raises `SpoolUnavailable` if Redis does not answer or refuses. Calls block; in a coroutine run them with
    `asyncio.to_thread`.

    Args:
        url: of the server.
        write_key: whose messages. `None`: of the only key that the server has messages of.
        lease: seconds, as the relays have it.

    Raises:
        ValueError: it is no URL of a server.
        SpoolUnavailable: also if there are several keys, or none, and no `write_key`.
    """

    def __init__(self, url: str, write_key: str | None = None, *, lease: float = 60.0) -> None:
        self._reader = StreamReader(url, write_key)
        self._keys = self._reader.keys
        self._lease = lease
        self.fingerprint = self._reader.fingerprint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()

    # -- looks

    def status(self) -> RelayStatus:
        """What is in the stream now, and who holds it."""
        stream, dead = self._keys.messages, self._keys.dead
        backlog, letters, first, now = self._reader.ask_each(
            ("XLEN", stream), ("XLEN", dead), ("XRANGE", stream, "-", "+", "COUNT", 1), ("TIME",)
        )
        # It may be forbidden.
        [size] = self._reader.ask_all(("MEMORY", "USAGE", stream))
        oldest = pairs_of(first)
        consumers = self._reader.consumers()
        held = sum(each.held for each in consumers)
        seconds = now[0] + now[1] / 1e6
        return RelayStatus(
            fingerprint=self.fingerprint,
            backlog=backlog,
            oldest_age=max(0.0, seconds - milliseconds(oldest[0][0]) / 1000) if oldest else None,
            unread=max(0, backlog - held),
            dead=letters,
            bytes=0 if isinstance(size, Exception) else size or 0,
            unknown=sum(each.held for each in consumers if is_for_newer(each.name.encode())),
            consumers=consumers,
        )

    def pending(self) -> Iterator[PendingMessage]:
        """Messages that wait or are being sent, the oldest first."""
        for entries in self._reader.pages(self._keys.messages):
            attempts = self._attempts(entries)
            for entry_id, fields in entries:
                entry = entry_of(entry_id, fields)
                if entry is not None:
                    accepted_at = milliseconds(entry_id) / 1000
                    yield PendingMessage(entry.message_id, entry.body, accepted_at, attempts.get(entry_id, 0))

    def _attempts(self, entries: list[Fields]) -> dict[bytes, int]:
        first, last = entries[0][0], entries[-1][0]
        reply = self._reader.ask_of_group("XPENDING", self._keys.messages, GROUP, first, last, len(entries))
        return {each[0]: max(0, each[3] - 1) for each in reply}

    def dead(self) -> Iterator[DeadLetter]:
        """Dead letters, the oldest first."""
        for _, letter in self._letters():
            yield letter

    def _letters(self) -> Iterator[tuple[Fields, DeadLetter]]:
        for entries in self._reader.pages(self._keys.dead):
            for entry_id, fields in entries:
                entry = entry_of(entry_id, {name: fields[name] for name in fields.keys() & {b"i", b"b", b"r"}})
                if entry is not None:
                    yield (entry_id, fields), _dead_letter(entry, fields)

    # -- changes

    def retry(self, is_wanted: Callable[[DeadLetter], bool]) -> int:
        """Put dead letters back, to be sent once more with the ids that they have; returns how many."""
        count = 0
        # As many as there are now: one that fails again meanwhile would be put back again and again.
        letters = islice(self._letters(), self._reader.ask("XLEN", self._keys.dead))
        # Put back first: interrupted in between, one is sent and stays a dead letter.
        for (entry_id, fields), letter in letters:
            if is_wanted(letter):
                added = self._reader.ask("XADD", self._keys.messages, "*", *fields_of_letter(fields))
                if self._reader.ask("XDEL", self._keys.dead, entry_id):
                    count += 1
                else:
                    # It was erased meanwhile, or another one has put it back.
                    self._reader.ask("XDEL", self._keys.messages, added)
        return count

    def count_of_user(self, identity: str) -> int:
        """How many messages `purge` would erase.

        Raises:
            ValueError: as `purge`.
        """
        check_identity(identity)
        return sum(_is_of(each.body, identity) for messages in (self.pending(), self.dead()) for each in messages)

    def purge(self, identity: str) -> int:
        """Erase all messages of a user, pending ones and dead letters; returns how many.

        Those whose `userId`, `anonymousId` or `previousId` it is. Redis's append-only file and snapshots contain them
        until they are written again.

        Raises:
            ValueError: `identity` is not text; all ids are sent as text.
        """
        check_identity(identity)
        count = 0
        for stream in (self._keys.messages, self._keys.dead):
            for entries in self._reader.pages(stream):
                gone = [entry_id for entry_id, fields in entries if _is_of(fields.get(b"b", b""), identity)]
                if gone:
                    count += self._reader.ask("XDEL", stream, *gone)
                    if stream == self._keys.messages:
                        self._reader.ask_all(("XACK", stream, GROUP, *gone))
        return count

    def set_aside(self) -> list[Path]:
        """Files that were kept as damaged, as a spool on disk may have them: Redis has none."""
        return []

    # -- order

    def problems(self) -> list[str]:
        """What would lose messages or hold them up, one sentence each."""
        return _checkup.problems(self._reader, self._lease)

    def repair(self) -> int:
        """Let relays have the messages that belong to a consumer that was removed. Returns how many.

        They count as attempted, as it is not known whether they were.
        """
        return _checkup.repair(self._reader, self._lease)


def _dead_letter(entry: Entry, fields: Mapping[bytes, bytes]) -> DeadLetter:
    """The dead letter in an entry, which is the message's with these fields added."""
    status = fields.get(b"status", b"")
    failed_at = float(fields.get(b"at", b"0"))
    return DeadLetter(
        entry.message_id,
        entry.body,
        float(fields.get(b"accepted", fields.get(b"at", b"0"))),
        failed_at,
        fields.get(b"reason", b"").decode(errors="replace"),
        int(status) if status else None,
        int(fields.get(b"attempts", b"0")),
        fields.get(b"possibly") == b"1",
        fields.get(b"answer", b"").decode(errors="replace"),
    )


def _is_of(body: bytes, identity: str) -> bool:
    try:
        message: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return hasattr(message, "items") and any(message.get(name) == identity for name in _IDENTITIES)
