"""Python names for events and properties. Pure.

A name that is an identifier stays as planned. Any other is mapped, and what is sent stays as planned.
"""

from __future__ import annotations

import hashlib
import keyword
import re
import unicodedata
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import Final

# What a generated module uses; a class must not hide it.
TAKEN: Final = frozenset(
    {
        "Any",
        "ClassVar",
        "Literal",
        "Mapping",
        "Null",
        "NULL",
        "PlannedObject",
        "PlannedTraits",
        "Sequence",
        "TrackEvent",
    }
    | {"annotations", "bool", "date", "datetime", "dict", "float", "int", "object", "property", "str"}
)


def is_kept(name: str) -> bool:
    """Whether the name can be used in Python exactly as planned.

    Python normalises identifiers, and changes those that begin with two underscores within a class.
    """
    return (
        name.isidentifier()
        and not name.startswith("__")
        and not keyword.iskeyword(name)
        and unicodedata.normalize("NFKC", name) == name
    )


def property_name(name: str) -> str:
    """The argument for a property."""
    if is_kept(name) and name != "self":
        return name
    return _valid("_".join(_words(name)).lower(), name, "property") if not keyword.iskeyword(name) else f"{name}_"


def class_name(name: str) -> str:
    """The class for an event."""
    if is_kept(name):
        return f"{name}_" if name in TAKEN else name
    found = _valid("".join(word[:1].upper() + word[1:] for word in _words(name)), name, "event")
    return f"{found}_" if found in TAKEN else found


def _words(name: str) -> list[str]:
    letters = unicodedata.normalize("NFKC", name)
    spaced = "".join(letter if f"a{letter}".isidentifier() and letter != "_" else " " for letter in letters)
    return spaced.split()


def _valid(text: str, name: str, kind: str) -> str:
    text = unicodedata.normalize("NFKC", text)
    if not any(letter.isalpha() for letter in text):
        return f"{kind}_{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    if not text.isidentifier():
        text = f"_{text}"
    if not text.isidentifier():
        return _valid("", name, kind)  # a letter that no identifier may have
    return f"{text}_" if keyword.iskeyword(text) or text == "self" else text


def property_names(names: Iterable[str]) -> dict[str, str]:
    """An argument for each property, sorted by property. Of those that collide, identifiers keep their name."""
    return _unique(names, property_name, lambda name: not (is_kept(name) and name != "self"))


def _unique(names: Iterable[str], python: Callable[[str], str], is_mapped: Callable[[str], bool]) -> dict[str, str]:
    found: dict[str, str] = {}
    used: set[str] = set()
    names = sorted(set(names))
    for name in sorted(names, key=is_mapped):
        found[name] = free(python(name), used)
        used.add(found[name])
    return {name: found[name] for name in names}


def free(name: str, used: AbstractSet[str]) -> str:
    """The name, or the first of `name_2`, `name_3` … that is not used."""
    candidate, number = name, 2
    while candidate in used:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def part_name(owner: str, name: str, *, is_list: bool) -> str:
    """The class of an object within an event: `OrderCompleted` and `products` give `OrderCompletedProduct`."""
    text = "".join(word[:1].upper() + word[1:] for word in re.split("_", "_".join(_words(name))))
    if is_list:
        text = _singular(text)
    # As Python will read it: a capital letter may consist of several characters.
    return unicodedata.normalize("NFKC", owner + (text or "Item"))


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word
