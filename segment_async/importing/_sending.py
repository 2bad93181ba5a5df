"""Hands the records of sources to the client, at the import's pace, and follows their outcomes in order.

Everything is sent by one `Client`, with its batches, retries and limits. This file does not know the state file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from segment_async import Client, Delivery, MessageError

from ._options import ImportOptions
from ._pace import Pace
from ._prepare import REJECTED, SEND, Prepared, Preparer
from ._reading import Opened, ReaderThread, next_slice, open_at
from ._records import Problem
from ._rejects import RejectsFile
from ._report import TOO_MANY_REJECTS, UNREACHABLE, SourceBroken, Stopped
from ._sources import Source
from ._state import Position
from ._transport import WatchedTransport
from ._window import Window

WINDOW: Final = 5_000
_SLEEP_FROM: Final = 0.02
_PAUSE: Final = 1.0
_FEW: Final = 1_000


class Sender:
    """Sends what is in the sources, from the window's position on.

    Args:
        broken: gets the sources that cannot be read to their end.

    Attributes:
        opened: the source that is being read.
    """

    def __init__(
        self,
        options: ImportOptions,
        client: Client,
        transport: WatchedTransport,
        preparer: Preparer,
        window: Window,
        rejects: RejectsFile,
        broken: list[str],
    ) -> None:
        self.opened: Opened | None = None
        self._client = client
        self._transport = transport
        self._preparer = preparer
        self._window = window
        self._rejects = rejects
        self._broken = broken
        self._limit = options.limit
        self._most_pending = most_pending(options.rate)
        self._pace = Pace(options.rate, asyncio.get_running_loop().time())
        self._has_too_many = options.most_rejects()
        self._is_share = (options.max_rejects or "").endswith("%")
        self._first_answered = False
        # Of the records that were added to the window, at any time.
        self._rejected = window.counts.rejected

    async def run(self, sources: Sequence[Source], thread: ReaderThread) -> None:
        """Send everything.

        Raises:
            Stopped: no message can be delivered now, or there are too many rejects.
            OSError: a source cannot be read, or a reject cannot be written.
        """
        loop = asyncio.get_running_loop()
        for index in range(self._window.position.source, len(sources)):
            name = sources[index].name
            position = self._window.position
            if position.source != index:
                position = Position(index)
                self._window.begin(position)
            try:
                self.opened = opened = await loop.run_in_executor(thread, open_at, sources[index], position)
            except SourceBroken as error:
                self._broken.append(f"source {name}: {error}")
                self._window.begin(Position(index + 1))
                continue
            try:
                self._preparer.begin_source(opened.columns)
                is_limited = await self._send_records(opened, name, thread)
                await self._settled()
                if is_limited:
                    break
                self._window.begin(Position(index + 1))
            finally:
                self.opened = None
                # In its turn: an interrupted import may leave a read behind that is still going on.
                thread.submit(opened.close)
        self._check_rejects(at_end=True)

    async def _send_records(self, opened: Opened, name: str, thread: ReaderThread) -> bool:
        """Send the records of a source; whether the limit was reached."""
        loop = asyncio.get_running_loop()
        while True:
            left = self._left()
            if left is not None and left <= 0:
                return True
            read = await loop.run_in_executor(thread, next_slice, opened.records, self._preparer, left)
            await self._send(read.prepared)
            if isinstance(read.error, SourceBroken):
                await self._settled()
                self._broken.append(f"source {name}: {read.error}")
                return False
            if read.error is not None:
                await self._settled()
                raise read.error
            if not read.prepared:
                return False
            self.settle()

    def _left(self) -> int | None:
        return None if self._limit is None else self._limit - self._window.counts.records - len(self._window)

    async def _send(self, prepared: Sequence[Prepared]) -> None:
        add, enqueue, is_paced = self._window.add, self._client.enqueue, self._pace.is_limited
        room = 0
        for each in prepared:
            if each.status == SEND:
                if room <= 0:
                    room = await self._room()
                if is_paced:
                    await self._wait_for_turn(len(each.messages))
                deliveries: list[Delivery] = []
                try:
                    for message in each.messages:
                        deliveries.append(await enqueue(message))  # noqa: PERF401  # kept if a later one fails
                    each.deliveries = deliveries
                except MessageError as error:
                    each.status, each.problem = REJECTED, Problem("invalid", error.path, f"{error.problem}.")
            add(each)
            room -= 1
            if each.status == REJECTED:
                self._rejected += 1
                await self._stop_before_more()
            if not self._first_answered and each.deliveries:
                await self._first_answer()

    async def _stop_before_more(self) -> None:
        """If the rejects on their way are too many, do not send what comes after them.

        Raises:
            Stopped: there are too many rejects.
        """
        counts, pending = self._window.counts, len(self._window)
        if self._are_too_many(self._rejected + counts.failed, counts.records + pending):
            await self._settled()

    async def _first_answer(self) -> None:
        """The first message goes alone: a wrong key, address or clock is found with one request."""
        await self._settled()
        self.check_clock()
        self._first_answered = True

    def check_clock(self) -> None:
        """Raises:
        Stopped: this machine's clock is wrong.
        """
        if self._transport.is_clock_wrong:
            skew = self._transport.skew or 0
            way = "ahead of" if skew > 0 else "behind"
            raise Stopped(
                UNREACHABLE,
                f"this machine's clock is {abs(skew):,.0f} s {way} the server's: Segment would shift every event by "
                "that; set the clock, and run the same command again",
            )

    async def _room(self) -> int:
        """Wait until there is room for a record; for how many there is."""
        room = self._most_pending - len(self._window)
        if room > 0:
            return room
        loop = asyncio.get_running_loop()
        self.settle()
        began = loop.time()
        while len(self._window) >= self._most_pending and (oldest := self._window.oldest) is not None:
            await oldest
            self.settle()
        if loop.time() - began > _PAUSE:
            self._pace.charge(len(self._window) + self._most_pending, loop.time())
        return self._most_pending - len(self._window)

    async def _wait_for_turn(self, count: int) -> None:
        delay = self._pace.take(count, asyncio.get_running_loop().time())
        if delay >= _SLEEP_FROM:
            await asyncio.sleep(delay)

    async def _settled(self) -> None:
        """Wait until the window is empty."""
        self.settle()
        while (oldest := self._window.oldest) is not None:
            await oldest
            self.settle()

    def settle(self, *, is_stopped: bool = False) -> None:
        """Count what has its outcome, in order; if the import `is_stopped`, whatever the number of rejects.

        Raises:
            Stopped: no message can be delivered now, or there are too many rejects.
            OSError: a reject cannot be written.
        """
        if self._transport.is_clock_wrong:
            return
        while (reject := self._window.next_reject(self._transport.error_of)) is not None:
            self._rejects.add(reject.prepared.record, reject.prepared.columns, reject.problem, reject.message)
            if not is_stopped:
                self._check_rejects()

    def _check_rejects(self, *, at_end: bool = False) -> None:
        counts = self._window.counts
        if self._are_too_many(counts.rejected + counts.failed, counts.records, at_end=at_end):
            # The report says how many: those under way are counted after the stop.
            raise Stopped(TOO_MANY_REJECTS, "too many records were rejected or failed")

    def _are_too_many(self, number: int, records: int, *, at_end: bool = False) -> bool:
        # A share means nothing for the first few.
        return (at_end or records >= _FEW or not self._is_share) and self._has_too_many(number, records)


def most_pending(rate: float) -> int:
    """Records on their way: those of one second, which is what an outage holds back and then lets go at once."""
    return int(min(WINDOW, max(100, rate))) if rate else WINDOW
