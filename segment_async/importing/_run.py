"""Runs an import: reads, paces, hands messages to the client, follows their outcomes, saves the state.

    report = await run_import(ImportOptions(sources=["orders.csv"], write_key="...", mapping=mapping))

Everything is sent by one `Client`, with its batches, retries and limits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from segment_async import Client, Delivery, MessageError, RetryPolicy, Transport

from ._ids import MessageIds, fingerprint_of
from ._options import ImportOptions
from ._pace import Pace
from ._prepare import REJECTED, SEND, Prepared, Preparer
from ._reading import Opened, ReaderThread, check_columns, next_slice, open_at, sample_size
from ._records import Problem
from ._rejects import RejectsFile
from ._report import (
    DONE,
    SOME_REJECTED,
    TOO_MANY_REJECTS,
    UNREACHABLE,
    Counts,
    ImportReport,
    ImportUsageError,
    Progress,
    SourceBroken,
    Stopped,
)
from ._sources import Source, find
from ._state import Belongings, Position, Saved, StateFile
from ._transport import ClockChecked, address_of, http_transport
from ._window import Window

OnProgress = Callable[[Progress], object]

_TICK: Final = 1.0
_BATCH: Final = 500
_WINDOW: Final = 10_000
_SLEEP_FROM: Final = 0.02
_PAUSE: Final = 1.0
_RATE_TICKS: Final = 10
_FEW: Final = 1_000


class Importer:
    """One import. Construct it, `prepare` it, `run` it once, `close` it; `run_import` does all of that.

    Raises:
        ImportUsageError: an option is wrong.
    """

    def __init__(self, options: ImportOptions, *, on_progress: OnProgress | None = None) -> None:
        options.check()
        self._options = options
        self._on_progress = on_progress
        self._broken: list[str] = []
        self._rejects: RejectsFile | None = None
        self._state: StateFile | None = None
        self._opened: Opened | None = None
        self._fault: Stopped | None = None
        self._stopping: asyncio.Event = asyncio.Event()
        self._thread: ReaderThread | None = None
        self._has_too_many = options.most_rejects()
        self._is_share = (options.max_rejects or "").endswith("%")
        self._first_answered = False

    # -- before anything is sent

    def prepare(self) -> None:
        """Look at every source and at the state; nothing is sent.

        Raises:
            ImportUsageError: a source or the state does not fit.
        """
        options = self._options
        if not options.write_key.strip():
            raise ImportUsageError("no write key: set SEGMENT_WRITE_KEY, or use --write-key-file")
        self._sources: list[Source] = find(options.sources, options.format, options.stdin)
        for source in self._sources:
            check_columns(source, options.mapping, transformed=options.transform is not None)
        self._transport, address = self._connected()
        fingerprint = fingerprint_of(options.write_key)
        self._belongings = Belongings.of(self._sources, options.digest(), fingerprint, address)
        self._preparer = preparer_of(options, fingerprint)
        self._state_path = options.state_path(self._sources)
        self._rejects_path = options.rejects_path(self._state_path)
        try:
            self._load()
        except OSError as error:
            raise ImportUsageError(f"state file {self._state_path}: {error.strerror or error}") from error

    def _connected(self) -> tuple[ClockChecked, str]:
        options = self._options
        transport: Transport
        try:
            if options.transport is not None:
                transport, address = options.transport, options.host or ""
            else:
                address = address_of(options.region, options.host)
                transport = http_transport(address, options.timeout)
            checked = ClockChecked(transport)
            self._client = self._made(checked)
        except ValueError as error:
            raise ImportUsageError(str(error)) from error
        return checked, address

    def _made(self, transport: Transport) -> Client:
        options = self._options
        # A window of one second's messages: what an outage holds back, and then lets go at once.
        self._most_pending = int(min(_WINDOW, max(100, options.rate))) if options.rate else _WINDOW
        return Client(
            options.write_key,
            transport=transport,
            flush_at=int(min(_BATCH, max(1, options.rate // 5))) if options.rate else _BATCH,
            flush_interval=0.5,
            max_queue_size=2 * _WINDOW,
            overflow="wait",
            overflow_timeout=None,
            max_in_flight=1 if options.ordered else 4,
            timeout=options.timeout,
            close_timeout=0,
            retry=RetryPolicy(give_up_after=options.give_up_after),
        )

    def _load(self) -> None:
        self._state = StateFile(self._state_path)
        saved = None if self._options.restart else self._state.load(self._belongings)
        if saved is None:
            saved = Saved(self._belongings, Position(), Counts(), 0, [], finished=False)
        self._saved = saved
        self._broken = saved.broken
        self.already_done = saved.finished
        self.resumed = saved.counts.records
        self._window = Window(saved.counts, saved.position)
        self._total_bytes, self._estimated = sample_size(self._sources)
        if self.already_done:
            return
        self._rejects = RejectsFile(self._rejects_path, saved.rejects_bytes)
        # A disk that refuses is found before anything is sent.
        self._save()

    @property
    def estimated_records(self) -> int | None:
        """How many records there are, about; `None` if it cannot be told."""
        return self._estimated

    # -- running

    def stop(self, exit_code: int = 130, reason: str = "interrupted") -> None:
        """End the import: save the state, give requests under way a few seconds. Call it on the loop of `run`."""
        self._fail(Stopped(exit_code, f"{reason}: run the same command again to resume"))

    async def run(self) -> ImportReport:
        """Import until all is done, or something stops it. Does not raise for what happens on the way."""
        started = time.monotonic()
        if not self.already_done:
            self._thread = ReaderThread()
            try:
                await self._run()
            finally:
                self._thread.shutdown()
                await self._client.aclose()
        return self._report(time.monotonic() - started)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._pace = Pace(self._options.rate, loop.time())
        self._delivered: deque[int] = deque([self._window.counts.messages], maxlen=_RATE_TICKS + 1)
        is_whole = False
        try:
            async with self._client:
                await self._work()
                is_whole = self._fault is None
                if self._fault is not None and self._fault.exit_code > UNREACHABLE:
                    await self._client.flush(timeout=self._options.grace)
        finally:
            self._end(is_whole=is_whole)

    async def _work(self) -> None:
        """Import until it is done, or until something stops it."""
        work: list[asyncio.Task[object]] = [
            asyncio.create_task(self._produce()),
            asyncio.create_task(self._tick()),
            asyncio.create_task(self._stopping.wait()),
        ]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            results = await asyncio.gather(*work, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                self._note(result)

    def _note(self, error: Exception) -> None:
        if isinstance(error, Stopped):
            self._fail(error)
        elif isinstance(error, OSError):
            text = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
            self._fail(Stopped(UNREACHABLE, f"cannot read or write: {text}; run the same command again to resume"))
        else:
            raise error

    def _fail(self, fault: Stopped) -> None:
        if self._fault is None:
            self._fault = fault
        self._stopping.set()

    def _end(self, *, is_whole: bool) -> None:
        """The client is closed: what has an outcome has it now."""
        try:
            if self._fault is None or self._fault.exit_code > UNREACHABLE:
                self._settle()
            self._saved.finished = is_whole and self._window.position.source >= len(self._sources)
            self._save()
        except (OSError, Stopped) as error:
            self._note(error)

    async def _produce(self) -> None:
        loop = asyncio.get_running_loop()
        thread = self._thread
        for index in range(self._window.position.source, len(self._sources)):
            position = self._window.position
            if position.source != index:
                position = Position(index)
            try:
                self._opened = opened = await loop.run_in_executor(thread, open_at, self._sources[index], position)
            except SourceBroken as error:
                self._break(index, error)
                continue
            try:
                self._preparer.begin_source(opened.columns)
                is_limited = await self._produce_from(opened, index)
                await self._settled()
                if is_limited:
                    return
                self._window.end_source(index)
            finally:
                self._opened = None
                if thread is not None:
                    # In its turn: an interrupted import may leave a read behind that is still going on.
                    thread.submit(opened.close)
        self._check_rejects(at_end=True)

    def _break(self, index: int, error: SourceBroken) -> None:
        self._broken.append(f"source {self._sources[index].name}: {error}")
        self._window.end_source(index)

    async def _produce_from(self, opened: Opened, index: int) -> bool:
        """Send the records of a source; whether the limit was reached."""
        loop = asyncio.get_running_loop()
        while True:
            left = self._left()
            if left is not None and left <= 0:
                return True
            read = await loop.run_in_executor(self._thread, next_slice, opened.records, self._preparer, left)
            for prepared in read.prepared:
                await self._offer(prepared, index)
            if isinstance(read.error, SourceBroken):
                await self._settled()
                self._broken.append(f"source {self._sources[index].name}: {read.error}")
                return False
            if read.error is not None:
                await self._settled()
                raise read.error
            if not read.prepared:
                return False
            self._settle()

    def _left(self) -> int | None:
        limit = self._options.limit
        return None if limit is None else limit - self._window.counts.records - len(self._window)

    async def _offer(self, prepared: Prepared, index: int) -> None:
        deliveries: list[Delivery] = []
        if prepared.status == SEND:
            await self._wait_for_turn(len(prepared.messages))
            try:
                for message in prepared.messages:
                    deliveries.append(await self._client.enqueue(message))  # noqa: PERF401  # kept if a later one fails
            except MessageError as error:
                prepared.status, prepared.problem = REJECTED, Problem("invalid", error.path, f"{error.problem}.")
                deliveries = []
        self._window.add(prepared, deliveries, index)
        if deliveries and not self._first_answered:
            await self._first_answer()

    async def _first_answer(self) -> None:
        """The first message goes alone: a wrong key, address or clock is found with one request."""
        await self._settled()
        if self._transport.is_clock_wrong:
            raise self._wrong_clock()
        self._first_answered = True

    def _wrong_clock(self) -> Stopped:
        skew = self._transport.skew or 0
        way = "ahead of" if skew > 0 else "behind"
        text = f"this machine's clock is {abs(skew):,.0f} s {way} the server's: Segment would shift every event by that"
        return Stopped(UNREACHABLE, f"{text}; set the clock, and run the same command again")

    async def _wait_for_turn(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        if len(self._window) >= self._most_pending:
            self._settle()
            began = loop.time()
            while len(self._window) >= self._most_pending and (oldest := self._window.oldest) is not None:
                await oldest
                self._settle()
            if loop.time() - began > _PAUSE:
                self._pace.charge(len(self._window) + self._most_pending, loop.time())
        delay = self._pace.take(count, loop.time())
        if delay >= _SLEEP_FROM:
            await asyncio.sleep(delay)

    async def _settled(self) -> None:
        """Wait until the window is empty."""
        self._settle()
        while (oldest := self._window.oldest) is not None:
            await oldest
            self._settle()

    def _settle(self) -> None:
        """Count what has its outcome, in order.

        Raises:
            Stopped: no message can be delivered now, or there are too many rejects.
            OSError: a reject cannot be written.
        """
        if self._transport.is_clock_wrong:
            return
        window, rejects = self._window, self._rejects
        assert rejects is not None
        while window.next_settled() is not None:
            reject = window.pop()
            if reject is not None:
                rejects.add(reject.prepared.record, reject.prepared.columns, reject.problem, reject.message)
                self._check_rejects()

    def _check_rejects(self, *, at_end: bool = False) -> None:
        counts = self._window.counts
        number = counts.rejected + counts.failed
        # A share means nothing for the first few.
        if (at_end or counts.records >= _FEW or not self._is_share) and self._has_too_many(number, counts.records):
            text = f"{number:,} of {counts.records:,} records were rejected or failed, as many as --max-rejects allows"
            raise Stopped(TOO_MANY_REJECTS, text)

    # -- once a second

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            if self._transport.is_clock_wrong:
                raise self._wrong_clock()
            self._settle()
            self._save()
            self._delivered.append(self._window.counts.messages)
            if self._on_progress is not None:
                self._on_progress(self._progress())

    def _save(self) -> None:
        assert self._state is not None
        assert self._rejects is not None
        # First the rejects: the state must not move past one that is not on disk.
        self._rejects.sync()
        saved = self._saved
        saved.position = self._window.position
        saved.rejects_bytes = self._rejects.size
        self._state.save(saved)

    def _progress(self) -> Progress:
        delivered, counts = self._delivered, self._window.counts
        rate = (delivered[-1] - delivered[0]) / max(1, len(delivered) - 1) / _TICK
        share = self._share()
        left = None
        done_here = counts.records - self.resumed
        if share is not None and share > 0 and rate > 0 and self._estimated:
            left = max(0.0, self._estimated - counts.records) / rate
        elif share and done_here and rate > 0:
            left = counts.records / share * (1 - share) / rate
        return Progress(counts, len(self._window), share, rate, left)

    def _share(self) -> float | None:
        if not self._total_bytes:
            return None
        index = min(self._window.position.source, len(self._sources))
        before = sum(source.size or 0 for source in self._sources[:index])
        here = self._opened.done_bytes() if self._opened is not None else 0
        if here is None:
            return min(1.0, self._window.counts.records / self._estimated) if self._estimated else None
        return min(1.0, (before + here) / self._total_bytes)

    # -- afterwards

    def _report(self, seconds: float) -> ImportReport:
        counts, statistics = self._window.counts, self._client.statistics()
        fault = self._fault
        if fault is not None:
            code, problem = fault.exit_code, str(fault)
        else:
            code, problem = (SOME_REJECTED if counts.rejected or counts.failed or self._broken else DONE), None
        return ImportReport(
            code,
            problem,
            counts,
            len(self._window),
            seconds,
            statistics.requests,
            statistics.retries,
            tuple(self._broken),
            str(self._state_path),
            str(self._rejects_path),
            self.already_done,
        )

    def close(self) -> None:
        """Release the state. Call it in any case."""
        if self._rejects is not None:
            try:
                self._rejects.close()
            except OSError:
                pass  # a full disk was reported when it was written to
        if self._state is not None:
            self._state.close()


async def run_import(options: ImportOptions, *, on_progress: OnProgress | None = None) -> ImportReport:
    """Import history.

    `on_progress` is called once a second. Cancelling it saves the state; the next run resumes.

    Raises:
        ImportUsageError: an option, the mapping, a source or the state is wrong; nothing was sent.
    """
    importer = Importer(options, on_progress=on_progress)
    try:
        importer.prepare()
        return await importer.run()
    finally:
        importer.close()


def preparer_of(options: ImportOptions, fingerprint: str) -> Preparer:
    mode, columns = options.id_source()
    return Preparer(
        options.mapping,
        options.transform,
        MessageIds(mode, columns, fingerprint),
        options.integrations(),
        strict=options.strict,
        since=options.moment("since"),
        until=options.moment("until"),
        now=time.time,
        keeps_ids=mode == "keep",
    )
