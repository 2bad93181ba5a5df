"""Checks each message of a client against a tracking plan, as it is sent, and does what `on_violation` says.

This file knows plans and messages, not clients. A message is never dropped here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from ._exceptions import MessageError, stack_of
from ._hooks import returns_coroutine

if TYPE_CHECKING:
    from .plans import Plan
    from .verdicts import Verdict

_log = logging.getLogger("segment_async")

OnViolation = Literal["warn", "raise", "ignore"] | Callable[[dict[str, Any], "list[Verdict]"], object]

_WORDS: Final = ("warn", "raise", "ignore")
# The events and fields whose warnings are remembered. An application may make up names without end.
_MAX_WARNED: Final = 1_000


class PlanCheck:
    """Judges messages against a plan.

    Raises:
        ValueError: `on_violation` is no choice, or the plan cannot be used (`plans.PlanError`).
        OSError: the plan's file cannot be read.
        ImportError: the extra `plans` is not installed.
    """

    def __init__(self, plan: str | PathLike[str] | Mapping[str, Any] | Plan, on_violation: OnViolation) -> None:
        check_on_violation(on_violation)
        from .plans import Plan, require_validator

        require_validator()
        self._plan = plan if isinstance(plan, Plan) else Plan.load(plan)
        self._on_violation = on_violation
        self._warned: set[tuple[str, str]] = set()
        self._has_failed = False

    def check(self, body: bytes) -> None:
        """Judge the message with this JSON.

        Raises:
            MessageError: it violates the plan, and `on_violation` is ``"raise"``.
        """
        if self._on_violation == "ignore":
            return
        try:
            message: dict[str, Any] = orjson.loads(body)
            verdicts = self._plan.judge(message)
        except ValueError:
            return  # a number that no float can hold: it is sent as it is, and no validator takes it
        if not verdicts:
            return
        if self._on_violation == "raise":
            first = verdicts[0]
            more = f" ({len(verdicts) - 1} more)" if len(verdicts) > 1 else ""
            raise MessageError(first.path or "message", f"is against the tracking plan: {first.text}{more}")
        if isinstance(self._on_violation, str):
            self._warn(str(message.get("event") or message.get("type")), verdicts)
        else:
            self._call(self._on_violation, message, verdicts)

    def _warn(self, name: str, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            key = (name, verdict.path)
            if key not in self._warned and len(self._warned) < _MAX_WARNED:
                self._warned.add(key)
                _log.warning(
                    "Against the tracking plan: %.100s: %.200s: %.300s (logged once per event and field).",
                    name,
                    verdict.path,
                    verdict.text,
                )

    def _call(
        self, hook: Callable[[dict[str, Any], list[Verdict]], object], message: dict[str, Any], verdicts: list[Verdict]
    ) -> None:
        try:
            hook(message, verdicts)
        except (Exception, asyncio.CancelledError) as error:
            # A plain function cannot be cancelled: it met a cancelled future of its own.
            if not self._has_failed:
                self._has_failed = True
                _log.warning("on_violation failed; the message is sent. This is logged once.\n%s", stack_of(error))


def check_on_violation(choice: object) -> None:
    """Raises:
    ValueError: it is neither a word nor a plain function.
    """
    if choice not in _WORDS and (not callable(choice) or returns_coroutine(choice)):
        raise ValueError('on_violation must be "warn", "raise", "ignore" or a plain function')
