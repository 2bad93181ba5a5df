"""A file on the host's disk for messages while Redis cannot be used: stored at once, moved over when Redis is back.

A message that may be in Redis already is marked there as repeated when it is moved. So the file notes which ones are being
moved. This file knows both protocols and neither engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from segment_async._exceptions import SpoolUnavailable, stack_of
from segment_async._outcome import BatchResult, Status
from segment_async.spool._protocol import AppendResult, NewMessage, Spool, StoredMessage, TryLater

from ._appends import EXCHANGE_BYTES, GROUP_SIZE, Appends, Done

_log = logging.getLogger("segment_async")

# A file on disk counts no messages as handed over: Redis is where it delivers them.
_MOVED = BatchResult(Status.DELIVERED)
# Seconds until it is tried again.
_RETRY = 1.0


class Fallback:
    """Attributes:
    moved: messages that were moved to Redis.
    """

    def __init__(self, spool: Spool, call: Callable[..., None]) -> None:
        self.moved = 0
        self._spool = spool
        # Calls a function on the loop of the spool's thread.
        self._call = call
        self._noting: set[asyncio.Task[None]] = set()
        # Ids of messages that may be in Redis already, until they are moved: they may be read from the file before
        # that is noted there.
        self._repeated: set[str] = set()

    def store(self, messages: Sequence[NewMessage], done: Done, maybe_stored: bool) -> None:
        """Store a group in the file; the answer is the file's."""
        repeated = [each.message_id for each in messages] if maybe_stored else []
        self._repeated.update(repeated)
        try:
            self._spool.append_nowait(messages, partial(self._stored, repeated, done))
        except SpoolUnavailable as error:
            self._stored(repeated, done, error)
        except Exception as error:
            # Unanswered, the client would store nothing any more.
            _log.error("The file that stands in for Redis failed, and takes no messages.\n%s", stack_of(error))
            why_not = f"the file raised {type(error).__qualname__}"
            self._stored(repeated, done, SpoolUnavailable(why_not, maybe_stored=True))

    def _stored(self, repeated: Sequence[str], done: Done, result: AppendResult | TryLater | SpoolUnavailable) -> None:
        if repeated and isinstance(result, AppendResult):
            answers = list(zip(repeated, result.answers, strict=True))
            self._repeated.difference_update(message_id for message_id, answer in answers if answer.key is None)
            keys = [answer.key for _, answer in answers if answer.key is not None]
            # A spool that is closed does not move them any more.
            with suppress(SpoolUnavailable):
                self._call(self._note_repeated, keys, partial(done, result))
                return
        elif repeated:
            self._repeated.difference_update(repeated)
        if repeated and isinstance(result, SpoolUnavailable):
            # Not in the file, but perhaps in Redis.
            result = SpoolUnavailable(*result.args, maybe_stored=True)
        done(result)

    def _note_repeated(self, keys: list[int], then: Callable[[], None]) -> None:
        async def note() -> None:
            try:
                await self._spool.sending(keys, 1)
            except Exception:
                # Another process moves them without the mark; the file is kept in any case, and the client waits.
                pass
            then()

        task = asyncio.get_running_loop().create_task(note())
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def keep_moving(self, appends: Appends) -> None:
        """Move what is in the file to Redis, for ever; what an earlier process left there as well."""
        while True:
            try:
                # One exchange: of several, those before one whose reply is lost would be repeated as well.
                window = await self._spool.read(GROUP_SIZE, EXCHANGE_BYTES)
            except SpoolUnavailable as error:
                _log.warning("The file that stands in for Redis cannot be read and is tried again: %s", error)
                await asyncio.sleep(_RETRY)
                continue
            if old := sum(each.reason == "too_old" for each in window.dropped):
                _log.warning("Messages grew too old in the file that stands in for Redis and are given up: %d.", old)
            self._repeated.difference_update(each.message_id for each in window.dropped)
            # All of them before one is moved: another message with the same id may come meanwhile.
            parts: dict[bool, list[StoredMessage]] = {False: [], True: []}
            for each in window.messages:
                parts[self._is_repeated(each)].append(each)
            for are_repeated, part in parts.items():
                messages = [NewMessage(each.message_id, each.body) for each in part]
                await self._move(appends, messages, [each.key for each in part], are_repeated=are_repeated)

    def _is_repeated(self, message: StoredMessage) -> bool:
        return message.attempts > 0 or message.message_id in self._repeated

    async def _move(self, appends: Appends, messages: list[NewMessage], keys: list[int], *, are_repeated: bool) -> None:
        """Whatever fails: the file has given these out, and does so again only to the next process."""
        is_noted = are_repeated

        async def note() -> None:
            """Note that they may be in Redis, for the next process: this one may end before it has the reply."""
            nonlocal is_noted
            if not is_noted:
                await self._spool.sending(keys, 1)
                is_noted = True

        while messages:
            try:
                answers = await appends.store(messages, are_repeated=are_repeated, begin=note)
            except SpoolUnavailable as error:
                are_repeated = are_repeated or error.maybe_stored
                answers = []
            except Exception as error:
                _log.error("Moving messages from the file to Redis failed and is tried again.\n%s", stack_of(error))
                are_repeated, answers = True, []
            moved = sum(answer.status == "stored" for answer in answers)
            if moved:
                # What found the stream full is behind what fitted, as all are of one exchange.
                await self._settle(keys[:moved])
                self.moved += moved
                self._repeated.difference_update(each.message_id for each in messages[:moved])
            messages, keys = messages[moved:], keys[moved:]
            if messages:
                await asyncio.sleep(_RETRY)

    async def _settle(self, keys: Sequence[int]) -> None:
        """Try until it is done: the next process would move it once more."""
        while True:
            try:
                await self._spool.settle(keys, _MOVED)
            except Exception as error:
                _log.error("The file did not record what was moved to Redis, and is asked again.\n%s", stack_of(error))
                await asyncio.sleep(_RETRY)
            else:
                return

    async def aclose(self) -> None:
        await self._spool.aclose()
