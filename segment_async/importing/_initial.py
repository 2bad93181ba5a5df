"""A first mapping, guessed from a file's header and first thousand rows. Guesses are marked as such, to be checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, cast

from ._reading import open_at
from ._records import Record
from ._report import ImportUsageError, SourceBroken
from ._sources import find
from ._state import Position
from ._values import Unreadable, as_boolean, as_integer, as_json, as_number, as_time, read_time

_ROWS: Final = 1_000
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_USER: Final = ("userid", "customerid", "user", "customer", "clientid", "memberid", "accountid")
_ANONYMOUS: Final = ("anonymousid", "visitorid", "deviceid", "cookieid")
_TIMES: Final = (
    "timestamp",
    "createdat",
    "created",
    "time",
    "date",
    "datetime",
    "occurredat",
    "orderedat",
    "eventtime",
)
_EVENTS: Final = ("event", "eventname", "action")
_UNIQUE: Final = ("id", "orderid", "eventid", "transactionid", "uuid", "messageid")
_DAYS: Final = {
    "%d.%m.%Y": "day before month",
    "%d/%m/%Y": "day before month",
    "%m/%d/%Y": "month before day",
}
_CLOCKS: Final = (" %H:%M:%S", " %H:%M", "")


def initial_mapping(source: str, file_format: str | None = None) -> str:
    """The text of a mapping for a file.

    Raises:
        ImportUsageError: the file cannot be read.
    """
    first = find([source], file_format)[0]
    try:
        opened = open_at(first, Position())
    except SourceBroken as error:
        raise ImportUsageError(f"source {source}: {error}") from error
    try:
        rows = list(islice(_rows(opened.records, opened.columns), _ROWS))
    except SourceBroken:
        rows = []
    finally:
        opened.close()
    columns = opened.columns or [*dict.fromkeys(name for row in rows for name in row)]
    if not columns:
        raise ImportUsageError(f"source {source}: has no rows to guess a mapping from")
    return _text(first.name, columns, rows)


def _rows(records: Iterator[Record], columns: list[str] | None) -> Iterator[dict[str, Any]]:
    for record in records:
        if record.problem is None:
            yield record.row if columns is None else dict(zip(columns, record.row, strict=True))


def _text(name: str, columns: list[str], rows: list[dict[str, Any]]) -> str:
    taken: set[str] = set()
    plain = [column for column in columns if not any(isinstance(each, dict | list) for each in _values(column, rows))]

    def take(names: tuple[str, ...]) -> str | None:
        found = next((column for wanted in names for column in plain if _simple(column) == wanted), None)
        if found is not None:
            taken.add(found)
        return found

    user, anonymous, event, moment = take(_USER), take(_ANONYMOUS), take(_EVENTS), take(_TIMES)
    unique = next((column for wanted in _UNIQUE for column in plain if _simple(column) == wanted), None)
    lines = [f"# A first mapping for {name}, from its header and first {len(rows):,} rows.", "# Check every line."]
    lines.append('type = "track"')
    lines.append(f"userId = {_column(user)}  # guess: by its name" if user else _choose("userId", plain or columns))
    if anonymous:
        lines.append(f"anonymousId = {_column(anonymous)}  # guess: by its name")
    lines.append(
        f"event = {_column(event)}  # guess: by its name" if event else 'event = "Row Imported"  # choose a name'
    )
    lines.append(_timestamp(moment, rows) if moment else "# timestamp: without it, every message counts as of now")
    if unique:
        lines.append(f"# messageId = {{ columns = [{_quoted(unique)}] }}  # if this column is never the same twice")
    lines += ["", "[properties]"]
    lines += [_property(column, rows) for column in columns if column not in taken and column]
    lines += [
        "",
        "[integrations]",
        "All = false  # nothing is forwarded; name destinations, such as Mixpanel = true",
        "",
    ]
    return "\n".join(lines)


def _choose(field: str, columns: list[str]) -> str:
    return f"{field} = {_column(columns[0])}  # guess: no column is named like an id; choose one"


def _timestamp(column: str, rows: list[dict[str, Any]]) -> str:
    values = _values(column, rows)
    texts = _readable(values, read_time)
    spec, guess = f"column = {_quoted(column)}", ""
    if not all(isinstance(text, str) and re.search(r"(Z|[+-]\d\d:?\d\d)$", text) for text in texts):
        guess = "times without a zone are UTC; else add zone"
    for day, order in _DAYS.items():
        for clock in _CLOCKS:
            found = _readable(values, as_time(day + clock))
            if len(found) > len(texts):
                texts = found
                spec = f'column = {_quoted(column)}, format = {_quoted(day + clock)}, zone = "UTC"'
                guess = f"{order}; set the zone"
    # A few bad rows are rejected: they say nothing of the others.
    if len(texts) <= len(values) // 2:
        return f'timestamp = {_column(column)}  # not recognised: add format = "..."'
    bad = f"{len(values) - len(texts):,} of {len(values):,} rows have no such time" if len(texts) < len(values) else ""
    comment = "; ".join(filter(None, (guess, bad)))
    return f"timestamp = {{ {spec} }}{f'  # guess: {comment}' if comment else ''}"


def _property(column: str, rows: list[dict[str, Any]]) -> str:
    key = column if _BARE.fullmatch(column) else _quoted(column)
    values = _values(column, rows)
    kind = _kind(column, values)
    line = f"{key} = {{ column = {_quoted(column)}{kind} }}"
    return line + ("  # guess: from its values" if kind else "" if values else "  # always empty so far")


def _kind(column: str, values: list[Any]) -> str:
    texts = [value for value in values if isinstance(value, str)]
    if not texts or len(texts) != len(values):
        return ""
    if any(re.match(r"0\d", text) for text in texts) or _simple(column).endswith("id"):
        return ""  # a number without its zeros would be another one
    if _all(texts, as_boolean) and not set(texts) <= {"0", "1"}:
        return ', as = "boolean"'
    if _all(texts, as_integer):
        return ', as = "integer"'
    if _all(texts, as_number()):
        return ', as = "number"'
    if _all(texts, as_number(",")):
        return ', as = "number", decimal = ","'
    if all(text.startswith(("{", "[")) for text in texts) and _all(texts, as_json):
        return ', as = "json"'
    return ""


def _values(column: str, rows: list[dict[str, Any]]) -> list[Any]:
    return [value for row in rows if (value := row.get(column)) not in (None, "")]


def _all(values: list[Any], convert: Any) -> bool:
    return bool(values) and len(_readable(values, convert)) == len(values)


def _readable(values: list[Any], convert: Any) -> list[Any]:
    return [value for value in values if _is_readable(value, convert)]


def _is_readable(value: Any, convert: Any) -> bool:
    try:
        convert(value)
    except Unreadable:
        return False
    return True


def _simple(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())


def _column(name: str | None) -> str:
    return f"{{ column = {_quoted(cast('str', name))} }}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in escaped) + '"'
