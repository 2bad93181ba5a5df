"""A process that works with a spool until it is stopped, and writes down in a journal what it was told.

Ids are never used twice, and a message's body follows from its id, so that the witness needs nothing but ids. A small
part of the bodies is larger than a page.
"""

import asyncio
import random
import sys
import zlib
from pathlib import Path

from segment_async.spool import (
    AppendResult,
    BatchResult,
    NewMessage,
    Spool,
    SpoolUnavailable,
    SQLiteSpool,
    Status,
    StoredMessage,
)

from .journal import ACCEPTED, DELIVERED, FAILED, OFFERED, REFUSED, SENT, Journal

_PATIENCE = 0.5
_DELIVERED = BatchResult(Status.DELIVERED)
_FAILED = BatchResult(Status.FAILED, "refused", 400, 1)


def body_of(message_id: str) -> bytes:
    number = zlib.crc32(message_id.encode())
    size = 9_000 if number % 40 == 0 else number % 900
    return f'{{"messageId":"{message_id}","x":"'.encode() + (b"%08x" % number) * (size // 8) + b'"}'


class Victim:
    def __init__(self, spool: Spool, journal: Journal, seed: str) -> None:
        self._spool = spool
        self._journal = journal
        self._random = random.Random(seed)
        self._seed = seed
        self._count = 0
        self._held = 0

    async def live(self, steps: int, *, at_once: bool) -> None:
        """Work, and come to an end."""
        await self.work(steps, at_once=at_once)
        await self._spool.aclose()

    async def work(self, steps: int, *, at_once: bool) -> None:
        """`at_once`: everything at the same time; else one thing after the other."""
        # Opens the spool: what earlier lives left is not known before.
        await self._append()
        async with asyncio.TaskGroup() as group:
            for _ in range(steps - 1):
                step = self._random.choices((self._append, self._append_and_hold, self._deliver), (4, 1, 4))[0]
                if at_once:
                    group.create_task(step())
                    if self._random.random() < 0.3:
                        await asyncio.sleep(0)
                else:
                    await step()

    def _next_ids(self, most: int) -> list[str]:
        first = self._count
        self._count += self._random.randint(1, most)
        return [f"{self._seed}-{number}" for number in range(first, self._count)]

    async def _append(self) -> None:
        """In groups of any size."""
        message_ids = self._next_ids(12)
        parts = [message_ids[start : start + 3] for start in range(0, len(message_ids), 3)]
        await asyncio.gather(*(self._append_group(each) for each in self._random.choice((parts, [message_ids]))))

    async def _append_and_hold(self) -> None:
        """What is held at once is sent and settled without ever being read."""
        message_ids = self._next_ids(5)
        result = await self._append_group(message_ids, hold=3)
        if result is not None:
            held = [
                StoredMessage(answer.key, message_id, b"")
                for message_id, answer in zip(message_ids, result.answers, strict=True)
                if answer.held
            ]
            self._held += len(held)
            await self._send(held)

    async def _append_group(self, message_ids: list[str], hold: int = 0) -> AppendResult | None:
        self._journal.write(OFFERED, message_ids)
        loop = asyncio.get_running_loop()
        told: asyncio.Future[AppendResult | SpoolUnavailable] = loop.create_future()
        self._spool.append_nowait(
            [NewMessage(each, body_of(each)) for each in message_ids],
            lambda result: loop.call_soon_threadsafe(told.set_result, result),
            hold=hold,
        )
        result = await told
        if isinstance(result, SpoolUnavailable):
            self._journal.write(REFUSED, message_ids)
            return None
        assert all(each.status == "stored" for each in result.answers), result
        self._journal.write(ACCEPTED, message_ids)
        return result

    async def _deliver(self) -> None:
        if self._spool.statistics().pending <= self._held:
            return
        try:
            window = await asyncio.wait_for(self._spool.read(self._random.randint(1, 30), 50_000), _PATIENCE)
        except (TimeoutError, SpoolUnavailable):
            # Others of us were faster, or the disk cannot be read.
            return
        self._held += len(window.messages)
        await self._send(list(window.messages))

    async def _send(self, messages: list[StoredMessage]) -> None:
        if not messages:
            return
        attempts = self._random.choice((0, 1, 1, 1, 2))
        for attempt in range(1, attempts + 1):
            await self._spool.sending([each.key for each in messages], messages[0].attempts + attempt)
            self._journal.write(SENT, [each.message_id for each in messages])
        if attempts and self._random.random() < 0.8:
            every = self._random.randint(2, 9)
            await self._settle(messages[::every], _FAILED, FAILED)
            await self._settle([each for index, each in enumerate(messages) if index % every], _DELIVERED, DELIVERED)

    async def _settle(self, messages: list[StoredMessage], fate: BatchResult, sign: str) -> None:
        await self._spool.settle([each.key for each in messages], fate)
        self._journal.write(sign, [each.message_id for each in messages])
        self._held -= len(messages)


def main() -> None:
    """One life, or several in one process: opened, worked with, closed, and again."""
    path, journal_path, seed, steps, durability, *lives = sys.argv[1:]
    journal = Journal(Path(journal_path))
    for life in range(int(lives[0]) if lives else 1):
        spool = SQLiteSpool(path, durability="full" if durability == "full" else "process")
        asyncio.run(Victim(spool, journal, f"{seed}.{life}").live(int(steps), at_once=False))


if __name__ == "__main__":
    main()
