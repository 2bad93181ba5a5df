"""The form of SQLite's write-ahead log, as far as a damaged one can be made readable again.

Each frame of the log carries a checksum over all that comes before it, so that one flipped bit makes everything after
it unreadable, however sound. Nothing in our tables needs that chain to be believed: rows have checksums of their own.
So it is forged anew over what is there, and what was really damaged is found out row by row.

https://www.sqlite.org/fileformat2.html#walformat
"""

from __future__ import annotations

import struct
import sys
from typing import Final

_PAGE: Final = 4096
_HEADER: Final = 32
_FRAME: Final = 24 + _PAGE
# The mark's last bit says in which order the sums read their words: in that of the machine that wrote.
_MARK: Final = 0x377F0682 | (sys.byteorder == "big")
_VERSION: Final = 3_007_000

_Sums = tuple[int, int]


def reforge(log: bytes) -> bytes:
    """The log up to its last frame, with a header and sums that fit."""
    count = max(0, len(log) - _HEADER) // _FRAME
    salts = _salts(log)
    frames = [log[_HEADER + index * _FRAME :][:_FRAME] for index in range(count)]
    # Frames after the last one with these salts are left over from an earlier turn of the log.
    while frames and frames[-1][8:16] != salts:
        frames.pop()
    head = struct.pack(">IIII", _MARK, _VERSION, _PAGE, 0) + salts
    sums = _add((0, 0), head)
    forged = [head, struct.pack(">II", *sums)]
    for frame in frames:
        sums = _add(_add(sums, frame[:8]), frame[24:])
        forged += (frame[:8], salts, struct.pack(">II", *sums), frame[24:])
    return b"".join(forged)


def _salts(log: bytes) -> bytes:
    """Those of the header, if it is sound, else those of the first frame, which is never left over."""
    head = log[:24]
    is_sound = len(head) == 24 and struct.pack(">II", *_add((0, 0), head)) == log[24:_HEADER]
    return head[16:] if is_sound else log[_HEADER + 8 : _HEADER + 16]


def _add(sums: _Sums, content: bytes) -> _Sums:
    one, two = sums
    words = struct.unpack(f"={len(content) // 4}I", content)
    for index in range(0, len(words), 2):
        one = one + words[index] + two & 0xFFFFFFFF
        two = two + words[index + 1] + one & 0xFFFFFFFF
    return one, two
