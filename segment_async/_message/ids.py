"""The timestamp and the id that a message gets when it is made.

Message ids: 12 hexadecimal digits for the time of the call in milliseconds, 8 random ones, and 8 of a block.

The random digits come from the system at each call. So does the block, at the first call of each second; all ids of that
second share it. Nothing compresses the digits of a call, which take 0.9 bytes each on the wire; a block hardly takes any.

No id may rest only on what was drawn before its call: processes that are resumed from one snapshot share their memory,
and they cannot notice. If they also resume with the same clock, they share the block until its second is over; until
then, two of their calls in the same millisecond have the same id once in 2³² times. Any other two calls in the same
millisecond have it once in 2⁶⁴ times: a forked process draws its own block, and a process uses no digits twice in a
millisecond. Reading the system's randomness takes 0.25 µs longer than a generator in memory.

Ids that sort by time make a spool's index grow at its end and not all over (5 µs a message against 15), and compress
better within a batch. The time is that of the call, whatever timestamp the message has.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from os import urandom
from typing import Final

from .timestamps import MILLISECONDS, second_text

# The clock may stand still, as in tests: what is remembered is bounded all the same.
_MAX_DRAWN: Final = 4_096

# The latest second, the beginning of its texts, and its block; the latest millisecond, its text, the digits that its ids
# begin with, the random digits drawn in it, and its block. Each is replaced in a single step, because another thread may
# run between any two lines. The digits of two threads that are both the first in a millisecond differ by chance alone.
_NO_SECOND: Final = (-1, "", "")
_second: tuple[int, str, str] = _NO_SECOND
_current: tuple[int, str, str, set[bytes], str] = (-1, "", "", set[bytes](), "")


def stamp(now: float, draw: Callable[[int], bytes] = urandom) -> tuple[str, str]:
    """The timestamp and the id of a message that is made now, in seconds since the epoch.

    `draw` returns so many random bytes of the system.
    """
    global _second, _current
    millisecond = int(now * 1000)
    drawn: set[bytes]
    latest, text, beginning, drawn, block = _current
    if millisecond != latest or len(drawn) >= _MAX_DRAWN:
        second = millisecond // 1000
        known, to_second, block = _second
        # If the clock was set back, earlier ids may have this block and this time.
        if second != known or millisecond <= latest:
            to_second, block = second_text(second), draw(4).hex()
            _second = (second, to_second, block)
        text = to_second + MILLISECONDS[millisecond % 1000]
        # Faster than format().
        beginning = "%012x" % (millisecond & 0xFFFF_FFFF_FFFF)
        drawn = set()
        _current = (millisecond, text, beginning, drawn, block)
    random = draw(4)
    while random in drawn:
        random = draw(4)
    drawn.add(random)
    return text, f"{beginning}{random.hex()}{block}"


def _forget_block() -> None:
    """In a forked child: the block is the parent's."""
    global _second, _current
    _second, _current = _NO_SECOND, (-1, "", "", set[bytes](), "")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_block)
