"""The books of one shard: its counters, its checksums, its ranges of positions.

    accepted == delivered + failed + dropped + pending

A *position* is a message's place in the order of acceptance within its shard; it is never used twice. A *key* is a
position and the shard's number, in one integer. Whatever is written carries a checksum over all of its fields, so that
a flipped bit anywhere in a row is seen before the row is believed.

This file is pure: no disk, no clock.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from zlib import crc32

from segment_async._outcome import BatchResult, Status

Range = tuple[int, int]
"""Positions from the first to the last, both included."""

_POSITION_BITS: Final = 44
_NUMBERS: Final = struct.Struct(">9q")
_MARK: Final = struct.Struct(">qq")


class Ledger(NamedTuple):
    """The counters, as one row; replaced as a whole in the transaction that changes the rows they count.

    Attributes:
        revision: transactions so far.
        position: the last one given out.
        reasons: JSON of how many messages failed or were dropped, by reason.
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
    reasons: str = "{}"

    @property
    def pending(self) -> int:
        return self.accepted - self.delivered - self.failed - self.dropped

    @property
    def checksum(self) -> int:
        return crc32(self.reasons.encode(errors="replace"), crc32(_NUMBERS.pack(*self[:9])))

    def after(self, **change: int) -> Ledger:
        """The ledger with these numbers added."""
        return self._replace(**{name: getattr(self, name) + by for name, by in change.items()})

    def ended(self, count: int, size: int, fate: BatchResult) -> Ledger:
        """The ledger after that many pending messages of that many bytes together met this fate."""
        ledger = self.after(**{fate.status.value: count}, pending_bytes=-size)
        return ledger if fate.reason is None else ledger._with_reason(fate.reason, count)

    def revived(self, count: int, size: int, reason: str) -> Ledger:
        """The ledger after that many messages which had failed with this reason are pending again."""
        return self.after(failed=-count, pending_bytes=size)._with_reason(reason, -count)

    def _with_reason(self, reason: str, count: int) -> Ledger:
        reasons = json.loads(self.reasons)
        reasons[reason] = reasons.get(reason, 0) + count
        return self._replace(reasons=json.dumps({each: number for each, number in reasons.items() if number}))

    @property
    def lost(self) -> int:
        """How many were lost to damage."""
        count: int = json.loads(self.reasons).get("damaged", 0)
        return count

    def damaged(self, lost: int) -> Ledger:
        return self.ended(lost, 0, BatchResult(Status.DROPPED, "damaged"))

    def caught_up(self, watermark: Ledger | None) -> Ledger:
        """The ledger with what it has lost against its watermark counted as dropped.

        Which of the lost transactions were appends and which outcomes is not known any more: what was appended is
        lost, what was settled is pending again.
        """
        if watermark is None or watermark.revision <= self.revision:
            return self
        lost = max(0, watermark.accepted - self.accepted)
        later = self.after(accepted=lost).damaged(lost)
        return later._replace(revision=watermark.revision, position=max(self.position, watermark.position))

    def pack(self) -> bytes:
        """What fits beside the file: all but the reasons."""
        numbers = _NUMBERS.pack(*self[:9])
        return numbers + crc32(numbers).to_bytes(4, "big")


PACKED_LEDGER: Final = _NUMBERS.size + 4


def unpack_ledger(packed: bytes) -> Ledger | None:
    numbers = packed[: _NUMBERS.size]
    if len(packed) != PACKED_LEDGER or crc32(numbers) != int.from_bytes(packed[_NUMBERS.size :], "big"):
        return None
    return Ledger(*_NUMBERS.unpack(numbers))


class Attempts(NamedTuple):
    """Requests that went out with messages of these positions; `since` in milliseconds of the wall clock."""

    first: int
    last: int
    number: int
    since: int

    @property
    def checksum(self) -> int:
        return crc32(b"%d %d %d %d" % self)


def message_checksum(position: int, message_id: bytes, accepted_at: int, body: bytes) -> int:
    return crc32(body, crc32(_MARK.pack(position, accepted_at) + message_id))


def dead_checksum(row: Sequence[object]) -> int:
    """Over all fields of a dead letter's row."""
    return crc32(repr(tuple(row)).encode(errors="replace"))


def key_of(slot: int, position: int) -> int:
    return slot << _POSITION_BITS | position


def slot_of(key: int) -> int:
    return key >> _POSITION_BITS


def position_of(key: int) -> int:
    return key & (1 << _POSITION_BITS) - 1


def by_slot(keys: Iterable[int]) -> dict[int, list[Range]]:
    """Sort keys to their shards, as ranges of positions."""
    positions: dict[int, list[int]] = {}
    for key in keys:
        positions.setdefault(slot_of(key), []).append(position_of(key))
    return {slot: ranges(found) for slot, found in positions.items()}


def ranges(positions: Iterable[int]) -> list[Range]:
    """The same positions as few ranges."""
    found: list[Range] = []
    for position in sorted(positions):
        if found and position <= found[-1][1] + 1:
            found[-1] = (found[-1][0], position)
        else:
            found.append((position, position))
    return found
