"""The mapping: how a row becomes messages. Bound to a source's columns, it is a function from rows to messages.

This file knows rows and messages, neither files of records nor the network. `_mapping_file` reads it from TOML.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from functools import partial
from operator import getitem
from pathlib import Path
from typing import Any, Final, cast

from ._report import ImportUsageError
from ._values import Convert, Unreadable, as_id, as_text

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
    """An object of a message: its fields by name.

    Attributes:
        stays: the message has it even if it is empty: it is a destination's options, and switches the destination on.
    """

    fields: dict[str, Leaf | Object]
    stays: bool = False


@dataclass(frozen=True, slots=True)
class Template:
    """One message of a row."""

    fields: dict[str, Leaf | Object]
    rest: str | None


class Mapping:
    """How rows become messages.

    Attributes:
        path: of its file; `None` if it was parsed from text.
        digest: changes with everything that changes messages.
        id_columns: of ``messageId = { columns = [...] }``, which is in the mapping's `id_line`.
        keeps_id: the mapping takes the messageId from a column, as it is.
        takes_rest: it also takes the columns that it does not name.
        has_integrations: the mapping says of each message where it goes.
        choices: for each message of a row, the entries of its ``integrations`` that come from columns, so that each
            record says them itself.
    """

    def __init__(
        self, templates: list[Template], digest: str, id_columns: tuple[str, ...], name: str, id_line: int = 0
    ) -> None:
        self._templates = templates
        self._name = name
        self.path: Path | None = None
        self.digest = digest
        self.id_columns = id_columns
        self.id_line = id_line
        self.keeps_id = any("messageId" in template.fields for template in templates)
        self.takes_rest = any(template.rest is not None for template in templates)
        self.has_integrations = all("integrations" in template.fields for template in templates)
        self.choices = [_choices_of(template) for template in templates]

    @property
    def columns(self) -> set[str]:
        """Every column that the mapping names."""
        return {leaf.column for leaf in self._leaves() if leaf.column is not None} | set(self.id_columns)

    def check_columns(self, source: str, columns: list[str], has: Callable[[str], bool]) -> None:
        """Check the source's `columns` against all that the mapping names; `has` says whether a column is there.

        Raises:
            ImportUsageError: the source lacks a column of the mapping.
        """
        for leaf in self._leaves():
            if leaf.column is not None and not has(leaf.column):
                raise self._missing(leaf.column, leaf.line, f"source {source} has no", columns)
        self.check_id_columns(f"source {source} has no", columns, has)

    def check_id_columns(self, problem: str, columns: list[str], has: Callable[[str], bool]) -> None:
        """The same for the columns of the messageId alone; `problem` is how the error begins."""
        for column in self.id_columns:
            if not has(column):
                raise self._missing(column, self.id_line, problem, columns)

    def _missing(self, column: str, line: int, problem: str, columns: list[str]) -> ImportUsageError:
        place = f"{self._name}, line {line}" if line else self._name
        return ImportUsageError(f"{place}: {problem} column {column!r}{nearest(column, columns)}")

    def bind(self, columns: list[str] | None) -> Callable[[Any], list[dict[str, Any]]]:
        """A function from a row to its messages; `columns` are those of lists of cells, `None` for dicts.

        The function raises `Unreadable` for a value that is not what the mapping says. Messages share what is constant.
        """
        builds = [_bound_template(template, columns, self.columns) for template in self._templates]
        if len(builds) == 1:
            (only,) = builds
            return lambda row: [only(row)]
        return lambda row: [build(row) for build in builds]

    def _leaves(self) -> list[Leaf]:
        return _leaves_of([each for one in self._templates for each in one.fields.values()])


def _choices_of(template: Template) -> frozenset[str]:
    integrations = template.fields.get("integrations")
    if not isinstance(integrations, Object):
        return frozenset()
    fields = integrations.fields.items()
    return frozenset(name for name, field in fields if any(leaf.column is not None for leaf in _leaves_of([field])))


def _leaves_of(fields: list[Leaf | Object]) -> list[Leaf]:
    found: list[Leaf] = []
    while fields:
        each = fields.pop(0)
        if isinstance(each, Leaf):
            found.append(each)
        else:
            fields.extend(each.fields.values())
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

# What a row gives: the field's name and path, a function that takes the value from the row (`None`: it is absent), its
# second argument, and the conversion.
_Part = tuple[str, str, Callable[[Any, Any], Any], Any, Convert | None]


def _bound_template(template: Template, columns: list[str] | None, mapped: set[str]) -> Build:
    build = _object_of(*_bound_fields(template.fields, columns), columns)
    rest, take_rest = template.rest, _rest_of(columns, mapped)
    if rest is None:
        return build

    def with_rest(row: Any) -> dict[str, Any]:
        message = build(row)
        if others := take_rest(row):
            message[rest] = others | message.get(rest, {})
        return message

    return with_rest


def _rest_of(columns: list[str] | None, mapped: set[str]) -> Callable[[Any], dict[str, Any]]:
    taken = {column.split(".")[0] for column in mapped} | mapped
    if columns is None:
        return lambda row: {name: value for name, value in row.items() if value is not None and name not in taken}
    indexes = [(index, name) for index, name in enumerate(columns) if name and name not in mapped]
    return lambda row: {name: row[index] for index, name in indexes if row[index]}


def _bound_fields(fields: dict[str, Leaf | Object], columns: list[str] | None) -> tuple[dict[str, Any], list[_Part]]:
    """The constants, and the parts that depend on the row."""
    constants: dict[str, Any] = {}
    parts: list[_Part] = []
    for name, field in fields.items():
        if isinstance(field, Leaf):
            if field.column is not None:
                if columns is None or field.column in columns:
                    parts.append(_bound_leaf(name, field, field.column, columns))
            elif field.constant is not None:
                constants[name] = field.constant
            continue
        inner, inner_parts = _bound_fields(field.fields, columns)
        if inner_parts:
            parts.append((name, "", _inner, _object_of(inner, inner_parts, columns), None))
        if field.stays or (inner and not inner_parts):
            constants[name] = inner
    return constants, parts


def _object_of(constants: dict[str, Any], parts: list[_Part], columns: list[str] | None) -> Build:
    # An empty cell is absent; the others have `None` for that.
    is_of_cells = columns is not None

    def build(row: Any) -> dict[str, Any]:
        built = constants.copy()
        path = ""
        try:
            for name, path, take, key, convert in parts:  # noqa: B007  # the path of the part that failed
                value = take(row, key)
                if value or not (value is None or is_of_cells):
                    built[name] = value if convert is None else convert(value)
        except Unreadable as error:
            error.path = error.path or path
            raise
        return built

    return build


def _inner(row: Any, build: Build) -> dict[str, Any] | None:
    return build(row) or None


def _bound_leaf(name: str, leaf: Leaf, column: str, columns: list[str] | None) -> _Part:
    convert, values = leaf.convert, leaf.values
    if values is not None:
        convert = partial(_looked_up, values)
    elif columns is not None and convert in (as_id, as_text):
        convert = None  # cells are text
    if columns is not None:
        return name, leaf.path, getitem, columns.index(column), convert
    return name, leaf.path, within if "." in column else dict[str, Any].get, column, convert


def _looked_up(values: MappingOf[str, Any], value: Any) -> Any:
    found = values.get(as_text(value))
    if found is None:
        raise Unreadable("values", "The mapping's values do not have this one.")
    return found


def within(row: dict[str, Any], column: str, absent: Any = None) -> Any:
    """The value of ``address.city``, also within objects; `absent` if the row has no such field."""
    value: Any = row.get(column, absent)
    if (value is None or value is absent) and "." in column:
        inner: Any = row
        for part in column.split("."):
            if not isinstance(inner, dict) or part not in inner:
                return value
            inner = cast("dict[str, Any]", inner)[part]
        return inner
    return value
