"""Where faults end that must not reach the application: ours, and those of callables it gave us.

A record names what failed and where, once; never a value. This file knows nothing of what it contains.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

_log = logging.getLogger("segment_async")


class Contained:
    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, what: str, fault: Exception) -> None:
        """Log the fault, unless one of the same part was logged before."""
        if what in self._said:
            return
        self._said.add(what)
        stack = "".join(traceback.format_tb(fault.__traceback__))
        _log.warning(
            "%s failed: %s; the rest goes on without it. Said once.\n%s", what, type(fault).__qualname__, stack
        )

    async def ask(self, what: str, question: Callable[..., Any] | None, about: Any, otherwise: Any = None) -> Any:
        """What the application's own callable answers, sync or async; `otherwise` where it fails."""
        if question is None:
            return None
        try:
            answer = question(about)
            return await answer if isawaitable(answer) else answer
        except Exception as fault:
            self.say(what, fault)
            return otherwise
