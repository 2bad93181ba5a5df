"""Calls functions that the application passed in, and logs their exceptions and ours without raising them.

A log record names the part that failed and the traceback, once per part, and never a value. This file does not know
what the functions are for.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from inspect import isawaitable, iscoroutinefunction, signature
from typing import Any, Final, TypeVar

_log = logging.getLogger("segment_async")

T = TypeVar("T")

# Seconds that an asynchronous function may take. A web request waits for it, as it does for a full queue.
_TIMEOUT: Final = 1.0


def check_plain(name: str, function: object) -> None:
    """Raises:
    ValueError: the option is no plain function.
    """
    if not callable(function):
        raise ValueError(f"{name} must be a function")  # noqa: TRY004  # as every other option
    if returns_coroutine(function):
        raise ValueError(f"{name} must be a plain function, not a coroutine function: it runs within the call")


def returns_coroutine(function: Callable[..., object]) -> bool:
    """Whether it is a coroutine function, or an object whose call is one."""
    return iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)


def takes_one_argument(function: Callable[..., object]) -> bool:
    """Whether it can be called with one argument, as far as its signature says."""
    try:
        parameters = signature(function)
    except Exception:
        # Some functions in C have none, and annotations may refer to names that only type checkers know.
        return True
    try:
        parameters.bind(None)
    except TypeError:
        return False
    return True


class WrongResult(ValueError):
    """A function of the application returned something that it must not. The text continues "it …", without a value."""


class HookRunner:
    """Calls the application's functions, and remembers which errors it has logged."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def log_once(self, what: str, error: BaseException) -> None:
        """Log the exception, unless one with the same `what` was logged before."""
        if what in self._logged:
            return
        self._logged.add(what)
        if isinstance(error, WrongResult):
            _log.warning("Error in %s: it %s; continuing without it (logged once).", what, error)
            return
        stack = "".join(traceback.format_tb(error.__traceback__))
        _log.warning("Error in %s: %s; continuing without it (logged once).\n%s", what, type(error).__qualname__, stack)

    async def call(
        self, what: str, function: Callable[[Any], Any], argument: Any, parse: Callable[[Any], T], default: T
    ) -> T:
        """Call a function of the application, sync or async, and return its parsed result.

        Returns `default` if the function raises or takes more than a second, or if `parse` raises.
        """
        try:
            result = function(argument)
            if isawaitable(result):
                async with asyncio.timeout(_TIMEOUT):
                    result = await result
            return parse(result)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The request was not cancelled: the function awaited something that was.
            self.log_once(what, error)
        except Exception as error:
            self.log_once(what, error)
        return default
