"""Fields that a client adds to every message that does not have them.

They are checked and encoded once, when the client is made. This file knows neither the client nor `bound` blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .build import Fields, mapping
from .conversions import Conversion
from .encode import plain

_NAMES: Final = ("context", "integrations", "properties")
_WITH_PROPERTIES: Final = ("track", "page", "screen")


class MessageDefaults:
    """Merged key by key, one level deep; what a message has itself takes precedence."""

    def __init__(self, defaults: Mapping[str, Any], convert: Conversion) -> None:
        """Raises:
        ValueError: it is no mapping, or has a key other than the three; `MessageError`: one of them cannot be sent.
        """
        if not isinstance(defaults, Mapping):
            raise ValueError("defaults must be a mapping with context, integrations or properties")  # noqa: TRY004  # as every other option
        for name in defaults:
            if name not in _NAMES:
                raise ValueError(f"defaults takes {', '.join(_NAMES)}, not {name!r}")
        given = {name: mapping(f"defaults.{name}", value) for name, value in defaults.items() if value is not None}
        self._fields: Fields = plain({"defaults": given}, convert)["defaults"]

    def filled(self, message: Fields) -> Fields:
        """Change the message so that it has the defaults, and return it."""
        for name, fields in self._fields.items():
            if name == "properties" and message["type"] not in _WITH_PROPERTIES:
                continue
            message[name] = {**fields, **message[name]} if name in message else fields
        return message
