"""Batches: open, sealed, split; the bytes that travel.

A body is one JSON object: `{"batch":[`, the messages, `],"sentAt":"…","writeKey":"…"}`. The first two parts are
compressed slice by slice as messages come, and end, once sealed, in a sync flush: a raw deflate stream on a byte
boundary. At each attempt the last part follows as one stored block, so that every attempt is an ordinary gzip
member with a fresh `sentAt`, made without compressing anything again, and the key is never kept in compressed data.

    gzip header │ deflate stream, sync-flushed │ stored block, final │ CRC-32 │ length
                  └ made once ────────────────   └ made at each attempt ──────────────

This file is pure: no clock, no loop, no network.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator
from functools import cache
from itertools import accumulate, pairwise
from typing import Any, Final, Protocol

import orjson

from .delivery import History, Record

MAX_BODY_BYTES: Final = 500_000
"""Bytes of a request's JSON, envelope included, before compression."""
MAX_BATCH_MESSAGES: Final = 2_500

_HEAD: Final = b'{"batch":['
# Bytes that wait uncompressed: small enough that pressing them is no step to notice, large enough to be worth a call.
_SLICE: Final = 16_384
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

    return isal_zlib.compressobj(2, isal_zlib.DEFLATED, _RAW_DEFLATE)


@cache
def fastest() -> tuple[Any, Any]:
    """How to deflate and how to check: `isal` where the extra `speedups` brought it, else the standard library.

    Asked once: to look for what is not installed costs 60 µs, a batch's own share of the work.
    """
    try:
        from isal import isal_zlib
    except ImportError:
        return _zlib_deflater, zlib.crc32
    return _isal_deflater, isal_zlib.crc32


class Envelope:
    """What stands around the messages of every body: the key, the time of the attempt."""

    def __init__(self, write_key: str) -> None:
        self._key = orjson.dumps(write_key)
        self.size = len(_HEAD) + len(self.tail("0000-00-00T00:00:00.000Z"))

    def tail(self, sent_at: str) -> bytes:
        return b'],"sentAt":"%s","writeKey":%s}' % (sent_at.encode(), self._key)

    def __repr__(self) -> str:
        return "<Envelope>"


class Batch:
    """Messages that travel together, from the first one added until each has its outcome.

    Attributes:
        record: where the outcomes are written; the halves of a split batch share one.
        start: place of the first message in the order of acceptance; `offset` is its index in the record.
        size: bytes of the messages' own JSON.
        opened_at: the clock when the first message came.
        not_before: the clock's reading before which the batch is not to be sent.
        sent_at: the clock at the latest attempt.
        history: what earlier attempts met; the halves of a split batch go on with it.
        baseline: attempts of all batches, delivered and failed, when this one failed last; `None`: it never did.
        is_odd_one: it fails while others are delivered.
    """

    def __init__(
        self, record: Record, start: int, limit: int, opened_at: float, history: History, *, gzip: bool
    ) -> None:
        self.record = record
        self.start = start
        self.offset = 0
        self.size = 0
        self.opened_at = opened_at
        self.not_before = self.sent_at = opened_at
        self.history = history
        self.baseline: tuple[int, int] | None = None
        self.is_odd_one = False
        self.lengths = array("H")
        # With a spool: what the messages are called there.
        self.keys = array("q")
        self._limit = limit
        self._gzip = gzip
        self._slice = bytearray(_HEAD)
        self._pressed: list[bytes] = []
        self._pressed_size = 0
        self._payload = b""
        self._crc = 0
        self._deflater: _Deflater | None = None
        if gzip:
            make, self._check = fastest()
            self._deflater = make()

    @property
    def count(self) -> int:
        return len(self.lengths)

    @property
    def stop(self) -> int:
        return self.start + len(self.lengths)

    @property
    def places(self) -> int:
        """Messages that may still join."""
        return MAX_BATCH_MESSAGES - len(self.lengths)

    @property
    def room(self) -> int:
        """Bytes of messages that may still join, with a comma each."""
        return self._limit + 1 - self.size - len(self.lengths)

    def fits(self, size: int) -> bool:
        """Whether a message of so many bytes may join; an empty batch takes any."""
        return not self.lengths or (self.places > 0 and size < self.room)

    def extend(self, bodies: list[bytes]) -> int:
        """Messages that fit join the batch; gives the index of the first of them in the record."""
        index = len(self.lengths)
        joined = b",".join(bodies)
        # Its own name: an attribute twice in one line is looked up and set twice.
        text = self._slice
        if index:
            text += b","
        text += joined
        self.lengths.extend(map(len, bodies))
        self.size += len(joined) - len(bodies) + 1
        if len(text) >= _SLICE:
            self._press()
        return index

    def _press(self) -> None:
        self._pressed_size += len(self._slice)
        if self._deflater is None:
            self._pressed.append(bytes(self._slice))
        else:
            self._crc = self._check(self._slice, self._crc)
            self._pressed.append(self._deflater.compress(self._slice))
        self._slice = bytearray()

    def seal(self) -> None:
        """Nothing joins any more."""
        self._press()
        if self._deflater is not None:
            self._pressed.append(self._deflater.flush(zlib.Z_SYNC_FLUSH))
            self._deflater = None
        self._payload = b"".join(self._pressed)
        self._pressed.clear()

    def body(self, tail: bytes) -> bytes:
        """The bytes of one attempt; compressed if the batch is."""
        if not self._gzip:
            return self._payload + tail
        length = len(tail)
        return b"".join(
            (
                _GZIP_HEADER,
                self._payload,
                b"\x01",
                length.to_bytes(2, "little"),
                (length ^ 0xFFFF).to_bytes(2, "little"),
                tail,
                self._check(tail, self._crc).to_bytes(4, "little"),
                (self._pressed_size + length).to_bytes(4, "little"),
            )
        )

    def messages(self) -> Iterator[bytes]:
        """Each message's JSON, in order, of a sealed batch."""
        raw = zlib.decompressobj(_RAW_DEFLATE).decompress(self._payload) if self._gzip else self._payload
        # Each message is followed by one comma, or by the end.
        starts = accumulate((length + 1 for length in self.lengths), initial=len(_HEAD))
        return (raw[start : after - 1] for start, after in pairwise(starts))

    def split(self) -> tuple[Batch, Batch]:
        """Two sealed halves of a sealed batch of two messages or more, with its record and its times."""
        bodies = list(self.messages())
        middle = len(bodies) // 2
        return self._part(bodies[:middle], 0), self._part(bodies[middle:], middle)

    def _part(self, bodies: list[bytes], first: int) -> Batch:
        part = Batch(self.record, self.start + first, self._limit, self.opened_at, self.history, gzip=self._gzip)
        part.offset = self.offset + first
        part.baseline = self.baseline
        part.keys = self.keys[first : first + len(bodies)]
        part.is_odd_one = self.is_odd_one
        part.not_before = self.not_before
        part.extend(bodies)
        part.seal()
        return part
