"""One pace for all relays of a key: a token bucket in Redis, of which each batch takes as many tokens as it has messages.

A batch has no more messages than the bucket has tokens: a larger one would wait for all of them, and then be a burst.

The bucket is kept as the moment at which it will be full again, by the server's clock, and the moment of the last look:
a clock that was set back, or that of another server, moves both. Tokens are taken ahead of time: the reply says how long
to wait. If the server cannot keep it, as when its memory is full, each relay keeps its share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from redis.exceptions import ResponseError

from ._server import Server

# Takes ARGV[2] tokens at ARGV[1] a second from a bucket that holds ARGV[3] seconds' worth of them; returns the
# milliseconds to wait.
_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local full, last = string.match(redis.call('GET', KEYS[1]) or '', '(%S+) (%S+)')
full, last = tonumber(full or now), tonumber(last or now)
if last > now then full = full - (last - now) end
if full < now then full = now end
full = full + ARGV[2] * 1000 / ARGV[1]
redis.call('SET', KEYS[1], string.format('%.3f %.3f', full, now), 'PX', math.ceil(full - now) + 1000)
return math.max(0, math.ceil(full - now - ARGV[3] * 1000))
"""
# Seconds' worth of tokens that the bucket holds.
_BURST: Final = 1.0
_SECONDS: Final = 5.0


class Pace:
    """Attributes:
    relays: how many share the pace, as far as is known.
    largest: the most messages that a batch may have.
    """

    def __init__(self, server: Server, key: bytes, rate: float, now: Callable[[], float]) -> None:
        self.relays = 1
        self.largest = max(1, int(rate * _BURST))
        self._server = server
        self._key = key
        self._rate = rate
        self._now = now
        self._full_at = 0.0

    async def take(self, count: int) -> float:
        """Take tokens for so many messages. Returns the seconds to wait until they may be sent.

        Raises:
            Unreachable: the server did not answer.
        """
        try:
            milliseconds = await self._server.ask(
                "EVAL", _TAKE, 1, self._key, self._rate, count, _BURST, seconds=_SECONDS
            )
        except ResponseError:
            return self._take_share(count)
        return int(milliseconds) / 1000

    def _take_share(self, count: int) -> float:
        now = self._now()
        self._full_at = max(self._full_at, now) + count * max(1, self.relays) / self._rate
        return max(0.0, self._full_at - now - _BURST)
