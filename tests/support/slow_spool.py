"""A spool whose answers to appends come when the test says so, as a disk's or a server's may come after a read's."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

from segment_async._outcome import BatchResult
from segment_async.spool import SpoolStatistics
from segment_async.spool._protocol import Appended, AppendResult, NewMessage, Window


class SlowSpool:
    """Attributes:
    groups: what was appended, and what to call with the answer.
    windows: what the next reads return; the first one is there.
    settled: keys, and how their messages ended.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self.shared = shared
        self.groups: list[tuple[Sequence[NewMessage], Callable[[AppendResult], None]]] = []
        self.windows: asyncio.Queue[Window] = asyncio.Queue()
        self.windows.put_nowait(Window(()))
        self.settled: list[tuple[list[int], BatchResult]] = []
        self._key = 0

    @property
    def ids(self) -> list[list[str]]:
        """The messages of each group."""
        return [[message.message_id for message in messages] for messages, _ in self.groups]

    def answer(self, number: int, *, held: bool = False) -> None:
        """All messages of a group are stored."""
        messages, done = self.groups[number]
        answers: list[Appended] = []
        for _ in messages:
            self._key += 1
            answers.append(Appended("stored") if self.shared else Appended("stored", self._key, held))
        done(AppendResult(answers))

    def claim(self, fingerprint: str) -> None: ...

    def append_nowait(
        self, messages: Sequence[NewMessage], done: Any, *, hold: int = 0, make_room: bool = False
    ) -> None:
        self.groups.append((messages, done))

    async def read(self, max_count: int, max_bytes: int) -> Window:
        return await self.windows.get()

    async def sending(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        return ()

    async def settle(self, keys: Sequence[int], result: BatchResult, answer: str = "") -> None:
        self.settled.append((list(keys), result))

    def statistics(self) -> SpoolStatistics:
        return SpoolStatistics()

    async def aclose(self) -> None: ...
