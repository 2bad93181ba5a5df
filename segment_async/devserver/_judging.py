"""Every message of a request with what there is to say of it. Pure; the rules themselves are in `verdicts`."""

from collections.abc import Iterator
from typing import Final

import orjson

from segment_async.verdicts import BATCH_MESSAGES, BATCH_TOO_LONG, MESSAGE_BYTES, WRITE_KEY_MISSING, Verdict, judge

from ._body import Envelope, Refused

_SLICE: Final = 250  # some milliseconds' work
# A message of 32 KB can earn thousands; the gravest come first.
_VERDICTS: Final = 50

Judged = tuple[object, bytes, list[Verdict]]
"""A message, its JSON, its verdicts."""


def judge_in_slices(taken: Envelope) -> Iterator[list[Judged]]:
    """Judge each message by itself and as a part of its request, some at a time, so that others get their turn.

    Raises:
        Refused: one of them is so large that Segment refuses them all.
    """
    for start in range(0, len(taken.messages), _SLICE):
        some = taken.messages[start : start + _SLICE]
        yield [_judge_one(message, index, taken) for index, message in enumerate(some, start)]


def _judge_one(message: object, index: int, taken: Envelope) -> Judged:
    if isinstance(message, dict):
        message.pop("writeKey", None)  # some libraries repeat it in each message; it is not for showing
    json = _json(message, index, len(taken.messages))
    verdicts = judge(message, size=len(json))
    if not taken.write_key:
        verdicts.insert(0, WRITE_KEY_MISSING)
    if index >= BATCH_MESSAGES:
        verdicts.insert(0, BATCH_TOO_LONG)
    return message, json, verdicts[:_VERDICTS]


def _json(message: object, index: int, count: int) -> bytes:
    try:
        json = orjson.dumps(message)
    except orjson.JSONEncodeError as fault:
        raise Refused(400, f"message {index + 1} of {count} is nested too deeply") from fault
    if len(json) > MESSAGE_BYTES:
        text = f"message {index + 1} of {count} has {len(json):,} bytes of JSON, the limit is {MESSAGE_BYTES:,}"
        raise Refused(400, text)
    return memoryview(json).tobytes()  # orjson's own bytes hold on to a far larger buffer
