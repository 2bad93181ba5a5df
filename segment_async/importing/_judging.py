"""What Segment, and a tracking plan, say of a finished message. Pure: no network, no files.

`segment_async.verdicts` decides what Segment would drop; `segment_async.plans` what is against the plan.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, cast

import orjson

from segment_async import __version__
from segment_async.plans import Plan
from segment_async.verdicts import MESSAGE_BYTES, MESSAGE_ID_CHARACTERS, Verdict, judge

from ._records import Problem
from ._values import dumps, exact_json, is_json

# The library's name and version in the context, which the client adds.
_LIBRARY: Final = {"name": "segment-async", "version": __version__}
# The most bytes that the client adds.
_ADDED_BYTES: Final = 120
_TIME: Final = "2026-01-31T09:30:00.000Z"

# Messages of one shape are judged once: millions of rows have a handful of shapes.
_SHAPES: Final = 1_000
_JUDGED_BY_VALUE: Final = frozenset(
    {"context", "name", "category", "groupId", "previousId", "sentAt", "originalTimestamp"}
)
_DATES: Final = frozenset({"createdAt", "created_at", "birthday"})
# Fields whose type `_message/build.py` checks, which these messages do not pass.
_TEXTS: Final = ("event", "name", "category")
_NO_OBJECTS: Final = (int, float, Decimal, list, str)
_NESTED: Final = frozenset({dict, list})
_OBJECTS: Final = ("properties", "traits", "integrations")
_NOTHING: Final[dict[str, Any]] = {}


class Judge:
    """Says whether messages can be sent.

    Args:
        strict: also reject what violates Segment's spec without being dropped.
        plan: also judge by this plan.
        rejects_violations: reject what is against the plan.
    """

    def __init__(self, *, strict: bool, plan: Plan | None, rejects_violations: bool) -> None:
        self._rejected = {"dropped", *(["spec"] if strict else []), *(["plan"] if rejects_violations else [])}
        self._plan = plan
        self._clean_shapes: set[object] = set()

    def problem(self, message: dict[str, Any], content: bytes, found: list[Verdict]) -> Problem | None:
        """The reason if the message cannot be sent; what does not keep it from being sent goes to `found`.

        `content` is its JSON without its id.
        """
        shape = _shape(message)
        length = len(message["messageId"])
        size = len(content) + _ADDED_BYTES + length
        if size > MESSAGE_BYTES:
            size = _size_of(message)
        is_clean = shape in self._clean_shapes and size <= MESSAGE_BYTES and length < MESSAGE_ID_CHARACTERS
        if is_clean and self._plan is None:
            return None
        verdicts = [] if is_clean else self._verdicts(message, content, size, shape)
        if self._plan is not None:
            verdicts = [*verdicts, *self._violations(self._plan, message, content)]
        for verdict in verdicts:
            if verdict.severity in self._rejected:
                return Problem(verdict.rule, verdict.path, verdict.text)
            if verdict.severity != "style":
                found.append(verdict)
        return None

    def _verdicts(self, message: dict[str, Any], content: bytes, size: int, shape: object) -> list[Verdict]:
        for name in _TEXTS:
            if not isinstance(message.get(name), str | None):
                return [Verdict("dropped", "field-type", name, "Must be text.")]
        for name in ("context", *_OBJECTS):
            if isinstance(message.get(name), _NO_OBJECTS):
                return [Verdict("dropped", "field-type", name, "Must be an object.")]
        verdicts = judge(message, size=size)
        if verdicts and not is_json(message):
            # Not a number of a Parquet file, for example, travels as null, which no rule objects to.
            verdicts = judge({**exact_json(content), "messageId": message["messageId"]}, size=size)
        if (
            shape is not None
            and len(self._clean_shapes) < _SHAPES
            and all(verdict.severity == "style" for verdict in verdicts)
            and _is_told_by_shape(message)
        ):
            self._clean_shapes.add(shape)
        return verdicts

    def _violations(self, plan: Plan, message: dict[str, Any], content: bytes) -> list[Verdict]:
        try:
            travelling: dict[str, Any] = orjson.loads(content)
        except ValueError:
            return []  # a number that no float can hold: it is sent as it is, and no validator takes it
        travelling["messageId"] = message["messageId"]
        context = travelling.get("context")
        given = cast("dict[str, Any]", context) if isinstance(context, dict) else {}
        travelling["context"] = {**given, "library": _LIBRARY}
        return plan.judge(travelling)


def _size_of(message: dict[str, Any]) -> int:
    """The bytes of the message as the client sends it."""
    context: Any = message.get("context")
    given = cast("dict[str, Any]", context) if isinstance(context, dict) else {}
    added = {"timestamp": message.get("timestamp") or _TIME, "context": {**given, "library": _LIBRARY}}
    return len(dumps({**message, **added}))


def _shape(message: dict[str, Any]) -> object:
    """The message's names and types. Messages of equal shape get equal verdicts if `_is_told_by_shape`.

    `None`: the message has no shape, because a field has another type than the spec says.
    """
    event = message.get("event", "")
    if type(event) is not str:
        return None
    shape = [message["type"], event, not message.get("userId"), not message.get("anonymousId"), *message]
    for name in _OBJECTS:
        if name in message:
            inner: dict[str, Any] = message[name]
            if type(inner) is not dict:
                return None
            shape += inner
            shape += map(type, inner.values())
            shape.append(None)
    return tuple(shape)


def _is_told_by_shape(message: dict[str, Any]) -> bool:
    """Whether the verdicts "dropped" and "spec" depend on nothing but the message's shape, its size and its id.

    A rule that looks at another value than those that are named here needs a line here.
    """
    objects: list[dict[str, Any]] = [message.get(name, _NOTHING) for name in _OBJECTS]
    _, traits, choices = objects
    return (
        _JUDGED_BY_VALUE.isdisjoint(message)
        and _DATES.isdisjoint(traits)
        # Its rules ask whether it is switched on.
        and "Customer.io" not in choices
        and all(_NESTED.isdisjoint(map(type, each.values())) for each in objects)
    )
