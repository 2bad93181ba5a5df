"""The types that Segment's spec gives to fields, and the check of one field."""

import re
from decimal import Decimal
from typing import Final

from ._times import check_time
from ._verdict import Found, Verdict

Types = frozenset[type]
TEXT: Final = frozenset({str})
# A Decimal is a number of JSON that was read with all its digits.
NUMBER: Final = frozenset({int, float, Decimal})
FLAG: Final = frozenset({bool})
OBJECT: Final = frozenset({dict})
LIST: Final = frozenset({list})
TEXT_OR_NUMBER: Final = TEXT | NUMBER
CHOICE: Final = FLAG | OBJECT
DATE: Final[Types] = frozenset()  # checked by `check_time`
_KIND_TEXTS: Final = {
    TEXT: "text",
    NUMBER: "a number",
    FLAG: "true or false",
    OBJECT: "an object",
    LIST: "a list",
    TEXT_OR_NUMBER: "text or a number",
    CHOICE: "true, false or an object",
}


def kinds_of(*groups: tuple[Types, str]) -> dict[str, Types]:
    """The type of each name, from names by type."""
    return {name: kind for kind, names in groups for name in names.split()}


def either_case(kinds: dict[str, Types]) -> dict[str, Types]:
    """Reserved traits are also allowed in snake_case."""
    return kinds | {_CAPITAL.sub(lambda found: f"_{found[0].lower()}", name): kind for name, kind in kinds.items()}


_CAPITAL: Final = re.compile("[A-Z]")


def check_type(found: Found, value: object, kind: Types, path: str) -> None:
    """Check the type of one field. Null counts as absent: every SDK sends it for a missing value."""
    if kind is DATE:
        check_time(found, value, path, date_allowed=True)
    elif value is not None and type(value) not in kind:
        text = f"Segment's spec requires {_KIND_TEXTS[kind]}, but this is {describe(value)}."
        found.append(Verdict("spec", "field-type", path, text))


def describe(value: object) -> str:
    """The type of a value in words."""
    if value is None:
        return "null"
    fitting = (text for kind, text in _KIND_TEXTS.items() if type(value) in kind)
    return next(fitting, type(value).__name__)
