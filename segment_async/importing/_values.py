"""From a cell or a JSON value to the value that travels: numbers, booleans, times, ids.

Strict: what cannot be read exactly raises `Unreadable`, so that no value is guessed. `None` is an absent value and never
gets here. Pure: the current time is an argument.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Final, Self, cast

import orjson

Convert = Callable[[Any], Any]


EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
AHEAD: Final = timedelta(hours=1)
_MILLISECONDS_FROM: Final = 1e11
_NO_TIME_FROM: Final = 1e14
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_INTEGER: Final = re.compile(r"[+-]?\d+", re.ASCII)
_EPOCH: Final = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
_BOOLEANS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_REMEMBERED: Final = 1_000
_EXACT_DIGITS: Final = 15
_SCALARS: Final = frozenset({str, bool, type(None)})
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1
_MOST_DIGITS: Final = 4_000  # beyond them, Python refuses to convert text to an integer
# Every integer that 64 bits do not hold has at least this many digits in a row.
_LONG: Final = b"0" * 19
_DIGITS: Final = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))
# What is before and behind an integer that is no part of a text or of a fraction.
_BEFORE: Final = frozenset(b":,[ \t\r\n")
_BEHIND: Final = frozenset(b",]} \t\r\n")


class Unreadable(ValueError):
    """A value cannot be read as what the mapping says it is.

    Attributes:
        rule: a stable word, such as ``number``.
        path: the field of the message; the mapping fills it in.
    """

    def __init__(self, rule: str, text: str, path: str = "") -> None:
        super().__init__(text)
        self.rule = rule
        self.text = text
        self.path = path


def as_text(value: Any) -> str:
    """Text as it is; numbers and booleans as JSON writes them."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, Decimal)):
        return str(value)
    if isinstance(value, bytes):
        return _utf8(value)
    return dumps(value).decode().strip('"')


def as_id(value: Any) -> str:
    """Ids are always text. A fraction is no id: an earlier program has rounded it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return _utf8(value)
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)) or not _is_whole(value):
        kind = type(value).__name__
        raise Unreadable("id-type", f"An id must be text or an integer, not {kind}.")
    return str(int(value))


def as_number(decimal: str | None = None) -> Convert:
    """Reads a number; `decimal` is the text's decimal separator, and the other one may then group by thousands."""
    grouped = _grouped(decimal) if decimal is not None else None
    # Prices and quantities repeat.
    known: dict[str, int | float | Decimal] = {}

    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            return _finite(value)
        number = known.get(value)
        if number is None:
            number = _number(value.strip(), decimal, grouped)
            if len(known) < _REMEMBERED:
                known[value] = number
        return number

    return convert


def _number(text: str, decimal: str | None, grouped: re.Pattern[str] | None) -> int | float | Decimal:
    if grouped is not None:
        if not grouped.fullmatch(text):
            raise Unreadable("number", f"Not a number with {decimal!r} as its decimal separator.")
        text = re.sub(r"[ \u00a0\u202f']", "", text)
        text = text.replace(".", "").replace(",", ".") if decimal == "," else text.replace(",", "")
    if not _NUMBER.fullmatch(text) or len(text) > _MOST_DIGITS:
        raise Unreadable("number", "Not a number.")
    if _INTEGER.fullmatch(text):
        return _whole(text)
    if len(text) > _EXACT_DIGITS and sum(map(str.isdigit, text)) > _EXACT_DIGITS:
        return _exact(Decimal(text))
    number: float = _finite(float(text))
    return number


def _is_whole(number: float | Decimal) -> bool:
    if isinstance(number, Decimal):
        # `//` refuses a Decimal of more than 28 digits.
        return number.is_finite() and number == number.to_integral_value()
    return isinstance(number, int) or number.is_integer()


def _whole(value: Any) -> int | Decimal:
    """The integer; one of more than 64 bits as a `Decimal`, which is sent with all its digits."""
    number = int(value)
    return number if _SMALLEST <= number <= _LARGEST else _exact(Decimal(number))


def _exact(number: Decimal) -> Decimal:
    if not _fits_float(number):
        # The client sends it as text, as readers of JSON would refuse it or read infinity.
        raise Unreadable("number", "Too large a number.")
    return number


def _fits_float(number: Decimal) -> bool:
    return number.is_finite() and math.isfinite(float(number))


def _grouped(decimal: str) -> re.Pattern[str]:
    group = r"[.  \u202f']" if decimal == "," else r"[,  \u202f']"
    return re.compile(rf"[+-]?(\d+|\d{{1,3}}({group}\d{{3}})+)({re.escape(decimal)}\d+)?", re.ASCII)


def _finite(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise Unreadable("number", f"Not a number, but {type(value).__name__}.")
    if not math.isfinite(value):
        raise Unreadable("number", "Not a finite number.")
    return value


def as_integer(value: Any) -> Any:
    if isinstance(value, str):
        text = value.strip()
        if not _INTEGER.fullmatch(text) or len(text) > _MOST_DIGITS:
            raise Unreadable("integer", "Not an integer.")
        return _whole(text)
    number = _finite(value)
    if not _is_whole(number):
        raise Unreadable("integer", "Not an integer, but a fraction.")
    return _whole(number)


def as_boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else str(value)
    if text not in _BOOLEANS:
        raise Unreadable("boolean", "Must be true, false, yes, no, 1 or 0.")
    return _BOOLEANS[text]


def as_choice(value: Any) -> Any:
    """Whether a destination gets a message: a boolean, or the object of its options, which switches it on."""
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    try:
        return as_boolean(value)
    except Unreadable as error:
        raise Unreadable(error.rule, "Must be true, false, yes, no, 1, 0 or an object of options.") from None


def as_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return read_json(value.encode(errors="surrogatepass"))
    except ValueError:
        raise Unreadable("json", "Not valid JSON.") from None


def as_time(pattern: str | None = None, zone: tzinfo = UTC) -> Convert:
    """Reads a time and gives it back in ISO-8601, UTC. `zone` is for times that name none."""

    def convert(value: Any) -> str:
        return time_text(read_time(value, pattern, zone))

    return convert


def as_moment(pattern: str | None = None, zone: tzinfo = UTC) -> Convert:
    """Like `as_time`, but gives the datetime."""
    return lambda value: read_time(value, pattern, zone)


def read_time(value: Any, pattern: str | None = None, zone: tzinfo = UTC) -> datetime:
    """The time as an aware datetime.

    Raises:
        Unreadable: it is none, or its time in UTC is outside the years 1 to 9999.
    """
    try:
        if type(value) is str and value[4:5] == "-" and pattern is None:
            # ISO-8601, as most times are: in few steps.
            moment = datetime.fromisoformat(value.strip())
        else:
            moment = _moment(value, pattern)
        if moment.tzinfo is UTC:
            return moment
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        problem = (
            "in the format " + repr(pattern) if pattern else "in ISO-8601 or as seconds or milliseconds since 1970"
        )
        raise Unreadable("time", f"Not a time {problem}.") from None


def _moment(value: Any, pattern: str | None) -> datetime:
    if isinstance(value, LocalTime) and pattern is None:
        return value.moment
    if isinstance(value, str):
        text = value.strip()
        if pattern is not None:
            return datetime.strptime(text, pattern)  # noqa: DTZ007  # the caller adds the zone
        # Eight digits are a day: as seconds since 1970, it would be one of 1970 to 1973.
        if len(text) == 8 or not _EPOCH.fullmatch(text):
            return datetime.fromisoformat(text)
        value = float(text)
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    is_number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
    seconds = float(value) if is_number else math.inf
    if not abs(seconds) < _NO_TIME_FROM:
        raise ValueError
    return EARLIEST + timedelta(seconds=seconds / 1000 if abs(seconds) >= _MILLISECONDS_FROM else seconds)


def time_text(moment: datetime) -> str:
    """ISO-8601 with milliseconds of a time in UTC, as `read_time` gives it."""
    if type(moment) is not datetime:  # a subclass, such as pandas' of a transform
        return moment.isoformat(timespec="milliseconds")[:-6] + "Z"
    # In a third of the time of `isoformat`.
    text = orjson.dumps(moment).decode()
    return text[1:24] + "Z" if moment.microsecond else text[1:20] + ".000Z"


class LocalTime(str):
    """A time of a Parquet file that names no zone, as text in UTC; `moment` is for a mapping that has the zone."""

    __slots__ = ("moment",)

    moment: datetime

    def __new__(cls, moment: datetime) -> Self:
        text = super().__new__(cls, time_text(moment.replace(tzinfo=UTC)))
        text.moment = moment
        return text


def plain_json(value: Any) -> Any:
    """A value of a Parquet file in JSON's types; decimals stay exact, times without a zone are a `LocalTime`.

    Bytes that are not UTF-8, such as a UUID's or a hash, are base64, as in a call.
    """
    if isinstance(value, (str, int, float, Decimal)) or value is None:
        return value
    if isinstance(value, dict):
        return {as_text(key): plain_json(inner) for key, inner in _items(value)}
    if isinstance(value, list):
        items = _list(value)
        if items and all(isinstance(item, tuple) for item in items):
            # A map: pairs of key and value.
            return {as_text(key): plain_json(inner) for key, inner in items}
        return [plain_json(item) for item in items]
    if isinstance(value, datetime):
        return LocalTime(value) if value.tzinfo is None else time_text(read_time(value))
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return b64encode(value).decode()
    return as_text(value)


def is_json(value: Any) -> bool:
    """Whether it holds nothing but JSON's own types, and numbers that keep all their digits and travel as numbers."""
    kind = cast("type[object]", type(value))
    if kind is dict:
        return all(type(key) is str and is_json(inner) for key, inner in _items(value))
    if kind is list:
        return all(map(is_json, _list(value)))
    if kind is int:
        return bool(_SMALLEST <= value <= _LARGEST)
    if kind is float:
        return math.isfinite(value)
    return _fits_float(value) if kind is Decimal else kind in _SCALARS or kind is LocalTime


def read_json(content: bytes) -> Any:
    """Parse JSON; an integer that 64 bits do not hold is a `Decimal`, where orjson makes a float of it.

    Raises:
        ValueError: it is none.
    """
    value = orjson.loads(content)
    # Far faster than a regular expression: half a microsecond for a line of 400 bytes.
    digits = content.translate(_DIGITS)
    if _LONG in digits and _has_long_integer(content, digits):
        try:
            return exact_json(content.decode(), float)
        except RecursionError:
            raise ValueError("is nested too deeply for its long numbers") from None
    return value


def _has_long_integer(content: bytes, digits: bytes) -> bool:
    """Whether there may be one that 64 bits do not hold; within a text, something may look like it."""
    begin = digits.find(_LONG)
    while begin >= 0:
        end = digits.find(b" ", begin)
        end = len(digits) if end < 0 else end
        begin -= content[begin - 1 : begin] == b"-"
        is_integer = (begin == 0 or content[begin - 1] in _BEFORE) and (end == len(content) or content[end] in _BEHIND)
        if is_integer and not (end - begin <= _MOST_DIGITS and _SMALLEST <= int(content[begin:end]) <= _LARGEST):
            return True
        begin = digits.find(_LONG, end)
    return False


def exact_json(content: bytes | str, parse_float: Callable[[str], Any] = Decimal) -> Any:
    """Parse JSON with all digits of its numbers, in twenty times the time of orjson, which makes floats of them.

    An integer of more than 64 bits is a `Decimal`: as an `int`, the client would send it as text.
    """
    return json.loads(content, parse_float=parse_float, parse_int=_integer_of)


def _integer_of(digits: str) -> int | Decimal:
    number = Decimal(digits)
    return int(number) if _SMALLEST <= number <= _LARGEST else number


def _items(value: Any) -> Any:
    return value.items()


def _list(value: Any) -> list[Any]:
    return [*value]


def _utf8(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Unreadable("utf-8", "Bytes that are not UTF-8.") from None


def dumps(value: Any, option: int = 0) -> bytes:
    """JSON of what a record may hold, for hashes and reports."""
    return orjson.dumps(value, _default, option | orjson.OPT_NON_STR_KEYS)


def _default(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value)) if value.is_finite() else None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)
