"""Message ids: 12 hexadecimal digits for the time of the call in milliseconds, 8 random ones, and 8 of a block.

The random digits come from the system at each call. So does the block, at the first call of each second; all ids of that
second share it. Nothing compresses the digits of a call, which take 0.9 bytes each on the wire; a block hardly takes any.

No id may rest only on what was drawn before its call: processes that are resumed from one snapshot share their memory,
and they cannot notice. If they also resume with the same clock, they share the block until its second is over; until
then, two of their calls in the same millisecond have the same id once in 2³² times. Any other two calls in the same
millisecond have it once in 2⁶⁴ times: a forked process draws its own block, and a process uses no digits twice in a
millisecond. Reading the system's randomness takes 0.25 µs longer than a generator in memory.

Ids that sort by time make a spool's index grow at its end and not all over (5 µs a message against 15), and compress
better within a batch. The time is the one that `clock_text` read last; building a message always reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from os import urandom
from typing import Final

from . import timestamps

_BLOCK_MILLISECONDS: Final = 1_000
# The clock may stand still, as in tests: what is remembered is bounded all the same.
_MAX_DRAWN: Final = 4_096

# The latest millisecond, the one in which the block ends, the block, and the random digits drawn in this millisecond.
# Replaced in a single step, because another thread may run between any two lines. The digits of two threads that are
# both the first in a millisecond differ by chance alone.
_current: tuple[int, int, str, set[bytes]] = (-1, 0, "", set[bytes]())


def new_message_id(draw: Callable[[int], bytes] = urandom) -> str:
    """An id for the message that was just built. `draw` returns so many random bytes of the system."""
    global _current
    millisecond, _, beginning = timestamps.latest
    latest, stop, block, drawn = _current
    if millisecond == latest and len(drawn) < _MAX_DRAWN:
        random = draw(4)
        while random in drawn:
            random = draw(4)
        drawn.add(random)
    else:
        # If the clock was set back, earlier ids may have this block and this time.
        if not latest < millisecond < stop:
            stop, block = millisecond + _BLOCK_MILLISECONDS, draw(4).hex()
        random = draw(4)
        _current = (millisecond, stop, block, {random})
    return beginning + random.hex() + block


def _forget_block() -> None:
    """In a forked child: the block is the parent's."""
    global _current
    _current = (-1, 0, "", set[bytes]())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_block)
