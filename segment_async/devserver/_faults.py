"""Decides which requests get a fault: the rate limit and the chaos. `_tracking` applies the decision.

Pure: randomness and time are arguments.
"""

import math
import re
from random import Random
from typing import Final, NamedTuple

_STATUS: Final = re.compile(r"[2-5]\d\d")
_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?)%")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")
_MAX_DELAY: Final = 60.0


# In place of a status: the request gets no response.
RESET: Final = 0  # the connection is reset
TIMEOUT: Final = -1  # the connection stays open
DOWN: Final = -2  # the connection is reset before the request is read
_SHARES: Final = {"reset": RESET, "timeout": TIMEOUT}
_WORDS: Final = {DOWN: "down", **{status: word for word, status in _SHARES.items()}}
CHAOS_WORDS: Final = (*_SHARES, "slow", "down")
"""Every fault that is no status. The help text, the page and the guide name each of them."""


def answer_word(status: int) -> str:
    """The status as it is shown, or the word for no response."""
    return _WORDS.get(status) or str(status)


class PlannedResponse(NamedTuple):
    """The response to one request, after `delay` seconds. Status 200: process it as usual."""

    status: int
    delay: float = 0.0
    reason: str = ""
    retry_after: float | None = None


class Chaos(NamedTuple):
    """`shares` are statuses and the percentage of requests that get them; `slow` is the delay of every response.

    With `down`, no request gets a response.
    """

    shares: tuple[tuple[int, float], ...] = ()
    slow: float = 0.0
    down: bool = False

    @classmethod
    def parse(cls, spec: str) -> "Chaos":
        """Parse `429:10%,401:5%,slow:2s,reset:1%,timeout:1%`, or `down`; "" means no chaos.

        Raises:
            ValueError: the text is malformed, or the percentages add up to more than 100.
        """
        shares: dict[int, float] = {}
        slow = 0.0
        down = False
        for item in filter(None, (part.strip() for part in spec.split(","))):
            name, _, amount = item.partition(":")
            if name == "slow":
                slow = _seconds(item, amount)
            elif item == "down":
                down = True
            elif name in _SHARES or _STATUS.fullmatch(name):
                shares[_SHARES[name] if name in _SHARES else int(name)] = _share(item, amount)
            else:
                words = ", ".join(f"“{word}”" for word in CHAOS_WORDS if word != "down")
                raise ValueError(f"chaos {item!r}: must be “down”, or begin with {words} or a status from 200 to 599")
        if sum(shares.values()) > 100:
            raise ValueError("chaos: the percentages add up to more than 100%")
        return cls(tuple((status, share) for status, share in shares.items() if share), slow, down)

    def __str__(self) -> str:
        items = [f"{answer_word(status)}:{share:g}%" for status, share in self.shares]
        return ",".join(items + ([f"slow:{self.slow:g}s"] if self.slow else []) + (["down"] if self.down else []))

    def draw(self, random: Random) -> PlannedResponse:
        left = random.random() * 100
        for status, share in self.shares:
            left -= share
            if left < 0:
                return PlannedResponse(status, self.slow, "injected by --chaos", 1.0 if status == 429 else None)
        return PlannedResponse(200, self.slow)


def _share(item: str, amount: str) -> float:
    matched = _SHARE.fullmatch(amount)
    if not matched or float(matched[1]) > 100:
        raise ValueError(f"chaos {item!r}: must end with a percentage such as 10%")
    return float(matched[1])


def _seconds(item: str, amount: str) -> float:
    matched = _DURATION.fullmatch(amount)
    seconds = float(matched[1]) / (1_000 if matched[2] == "ms" else 1) if matched else math.inf
    if seconds > _MAX_DELAY:
        raise ValueError(f"chaos {item!r}: must end with a time such as 2s or 200ms, at most {_MAX_DELAY:g}s")
    return seconds


class Rate:
    """Admits `limit` requests in each second that begins with a request; `None` means no limit."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._began = -math.inf
        self._admitted = 0

    def seconds_to_wait(self, now: float) -> float:
        """0 if the request is admitted, which is counted."""
        if self._limit is None:
            return 0.0
        if now >= self._began + 1:
            self._began, self._admitted = now, 0
        if self._admitted < self._limit:
            self._admitted += 1
            return 0.0
        return self._began + 1 - now


class Faults:
    """The rate limit and the chaos of one endpoint; `chaos` may be replaced at any time."""

    def __init__(self, rate: int | None, chaos: Chaos, random: Random) -> None:
        self._rate = Rate(rate)
        self.chaos = chaos
        self._random = random

    def next(self, now: float) -> PlannedResponse:
        seconds = self._rate.seconds_to_wait(now)
        if seconds:
            return PlannedResponse(429, 0.0, "more requests per second than --rate allows", seconds)
        return self.chaos.draw(self._random)
