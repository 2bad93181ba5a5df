"""The mapping: how a row becomes messages. Bound to a source's columns, it is a function from rows to messages.

This file knows rows and messages, neither files of records nor the network. `_mapping_file` reads it from TOML.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from typing import Any, Final, cast

from ._report import ImportUsageError
from ._values import Convert, Unreadable, as_id, as_text

Get = Callable[[Any], Any]
Build = Callable[[Any], dict[str, Any]]

CALLS: Final = ("track", "identify", "page", "screen", "group", "alias")
IDS: Final = ("userId", "anonymousId", "groupId", "previousId")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value of a message: a constant, or a column with its conversion."""

    path: str
    line: int
    constant: Any = None
    column: str | None = None
    convert: Convert | None = None
    values: MappingOf[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Object:
    """An object of a message: its fields by name."""

    fields: dict[str, Leaf | Object]


@dataclass(frozen=True, slots=True)
class Template:
    """One message of a row."""

    fields: dict[str, Leaf | Object]
    rest: str | None


class Mapping:
    """How rows become messages.

    Attributes:
        digest: changes with everything that changes messages.
        id_columns: of ``messageId = { columns = [...] }``.
        keeps_id: the mapping takes the messageId from a column, as it is.
        has_integrations: the mapping says where the data goes.
    """

    def __init__(self, templates: list[Template], digest: str, id_columns: tuple[str, ...], name: str) -> None:
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
        raise ImportUsageError(f"{place}: source {source} has no column {column!r}{nearest(column, columns)}")

    def bind(self, columns: list[str] | None) -> Callable[[Any], list[dict[str, Any]]]:
        """A function from a row to its messages; `columns` are those of lists of cells, `None` for dicts.

        The function raises `Unreadable` for a value that is not what the mapping says. Messages share what is constant.
        """
        builds = [_bound_template(template, columns, self.columns) for template in self._templates]
        return lambda row: [build(row) for build in builds]

    def _leaves(self) -> list[Leaf]:
        found: list[Leaf] = []
        waiting: list[Leaf | Object] = [each for one in self._templates for each in one.fields.values()]
        while waiting:
            each = waiting.pop(0)
            if isinstance(each, Leaf):
                found.append(each)
            else:
                waiting.extend(each.fields.values())
        return found


def nearest(name: str, names: list[str] | tuple[str, ...]) -> str:
    """The end of an error about an unknown name: the one that was probably meant, or all."""
    near = difflib.get_close_matches(name, names, 1, 0.5)
    if not near:
        lowered = {each.lower(): each for each in names}
        near = [lowered[each] for each in difflib.get_close_matches(name.lower(), list(lowered), 1, 0.5)]
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; it has {', '.join(map(repr, names[:12]))}" if names else ""


# -- binding to columns


def _bound_template(template: Template, columns: list[str] | None, mapped: set[str]) -> Build:
    constants, getters = _bound_fields(template.fields, columns)
    rest, take_rest = template.rest, _rest_of(columns, mapped)

    def build(row: Any) -> dict[str, Any]:
        message = constants.copy()
        for name, get in getters:
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


def _bound_fields(
    fields: dict[str, Leaf | Object], columns: list[str] | None
) -> tuple[dict[str, Any], list[tuple[str, Get]]]:
    """The constants, and functions that take the other fields from a row."""
    constants: dict[str, Any] = {}
    getters: list[tuple[str, Get]] = []
    for name, field in fields.items():
        if isinstance(field, Leaf):
            if field.column is not None:
                getters.append((name, _bound_leaf(field, field.column, columns)))
            elif field.constant is not None:
                constants[name] = field.constant
            continue
        inner, inner_getters = _bound_fields(field.fields, columns)
        if inner_getters:
            getters.append((name, _object_of(inner, inner_getters)))
        elif inner:
            constants[name] = inner
    return constants, getters


def _object_of(constants: dict[str, Any], getters: list[tuple[str, Get]]) -> Get:
    def build(row: Any) -> dict[str, Any] | None:
        built = constants.copy()
        for name, get in getters:
            value = get(row)
            if value is not None:
                built[name] = value
        return built or None

    return build


def _bound_leaf(leaf: Leaf, column: str, columns: list[str] | None) -> Get:
    get, convert, values, path = getter(column, columns), leaf.convert, leaf.values, leaf.path
    if columns is not None and convert in (as_id, as_text):
        convert = None  # cells are text
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
