"""Times: https://segment.com/docs/connections/spec/common/#timestamps"""

import re
from datetime import datetime
from typing import Final

from ._verdict import Found, Verdict

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(?P<zone>Z|[+-]\d\d:?\d\d)?", re.IGNORECASE)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")


def check_time(found: Found, value: object, path: str, *, date_allowed: bool = False) -> None:
    if value is None:
        return
    text = value if isinstance(value, str) else ""
    matched = _TIME.fullmatch(text) or (_DAY.fullmatch(text) if date_allowed else None)
    if not matched or not _is_valid_date(text):
        problem = "Must be a time in ISO-8601, such as 2026-11-21T19:20:03.047Z."
        found.append(Verdict("spec", "timestamp-format", path, problem))
    elif matched.re is _TIME and not matched["zone"]:
        problem = "Has no time zone; Engage drops such values. Use UTC and end it with Z."
        found.append(Verdict("spec", "timestamp-zone", path, problem))


def _is_valid_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text.upper())
    except ValueError:
        return False
    return True
