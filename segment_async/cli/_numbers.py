"""The numbers of the command line. One that is out of range, or that nothing can be calculated with, is wrong usage."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

MOST: Final = 1_000_000_000
"""Seconds, or messages a second: more than any use has, and few enough for every timer and for Redis."""


class Number(click.FloatRange):
    """A finite number. A range alone lets "nan" pass, which is neither below nor above its ends."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not abs(number) <= MOST:
            self.fail(f"{number:.10g} is not a number up to {MOST:,}.", param, ctx)
        return number


class Count(click.IntRange):
    """An integer that lists and queues can have as their length."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number > sys.maxsize:
            self.fail(f"{number} is too large: the most is {sys.maxsize:,}.", param, ctx)
        return number


COUNT: Final = Count(1)
PORT: Final = Count(0, 65_535)
POSITIVE: Final = Number(min=0, min_open=True)
FROM_ZERO: Final = Number(min=0)
LEASE: Final = Number(min=0.001)  # Redis counts milliseconds, and 0 of them would be no lease
