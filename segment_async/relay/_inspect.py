"""What waits in Redis for one write key, shown and changed, with or without relays at work.

Entries are read page by page, so that memory stays flat and no command holds the server up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import orjson

try:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError, ResponseError
    from redis.retry import Retry
except ImportError as _error:
    raise ImportError('segment_async.relay requires the extra "redis": pip install "segment-async[redis]"') from _error

from segment_async._exceptions import SpoolUnavailable
from segment_async.spool._inspect import DeadLetter, PendingMessage

from ._entries import (
    GROUP,
    RELEASED,
    UNKNOWN,
    Entry,
    Fields,
    entry_of,
    fields_of_letter,
    info_of,
    is_for_newer,
    keys_for,
    milliseconds,
    order,
    pairs_of,
)

_PAGE: Final = 500
_SECONDS: Final = 10.0
_IDENTITIES: Final = ("userId", "anonymousId", "previousId")
_RAW: Final = ("HGETALL", "INFO", "XCLAIM", "XPENDING", "XRANGE", "XREVRANGE")


class Consumer(NamedTuple):
    """A relay, as Redis knows it; or ``released``, with what relays gave back; or one with entries for a newer version.

    Attributes:
        held: entries that it holds.
        idle: seconds since it last asked for something.
    """

    name: str
    held: int
    idle: float


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
        SpoolUnavailable: also if there are several keys, or none, and no `write_key`.
    """

    def __init__(self, url: str, write_key: str | None = None, *, lease: float = 60.0) -> None:
        make: Any = getattr(Redis, "from_url")  # noqa: B009  # its type is incomplete: hides it from the type checkers
        self._client: Any = make(
            url, retry=Retry(NoBackoff(), 0), protocol=2, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS
        )
        for command in _RAW:
            self._client.set_response_callback(command, _as_it_came)
        self._lease = int(lease * 1000)
        if write_key is not None:
            self.fingerprint: str = hashlib.sha256(write_key.strip().encode()).hexdigest()[:16]
        else:
            self.fingerprint = self._only_fingerprint()
        self._keys = keys_for(self.fingerprint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _only_fingerprint(self) -> str:
        with _unavailable():
            names = [
                *self._client.scan_iter("segment:{*}:m", 1_000),
                *self._client.scan_iter("segment:{*}:dead", 1_000),
            ]
        found: list[str] = sorted({name.partition(b"{")[2].partition(b"}")[0].decode() for name in names})
        if len(found) != 1:
            what = "no messages of any write key" if not found else f"messages of {len(found)} write keys"
            raise SpoolUnavailable(f"Redis has {what}: set SEGMENT_WRITE_KEY")
        return found[0]

    # -- looks

    def status(self) -> RelayStatus:
        """What is in the stream now, and who holds it."""
        stream, dead = self._keys.messages, self._keys.dead
        backlog, letters, first, now, size = self._ask_all(
            ("XLEN", stream),
            ("XLEN", dead),
            ("XRANGE", stream, "-", "+", "COUNT", 1),
            ("TIME",),
            ("MEMORY", "USAGE", stream),
        )
        oldest = pairs_of(first)
        consumers = self._consumers()
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

    def _consumers(self) -> tuple[Consumer, ...]:
        try:
            with _unavailable():
                reply = self._client.execute_command("XINFO", "CONSUMERS", self._keys.messages, GROUP)
        except SpoolUnavailable as error:
            if isinstance(error.__cause__, ResponseError):
                # No relay was ever here.
                return ()
            raise
        found = map(info_of, reply)
        return tuple(Consumer(each[b"name"].decode(), each[b"pending"], each[b"idle"] / 1000) for each in found)

    def pending(self) -> Iterator[PendingMessage]:
        """Messages that wait or are being sent, the oldest first."""
        for entries in self._pages(self._keys.messages):
            attempts = self._attempts(entries)
            for entry_id, fields in entries:
                entry = entry_of(entry_id, fields)
                if entry is not None:
                    accepted_at = milliseconds(entry_id) / 1000
                    yield PendingMessage(entry.message_id, entry.body, accepted_at, attempts.get(entry_id, 0))

    def _attempts(self, entries: list[Fields]) -> dict[bytes, int]:
        first, last = entries[0][0], entries[-1][0]
        [reply] = self._ask_all(("XPENDING", self._keys.messages, GROUP, first, last, len(entries)))
        return {} if isinstance(reply, Exception) else {each[0]: max(0, each[3] - 1) for each in reply}

    def dead(self) -> Iterator[DeadLetter]:
        """Dead letters, the oldest first."""
        for _, letter in self._letters():
            yield letter

    def _letters(self) -> Iterator[tuple[Fields, DeadLetter]]:
        for entries in self._pages(self._keys.dead):
            for entry_id, fields in entries:
                entry = entry_of(entry_id, {name: fields[name] for name in fields.keys() & {b"i", b"b", b"r"}})
                if entry is not None:
                    yield (entry_id, fields), _dead_letter(entry, fields)

    def _pages(self, stream: bytes, last: bytes = b"+") -> Iterator[list[Fields]]:
        start = b"-"
        while True:
            [reply] = self._ask_all(("XRANGE", stream, start, last, "COUNT", _PAGE))
            entries = pairs_of(_checked(reply))
            if not entries:
                return
            yield entries
            start = b"(" + entries[-1][0]

    # -- changes

    def retry(self, is_wanted: Callable[[DeadLetter], bool]) -> int:
        """Put dead letters back, to be sent once more with the ids that they have; returns how many."""
        count = 0
        # Put back first: interrupted in between, one is sent and stays a dead letter.
        for (entry_id, fields), letter in self._letters():
            if is_wanted(letter):
                add = ("XADD", self._keys.messages, "*", *fields_of_letter(fields))
                _checked(self._ask_all(add)[0])
                _checked(self._ask_all(("XDEL", self._keys.dead, entry_id))[0])
                count += 1
        return count

    def count_of_user(self, identity: str) -> int:
        """How many messages `purge` would erase."""
        return sum(_is_of(each.body, identity) for messages in (self.pending(), self.dead()) for each in messages)

    def purge(self, identity: str) -> int:
        """Erase all messages of a user, pending ones and dead letters; returns how many.

        Those whose `userId`, `anonymousId` or `previousId` it is. Redis's append-only file and snapshots contain them
        until they are written again.
        """
        count = 0
        for stream in (self._keys.messages, self._keys.dead):
            for entries in self._pages(stream):
                gone = [entry_id for entry_id, fields in entries if _is_of(fields.get(b"b", b""), identity)]
                if gone:
                    count += _checked(self._ask_all(("XDEL", stream, *gone))[0])
                    if stream == self._keys.messages:
                        self._ask_all(("XACK", stream, GROUP, *gone))
        return count

    def set_aside(self) -> list[Path]:
        """Files that were kept as damaged, as a spool on disk may have them: Redis has none."""
        return []

    def problems(self) -> list[str]:
        """What would lose messages or hold them up, one sentence each."""
        found = self._problems_of_server()
        orphans = len(self._orphans())
        if orphans:
            found.append(
                f"{orphans:,} messages belong to a consumer that was removed, and no relay is ever given them: repair them"
            )
        for each in self._consumers():
            if each.held and each.idle > 3 * self._lease / 1000 and each.name.encode() not in (RELEASED, UNKNOWN):
                found.append(
                    f"{each.held:,} messages are held by {each.name}, which is gone for {each.idle:.0f} s: no relay runs "
                    "that could take them over"
                )
            if each.held and is_for_newer(each.name.encode()):
                found.append(f"{each.held:,} messages were written by a newer version: upgrade the relays")
        return found

    def _problems_of_server(self) -> list[str]:
        from ._server import info_lines

        [reply] = self._ask_all(("INFO",))
        if isinstance(reply, Exception):
            return [f"the server does not say how it is set up: {reply}"]
        info = info_lines(reply)
        found: list[str] = []
        if info.get("maxmemory_policy", "").startswith("allkeys-"):
            found.append(f"maxmemory-policy is {info['maxmemory_policy']}: the stream may be evicted; set noeviction")
        if info.get("aof_enabled") == "0":
            found.append("appendonly is off: a restart of the server loses what came since its last snapshot")
        if info.get("role") == "slave":
            found.append("the server is a replica, which takes no writes")
        if info.get("rdb_last_bgsave_status", "ok") != "ok" or info.get("aof_last_write_status", "ok") != "ok":
            found.append("the server cannot write to its disk")
        return found

    def repair(self) -> int:
        """Let relays have the messages that belong to a consumer that was removed. Returns how many.

        They count as attempted, as it is not known whether they were.
        """
        orphans = self._orphans()
        for first in range(0, len(orphans), _PAGE):
            ids = orphans[first : first + _PAGE]
            options = ("IDLE", self._lease + 1, "RETRYCOUNT", 2, "FORCE", "JUSTID")
            _checked(self._ask_all(("XCLAIM", self._keys.messages, GROUP, RELEASED, self._lease, *ids, *options))[0])
        return len(orphans)

    def _orphans(self) -> list[bytes]:
        """Entries that were given to a consumer, and that none holds."""
        [reply] = self._ask_all(("XINFO", "GROUPS", self._keys.messages))
        if isinstance(reply, Exception):
            return []
        groups = [group for group in map(info_of, reply) if group[b"name"] == GROUP]
        if not groups:
            return []
        last = groups[0][b"last-delivered-id"]
        found: list[bytes] = []
        for entries in self._pages(self._keys.messages, last):
            first = entries[0][0]
            held = self._held_between(first, entries[-1][0])
            found += [entry_id for entry_id, _ in entries if entry_id not in held]
        # One that was read meanwhile, or has ended, is none.
        return [each for each in found if not self._held_between(each, each) and self._exists(each)]

    def _held_between(self, first: bytes, last: bytes) -> set[bytes]:
        held: set[bytes] = set()
        start = first
        while True:
            [reply] = self._ask_all(("XPENDING", self._keys.messages, GROUP, start, last, _PAGE))
            page = [each[0] for each in _checked(reply)]
            held.update(page)
            if len(page) < _PAGE or order(page[-1]) >= order(last):
                return held
            start = b"(" + page[-1]

    def _exists(self, entry_id: bytes) -> bool:
        return bool(self._ask_all(("XRANGE", self._keys.messages, entry_id, entry_id))[0])

    # -- commands

    def _ask_all(self, *commands: Iterable[Any]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        with _unavailable():
            replies: list[Any] = pipeline.execute(raise_on_error=False)
        return replies


@contextmanager
def _unavailable() -> Generator[None, None, None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise SpoolUnavailable(f"Redis cannot be used: {error}") from error


def _checked(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise SpoolUnavailable(f"Redis refused: {reply}") from reply
    return reply


def _as_it_came(reply: Any, **_options: Any) -> Any:
    return reply


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
    return hasattr(message, "items") and any(str(message.get(name)) == identity for name in _IDENTITIES)
