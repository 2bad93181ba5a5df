"""Where faults end that must not reach the application: ours, and those of callables it gave us.

A record names what failed and where, once; never a value. This file knows nothing of what it contains.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from inspect import isawaitable
from typing import Any, Final, TypeVar

_log = logging.getLogger("segment_async")

Answer = TypeVar("Answer")

# Seconds that an asynchronous callable may take: a request waits for it, as it does for a full queue.
_PATIENCE: Final = 1.0


class Contained:
    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, what: str, fault: BaseException) -> None:
        """Log the fault, unless one of the same part was logged before."""
        if what in self._said:
            return
        self._said.add(what)
        stack = "".join(traceback.format_tb(fault.__traceback__))
        _log.warning(
            "%s failed: %s; the rest goes on without it. Said once.\n%s", what, type(fault).__qualname__, stack
        )

    async def ask(
        self,
        what: str,
        question: Callable[[Any], Any],
        about: Any,
        understood: Callable[[Any], Answer],
        otherwise: Answer,
    ) -> Answer:
        """What the application's own callable answers, sync or async, as `understood` reads it.

        `otherwise` where it fails, takes more than a second, or gives an answer that `understood` raises at.
        """
        try:
            answer = question(about)
            if isawaitable(answer):
                async with asyncio.timeout(_PATIENCE):
                    answer = await answer
            return understood(answer)
        except asyncio.CancelledError as fault:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled the request: the callable met something of its own that is cancelled.
            self.say(what, fault)
        except Exception as fault:
            self.say(what, fault)
        return otherwise
