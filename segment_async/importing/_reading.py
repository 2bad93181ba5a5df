"""Reads sources in a thread of its own, a slice of records at a time, so that a slow pipe never holds up the loop."""

from __future__ import annotations

import csv
import io
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import BinaryIO, Final, ParamSpec, TypeVar

from ._mapping import Mapping, nearest, within
from ._parquet import ParquetReader
from ._prepare import Prepared, Preparer
from ._ready_made import check_ready_made
from ._records import Place, Record, csv_header, read_csv, read_json_lines
from ._report import ImportUsageError, SourceBroken
from ._sources import Source
from ._state import Position

# In place of a value: the record has no such column.
_ABSENT: Final = object()
# Records whose columns an error may suggest.
_NAMED: Final = 1_000
_SLICE: Final = 256
_SLICE_SECONDS: Final = 0.2

P = ParamSpec("P")
T = TypeVar("T")


class ReaderThread(Executor):
    """One daemon thread: the end of the process does not wait for a read that never returns."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="segment-async import", daemon=True).start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._jobs.put(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # Executor's
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


@dataclass(slots=True)
class Opened:
    """A source that is being read."""

    columns: list[str] | None
    records: Iterator[Record]
    place: Callable[[], int]
    close: Callable[[], None]

    def done_bytes(self) -> int | None:
        """How far the stored bytes are read."""
        try:
            return self.place()
        except (OSError, ValueError):
            return None


def check_columns(source: Source, mapping: Mapping | None, id_columns: Sequence[str], *, transformed: bool) -> None:
    """Check the source's columns against the mapping, and against `id_columns`, those of the option ``--id``.

    Raises:
        ImportUsageError: the header is wrong, or lacks a column; or no record has one of the id.
    """
    paths: list[str] = []
    maps: tuple[str, ...] = ()
    if source.format == "csv":
        columns, _ = csv_header(source)
        where = ", line 1"
    elif source.format == "parquet":
        try:
            reader = ParquetReader(source)
        except SourceBroken:
            return  # reported when its turn comes
        columns, where = reader.columns, ""
        paths, maps = reader.paths, reader.maps
        reader.close()
        if twice := [name for name, count in Counter(columns).items() if count > 1]:
            raise ImportUsageError(f"source {source.name}: two columns are named {twice[0]!r}; rename one")
    else:
        _check_records(source, mapping, id_columns)
        return
    columns = [*columns, *paths]
    known = set(columns)

    def has(column: str) -> bool:
        return column in known or column.startswith(maps)

    if mapping is not None:
        mapping.check_columns(source.name, columns, has)
    elif not transformed:
        check_ready_made(source.name, columns)
    _check_id_columns(f"source {source.name}{where}: has no", id_columns, columns, has)


def _check_records(source: Source, mapping: Mapping | None, id_columns: Sequence[str]) -> None:
    """JSON has no header: a column of the id that no record has is misspelt, and records would have the same id.

    It reads until it has seen each of them, which most often the first record has.
    """
    missing = [*id_columns, *(mapping.id_columns if mapping is not None else ())]
    if not missing:
        return
    columns: dict[str, None] = {}
    count, last = 0, 0
    with closing(_readable(source)) as records:
        for record in records:
            missing = [each for each in missing if not _has(record, each)]
            if not missing:
                return
            count, last = count + 1, record.line or 0
            if count <= _NAMED:
                columns |= dict.fromkeys((*record.row, *record.empty))
    if not count:
        return  # each of them is rejected
    try:
        _refuse_columns(source, mapping, id_columns, missing, [*columns], count, last)
    except ImportUsageError as error:
        if source.name != "-":
            raise
        text = f"{error}{'' if str(error).endswith('?') else '.'}"
        raise ImportUsageError(
            f"{text} If a later record has it, save standard input as a file, and import that"
        ) from None


def _readable(source: Source) -> Generator[Record, None, None]:
    """The records of JSON, up to damage; of standard input, which cannot be read twice, those of its sample."""
    with ExitStack() as stack:
        streams = (io.BytesIO(source.sample),) if source.name == "-" else source.open()
        for stream in streams:
            stack.callback(stream.close)
        try:
            yield from (each for each in read_json_lines(source, streams[0], Place()) if each.problem is None)
        except SourceBroken:
            return  # reported when its turn comes


def _has(record: Record, column: str) -> bool:
    return column in record.empty or within(record.row, column, _ABSENT) is not _ABSENT


def _refuse_columns(
    source: Source,
    mapping: Mapping | None,
    id_columns: Sequence[str],
    missing: list[str],
    columns: list[str],
    count: int,
    last: int,
) -> None:
    def has(column: str) -> bool:
        return column not in missing

    is_whole = source.name != "-"
    if count == 1:
        amount = f"{'its only' if is_whole else 'the first'} record has no"
    else:
        amount = f"none of {'its' if is_whole else 'the first'} {count:,} records has a"
    if mapping is not None:
        mapping.check_id_columns(f"source {source.name}: {amount}", columns, has)
    lines = f"line {last}" if count == 1 else f"lines 1 to {last:,}"
    _check_id_columns(f"source {source.name}, {lines}: {amount}", id_columns, columns, has)


def _check_id_columns(problem: str, id_columns: Sequence[str], columns: list[str], has: Callable[[str], bool]) -> None:
    for column in id_columns:
        if not has(column):
            raise ImportUsageError(f"{problem} column {column!r}, which --id names{nearest(column, columns)}")


def open_at(source: Source, position: Position) -> Opened:
    """Open a source at a position in it.

    Raises:
        SourceBroken: it is damaged before the position, or another file by now.
        OSError: it cannot be opened.
    """
    if source.is_replaced():
        raise SourceBroken(0, "was replaced while the import ran; import it by itself")
    if source.format == "parquet":
        reader = ParquetReader(source)
        records = reader.read(position.record, position.group, position.row)
        return Opened(None, records, reader.tell, reader.close)
    # Before the stream is opened: some file systems give one file object to all who open a file.
    columns, delimiter = csv_header(source) if source.format == "csv" else (None, "")
    stream, stored = source.open()

    def close() -> None:
        stream.close()
        stored.close()

    place, skipped = Place(), position.record
    if source.is_seekable and position.byte:
        stream.seek(position.byte)
        place, skipped = Place(position.record, position.line, position.byte), 0
    if columns is not None:
        found = read_csv(source, stream, columns, delimiter, place)
    else:
        found = read_json_lines(source, stream, place)
    records = chain(islice(found, skipped, None), _missing_end(source, stored))
    return Opened(columns, records, stored.tell, close)


def _missing_end(source: Source, stored: BinaryIO) -> Iterator[Record]:
    """Yields no record: it follows the last one, and sees whether the file ends there.

    Raises:
        SourceBroken: the file has lost its end since the import looked at it.
    """
    try:
        byte = stored.tell()
    except (OSError, ValueError):
        return  # of a file system that does not tell
    if source.size is not None and byte < source.size:
        raise SourceBroken(byte, f"was cut off while the import ran, from {source.size:,} bytes to {byte:,} or fewer")
    yield from ()


@dataclass(slots=True)
class Slice:
    """The next records, prepared, and the error that came after them; neither at the end of the source."""

    prepared: list[Prepared]
    error: SourceBroken | OSError | None = None


def next_slice(records: Iterator[Record], preparer: Preparer, most: int | None = None) -> Slice:
    """Read on. A slow source gives fewer records at a time."""
    read = Slice([])
    until = time.monotonic() + _SLICE_SECONDS
    try:
        for record in islice(records, _SLICE if most is None else min(_SLICE, most)):
            read.prepared.append(preparer.prepare(record))
            if time.monotonic() > until:
                break
    except (SourceBroken, OSError) as error:
        read.error = error
    return read


def sample_size(sources: Sequence[Source]) -> tuple[int | None, int | None]:
    """Bytes of all sources, and an estimate of their records; `None` where it cannot be told."""
    if any(source.size is None for source in sources):
        return None, None
    total = sum(source.size or 0 for source in sources)
    records = 0.0
    for source in sources:
        if source.format == "parquet":
            try:
                reader = ParquetReader(source)
            except SourceBroken:
                continue
            records += reader.count
            reader.close()
            continue
        estimated = _records_of(source)
        if estimated is None:
            return total, None
        records += estimated
    return total, max(0, round(records))


def _records_of(source: Source) -> float | None:
    """How many records a text file has, if all are as long as those of its sample."""
    if source.compressed:
        return None
    beginning, size = source.sample, source.size or 0
    sample = beginning[: beginning.rfind(b"\n") + 1]
    if not sample:
        return None
    if source.format != "csv":
        return size / (len(sample) / sample.count(b"\n"))
    # A cell may hold line ends.
    columns, delimiter = csv_header(source)
    found = read_csv(source, io.BytesIO(sample), columns, delimiter, Place())
    try:
        whole = [record for record in found if not record.problem]
    except csv.Error:
        return None  # the header is longer than the sample
    if not whole:
        return size / len(beginning) - 1
    begin, end = whole[0].byte or 0, whole[-1].after[1]
    return (size - begin) / ((end - begin) / len(whole))
