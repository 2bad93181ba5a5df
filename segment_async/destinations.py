"""The destinations of a message, for the argument `integrations` of every call and of `bound`.

    await client.track("user-1", "Signed Up", integrations=only("Mixpanel", "Amplitude"))

Segment compares names exactly, and ignores one that it does not know. The local endpoint and the test kit report a name
that differs from a known one by its case or a letter. This file imports nothing of the package.
(https://segment.com/docs/connections/spec/common/#integrations)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["only", "without"]

Integrations = dict[str, bool | Mapping[str, Any]]
Options = Mapping[str, Mapping[str, Any]]

_ALL: Final = "All"


def only(*names: str, options: Options | None = None) -> Integrations:
    """Send to these destinations and to no other. `options` are settings by destination, which is one of them then.

    Raises:
        ValueError: there is no name, or one is empty or “All”.
    """
    if not names and not options:
        raise ValueError('name at least one destination; integrations={"All": False} sends to none')
    return {_ALL: False, **dict.fromkeys(_checked(names, options), True), **(options or {})}


def without(*names: str, options: Options | None = None) -> Integrations:
    """Send to every destination but these. `options` are settings for others.

    Raises:
        ValueError: there is no name, or one is empty or “All”, or has options as well.
    """
    if not names:
        raise ValueError("name at least one destination")
    both = sorted(set(names) & set(options or {}))
    if both:
        raise ValueError(f"options for a destination that gets nothing: {', '.join(both)}")
    return {**dict.fromkeys(_checked(names, options), False), **(options or {})}


def _checked(names: tuple[str, ...], options: Options | None) -> tuple[str, ...]:
    for name in (*names, *(options or {})):
        if not isinstance(name, str) or name in ("", _ALL):
            raise ValueError(f"{name!r} is not the name of a destination")
    return names
