"""The mapping: a TOML file that says how a row becomes messages. Read and checked once, then bound to a source's columns.

Every error names the file, the line and the nearest right name. This file knows rows and messages, neither files of
records nor the network.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
import zoneinfo
from collections.abc import Callable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any, Final, cast

from ._report import ImportUsageError
from ._values import (
    Convert,
    Unreadable,
    as_boolean,
    as_id,
    as_integer,
    as_json,
    as_moment,
    as_number,
    as_text,
    as_time,
    dumps,
)

Get = Callable[[Any], Any]
Build = Callable[[Any], dict[str, Any]]

CALLS: Final = ("track", "identify", "page", "screen", "group", "alias")
IDS: Final = ("userId", "anonymousId", "groupId", "previousId")
_TEXTS: Final = ("type", "event", "name", "category")
_OBJECTS: Final = ("properties", "traits", "context", "integrations")
_FIELDS: Final = (*_TEXTS, *IDS, "timestamp", "messageId", "rest", *_OBJECTS)
_SPEC: Final = ("column", "as", "decimal", "format", "zone", "values")
_KINDS: Final = ("text", "number", "integer", "boolean", "json", "time")


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One value of a message: a constant, or a column with its conversion."""

    path: str
    line: int
    constant: Any = None
    column: str | None = None
    convert: Convert | None = None
    values: MappingOf[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Object:
    """An object of a message: its fields by name."""

    fields: dict[str, _Leaf | _Object]


@dataclass(frozen=True, slots=True)
class _Template:
    """One message of a row."""

    fields: dict[str, _Leaf | _Object]
    rest: str | None


class Mapping:
    """How rows become messages.

    Attributes:
        digest: changes with everything that changes messages.
        id_columns: of ``messageId = { columns = [...] }``.
        keeps_id: the mapping takes the messageId from a column, as it is.
        has_integrations: the mapping says where the data goes.
    """

    def __init__(self, templates: list[_Template], digest: str, id_columns: tuple[str, ...], name: str) -> None:
        self._templates = templates
        self._name = name
        self.digest = digest
        self.id_columns = id_columns
        self.keeps_id = any("messageId" in template.fields for template in templates)
        self.has_integrations = any("integrations" in template.fields for template in templates)

    @property
    def columns(self) -> set[str]:
        """Every column that the mapping names."""
        return {leaf.column for leaf in self._leaves() if leaf.column is not None} | set(self.id_columns)

    def check_columns(self, source: str, columns: list[str]) -> None:
        """Raises:
        ImportUsageError: the source lacks a column of the mapping.
        """
        known = set(columns)
        for leaf in self._leaves():
            if leaf.column is not None and leaf.column not in known and leaf.column.split(".")[0] not in known:
                self._missing(source, leaf.column, leaf.line, columns)
        for column in self.id_columns:
            if column not in known:
                self._missing(source, column, 0, columns)

    def _missing(self, source: str, column: str, line: int, columns: list[str]) -> None:
        place = f"{self._name}, line {line}" if line else self._name
        raise ImportUsageError(f"{place}: source {source} has no column {column!r}{_nearest(column, columns)}")

    def bind(self, columns: list[str] | None) -> Callable[[Any], list[dict[str, Any]]]:
        """A function from a row to its messages; `columns` are those of lists of cells, `None` for dicts.

        The function raises `Unreadable` for a value that is not what the mapping says.
        """
        builds = [_bound_template(template, columns, self.columns) for template in self._templates]
        return lambda row: [build(row) for build in builds]

    def _leaves(self) -> list[_Leaf]:
        found: list[_Leaf] = []
        waiting: list[_Leaf | _Object] = [each for one in self._templates for each in one.fields.values()]
        while waiting:
            each = waiting.pop(0)
            if isinstance(each, _Leaf):
                found.append(each)
            else:
                waiting.extend(each.fields.values())
        return found


def _nearest(name: str, names: list[str] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, names, 1, 0.5)
    if not near:
        lowered = {each.lower(): each for each in names}
        near = [lowered[each] for each in difflib.get_close_matches(name.lower(), list(lowered), 1, 0.5)]
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; it has {', '.join(map(repr, names[:12]))}" if names else ""


# -- reading the file


def load_mapping(path: Path) -> Mapping:
    """Read a mapping.

    Raises:
        ImportUsageError: it cannot be read, or says something that is not understood.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ImportUsageError(f"mapping {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ImportUsageError(f"mapping {path}: is not UTF-8") from None
    return parse_mapping(text, str(path))


def parse_mapping(text: str, name: str = "mapping") -> Mapping:
    """Like `load_mapping`, for text; `name` is what errors call it."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        matched = re.search(r"line (\d+)", str(error))
        # At the end of the document, TOML's error has no line.
        line = matched[1] if matched else text.count("\n") + 1
        raise ImportUsageError(f"{name}, line {line}: not valid TOML: {error}") from None
    return _Reader(text, name).read(content)


class _Reader:
    """Turns the parsed TOML into templates."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name

    def read(self, content: dict[str, Any]) -> Mapping:
        several = content.pop("message", None)
        if several is not None and not (isinstance(several, list) and several):
            raise self._error("message", "must be [[message]] tables")
        id_columns = self._id_columns(content)
        tables: list[dict[str, Any]] = [content | each for each in self._tables(several)]
        templates = [self._template(each) for each in tables]
        digest = hashlib.sha256(dumps([content, several, id_columns])).hexdigest()
        return Mapping(templates, digest, id_columns, self._name)

    def _tables(self, several: Any) -> list[dict[str, Any]]:
        return [*several] if several else [{}]

    def _id_columns(self, content: dict[str, Any]) -> tuple[str, ...]:
        spec = content.get("messageId")
        if not isinstance(spec, dict) or "column" in spec:
            return ()
        fields = cast("dict[str, Any]", spec)
        for key in fields:
            if key != "columns":
                raise self._error(key, f"unknown key {key!r}{_nearest(key, ('columns', 'column'))}", "messageId")
        columns = fields.get("columns")
        names: list[Any] = [*columns] if isinstance(columns, list) else []
        if not names or not all(isinstance(each, str) for each in names):
            raise self._error("messageId", "columns must be a list of column names")
        del content["messageId"]
        return tuple(names)

    def _template(self, table: dict[str, Any]) -> _Template:
        fields: dict[str, _Leaf | _Object] = {}
        for key, value in table.items():
            if key not in _FIELDS:
                raise self._error(key, f"unknown key {key!r}{_nearest(key, _FIELDS)}")
            if key == "rest":
                continue
            fields[key] = self._object(value, key) if key in _OBJECTS else self._top(key, value)
        rest = table.get("rest")
        if rest not in (None, "properties", "traits"):
            raise self._error("rest", 'rest must be "properties" or "traits"')
        if "type" not in fields:
            raise ImportUsageError(f'{self._name}: type is missing, such as type = "track"')
        self._check_type(fields["type"])
        return _Template(fields, cast("str | None", rest))

    def _check_type(self, leaf: _Leaf | _Object) -> None:
        assert isinstance(leaf, _Leaf)
        constants = [leaf.constant] if leaf.column is None else [*(leaf.values or {}).values()]
        for each in constants:
            if each not in CALLS:
                raise self._error("type", f"unknown type {each!r}{_nearest(str(each), CALLS)}")

    def _top(self, key: str, value: Any) -> _Leaf:
        if isinstance(value, dict):
            default = {"timestamp": "time"}.get(key)
            leaf = self._column(cast("dict[str, Any]", value), key, default)
            if key in IDS or key == "messageId":
                return _with(leaf, as_id)
            return _with(leaf, as_text) if key in _TEXTS else leaf
        if key in (*IDS, "messageId", "timestamp") and not isinstance(value, str):
            raise self._error(key, f"{key} must be text or {{ column = ... }}")
        if key in _TEXTS and not (isinstance(value, str) and value):
            raise self._error(key, f"{key} must be text or {{ column = ... }}")
        if key == "timestamp":
            try:
                return _Leaf(key, self._line(key), as_time()(value))
            except Unreadable as error:
                raise self._error(key, error.text) from None
        return _Leaf(key, self._line(key), value)

    def _object(self, value: Any, path: str) -> _Object:
        if not isinstance(value, dict):
            raise self._error(path.rpartition(".")[2], f"{path} must be a table")
        fields: dict[str, _Leaf | _Object] = {}
        for key, inner in cast("dict[str, Any]", value).items():
            fields[key] = self._inner(key, inner, f"{path}.{key}")
        return _Object(fields)

    def _inner(self, key: str, value: Any, path: str) -> _Leaf | _Object:
        if not isinstance(value, dict):
            constant = as_time()(value) if hasattr(value, "isoformat") else value
            return _Leaf(path, self._line(key), constant)
        table = cast("dict[str, Any]", value)
        keys = [*table]
        if "column" in keys:
            return self._column(table, path, None)
        near = next((each for each in keys if difflib.get_close_matches(each, ("column",), 1, 0.8)), None)
        if near is not None:
            raise self._error(near, f"unknown key {near!r}; did you mean 'column'?", key)
        if any(each in _SPEC[1:] for each in keys) and not any(isinstance(each, dict) for each in table.values()):
            raise self._error(key, f"{path} needs a column: {{ column = ... }}")
        return self._object(table, path)

    def _column(self, spec: dict[str, Any], path: str, default: str | None) -> _Leaf:
        key = path.rpartition(".")[2]
        for each in spec:
            if each not in _SPEC:
                raise self._error(each, f"unknown key {each!r} of {path}{_nearest(each, _SPEC)}", key)
        column = spec.get("column")
        if not isinstance(column, str) or not column:
            raise self._error(key, f"{path} needs a column: {{ column = ... }}")
        values = spec.get("values")
        if values is not None and not isinstance(values, dict):
            raise self._error(key, f"values of {path} must be a table from cells to values")
        kind = spec.get("as", default or ("time" if "format" in spec or "zone" in spec else None))
        by_cell = cast("dict[str, Any] | None", values)
        return _Leaf(path, self._line(key), None, column, self._convert(kind, spec, path, key), by_cell)

    def _convert(self, kind: Any, spec: dict[str, Any], path: str, key: str) -> Convert | None:
        if kind is not None and kind not in _KINDS:
            raise self._error(key, f"unknown as = {kind!r} of {path}{_nearest(str(kind), _KINDS)}")
        if "decimal" in spec and (kind != "number" or spec["decimal"] not in (".", ",")):
            raise self._error(key, f'decimal of {path} must be "." or ",", and goes with as = "number"')
        if ("format" in spec or "zone" in spec) and kind != "time":
            raise self._error(key, f'format and zone of {path} go with as = "time"')
        if kind == "number":
            return as_number(spec.get("decimal"))
        if kind == "time":
            pattern = spec.get("format")
            if pattern is not None and not isinstance(pattern, str):
                raise self._error(key, f'format of {path} must be text such as "%d.%m.%Y %H:%M"')
            make = as_moment if path == "timestamp" else as_time
            return make(pattern, self._zone(spec.get("zone", "UTC"), key))
        return {"text": as_text, "integer": as_integer, "boolean": as_boolean, "json": as_json}.get(kind or "")

    def _zone(self, name: Any, key: str) -> tzinfo:
        if name == "UTC":
            return UTC
        try:
            return zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, OSError):
            known = sorted(zoneinfo.available_timezones())
            near = difflib.get_close_matches(str(name), known, 1, 0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise self._error(key, f"unknown zone {name!r}{hint}") from None

    def _error(self, key: str, problem: str, outer: str | None = None) -> ImportUsageError:
        line = self._line(key, outer)
        return ImportUsageError(f"{self._name}, line {line}: {problem}" if line else f"{self._name}: {problem}")

    def _line(self, key: str, outer: str | None = None) -> int:
        """The line where a key is first set, as a table or as a name; within the lines from `outer` on."""
        quoted = rf"[\"']?{re.escape(key)}[\"']?"
        pattern = re.compile(rf"^\s*\[+[^\]]*\b{quoted}\s*\]|(^|[\s{{,.]){quoted}\s*(=|\.)")
        lines = self._text.splitlines()
        start = self._line(outer) - 1 if outer is not None else 0
        for number, line in enumerate(lines[max(0, start) :], max(0, start) + 1):
            if pattern.search(line.partition("#")[0] if '"' not in line else line):
                return number
        return 0


def _with(leaf: _Leaf, convert: Convert) -> _Leaf:
    if leaf.convert is None or leaf.convert is as_text:
        return _Leaf(leaf.path, leaf.line, leaf.constant, leaf.column, convert, leaf.values)
    inner = leaf.convert
    return _Leaf(leaf.path, leaf.line, leaf.constant, leaf.column, lambda value: convert(inner(value)), leaf.values)


# -- binding to columns


def _bound_template(template: _Template, columns: list[str] | None, mapped: set[str]) -> Build:
    fields = [(name, _bound(field, columns)) for name, field in template.fields.items()]
    rest, take_rest = template.rest, _rest_of(columns, mapped)

    def build(row: Any) -> dict[str, Any]:
        message: dict[str, Any] = {}
        for name, get in fields:
            value = get(row)
            if value is not None:
                message[name] = value
        if rest is not None and (others := take_rest(row)):
            message[rest] = others | message.get(rest, {})
        return message

    return build


def _rest_of(columns: list[str] | None, mapped: set[str]) -> Callable[[Any], dict[str, Any]]:
    taken = {column.split(".")[0] for column in mapped} | mapped
    if columns is None:
        return lambda row: {name: value for name, value in row.items() if value is not None and name not in taken}
    indexes = [(index, name) for index, name in enumerate(columns) if name and name not in mapped]
    return lambda row: {name: row[index] for index, name in indexes if row[index]}


def _bound(field: _Leaf | _Object, columns: list[str] | None) -> Get:
    if isinstance(field, _Object):
        return _bound_object(field, columns)
    if field.column is None:
        constant = field.constant
        return lambda row: constant
    get = getter(field.column, columns)
    convert, values, path = field.convert, field.values, field.path
    if convert is None and values is None:
        return get

    def converted(row: Any) -> Any:
        value = get(row)
        if value is None:
            return None
        try:
            if values is not None:
                return _looked_up(values, value)
            return convert(value) if convert is not None else value
        except Unreadable as error:
            error.path = path
            raise

    return converted


def _looked_up(values: MappingOf[str, Any], value: Any) -> Any:
    found = values.get(as_text(value))
    if found is None:
        raise Unreadable("values", "The mapping's values do not have this one.")
    return found


def _bound_object(field: _Object, columns: list[str] | None) -> Get:
    fields = [(name, _bound(inner, columns)) for name, inner in field.fields.items()]

    def build(row: Any) -> dict[str, Any] | None:
        built: dict[str, Any] = {}
        for name, get in fields:
            value = get(row)
            if value is not None:
                built[name] = value
        return built or None

    return build


def getter(column: str, columns: list[str] | None) -> Get:
    """A function that takes a column's value from a row; `None` is absent. `address.city` also looks into objects."""
    if columns is not None:
        if column not in columns:
            return lambda row: None
        index = columns.index(column)
        # An empty cell is absent.
        return lambda row: row[index] or None
    parts = column.split(".")

    def get(row: Any) -> Any:
        value = row.get(column)
        if value is None and len(parts) > 1:
            value = row
            for part in parts:
                value = cast("dict[str, Any]", value).get(part) if isinstance(value, dict) else None
        return value

    return get
