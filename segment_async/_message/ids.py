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

from .timestamps import millisecond_text

_BLOCK_MILLISECONDS: Final = 1_000
# The clock may stand still, as in tests: what is remembered is bounded all the same.
_MAX_DRAWN: Final = 4_096

# The latest millisecond, its text, the digits that its ids begin with, the random digits drawn in it, the block, and the
# millisecond in which the block ends. Replaced in a single step, because another thread may run between any two lines.
# The digits of two threads that are both the first in a millisecond differ by chance alone.
_NOTHING: Final = (-1, "", "", set[bytes](), "", 0)
_current: tuple[int, str, str, set[bytes], str, int] = _NOTHING


def stamp(now: float, draw: Callable[[int], bytes] = urandom) -> tuple[str, str]:
    """The timestamp and the id of a message that is made now, in seconds since the epoch.

    `draw` returns so many random bytes of the system.
    """
    global _current
    millisecond = int(now * 1000)
    drawn: set[bytes]
    latest, text, beginning, drawn, block, stop = _current
    if millisecond != latest or len(drawn) >= _MAX_DRAWN:
        # If the clock was set back, earlier ids may have this block and this time.
        if not latest < millisecond < stop:
            block, stop = draw(4).hex(), millisecond + _BLOCK_MILLISECONDS
        text = millisecond_text(millisecond)
        # Faster than format().
        beginning = "%012x" % (millisecond & 0xFFFF_FFFF_FFFF)
        drawn = set()
        _current = (millisecond, text, beginning, drawn, block, stop)
    random = draw(4)
    while random in drawn:
        random = draw(4)
    drawn.add(random)
    return text, f"{beginning}{random.hex()}{block}"


def _forget_block() -> None:
    """In a forked child: the block is the parent's."""
    global _current
    _current = _NOTHING


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_block)
