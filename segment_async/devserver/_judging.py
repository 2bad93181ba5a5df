"""Judges every message of a request. Pure; the rules are in `verdicts`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, cast

import orjson

from segment_async.verdicts import (
    BATCH_MESSAGES,
    BATCH_TOO_LONG,
    MESSAGE_BYTES,
    SEVERITIES,
    WRITE_KEY_MISSING,
    Verdict,
    judge,
)

from ._body import ParsedRequest, RequestRefused

if TYPE_CHECKING:
    from segment_async.plans import Plan

_SLICE: Final = 250  # takes some milliseconds
# A message of 32 KB can have thousands of verdicts; the most severe come first.
_VERDICTS: Final = 50

Judged = tuple[object, bytes, list[Verdict]]
"""A message, its JSON and its verdicts."""


def judge_in_slices(request: ParsedRequest, plan: "Plan | None" = None) -> Iterator[list[Judged]]:
    """Judge the messages in slices, so that other tasks can run in between; also against the plan, if there is one.

    Raises:
        RequestRefused: a message is so large that Segment refuses the whole request.
    """
    for start in range(0, len(request.messages), _SLICE):
        some = request.messages[start : start + _SLICE]
        yield [_judge_one(message, index, request, plan) for index, message in enumerate(some, start)]


def _judge_one(message: object, index: int, request: ParsedRequest, plan: "Plan | None") -> Judged:
    fields = _fields_of(message)
    fields.pop("writeKey", None)  # some libraries repeat it in each message; it must not be shown
    json = _json(message, index, len(request.messages))
    verdicts = judge(message, size=len(json))
    if plan is not None and fields:
        verdicts += plan.judge(fields)
        verdicts.sort(key=lambda verdict: SEVERITIES.index(verdict.severity))
    if not request.write_key:
        verdicts.insert(0, WRITE_KEY_MISSING)
    if index >= BATCH_MESSAGES:
        verdicts.insert(0, BATCH_TOO_LONG)
    return message, json, verdicts[:_VERDICTS]


def _fields_of(message: object) -> dict[str, object]:
    return cast("dict[str, object]", message) if isinstance(message, dict) else {}


def _json(message: object, index: int, count: int) -> bytes:
    try:
        json = orjson.dumps(message)
    except orjson.JSONEncodeError as error:
        raise RequestRefused(400, f"message {index + 1} of {count} is nested too deeply") from error
    if len(json) > MESSAGE_BYTES:
        text = f"message {index + 1} of {count} has {len(json):,} bytes of JSON, the limit is {MESSAGE_BYTES:,}"
        raise RequestRefused(400, text)
    return memoryview(json).tobytes()  # orjson's bytes object keeps a much larger buffer alive
