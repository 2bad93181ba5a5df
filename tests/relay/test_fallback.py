"""The file that stands in for Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from segment_async import SpoolUnavailable
from segment_async.relay._fallback import Fallback
from segment_async.spool import (
    Appended,
    AppendResult,
    BatchResult,
    DroppedMessage,
    NewMessage,
    SQLiteSpool,
    StoredMessage,
    Window,
)
from tests.support import virtual_clock

Begin = Callable[[], Awaitable[None]]


class SlowFile:
    """A message can be read from it at once, but nothing is noted of it until `may_note` is set."""

    def __init__(self) -> None:
        self.windows: asyncio.Queue[Window] = asyncio.Queue()
        self.may_note = asyncio.Event()

    def append_nowait(self, messages: Sequence[NewMessage], done: Callable[[Any], None]) -> None:
        stored = [StoredMessage(key, each.message_id, each.body) for key, each in enumerate(messages)]
        self.windows.put_nowait(Window(stored))
        done(AppendResult([Appended("stored", each.key) for each in stored]))

    async def read(self, max_count: int, max_bytes: int) -> Window:
        return await self.windows.get()

    async def sending(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        await self.may_note.wait()
        return ()

    async def settle(self, keys: Sequence[int], result: BatchResult) -> None:
        pass


class Redis:
    """What was appended to it, and whether as repeated."""

    def __init__(self) -> None:
        self.stored: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
        self.asked = asyncio.Event()

    async def store(self, messages: Sequence[NewMessage], *, are_repeated: bool, begin: Begin) -> list[Appended]:
        await begin()
        self.asked.set()
        for each in messages:
            self.stored.put_nowait((each.message_id, are_repeated))
        return [Appended("stored")] * len(messages)


def test_what_may_be_in_redis_already_is_moved_as_repeated_before_the_file_has_noted_it() -> None:
    async def main() -> None:
        file: Any = SlowFile()
        redis: Any = Redis()
        fallback = Fallback(file, lambda function, *arguments: function(*arguments))
        moving = asyncio.create_task(fallback.keep_moving(redis))
        fallback.store([NewMessage("order-1", b"{}")], lambda _answer: None, True)
        assert await redis.stored.get() == ("order-1", True)
        # A later message of the same id is one of its own.
        file.may_note.set()
        fallback.store([NewMessage("order-1", b"{}")], lambda _answer: None, False)
        assert await redis.stored.get() == ("order-1", False)
        moving.cancel()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(main())


class SlowRedis(Redis):
    """It answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()

    async def store(self, messages: Sequence[NewMessage], *, are_repeated: bool, begin: Begin) -> list[Appended]:
        await begin()
        self.asked.set()
        await self.answers.wait()
        return await super().store(messages, are_repeated=are_repeated, begin=begin)


def test_a_message_is_moved_although_another_one_with_its_id_is_refused_meanwhile() -> None:
    async def main() -> None:
        file: Any = SlowFile()
        file.may_note.set()
        redis = SlowRedis()
        to_redis: Any = redis
        answers: list[Callable[[Any], None]] = []
        file.append_nowait = lambda _messages, done: answers.append(done)
        fallback = Fallback(file, lambda function, *arguments: function(*arguments))
        moving = asyncio.create_task(fallback.keep_moving(to_redis))
        # The second one is read before it is noted that Redis may have it.
        fallback.store([NewMessage("order-2", b"{}")], lambda _answer: None, True)
        file.windows.put_nowait(Window([StoredMessage(1, "order-1", b"{}"), StoredMessage(2, "order-2", b"{}")]))
        await redis.asked.wait()
        fallback.store([NewMessage("order-2", b"{}")], lambda _answer: None, True)
        answers.pop()(AppendResult([Appended("full")]))
        redis.answers.set()
        async with asyncio.timeout(5):
            assert [await redis.stored.get(), await redis.stored.get()] == [("order-1", False), ("order-2", True)]
        moving.cancel()

    asyncio.run(main())


def test_what_was_being_moved_when_the_process_ended_is_moved_as_repeated(tmp_path: Path) -> None:
    """Redis may have it, and its answer was lost with the process."""
    path = tmp_path / "redis.db"

    async def process(redis: Any, *messages: NewMessage) -> None:
        file: Any = SQLiteSpool(path)
        file.claim("0" * 16)
        call: Any = asyncio.get_running_loop().call_soon_threadsafe
        fallback = Fallback(file, call)
        if messages:
            fallback.store(messages, lambda _answer: None, False)
        moving = asyncio.create_task(fallback.keep_moving(redis))
        await redis.asked.wait()
        moving.cancel()
        await fallback.aclose()

    async def main() -> None:
        await process(SlowRedis(), NewMessage("order-1", b"{}"))
        redis = Redis()
        await process(redis)
        assert await redis.stored.get() == ("order-1", True)

    asyncio.run(main())


def test_a_group_is_refused_if_the_file_raises() -> None:
    """Unanswered, the client would wait for it for ever, and store nothing any more."""
    file: Any = SlowFile()
    answers: list[Any] = []

    def fail(*_: object) -> None:
        raise MemoryError

    file.append_nowait = fail
    Fallback(file, print).store([NewMessage("order-1", b"{}")], answers.append, False)
    [answer] = answers
    assert isinstance(answer, SpoolUnavailable)
    assert answer.maybe_stored


def test_a_group_that_may_be_in_redis_is_answered_although_the_file_cannot_note_it() -> None:
    async def main() -> None:
        file: Any = SlowFile()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def fail(_keys: Sequence[int], _attempt: int) -> Collection[int]:
            raise MemoryError

        file.sending = fail
        fallback = Fallback(file, lambda function, *arguments: function(*arguments))
        fallback.store([NewMessage("order-1", b"{}")], answer.set_result, True)
        async with asyncio.timeout(5):
            assert [each.status for each in (await answer).answers] == ["stored"]

    asyncio.run(main())


@pytest.mark.parametrize("step", ["sending", "settle"])
def test_messages_are_moved_although_the_file_raises_amid_that(step: str) -> None:
    """It has given them out, and would do so again only to the next process."""

    async def main() -> None:
        file: Any = SlowFile()
        file.may_note.set()
        real, settled = getattr(file, step), asyncio.Event()
        has_failed = False

        async def fail_once(*arguments: Any) -> Collection[int]:
            nonlocal has_failed
            if not has_failed:
                has_failed = True
                raise MemoryError
            if step == "settle":
                settled.set()
            found: Collection[int] = await real(*arguments)
            return found

        setattr(file, step, fail_once)
        redis: Any = Redis()
        file.windows.put_nowait(Window([StoredMessage(1, "order-1", b"{}"), StoredMessage(2, "order-2", b"{}", 1)]))
        moving = asyncio.create_task(Fallback(file, print).keep_moving(redis))
        async with asyncio.timeout(60):
            assert [(await redis.stored.get())[0] for _ in range(2)] == ["order-1", "order-2"]
            if step == "settle":
                await settled.wait()
        moving.cancel()
        await asyncio.wait([moving])

    virtual_clock.run(main())


def test_messages_that_grew_too_old_in_the_file_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """They were accepted, and nothing else says that they never come to Redis."""

    async def main() -> None:
        file, redis = SlowFile(), Redis()
        file.may_note.set()
        to_file, to_redis = cast("tuple[Any, Any]", (file, redis))
        old = [DroppedMessage(message_id, b"{}", "too_old") for message_id in ("order-1", "order-2")]
        file.windows.put_nowait(Window([StoredMessage(3, "order-3", b"{}")], old))
        moving = asyncio.create_task(Fallback(to_file, print).keep_moving(to_redis))
        async with asyncio.timeout(5):
            assert await redis.stored.get() == ("order-3", False)
        moving.cancel()

    asyncio.run(main())
    assert "too old in the file that stands in for Redis and are given up: 2." in caplog.text
