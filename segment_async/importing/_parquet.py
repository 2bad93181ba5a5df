"""Reads the records of Parquet files, row group by row group; needs the extra ``parquet``.

Values come in JSON's types: decimals stay exact, integers keep their digits, times are text in UTC. A row group is read
in slices, so that memory stays bounded.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Final

from ._records import Problem, Record
from ._report import ImportUsageError, SourceBroken
from ._sources import Source
from ._values import Unreadable, plain_json

_SLICE: Final = 1_000
# In place of a value that no type of Python can hold.
_UNREADABLE: Final = object()


class ParquetReader:
    """One open file.

    Raises:
        ImportUsageError: the extra is not installed.
        SourceBroken: the file is truncated or damaged.

    Attributes:
        count: rows in the file.
    """

    def __init__(self, source: Source) -> None:
        self._pyarrow = _pyarrow(source)
        self._source = source
        self._stream = source.open_stored()
        try:
            # Times as Spark writes them. As nanoseconds, times after the year 2262 would become other times.
            self._file: Any = self._pyarrow.parquet.ParquetFile(self._stream, coerce_int96_timestamp_unit="us")
        except (self._pyarrow.ArrowInvalid, OSError) as error:
            self._stream.close()
            if isinstance(error, OSError) and error.errno is not None:
                raise
            size = source.size or 0
            raise SourceBroken(size, f"is truncated or damaged: no footer at its end, byte {size:,}") from error
        self._schema: Any = self._microseconds(self._file.schema_arrow)
        self._with_maps = [(field.name, field.type) for field in self._schema if "map<" in str(field.type)]
        self.count = int(self._file.metadata.num_rows)
        self._done = 0

    @property
    def columns(self) -> list[str]:
        names: list[str] = list(self._file.schema_arrow.names)
        return names

    @property
    def paths(self) -> list[str]:
        """What is inside of structs, such as ``address.city``."""
        return [path for field in self._file.schema_arrow for path, _ in self._inside(field, "") if "." in path]

    @property
    def maps(self) -> tuple[str, ...]:
        """The beginnings of paths within maps, whose keys each row chooses."""
        found = (each for field in self._file.schema_arrow for each in self._inside(field, ""))
        return tuple(f"{path}." for path, kind in found if self._pyarrow.types.is_map(kind))

    def _inside(self, field: Any, outer: str) -> Iterator[tuple[str, Any]]:
        """The field and those inside of it, with their types."""
        path, kind = outer + field.name, field.type
        yield path, kind
        if self._pyarrow.types.is_struct(kind):
            for index in range(kind.num_fields):
                yield from self._inside(kind.field(index), path + ".")

    def tell(self) -> int:
        """How far it is read, in bytes of the file, as if all rows were of one size."""
        return (self._source.size or 0) * self._done // max(1, self.count)

    def close(self) -> None:
        self._file.close()
        self._stream.close()

    def read(self, record: int, group: int, row: int) -> Iterator[Record]:
        """The records from this row of this row group on; `record` are those before.

        Raises:
            SourceBroken: a row group cannot be read.
        """
        number = record
        groups: int = self._file.num_row_groups
        for at in range(group, groups):
            before = 0
            for rows in self._slices(at):
                start = max(0, row - before) if at == group else 0
                for index, fields in enumerate(rows[start:], before + start):
                    number += 1
                    self._done = number
                    yield self._record(number, fields, (at, index + 1))
                before += len(rows)

    def _slices(self, group: int) -> Iterator[list[dict[str, Any]]]:
        try:
            for batch in self._file.iter_batches(_SLICE, row_groups=[group]):
                rows = _rows(self._pyarrow.Table.from_batches([batch]).cast(self._schema, safe=False))
                for name, kind in self._with_maps:
                    for row in rows:
                        row[name] = self._empty_maps(row[name], kind)
                yield rows
        except (self._pyarrow.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            column = self._file.metadata.row_group(group).column(0)
            byte = int(column.dictionary_page_offset or column.data_page_offset)
            text = f"is damaged in row group {group}, which begins at byte {byte:,}"
            raise SourceBroken(byte, text) from error

    def _record(self, number: int, fields: dict[str, Any], after: tuple[int, int]) -> Record:
        unreadable: list[str] = []
        try:
            if _UNREADABLE in fields.values():
                unreadable = [name for name, value in fields.items() if value is _UNREADABLE]
                fields |= dict.fromkeys(unreadable)
            row = plain_json(fields)
            return Record(self._source, number, None, None, row, after, None, (), unreadable)
        except Unreadable as error:
            problem = Problem(error.rule, error.path, error.text)
            return Record(self._source, number, None, None, repr(fields), after, problem)

    def _empty_maps(self, value: Any, kind: Any) -> Any:
        """The value with `{}` for each map without entries, for which pyarrow gives `[]`."""
        types = self._pyarrow.types
        if value is None or value is _UNREADABLE:
            return value
        if types.is_map(kind):
            return [(key, self._empty_maps(item, kind.item_type)) for key, item in value] or {}
        if types.is_struct(kind):
            return {field.name: self._empty_maps(value[field.name], field.type) for field in kind}
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            return [self._empty_maps(item, kind.value_type) for item in value]
        return value

    def _microseconds(self, schema: Any) -> Any:
        """The schema with nanoseconds as microseconds, which is what Python's times have, and with times in UTC.

        Coarser times stay as they are: one that is too large for microseconds would become another time. A file may name
        zones that this machine does not know, and times are sent in UTC anyway.
        """
        fields = [field.with_type(self._reduced(field.type)) for field in schema]
        return self._pyarrow.schema(fields)

    def _reduced(self, kind: Any) -> Any:
        arrow, types = self._pyarrow, self._pyarrow.types
        if types.is_timestamp(kind):
            return arrow.timestamp("us" if kind.unit == "ns" else kind.unit, kind.tz and "UTC")
        if types.is_time(kind) and kind.unit == "ns":
            return arrow.time64("us")
        if types.is_duration(kind) and kind.unit == "ns":
            return arrow.duration("us")
        if types.is_struct(kind):
            inner = [kind.field(index) for index in range(kind.num_fields)]
            return arrow.struct([field.with_type(self._reduced(field.type)) for field in inner])
        if types.is_list(kind) or types.is_large_list(kind):
            reduced = kind.value_field.with_type(self._reduced(kind.value_type))
            return arrow.list_(reduced) if types.is_list(kind) else arrow.large_list(reduced)
        if types.is_fixed_size_list(kind):
            return arrow.list_(kind.value_field.with_type(self._reduced(kind.value_type)), kind.list_size)
        if types.is_map(kind):
            key, item = (each.with_type(self._reduced(each.type)) for each in (kind.key_field, kind.item_field))
            return arrow.map_(key, item, kind.keys_sorted)
        if types.is_dictionary(kind):
            return self._reduced(kind.value_type)
        return kind


def _rows(table: Any) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except (OverflowError, ValueError):
        # One value of one row, most often.
        columns = {name: [*map(_value, column)] for name, column in zip(table.column_names, table.columns, strict=True)}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return rows


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        return _UNREADABLE


def _pyarrow(source: Source) -> Any:
    try:
        pyarrow: Any = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise ImportUsageError(
            f'source {source.name}: Parquet requires the extra "parquet": pip install "segment-async[parquet]"'
        ) from None
    return pyarrow
