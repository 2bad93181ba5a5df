"""Planned events and traits as values, the base of the classes that `segment-async plan generate` writes.

    await client.track("user-1", OrderCompleted(order_id="o-1"))

Each value is a dict with the names that are sent, so that it is encoded like any other dict. This file imports nothing
of the package: a generated module of thousands of classes is imported at the start of a program.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar, Final, Literal

__all__ = ["NULL", "Null", "PlannedObject", "PlannedTraits", "TrackEvent"]


class Null(Enum):
    """The type of `NULL`."""

    NULL = None


NULL: Final[Literal[Null.NULL]] = Null.NULL
"""An explicit null for an optional property; `None` leaves the property out."""


class PlannedObject(dict[str, Any]):
    """Planned properties, or an object within them."""

    __slots__ = ()

    def _keep(self, required: dict[str, Any], optional: dict[str, Any]) -> None:
        """Keep what is sent: a required `None`, but no optional one."""
        for name, value in required.items():
            self[name] = None if value is NULL else value
        for name, value in optional.items():
            if value is not None:
                self[name] = None if value is NULL else value

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}=…' for name in self)})"


class PlannedTraits(PlannedObject):
    """Planned traits, for `identify` or `group`. `VERSION` is sent as ``context.protocols.event_version``."""

    __slots__ = ()
    VERSION: ClassVar[int | None] = None


class TrackEvent(PlannedObject):
    """A planned event, for `track`. `VERSION` is sent as ``context.protocols.event_version``."""

    __slots__ = ()
    EVENT: ClassVar[str] = ""
    VERSION: ClassVar[int | None] = None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TrackEvent) and (self.EVENT, self.VERSION) != (other.EVENT, other.VERSION):
            return False
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:  # dict has its own
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # as of every dict
