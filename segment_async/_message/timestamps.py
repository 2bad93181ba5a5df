"""Points in time as Segment reads them: ISO-8601 in UTC, with milliseconds and a `Z`.

This file knows neither messages nor fields.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Final

_log = logging.getLogger("segment_async")
_warned_of_naive = False

# Formatting a number would take 0.3 µs.
MILLISECONDS: Final = tuple(f".{millisecond:03d}Z" for millisecond in range(1000))
"""The end of a text, by its millisecond."""


def millisecond_text(millisecond: int) -> str:
    """The text of a time in milliseconds since the epoch."""
    return second_text(millisecond // 1000) + MILLISECONDS[millisecond % 1000]


def second_text(second: int) -> str:
    """The beginning of the texts of a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def datetime_text(value: datetime) -> str:
    """The text of a datetime; one without a time zone is taken as UTC, with one warning per process."""
    if value.tzinfo is None or value.utcoffset() is None:
        _warn_of_naive()
        value = value.replace(tzinfo=UTC)
    # Call datetime's own method: a subclass may override it and return another format.
    return datetime.isoformat(value.astimezone(UTC), timespec="milliseconds")[:-6] + "Z"


def _warn_of_naive() -> None:
    global _warned_of_naive
    if not _warned_of_naive:
        _warned_of_naive = True
        _log.warning("Taking a datetime without a time zone as UTC; pass aware datetimes (logged once).")
