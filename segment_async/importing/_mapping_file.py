"""Reads a mapping from TOML, checked as a whole. Every error names the file, the line and the nearest right name."""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
import zoneinfo
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any, Final, cast

from ._mapping import CALLS, IDS, Leaf, Mapping, Object, Template, nearest
from ._report import ImportUsageError
from ._values import (
    Convert,
    Unreadable,
    as_boolean,
    as_choice,
    as_id,
    as_integer,
    as_json,
    as_moment,
    as_number,
    as_text,
    as_time,
    dumps,
)

_TEXTS: Final = ("type", "event", "name", "category")
_OBJECTS: Final = ("properties", "traits", "context", "integrations")
_FIELDS: Final = (*_TEXTS, *IDS, "timestamp", "messageId", "rest", *_OBJECTS)
_SPEC: Final = ("column", "as", "decimal", "format", "zone", "values")
_KINDS: Final = ("text", "number", "integer", "boolean", "json", "time")


def load_mapping(path: str | Path) -> Mapping:
    """Read a mapping.

    Raises:
        ImportUsageError: it cannot be read, or says something that is not understood.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise ImportUsageError(f"mapping {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ImportUsageError(f"mapping {path}: is not UTF-8") from None
    mapping = parse_mapping(text, str(path))
    mapping.path = Path(path)
    return mapping


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
        id_line = self._line("messageId") if id_columns else 0
        tables: list[dict[str, Any]] = [content | each for each in self._tables(several)]
        templates = [self._template(each) for each in tables]
        digest = hashlib.sha256(dumps([content, several, id_columns])).hexdigest()
        return Mapping(templates, digest, id_columns, self._name, id_line)

    def _tables(self, several: Any) -> list[dict[str, Any]]:
        return [*several] if several else [{}]

    def _id_columns(self, content: dict[str, Any]) -> tuple[str, ...]:
        spec = content.get("messageId")
        if not isinstance(spec, dict) or "column" in spec:
            return ()
        fields = cast("dict[str, Any]", spec)
        for key in fields:
            if key != "columns":
                raise self._error(key, f"unknown key {key!r}{nearest(key, ('columns', 'column'))}", "messageId")
        columns = fields.get("columns")
        names: list[Any] = [*columns] if isinstance(columns, list) else []
        if not names or not all(isinstance(each, str) for each in names):
            raise self._error("messageId", "columns must be a list of column names")
        del content["messageId"]
        return tuple(names)

    def _template(self, table: dict[str, Any]) -> Template:
        fields: dict[str, Leaf | Object] = {}
        for key, value in table.items():
            if key not in _FIELDS:
                raise self._error(key, f"unknown key {key!r}{nearest(key, _FIELDS)}")
            if key == "rest":
                continue
            if key == "integrations":
                fields[key] = self._integrations(value)
            else:
                fields[key] = self._object(value, key) if key in _OBJECTS else self._top(key, value)
        rest = table.get("rest")
        if rest not in (None, "properties", "traits"):
            raise self._error("rest", 'rest must be "properties" or "traits"')
        if "type" not in fields:
            raise ImportUsageError(f'{self._name}: type is missing, such as type = "track"')
        self._check_type(fields["type"])
        return Template(fields, cast("str | None", rest))

    def _check_type(self, leaf: Leaf | Object) -> None:
        assert isinstance(leaf, Leaf)
        constants = [leaf.constant] if leaf.column is None else [*(leaf.values or {}).values()]
        for each in constants:
            if each not in CALLS:
                raise self._error("type", f"unknown type {each!r}{nearest(str(each), CALLS)}")

    def _top(self, key: str, value: Any) -> Leaf:
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
                return Leaf(key, self._line(key), as_time()(value))
            except Unreadable as error:
                raise self._error(key, error.text) from None
        return Leaf(key, self._line(key), value)

    def _object(self, value: Any, path: str) -> Object:
        if not isinstance(value, dict):
            raise self._error(path.rpartition(".")[2], f"{path} must be a table")
        fields: dict[str, Leaf | Object] = {}
        for key, inner in cast("dict[str, Any]", value).items():
            fields[key] = self._inner(key, inner, f"{path}.{key}")
        return Object(fields)

    def _integrations(self, value: Any) -> Object:
        fields = self._object(value, "integrations").fields
        return Object({name: self._choice(name, field) for name, field in fields.items()})

    def _choice(self, name: str, field: Leaf | Object) -> Leaf | Object:
        """Whether a destination gets the message; text such as "false" would count as on."""
        if isinstance(field, Object):
            return Object(field.fields, stays=True)
        constants = [*(field.values or {}).values()] if field.column is not None else [field.constant]
        if not all(isinstance(each, bool | dict) for each in constants):
            what = "values of " if field.column is not None else ""
            text = f"{what}integrations.{name} must be true, false or a table of options"
            raise self._error(name, text, "integrations")
        return _with(field, as_choice) if field.column is not None else field

    def _inner(self, key: str, value: Any, path: str) -> Leaf | Object:
        if _has_columns(value):
            raise self._error(key, f'{path}: a list cannot hold columns; take it from one column with as = "json"')
        if not isinstance(value, dict):
            constant = as_time()(value) if hasattr(value, "isoformat") else value
            return Leaf(path, self._line(key), constant)
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

    def _column(self, spec: dict[str, Any], path: str, default: str | None) -> Leaf:
        key = path.rpartition(".")[2]
        for each in spec:
            if each not in _SPEC:
                raise self._error(each, f"unknown key {each!r} of {path}{nearest(each, _SPEC)}", key)
        column = spec.get("column")
        if not isinstance(column, str) or not column:
            raise self._error(key, f"{path} needs a column: {{ column = ... }}")
        values = spec.get("values")
        if values is not None and not isinstance(values, dict):
            raise self._error(key, f"values of {path} must be a table from cells to values")
        kind = spec.get("as", default or ("time" if "format" in spec or "zone" in spec else None))
        if values is not None:
            self._refuse_conversion(spec, path, key, default)
        by_cell = cast("dict[str, Any] | None", values)
        return Leaf(path, self._line(key), None, column, self._convert(kind, spec, path, key), by_cell)

    def _refuse_conversion(self, spec: dict[str, Any], path: str, key: str, default: str | None) -> None:
        """Raises an error for what would convert a value beside `values`."""
        given = [name for name in ("as", "decimal", "format", "zone") if name in spec]
        needless = next((name for name in given if (name, spec[name]) not in (("as", "text"), ("as", default))), None)
        if needless is not None:
            text = f"values of {path} say what the field gets, and nothing converts it"
            raise self._error(key, f"{text}: take {needless} = {spec[needless]!r} out")

    def _convert(self, kind: Any, spec: dict[str, Any], path: str, key: str) -> Convert | None:
        if kind is not None and kind not in _KINDS:
            raise self._error(key, f"unknown as = {kind!r} of {path}{nearest(str(kind), _KINDS)}")
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


def _has_columns(value: Any) -> bool:
    """Whether it is a list with a column in it."""
    items: list[Any] = [*value] if isinstance(value, list) else []
    return any(isinstance(each, dict) and "column" in each for each in items)


def _with(leaf: Leaf, convert: Convert) -> Leaf:
    if leaf.convert is None or leaf.convert is as_text:
        return Leaf(leaf.path, leaf.line, leaf.constant, leaf.column, convert, leaf.values)
    inner = leaf.convert
    return Leaf(leaf.path, leaf.line, leaf.constant, leaf.column, lambda value: convert(inner(value)), leaf.values)
