"""Fields bound for a block: identity, context and integrations of every call within it.

Fills in the fields that a call leaves out. This file knows neither the client nor requests.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, Final, Literal, TypeVar

import orjson

from .build import Fields, ObjectLike, UserID, identifier, mapping
from .conversions import Conversion, converting
from .encode import snapshot

Part = TypeVar("Part")
WithoutIdentity = Literal["raise", "drop"]

_NOTHING: Final[Fields] = {}


class Bound:
    """The fields of one block, merged with those of the enclosing blocks."""

    __slots__ = ("_fields", "drops_without_identity", "outer")

    def __init__(self, fields: Fields, drops_without_identity: bool, outer: Bound | None) -> None:
        self._fields = fields
        self.drops_without_identity = drops_without_identity
        self.outer = outer

    @property
    def fields(self) -> Fields:
        return self._fields

    def add(self, fields: Fields) -> None:
        """Change the block in place; what is added takes precedence over what it has."""
        self._fields = _merged(self._fields, fields)

    def filled(self, message: Fields) -> Fields:
        """The message with the bound fields added; its own fields take precedence."""
        return _merged(self.fields, message)

    def completed(self, message: Fields, as_values: bool) -> tuple[Fields, bytes]:
        """As `filled`, but a context that is encoded already is left out, and returned beside the message.

        It is the JSON of the context's members, without braces; empty if the message has its context. `as_values`: the
        message must have it. May change the given message.
        """
        return self.filled(message), b""


DeferredFields = tuple[str | None, str | None, bytes]
"""A user id, an anonymous id, and the JSON of a context's members, without braces."""


class DeferredBound(Bound):
    """The block of a request, whose fields are read at the first call within it, which may never come.

    It has nothing of other requests. A block of one may be around it: a server may start a request's task in the context
    of an earlier request on the connection (https://github.com/python/cpython/issues/140947).

    `read` must not raise. Several threads may call it at once; the first result counts for all.

    Attributes:
        outside: the block that was around the first of all requests.
    """

    __slots__ = ("_added", "_combined", "_read", "_result", "_results", "outside")

    def __init__(
        self, read: Callable[[], DeferredFields], drops_without_identity: bool, outer: Bound | None = None
    ) -> None:
        self.outer = outer
        self.outside = None if outer is None else _outside_of_requests(outer)
        self._fields = _NOTHING if self.outside is None else self.outside.fields
        self.drops_without_identity = drops_without_identity
        self._added = _NOTHING
        self._read: Callable[[], DeferredFields] | None = read
        self._results: list[DeferredFields] = []
        self._result: DeferredFields | None = None
        # The fields, and what was added when they were put together.
        self._combined: tuple[Fields, Fields] | None = None

    @property
    def fields(self) -> Fields:
        added, combined = self._added, self._combined
        if combined is not None and combined[0] is added:
            return combined[1]
        user_id, anonymous_id, context = self._result or self._read_now()
        fields: Fields = {}
        if user_id is not None:
            fields["userId"] = user_id
        if anonymous_id is not None:
            fields["anonymousId"] = anonymous_id
        if context:
            fields["context"] = orjson.loads(b"{%b}" % context)
        fields = _merged(_merged(self._fields, fields), added)
        self._combined = (added, fields)
        return fields

    def add(self, fields: Fields) -> None:
        self._added = _merged(self._added, fields)

    def completed(self, message: Fields, as_values: bool) -> tuple[Fields, bytes]:
        added = self._added
        if as_values or self._fields or "context" in message or "context" in added:
            return self.filled(message), b""
        if added:
            message = _merged(added, message)
        user_id, anonymous_id, context = self._result or self._read_now()
        if user_id is not None and "userId" not in message:
            message["userId"] = user_id
        if anonymous_id is not None and "anonymousId" not in message:
            message["anonymousId"] = anonymous_id
        return message, context

    def _read_now(self) -> DeferredFields:
        read = self._read
        if read is not None:
            self._results.append(read())
            self._result = self._results[0]
            # What it refers to is not needed any more, and a task may keep this block for long.
            self._read = None
        return self._results[0]


def _outside_of_requests(block: Bound) -> Bound | None:
    """This block or, within a request, the one that was around the first of all requests."""
    each: Bound | None = block
    while each is not None:
        if isinstance(each, DeferredBound):
            return each.outside
        each = each.outer
    return block


innermost: ContextVar[Bound | None] = ContextVar("segment_async_bound", default=None)


@contextmanager
def bound_request(read: Callable[[], DeferredFields], drops_without_identity: bool) -> Generator[None, None, None]:
    """Set the fields of a request for every call within the block."""
    block, token = enter_request(read, drops_without_identity)
    try:
        yield
    finally:
        leave(block, token)


def enter_request(
    read: Callable[[], DeferredFields], drops_without_identity: bool
) -> tuple[DeferredBound, Token[Bound | None]]:
    """As `bound_request`, for code that is no `with` block; its end is `leave`."""
    block = DeferredBound(read, drops_without_identity, innermost.get())
    return block, innermost.set(block)


def in_this_block(parts: AsyncIterable[Part]) -> AsyncGenerator[Part, None]:
    """An asynchronous body that is sent after the request's block was left: each part is made within it all the same."""
    block, iterator = innermost.get(), aiter(parts)

    async def iterate() -> AsyncGenerator[Part, None]:
        try:
            while True:
                with _again(block):
                    try:
                        part = await anext(iterator)
                    except StopAsyncIteration:
                        return
                yield part
        finally:
            if isinstance(iterator, AsyncGenerator):
                with _again(block):
                    await iterator.aclose()

    return iterate()


@contextmanager
def _again(block: Bound | None) -> Generator[None, None, None]:
    token = innermost.set(block)
    try:
        yield
    finally:
        innermost.reset(token)


@contextmanager
def bound(
    *,
    user_id: UserID | None = None,
    anonymous_id: UserID | None = None,
    context: ObjectLike | None = None,
    integrations: Mapping[str, Any] | None = None,
    without_identity: WithoutIdentity | None = None,
    default: Conversion | None = None,
) -> Generator[None, None, None]:
    """Set fields for every call within the block, in this task and in the tasks that it starts.

    A call's own fields take precedence, and an inner block's fields over those of an outer one. `context` and
    `integrations` are merged key by key, one level deep. `without_identity` is what happens to a call without any id:
    ``"raise"``, as outside of a block, raises `MessageError`; ``"drop"`` accepts the message and drops it at once, with
    the reason ``no_identity``; `None` keeps the setting of the enclosing block. `default` converts values of your own
    types in `context` and `integrations`, at once: as `Client(default=...)`, which does not apply here. What you change
    in the given objects afterwards changes nothing.

    Left in another context than it was entered in, the block changes nothing there. So it binds nothing in a FastAPI
    dependency that is a plain ``def`` with ``yield``, whose parts run in threads of their own: write the dependency as
    ``async def``, or call `bind` in it.

    Raises:
        MessageError: a field is wrong; names it as on the wire.
        ValueError: `without_identity` is none of these, or `default` is no plain function.
    """
    if without_identity not in (None, "raise", "drop"):
        raise ValueError('without_identity must be "raise" or "drop"')
    outer = innermost.get()
    fields = _merged(
        outer.fields if outer else {}, _fields(user_id, anonymous_id, context, integrations, converting(default))
    )
    drops = without_identity == "drop"
    if without_identity is None and outer is not None:
        drops = outer.drops_without_identity
    block = Bound(fields, drops, outer)
    token = innermost.set(block)
    try:
        yield
    finally:
        leave(block, token)


def leave(block: Bound, token: Token[Bound | None]) -> bool:
    """Go back to the enclosing block, in the context in which this one was entered; in any other, change nothing.

    Returns whether this was that context.

    A generator that is suspended within a block may be closed by the garbage collector, in the middle of another
    request, or be left before a block that another generator entered after it.
    """
    current = innermost.get()
    try:
        innermost.reset(token)
    except ValueError:
        # The token belongs to another context.
        return False
    if current is block:
        innermost.set(block.outer)
        if isinstance(block, DeferredBound):
            # It may be kept by the request that follows on the connection, and must not keep those before it.
            block.outer = None
        return True
    inner = current
    while inner is not None and inner.outer is not block:
        inner = inner.outer
    if inner is not None:
        # It is still open. Leaving it leads past this block.
        inner.outer = block.outer
    innermost.set(current)
    return True


def bind(
    *,
    user_id: UserID | None = None,
    anonymous_id: UserID | None = None,
    context: ObjectLike | None = None,
    integrations: Mapping[str, Any] | None = None,
    default: Conversion | None = None,
) -> None:
    """Change the fields of the innermost enclosing `bound` block in place.

    The change applies to all later calls within the block, also in tasks that the block started before. Fields that
    are not given stay as they were. `default` is the one of `bound`.

    Raises:
        RuntimeError: the call is not inside a `bound` block.
        MessageError: a field is wrong; names it as on the wire.
        ValueError: `default` is no plain function.
    """
    block = innermost.get()
    if block is None:
        raise RuntimeError("bind() needs an enclosing bound() block, and there is none")
    block.add(_fields(user_id, anonymous_id, context, integrations, converting(default)))


def _fields(user_id: Any, anonymous_id: Any, context: Any, integrations: Any, convert: Conversion) -> Fields:
    fields: Fields = {}
    if user_id is not None:
        fields["userId"] = identifier("userId", user_id)
    if anonymous_id is not None:
        fields["anonymousId"] = identifier("anonymousId", anonymous_id)
    for name, value in (("context", context), ("integrations", integrations)):
        if value is not None and (given := mapping(name, value)):
            # For any number of calls, which do not see what becomes of the given objects.
            fields |= snapshot({name: given}, convert)
    return fields


def _merged(outer: Fields, inner: Fields) -> Fields:
    merged = {**outer, **inner}
    for name in ("context", "integrations"):
        if name in outer and name in inner:
            merged[name] = {**outer[name], **inner[name]}
    return merged
