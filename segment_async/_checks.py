"""Checks of options, most of them of the integrations: a mistake is found at the start and not at the first request.

This file imports nothing of the package: it is told which class a client must have.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import count
from sys import float_info
from typing import Final

# Where users import these classes from.
_PUBLIC: Final = {"segment_async._client": "segment_async", "segment_async._compat.client": "segment_async.compat"}


def check_client(function: str, client: object, kind: type, *others: type) -> None:
    """`others`: kinds for tests, which the error does not offer.

    Raises:
        TypeError: the client is of another kind, whose calls would do nothing here, or are never awaited.
    """
    # A proxy, such as Django's client, would be created by a look at what is behind it.
    if issubclass(type(client), (kind, *others)) or _is_proxy(client):
        return
    module = _module_of(kind)
    raise TypeError(f"{function} needs a Client of {module} and got {_name_of(client)}: from {module} import Client")


def check_seconds(**options: float) -> None:
    """Raises:
    ValueError: one of them is no number of seconds.
    """
    for name, seconds in options.items():
        if not is_seconds(seconds):
            raise ValueError(f"{name} must be a number of seconds, 0 or more")


def is_seconds(value: object) -> bool:
    """Whether it is a number of seconds, 0 or more; infinity is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # Infinity is as long as it takes; an integer beyond the floats cannot be added to a time.
    return value == math.inf or 0 <= value <= float_info.max


def check_watched(client: object) -> None:
    """Raises:
    TypeError: it has no counters.
    """
    if not all(callable(getattr(client, method, None)) for method in ("statistics", "observe")):
        raise TypeError(
            f"watch needs a Client of segment_async or of segment_async.blocking and got {_name_of(client)}, which has no "
            "statistics"
        )


def checked_label(label: str | None, taken: Collection[str]) -> str:
    """The label of a client that is watched; `None`: a number that is no label yet.

    Raises:
        ValueError: it is not text, or another client has it.
    """
    if label is None:
        return next(number for number in map(str, count(len(taken) + 1)) if number not in taken)
    if not isinstance(label, str):
        # Prometheus would fail at each look at any of its metrics.
        raise ValueError(f"label must be text, such as {str(label)!r}")  # noqa: TRY004  # as other options
    if label in taken:
        raise ValueError(f"another client is watched with the label {label!r}; pass a different label")
    return label


def _is_proxy(client: object) -> bool:
    """Whether its class says of its objects that they have another one."""
    return any("__class__" in vars(each) for each in type(client).__mro__ if each is not object)


def _name_of(value: object) -> str:
    kind = type(value)
    module = _module_of(kind)
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _module_of(kind: type) -> str:
    return _PUBLIC.get(kind.__module__, kind.__module__)
