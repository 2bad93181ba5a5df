"""Reads the records of text sources, each with its exact place: CSV, JSON lines, and repaired rejects.

Memory is bounded by one record: lines and quoted fields have a limit. What cannot be read is a record with a `problem`,
and reading goes on with the next line. `_parquet` does the same for Parquet.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections import Counter, deque
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from operator import sub
from typing import Any, BinaryIO, Final, NamedTuple, cast

from ._report import ImportUsageError, SourceBroken
from ._sources import Source
from ._values import read_json

EXTRA: Final = "(extra)"
"""The key of the cells beyond the last column, in the row of a reject."""

_MAX_LINE: Final = 1 << 20
_MAX_RECORD: Final = 1 << 22
_BOM: Final = b"\xef\xbb\xbf"
_DELIMITERS: Final = ",;\t|"


class Problem(NamedTuple):
    """Why a record cannot be sent; in the terms of `segment_async.verdicts`."""

    rule: str
    path: str
    text: str


@dataclass(slots=True)
class Record:
    """One row.

    Attributes:
        number: of the record in its source, from 1.
        line: where it begins, from 1; `None` in Parquet files.
        byte: where it begins in the file after decompression; `None` in Parquet files.
        row: a list of cells for CSV, a dict for others, text if it could not be parsed.
        after: where the next record begins: lines before it and its byte, or its row group and row.
        problem: why it could not be read.
        empty: columns that `row` leaves out because their cells are empty: of a repaired reject.
        unreadable: columns whose values Python cannot hold, which `row` has as `None`: of a Parquet file.
    """

    source: Source
    number: int
    line: int | None
    byte: int | None
    row: Any
    after: tuple[int, int]
    problem: Problem | None = None
    empty: Collection[str] = ()
    unreadable: Collection[str] = ()


class _Lines:
    """The lines of a stream, with a count of lines and bytes, and a way to give lines back.

    Attributes:
        byte, line: of the next line.
        taken: the lines since `begin`.
        is_bad: one of them is not UTF-8.
    """

    def __init__(self, stream: BinaryIO, byte: int = 0, line: int = 0) -> None:
        self.byte = byte
        self.line = line
        self.taken: list[bytes] = []
        self.is_bad = False
        self._stream = stream
        self._begun = byte
        # Where each of the lines taken ends: a line that is too long is kept in part.
        self._ends: list[int] = []
        self._given_back: deque[tuple[bytes, int]] = deque()

    def begin(self) -> None:
        self._begun = self.byte
        self.taken.clear()
        self._ends.clear()
        self.is_bad = False

    def give_back(self) -> None:
        """Keep only the first line of those taken; the others are read again."""
        lengths = map(sub, self._ends[1:], self._ends)
        self._given_back.extendleft(reversed([*zip(self.taken[1:], lengths, strict=True)]))
        self.line -= len(self.taken) - 1
        self.byte = self._ends[0]
        del self.taken[1:], self._ends[1:]

    def texts(self) -> Iterator[str]:
        """The lines as text. Like `raw`, it ends with an exception."""
        for raw in self.raw():
            try:
                yield raw.decode()
            except UnicodeDecodeError:
                self.is_bad = True
                yield raw.decode(errors="surrogateescape")

    def raw(self) -> Iterator[bytes]:
        """The lines. After an exception, a new iterator goes on behind the line.

        Raises:
            csv.Error: a line or a record is too long.
        """
        try:
            while True:
                if self._given_back:
                    raw, length = self._given_back.popleft()
                else:
                    raw = self._stream.readline(_MAX_LINE)
                    length = len(raw)
                    if length == _MAX_LINE and not raw.endswith(b"\n"):
                        length += self._skip_line()
                if not raw:
                    return
                self.byte = end = self.byte + length
                self.line += 1
                self.taken.append(raw)
                self._ends.append(end)
                if length > _MAX_LINE:
                    raise csv.Error(f"the line has more than {_MAX_LINE:,} bytes")
                if end - self._begun > _MAX_RECORD:
                    raise csv.Error(f"the record has more than {_MAX_RECORD:,} bytes")
                yield raw
        except (EOFError, zlib.error, OSError) as error:
            # `gzip.BadGzipFile` is an OSError without a number; errors of the disk or the network have one.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise SourceBroken(self.byte, f"is truncated or damaged after byte {self.byte:,}: {error}") from error

    def _skip_line(self) -> int:
        """Read to the end of the line; returns the bytes."""
        count = 0
        while more := self._stream.readline(_MAX_LINE):
            count += len(more)
            if more.endswith(b"\n"):
                break
        return count


class Place(NamedTuple):
    """Where to begin: records and lines before, and the byte; `byte` 0 is the beginning."""

    record: int = 0
    line: int = 0
    byte: int = 0


def csv_header(source: Source) -> tuple[list[str], str]:
    """The column names and the delimiter.

    Raises:
        ImportUsageError: there is no header, or two columns have the same name.
    """
    with ExitStack() as stack:
        # Standard input can be read only once; its sample is long enough for any header.
        streams = (io.BytesIO(source.sample),) if source.name == "-" else source.open()
        for stream in streams:
            stack.callback(stream.close)
        return _checked_header(source, _Lines(streams[0]))


def _checked_header(source: Source, lines: _Lines) -> tuple[list[str], str]:
    lines.begin()
    try:
        first = next(lines.raw(), b"").removeprefix(_BOM).decode()
        delimiter = max(_DELIMITERS, key=_outside_quotes(first).count)
        columns = _parse_header(first, lines, delimiter)
    except UnicodeDecodeError:
        raise ImportUsageError(
            f"source {source.name}, line 1: is not UTF-8; convert it: iconv -f LATIN1 -t UTF-8 {source.name}"
        ) from None
    except (csv.Error, SourceBroken) as error:
        sample = source.sample
        if b"\r" in sample and b"\n" not in sample:
            raise ImportUsageError(
                f"source {source.name}, line 1: its lines end with CR alone; convert it: tr '\\r' '\\n' < {source.name}"
            ) from error
        raise ImportUsageError(f"source {source.name}, line 1: the header cannot be read: {error}") from error
    names = [name.strip() for name in columns]
    twice = sorted(name for name, count in Counter(names).items() if count > 1 and name)
    if twice:
        raise ImportUsageError(f"source {source.name}, line 1: two columns are named {twice[0]!r}; rename one")
    if not any(names):
        raise ImportUsageError(f"source {source.name}, line 1: there is no header with column names")
    return names, delimiter


def _outside_quotes(line: str) -> str:
    return "".join(line.split('"')[::2])


def _parse_header(first: str, lines: _Lines, delimiter: str) -> list[str]:
    def texts() -> Iterator[str]:
        yield first
        yield from lines.texts()

    empty: list[str] = []
    return next(csv.reader(texts(), delimiter=delimiter, strict=True), empty)


def read_csv(source: Source, stream: BinaryIO, columns: list[str], delimiter: str, place: Place) -> Iterator[Record]:
    """The records from a place on; the stream stands at its byte.

    Raises:
        SourceBroken: the source is damaged.
        OSError: it cannot be read now.
    """
    # The limit holds for the process. Within a longer cell, lines could be taken for rows.
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_RECORD))
    lines = _Lines(stream, place.byte, place.line)
    width = len(columns)
    number = place.record
    if place.byte == 0:
        _parse_header(next(lines.texts(), "").removeprefix("\ufeff"), lines, delimiter)
    reader = csv.reader(lines.texts(), delimiter=delimiter, strict=True)
    while True:
        lines.begin()
        byte, line = lines.byte, lines.line + 1
        problem = None
        try:
            row: Any = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines.give_back()
            reader = csv.reader(lines.texts(), delimiter=delimiter, strict=True)
            row = lines.taken[0][:_MAX_LINE].decode(errors="replace").rstrip("\r\n")
            problem = Problem("csv", "", f"Not a row of CSV: {error}.")
        else:
            if not row:
                continue
            if lines.is_bad:
                row = [cell.encode(errors="surrogateescape").decode(errors="replace") for cell in row]
                problem = Problem("utf-8", "", "Not valid UTF-8.")
            elif len(row) != width:
                found = "1 column" if len(row) == 1 else f"{len(row)} columns"
                problem = Problem("columns", "", f"{found}, but the header has {width}.")
        number += 1
        yield Record(source, number, line, byte, row, (lines.line, lines.byte), problem)


def read_json_lines(source: Source, stream: BinaryIO, place: Place) -> Iterator[Record]:
    """Like `read_csv`, for one JSON object a line. Blank lines are no records."""
    lines = _Lines(stream, place.byte, place.line)
    found = lines.raw()
    number = place.record
    is_rejects = source.format == "rejects"
    row: Any
    problem: Problem | None
    while True:
        lines.begin()
        byte, line = lines.byte, lines.line + 1
        try:
            raw = next(found)
        except StopIteration:
            return
        except csv.Error as error:
            found = lines.raw()
            problem, row = Problem("json", "", f"Too long: {error}."), "(not kept)"
        else:
            if byte == 0:
                raw = raw.removeprefix(_BOM)
            if not raw or raw.isspace():
                continue
            problem, row = _parse_object(raw)
            if problem is None and is_rejects:
                problem, row = _repaired(row)
        number += 1
        if is_rejects and problem is None:
            row, empty = _without_empty(row)
            yield Record(source, number, line, byte, row, (lines.line, lines.byte), None, empty)
        else:
            yield Record(source, number, line, byte, row, (lines.line, lines.byte), problem)


def _parse_object(raw: bytes) -> tuple[Problem | None, Any]:
    try:
        row = read_json(raw)
    except ValueError as error:
        text = str(error).partition(": line ")[0]
        return Problem("json", "", f"Not valid JSON: {text}."), raw.decode(errors="replace").rstrip("\r\n")
    if not isinstance(row, dict):
        return Problem("json", "", "Not a JSON object."), raw.decode(errors="replace").rstrip("\r\n")
    return None, cast("dict[str, Any]", row)


def _repaired(reject: dict[str, Any]) -> tuple[Problem | None, Any]:
    """The row of a line of a rejects file."""
    row = reject.get("row")
    if isinstance(row, str):
        problem, parsed = _parse_object(row.encode(errors="replace"))
        if problem is not None:
            return Problem("row", "row", 'Not repaired: write the row as an object, {"column": "value"}.'), row
        row = parsed
    if not isinstance(row, dict):
        return Problem("json", "row", "A repaired reject needs its row as an object."), row
    fields = cast("dict[str, Any]", row)
    if EXTRA in fields:
        return Problem("columns", "", f"Has cells beyond the last column, under {EXTRA!r}."), fields
    return None, fields


def _without_empty(row: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The row and its empty cells, which are absent, as in CSV."""
    empty = [name for name, value in row.items() if value == ""]
    return {name: value for name, value in row.items() if value != ""} if empty else row, empty


def shown_row(record: Record, columns: list[str] | None) -> Any:
    """The row as a reject shows it: an object wherever its columns are known."""
    row: Any = record.row
    if not isinstance(row, list) or columns is None:
        return cast("Any", row)
    cells = cast("list[str]", row)
    shown: dict[str, Any] = dict(zip(columns, cells, strict=False))
    if len(cells) > len(columns):
        shown[EXTRA] = cells[len(columns) :]
    return shown
