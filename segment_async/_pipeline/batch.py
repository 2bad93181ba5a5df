"""Batches: open, sealed, split; the bytes that travel.

A body is one JSON object: `{"batch":[`, the messages, `],"sentAt":"…","writeKey":"…"}`. The first two parts are
compressed piece by piece as messages come, and end, once sealed, in a sync flush: a raw deflate stream on a byte
boundary. At each attempt the last part follows as one stored block, so that every attempt is an ordinary gzip
member with a fresh `sentAt`, made without compressing anything again, and the key is never kept in compressed data.

    gzip header │ deflate stream, sync-flushed │ stored block, final │ CRC-32 │ length
                  └ made once ────────────────   └ made at each attempt ──────────────

An open batch keeps its messages until it is sealed, and what is compressed so far is only a cache: if an exception
interrupts the compression (a `MemoryError`, a signal handler that raises), it is started over and nothing is lost.

This file is pure: no clock, no loop, no network.
"""

from __future__ import annotations

import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate, pairwise, repeat, starmap
from typing import Any, Final, NamedTuple, Protocol, cast

import orjson

from .delivery import Delivery, Record, bodies_of, keys_of, place_all
from .retry import History

MAX_BODY_BYTES: Final = 500_000
"""Bytes of a request's JSON, envelope included, before compression."""
MAX_BATCH_MESSAGES: Final = 2_500

_HEAD: Final = b'{"batch":['
# Bytes that are compressed at once, and bytes that are read before the loop gets its turn: both take about 0.2 ms with
# isal. Compared with zlib's sizes they take 6 % less CPU a message, and the 99th percentile of a busy loop's lag is 0.13
# ms instead of 0.11.
_PIECE, _SLICE = 65_536, 131_072
_ZLIB_PIECE, _ZLIB_SLICE = 16_384, 32_768
# No name, no time, deflate, an unknown system: the shortest header there is.
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_RAW_DEFLATE: Final = -15


class _Deflater(Protocol):
    def compress(self, data: Any, /) -> bytes: ...
    def flush(self, mode: int, /) -> bytes: ...


def _zlib_deflater() -> _Deflater:
    # Level 3 costs two thirds of the default level's time, for a fifth more bytes; 1 and 2 cost no less.
    return zlib.compressobj(3, zlib.DEFLATED, _RAW_DEFLATE)


def _isal_deflater() -> _Deflater:
    from isal import isal_zlib

    # isal's own types are incomplete.
    return cast("Any", isal_zlib).compressobj(2, isal_zlib.DEFLATED, _RAW_DEFLATE)  # type: ignore[no-any-return]


@cache
def fastest() -> tuple[Callable[[], _Deflater], Callable[..., int]]:
    """How to deflate and how to check: `isal` if the extra `speedups` is installed, else the standard library.

    Cached: looking for a module that is not installed costs 60 µs, as much as a batch's own work.
    """
    try:
        from isal import isal_zlib
    except ImportError:
        return _zlib_deflater, zlib.crc32
    return _isal_deflater, cast("Any", isal_zlib).crc32


@cache
def bytes_at_once(gzip: bool) -> tuple[int, int]:
    """How many bytes to compress at once, and how many to read before the loop gets its turn."""
    if gzip and fastest()[0] is _zlib_deflater:
        return _ZLIB_PIECE, _ZLIB_SLICE
    return _PIECE, _SLICE


class Envelope:
    """What surrounds the messages of every body: the key, and the time of the attempt."""

    def __init__(self, write_key: str) -> None:
        self._key = orjson.dumps(write_key)
        self.size = len(_HEAD) + len(self.tail("0000-00-00T00:00:00.000Z"))

    def tail(self, sent_at: str) -> bytes:
        return b'],"sentAt":"%s","writeKey":%s}' % (sent_at.encode(), self._key)

    def __repr__(self) -> str:
        return "<Envelope>"


class Payload(NamedTuple):
    """The messages of a sealed batch, compressed or not, with what the end of a gzip member needs."""

    content: bytes
    is_compressed: bool
    crc: int
    size: int

    def body(self, tail: bytes) -> bytes:
        """The bytes of one attempt; compressed if the payload is."""
        if not self.is_compressed:
            return self.content + tail
        _, check = fastest()
        length = len(tail)
        return b"".join(
            (
                _GZIP_HEADER,
                self.content,
                b"\x01",
                length.to_bytes(2, "little"),
                (length ^ 0xFFFF).to_bytes(2, "little"),
                tail,
                check(tail, self.crc).to_bytes(4, "little"),
                (self.size + length).to_bytes(4, "little"),
            )
        )

    def messages(self, lengths: array[int]) -> Iterator[bytes]:
        """Each message's JSON, in order."""
        raw = zlib.decompressobj(_RAW_DEFLATE).decompress(self.content) if self.is_compressed else self.content
        # Each message is followed by one comma, or by the end.
        starts = accumulate((length + 1 for length in lengths), initial=len(_HEAD))
        return (raw[start : after - 1] for start, after in pairwise(starts))

    def __repr__(self) -> str:
        return f"<Payload of {self.size} bytes>"


class _Press:
    """Makes a payload out of pieces."""

    __slots__ = ("_check", "_crc", "_deflater", "_pieces", "_size")

    def __init__(self, gzip: bool) -> None:
        make, self._check = fastest()
        self._deflater = make() if gzip else None
        self._pieces: list[bytes] = []
        self._crc = self._size = 0

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._deflater is None:
            self._pieces.append(piece)
        else:
            self._crc = self._check(piece, self._crc)
            self._pieces.append(self._deflater.compress(piece))

    def payload(self) -> Payload:
        if self._deflater is None:
            return Payload(b"".join(self._pieces), False, 0, self._size)
        self._pieces.append(self._deflater.flush(zlib.Z_SYNC_FLUSH))
        return Payload(b"".join(self._pieces), True, self._crc, self._size)


class _Pops(starmap):  # type: ignore[type-arg]  # at run time it takes no argument
    """Messages that leave a queue for a list, `count` of them: the list has memory for all before the first one leaves."""

    count = 0

    def __length_hint__(self) -> int:
        return self.count


class OpenBatch:
    """Messages that will travel together; more may join until it is sealed.

    Attributes:
        record: where the outcomes will be written.
        start: place of the first message in the order of acceptance; `offset` is its index in the record.
        deliveries: the messages themselves, with their bodies.
        size: bytes of the messages' own JSON.
        opened_at: the clock when the first message came.
        history: what earlier processes' requests met, as far as it is known.
    """

    __slots__ = (
        "_bodies", "_gzip", "_has_keys", "_lengths", "_max_bytes", "_max_messages", "_placed", "_press",
        "_pressed_bytes", "deliveries", "history", "offset", "opened_at", "record", "size", "start",
    )  # fmt: skip

    def __init__(
        self,
        record: Record,
        start: int,
        max_bytes: int,
        opened_at: float,
        *,
        gzip: bool,
        sends: int = 0,
        max_messages: int = MAX_BATCH_MESSAGES,
        has_keys: bool = False,
    ) -> None:
        self.record = record
        self.start = start
        self.opened_at = opened_at
        self.history = History(sends=sends, maybe_sent=sends > 0)
        self.deliveries: list[Delivery] = []
        self.size = 0
        self.offset = 0
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._gzip = gzip
        self._has_keys = has_keys
        # In the press: the lengths, and bytes, of messages; the bodies of the others.
        self._press = _Press(gzip)
        self._pressed_bytes = 0
        self._lengths = array("H")
        self._bodies: list[bytes] = []
        # The messages' bodies, once the messages themselves have given them up.
        self._placed: list[bytes] | None = None

    @property
    def count(self) -> int:
        return len(self.deliveries)

    @property
    def stop(self) -> int:
        return self.start + len(self.deliveries)

    @property
    def places(self) -> int:
        """Messages that may still join."""
        return self._max_messages - len(self.deliveries)

    @property
    def room(self) -> int:
        """Bytes of messages that may still join, with a comma each."""
        return self._max_bytes + 1 - self.size - len(self.deliveries)

    def fits(self, size: int) -> bool:
        """Whether a message of this size may join; an empty batch takes any."""
        return not self.deliveries or (self.places > 0 and size < self.room)

    def take(self, messages: deque[Delivery], bodies: list[bytes], size: int) -> None:
        """Move messages that fit, with these bodies, `size` bytes together, from the left of a queue into the batch."""
        self.size += size
        self._bodies += bodies
        pops: Any = _Pops(messages.popleft, repeat((), len(bodies)))
        pops.count = len(bodies)
        # One call, which a signal handler cannot interrupt: a message is always in the one place or in the other.
        self.deliveries.extend(pops)

    def press(self, least: int | None = None) -> None:
        """Compress what waits for it, if it has `least` bytes or more; `None`: as many as are worth the call."""
        least = bytes_at_once(self._gzip)[0] if least is None else least
        if self.size - self._pressed_bytes < least or not self._bodies:
            return
        try:
            self._press.add(b"," if self._pressed_bytes else _HEAD)
            self._press.add(b",".join(self._bodies))
            self._lengths.extend(map(len, self._bodies))
            self._bodies = []
            self._pressed_bytes = self.size
        except BaseException:
            # The stream may be torn in the middle of a piece.
            self.repair()
            raise

    def seal(self) -> Batch:
        """The batch as it travels, which holds the deliveries until it has placed them."""
        if len(self._lengths) + len(self._bodies) != len(self.deliveries):
            self.repair()
        self.press(0)
        try:
            payload = self._press.payload()
        except BaseException:
            self.repair()
            raise
        keys = array("q", keys_of(self.deliveries) if self._has_keys else ())
        batch = Batch(self.record, self.start, 0, self._lengths, keys, payload, self.opened_at, self.history)
        batch.unplaced = self.deliveries
        return batch

    def place(self) -> bool:
        """The messages have their outcomes in the record from now on. Always `True`: more may have joined since."""
        if self._placed is None:
            self._placed = bodies_of(self.deliveries)
        place_all(self.deliveries, self.record)
        return True

    def repair(self) -> None:
        """Make the batch whole again after an exception interrupted one of its methods; compression starts over."""
        self._press = _Press(self._gzip)
        self._pressed_bytes = 0
        self._lengths = array("H")
        self._bodies = self.bodies()
        self.size = sum(map(len, self._bodies))

    def bodies(self) -> list[bytes]:
        """Each message's JSON, in order."""
        return bodies_of(self.deliveries) if self._placed is None else self._placed.copy()


class Batch:
    """Messages that travel together, from when they were sealed until each has its outcome.

    Attributes:
        record: where the outcomes are written; the parts of a split batch share one.
        start: place of the first message in the order of acceptance; `offset` is its index in the record.
        lengths, keys: of each message: bytes of its JSON; with a spool, what the spool calls it.
        size: bytes of the messages' own JSON.
        opened_at: the clock when the first message came.
        not_before: the clock's reading before which the batch is not to be sent.
        sent_at: the clock when the latest attempt had its credentials.
        history: what earlier attempts met; the parts of a split batch go on with it.
        baseline: attempts of all batches, delivered and failed, when this one failed last; `None`: it never did.
        is_poison_suspect: it fails while others are delivered.
        unplaced: messages that do not know the record yet; `None`: all do.
    """

    __slots__ = (
        "baseline", "history", "is_poison_suspect", "keys", "lengths", "not_before", "offset", "opened_at",
        "payload", "record", "sent_at", "size", "start", "unplaced",
    )  # fmt: skip

    def __init__(
        self,
        record: Record,
        start: int,
        offset: int,
        lengths: array[int],
        keys: array[int],
        payload: Payload,
        opened_at: float,
        history: History,
    ) -> None:
        self.record = record
        self.start = start
        self.offset = offset
        self.lengths = lengths
        self.keys = keys
        self.size = sum(lengths)
        self.payload = payload
        self.opened_at = self.not_before = self.sent_at = opened_at
        self.history = history
        self.baseline: tuple[int, int] | None = None
        self.is_poison_suspect = False
        self.unplaced: list[Delivery] | None = None

    def place(self) -> bool:
        """The messages have their outcomes in the record from now on, and their bytes here. Returns whether they had
        not before.
        """
        if self.unplaced is None:
            return False
        place_all(self.unplaced, self.record)
        self.unplaced = None
        return True

    @property
    def count(self) -> int:
        return len(self.lengths)

    @property
    def stop(self) -> int:
        return self.start + len(self.lengths)

    @property
    def body_size(self) -> int:
        """Bytes that travel, but for what each attempt adds."""
        return len(self.payload.content)

    def body(self, tail: bytes) -> bytes:
        """The bytes of one attempt."""
        return self.payload.body(tail)

    def bodies(self) -> Iterator[bytes]:
        """Each message's JSON, in order."""
        return self.payload.messages(self.lengths)

    def split(self, *, first_alone: bool = False) -> list[Batch]:
        """Two halves, or the first message and the rest, of a batch of two or more, with its record and its times."""
        middle = 1 if first_alone else self.count // 2
        bodies = list(self.bodies())
        return [self._part(bodies, 0, middle), self._part(bodies, middle, self.count)]

    def parts(self, out: set[int]) -> tuple[list[Batch], list[Batch]]:
        """The runs of messages that are not among these indices, and the runs that are."""
        bodies = list(self.bodies())
        kept: list[Batch] = []
        taken: list[Batch] = []
        first = 0
        for index in range(1, self.count + 1):
            if index == self.count or (index in out) != (first in out):
                (taken if first in out else kept).append(self._part(bodies, first, index))
                first = index
        return kept, taken

    def _part(self, bodies: list[bytes], first: int, stop: int) -> Batch:
        press = _Press(self.payload.is_compressed)
        press.add(_HEAD + b",".join(bodies[first:stop]))
        part = Batch(
            self.record,
            self.start + first,
            self.offset + first,
            self.lengths[first:stop],
            self.keys[first:stop],
            press.payload(),
            self.opened_at,
            self.history,
        )
        part.baseline = self.baseline
        part.is_poison_suspect = self.is_poison_suspect
        part.not_before = self.not_before
        return part
