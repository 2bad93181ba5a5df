"""Finds the planned name that another name was probably meant to be. Pure.

Comparing a name with a thousand planned ones takes 50 ms, or a second if all are long, within a call of the application.
So a name is compared only once, and only if that is not too much work; and only `MAX_COMPARED` names are compared, because
an application may make up names without end.
"""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import Final

MAX_COMPARED: Final = 200
_MAX_CHARACTERS: Final = 100
# Characters of the name times those of all planned ones: about 50 ms.
_MAX_WORK: Final = 1_000_000
_LIKENESS: Final = 0.7


class NearNames:
    """The planned names, and what was found for others so far."""

    __slots__ = ("_characters", "_found", "_names")

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._characters = sum(map(len, names))
        self._found: dict[str, str] = {}

    def hint(self, name: str) -> str:
        """The question whether another name was meant, with a space in front; empty if none is near."""
        found = self._found.get(name)
        if found is None:
            is_much = len(name) > _MAX_CHARACTERS or len(name) * self._characters > _MAX_WORK
            if is_much or len(self._found) >= MAX_COMPARED:
                return ""
            near = get_close_matches(name, self._names, 1, _LIKENESS)
            found = self._found[name] = f" Did you mean “{near[0]}”?" if near else ""
        return found
