"""What is bound around the caller: identity, context and integrations for every call within a block.

This file knows what a call lacks and fills it in; it knows no client.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from .build import Fields, UserID, identifier, mapping
from .encode import is_plain, plain

WithoutIdentity = Literal["raise", "drop"]


class Bound:
    """The fields of one block, those of the blocks around it merged in."""

    __slots__ = ("drops_without_identity", "fields")

    def __init__(self, fields: Fields, drops_without_identity: bool) -> None:
        self.fields = fields
        self.drops_without_identity = drops_without_identity

    def filled(self, message: Fields) -> Fields:
        """The message with what is bound around the caller; its own fields win."""
        return _merged(self.fields, message)


innermost: ContextVar[Bound | None] = ContextVar("segment_async_bound", default=None)


@contextmanager
def bound(
    *,
    user_id: UserID | None = None,
    anonymous_id: UserID | None = None,
    context: Mapping[str, Any] | None = None,
    integrations: Mapping[str, Any] | None = None,
    without_identity: WithoutIdentity | None = None,
) -> Iterator[None]:
    """Fields for every call within the block, in this task and in those that it starts.

    A call's own fields win; of nested blocks the inner one does. `context` and `integrations` are merged key by
    key, one level deep. `without_identity` says what becomes of a call that has no id at all: ``"raise"`` (what
    holds without any block) raises its `MessageError`, ``"drop"`` makes it an accepted message that is dropped at
    once, with reason ``no_identity``; `None` leaves it as the enclosing block has it.

    Raises:
        MessageError: a field is wrong; names it as it is called on the wire.
        ValueError: `without_identity` is none of these.
    """
    if without_identity not in (None, "raise", "drop"):
        raise ValueError('without_identity must be "raise" or "drop"')
    outer = innermost.get()
    fields = _merged(outer.fields if outer else {}, _fields(user_id, anonymous_id, context, integrations))
    drops = without_identity == "drop"
    if without_identity is None and outer is not None:
        drops = outer.drops_without_identity
    token = innermost.set(Bound(fields, drops))
    try:
        yield
    finally:
        _leave(token, outer)


def _leave(token: Any, outer: Bound | None) -> None:
    try:
        innermost.reset(token)
    except ValueError:
        # A generator-based dependency may be closed in another context than the one it was opened in.
        innermost.set(outer)


def bind(
    *,
    user_id: UserID | None = None,
    anonymous_id: UserID | None = None,
    context: Mapping[str, Any] | None = None,
    integrations: Mapping[str, Any] | None = None,
) -> None:
    """Change the innermost enclosing `bound` block in place.

    All that follows within the block sees it, in tasks started from it before the change as well. What is not
    given stays as it was.

    Raises:
        RuntimeError: there is no block around the call.
        MessageError: a field is wrong; names it as it is called on the wire.
    """
    block = innermost.get()
    if block is None:
        raise RuntimeError("bind() changes the bound() block around it, and here is none")
    block.fields = _merged(block.fields, _fields(user_id, anonymous_id, context, integrations))


def _fields(user_id: Any, anonymous_id: Any, context: Any, integrations: Any) -> Fields:
    fields: Fields = {}
    if user_id is not None:
        fields["userId"] = identifier("userId", user_id)
    if anonymous_id is not None:
        fields["anonymousId"] = identifier("anonymousId", anonymous_id)
    for name, value in (("context", context), ("integrations", integrations)):
        if value is not None and mapping(name, value):
            fields[name] = _for_many(name, value)
    return fields


def _for_many(name: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping for any number of calls: what can be read only once is read here."""
    return value if is_plain({name: value}) else plain({name: value})[name]


def _merged(outer: Fields, inner: Fields) -> Fields:
    merged = {**outer, **inner}
    for name in ("context", "integrations"):
        if name in outer and name in inner:
            merged[name] = {**outer[name], **inner[name]}
    return merged
