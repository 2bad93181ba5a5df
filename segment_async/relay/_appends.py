"""Appending: what gathered while one group was under way is the next one, up to five hundred messages.

    append_nowait ─► waiting ─► an exchange: a script, (WAIT) ─► answers
                                   └ refused ─► raise · ask the caller to wait · store in a file, moved over later

A group is one command, or a few if it is large: packing a command for each message and parsing its reply would cost a
host as much as everything else together.
This file knows the server, and nothing of relays.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Literal, NamedTuple

from segment_async._exceptions import SpoolUnavailable
from segment_async.spool._protocol import Appended, AppendResult, NewMessage, TryLater

from ._entries import APPEND, Keys, append_arguments
from ._server import Server, Unreachable, code_of

GROUP_SIZE: Final = 500
# Of messages in one exchange: over a slow connection, a larger one would never end in time, and would be sent again and
# again.
EXCHANGE_BYTES: Final = 2**20
# Ids of messages that may be in the stream: callers may never append them again.
_MOST_UNCERTAIN: Final = 20 * GROUP_SIZE
# Seconds until a caller that keeps its messages appends them again.
_TRY_LATER: Final = 0.5
# The same for all messages.
_STORED: Final = Appended("stored")
_FULL: Final = Appended("full")

Done = Callable[[AppendResult | TryLater | SpoolUnavailable], None]
Confirm = Literal["replica", "aof"]
# Stores a group elsewhere; `maybe_stored`: some of it may be in the stream already.
Fallback = Callable[[Sequence[NewMessage], Done, bool], None]


class Append(NamedTuple):
    messages: Sequence[NewMessage]
    done: Done


class Appends:
    """Attributes:
    stored, full: messages that were appended, and that were refused as the stream was full.
    idle: set while nothing waits to be appended.
    """

    def __init__(
        self,
        server: Server,
        keys: Keys,
        *,
        max_messages: int,
        confirm: Confirm | None,
        seconds: float,
        keeps_in_memory: bool,
        fallback: Fallback | None,
        changed: Callable[[], None],
    ) -> None:
        self.stored = self.full = 0
        self._server = server
        self._keys = keys
        self._max_messages = max_messages
        self._confirm = confirm
        self._seconds = seconds
        self._keeps_in_memory = keeps_in_memory
        self._fallback = fallback
        self._changed = changed
        self._waiting: deque[Append] = deque()
        self._has_work = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        # Ids of groups whose replies were lost, until they are stored.
        self._uncertain: dict[str, None] = {}
        # Ids of the first messages of the group that was refused last: they are stored, and a caller that keeps its
        # messages appends the same group again.
        self._stored_of_last: list[str] = []
        # The last group was not confirmed: nothing is appended before the server says that it can confirm again, as
        # callers that keep their messages would append them over and over.
        self._is_unconfirmed = False

    def add(self, append: Append) -> None:
        self._waiting.append(append)
        self._has_work.set()
        self.idle.clear()

    def refuse_all(self, error: SpoolUnavailable) -> None:
        while self._waiting:
            self._waiting.popleft().done(error)

    async def run(self) -> None:
        """Append groups, for ever."""
        while True:
            await self._has_work.wait()
            await self._append_next()
            if not self._waiting:
                self._has_work.clear()
                self.idle.set()

    async def _append_next(self) -> None:
        group: list[Append] = []
        count = 0
        while self._waiting and (not group or count + len(self._waiting[0].messages) <= GROUP_SIZE):
            group.append(self._waiting.popleft())
            count += len(group[-1].messages)
        try:
            answers = await self.store([message for append in group for message in append.messages])
        except SpoolUnavailable as error:
            for append in group:
                self._refuse(append, error)
            return
        except BaseException as error:
            for append in group:
                append.done(SpoolUnavailable(f"appending failed: {type(error).__qualname__}", maybe_stored=True))
            raise
        start = 0
        for append in group:
            stop = start + len(append.messages)
            append.done(AppendResult(answers[start:stop]))
            start = stop

    def _refuse(self, append: Append, error: SpoolUnavailable) -> None:
        if self._fallback is not None:
            self._fallback(append.messages, append.done, error.maybe_stored)
        elif self._keeps_in_memory:
            append.done(TryLater(_TRY_LATER))
        else:
            append.done(error)

    # -- one group

    async def store(
        self,
        messages: Sequence[NewMessage],
        *,
        are_repeated: bool = False,
        begin: Callable[[], Awaitable[None]] | None = None,
    ) -> list[Appended]:
        """Append messages; each is stored or finds the stream full. `begin`: comes first, if the server can be reached.

        Raises:
            SpoolUnavailable: none is, or a reply was lost.
        """
        if not messages:
            return []
        if not await self._server.reach(self._seconds):
            raise SpoolUnavailable(f"Redis cannot be used: {self._server.why}")
        if self._is_unconfirmed:
            await self._until_confirmed()
        if begin is not None:
            await begin()
        stored = self._take_stored_of_last(messages)
        for part in _parts(messages[stored:]):
            try:
                count = await self._add(part, are_repeated=are_repeated)
            except SpoolUnavailable as error:
                self._note_stored_of_last(messages[:stored])
                raise SpoolUnavailable(*error.args, maybe_stored=error.maybe_stored or stored > 0) from None
            stored += count
            if count < len(part):
                break
        if self._uncertain:
            for each in messages[:stored]:
                self._uncertain.pop(each.message_id, None)
        self.stored += stored
        self.full += len(messages) - stored
        self._changed()
        return [_STORED] * stored + [_FULL] * (len(messages) - stored)

    def _note_stored_of_last(self, messages: Sequence[NewMessage]) -> None:
        """These are stored, and the group is refused."""
        self._remember(messages)
        if self._keeps_in_memory:
            self._stored_of_last = [each.message_id for each in messages]

    def _take_stored_of_last(self, messages: Sequence[NewMessage]) -> int:
        """How many of the messages, from the first on, were stored when the same group was refused."""
        ids, self._stored_of_last = self._stored_of_last, []
        return len(ids) if ids == [each.message_id for each in messages[: len(ids)]] else 0

    def _confirmation(self) -> tuple[Any, ...]:
        milliseconds = max(1, int(self._seconds * 500))
        return ("WAIT", 1, milliseconds) if self._confirm == "replica" else ("WAITAOF", 1, 0, milliseconds)

    async def _until_confirmed(self) -> None:
        """Raises:
        SpoolUnavailable: what was appended last, or anything, is still not as safe as `confirm` asks.
        """
        try:
            [reply] = await self._server.ask_all([self._confirmation()], seconds=self._seconds)
        except Unreachable as error:
            raise SpoolUnavailable(f"Redis did not answer: {error}") from None
        if not _is_confirmed(reply):
            raise SpoolUnavailable(f"Redis cannot store messages as safely as confirm asks: {_why_not(reply)}")
        self._is_unconfirmed = False

    async def _add(self, messages: Sequence[NewMessage], *, are_repeated: bool) -> int:
        """How many of the messages are stored, from the first on; there is no room for the others.

        Raises:
            SpoolUnavailable: none is, or they may be, or not as safely as `confirm` asks.
        """
        repeated: Collection[str] = _ids_of(messages) if are_repeated else self._uncertain
        arguments = append_arguments(messages, self._max_messages, repeated)
        commands: list[Sequence[Any]] = [("EVAL", APPEND, 1, self._keys.messages, *arguments)]
        if self._confirm is not None:
            commands.append(self._confirmation())
        try:
            reply, *confirmed = await self._server.ask_all(commands, seconds=self._seconds)
        except Unreachable as error:
            if error.maybe_done:
                self._remember(messages)
            raise SpoolUnavailable(f"Redis did not answer: {error}", maybe_stored=error.maybe_done) from None
        if isinstance(reply, Exception):
            if code_of(reply) == "OOM":
                return 0
            raise SpoolUnavailable(f"Redis refused: {reply}")
        if reply and confirmed and not _is_confirmed(confirmed[0]):
            self._remember(messages)
            self._is_unconfirmed = True
            raise SpoolUnavailable(
                f"Redis has the message, but not as safely as confirm asks: {_why_not(confirmed[0])}",
                maybe_stored=True,
            )
        return int(reply)

    def _remember(self, messages: Sequence[NewMessage]) -> None:
        """These may be in the stream."""
        self._uncertain |= dict.fromkeys(each.message_id for each in messages)
        for oldest in [*islice(self._uncertain, max(0, len(self._uncertain) - _MOST_UNCERTAIN))]:
            del self._uncertain[oldest]


def _parts(messages: Sequence[NewMessage]) -> Iterator[Sequence[NewMessage]]:
    """In their order, each for one exchange."""
    start = size = 0
    for index, each in enumerate(messages):
        if size and size + len(each.body) > EXCHANGE_BYTES:
            yield messages[start:index]
            start, size = index, 0
        size += len(each.body)
    yield messages[start:]


def _ids_of(messages: Sequence[NewMessage]) -> frozenset[str]:
    return frozenset(each.message_id for each in messages)


def _is_confirmed(reply: Any) -> bool:
    if isinstance(reply, Exception):
        return False
    # Of WAITAOF the first of two numbers, of WAIT the only one.
    return reply >= 1 if isinstance(reply, int) else bool(reply[0])


def _why_not(reply: Any) -> str:
    return str(reply) if isinstance(reply, Exception) else "it is not confirmed in time"
