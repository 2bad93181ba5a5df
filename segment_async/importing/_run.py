"""Runs an import: reads, paces, hands messages to the client, follows their outcomes, saves the state.

    report = await run_import(ImportOptions(sources=["orders.csv"], write_key="...", mapping=mapping))

Everything is sent by one `Client`, with its batches, retries and limits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from segment_async import Client, RetryPolicy, Transport

from ._checkpoint import Checkpoint
from ._ids import MessageIds, fingerprint_of
from ._judging import Judge
from ._options import ImportOptions
from ._prepare import Preparer
from ._progress import Meter
from ._reading import ReaderThread, check_columns, sample_size
from ._report import (
    DONE,
    SOME_REJECTED,
    TOO_MANY_REJECTS,
    UNREACHABLE,
    ImportReport,
    ImportUsageError,
    Progress,
    Stopped,
)
from ._sending import WINDOW, Sender
from ._sources import Source, find
from ._state import Belongings
from ._transport import WatchedTransport, address_of, http_transport

OnProgress = Callable[[Progress], object]

_TICK: Final = 1.0
_BATCH: Final = 1_000


class Importer:
    """One import. Construct it, `prepare` it, `run` it once, `close` it; `run_import` does all of that.

    Raises:
        ImportUsageError: an option is wrong.
    """

    def __init__(self, options: ImportOptions, *, on_progress: OnProgress | None = None) -> None:
        options.check()
        self._options = options
        self._on_progress = on_progress
        self._files = ExitStack()
        self._fault: Stopped | None = None
        self._stopping: asyncio.Event = asyncio.Event()

    # -- before anything is sent

    def prepare(self) -> None:
        """Look at every source and at the state; nothing is sent.

        Raises:
            ImportUsageError: a source or the state does not fit.
        """
        options = self._options
        if not options.write_key.strip():
            raise ImportUsageError("no write key: set SEGMENT_WRITE_KEY, or use --write-key-file")
        self._sources: list[Source] = find(options.arguments(), options.format, options.stdin, options.files_written())
        for source in self._sources:
            check_columns(source, options.mapping, options.id_columns, transformed=options.transform is not None)
        self._transport, address = self._connected()
        fingerprint = fingerprint_of(options.write_key)
        belongings = Belongings.of(self._sources, options.digest(), options.transform_digest(), fingerprint, address)
        self._preparer = preparer_of(options, fingerprint)
        self._total_bytes, self._estimated = sample_size(self._sources)
        if options.limit is not None and self._estimated is not None and options.limit < self._estimated:
            # The share of the records is known then, and not that of the bytes.
            self._total_bytes, self._estimated = None, options.limit
        state_path = options.state_path(self._sources)
        rejects_path = options.rejects_path(state_path)
        try:
            self._checkpoint = Checkpoint(state_path, rejects_path, belongings, options.files_read(self._sources))
            self._files.callback(self._checkpoint.close)
            self._checkpoint.load(restart=options.restart)
            if not self.already_done:
                self._checkpoint.begin()
        except OSError as error:
            raise ImportUsageError(f"state file {state_path}: {error.strerror or error}") from error

    def _connected(self) -> tuple[WatchedTransport, str]:
        options = self._options
        transport: Transport
        try:
            if options.transport is not None:
                transport, address = options.transport, options.host or ""
            else:
                address = address_of(options.region, options.host)
                transport = http_transport(address, options.timeout)
            checked = WatchedTransport(transport)
            self._client = self._made(checked)
        except ValueError as error:
            raise ImportUsageError(str(error)) from error
        return checked, address

    def _made(self, transport: Transport) -> Client:
        options = self._options
        return Client(
            options.write_key,
            transport=transport,
            flush_at=int(min(_BATCH, max(1, options.rate // 5))) if options.rate else _BATCH,
            flush_interval=0.5,
            max_queue_size=2 * WINDOW,
            overflow="wait",
            overflow_timeout=None,
            max_in_flight=1 if options.ordered else 4,
            timeout=options.timeout,
            close_timeout=0,
            retry=RetryPolicy(give_up_after=options.give_up_after),
        )

    @property
    def estimated_records(self) -> int | None:
        """How many records there are, about, and no more than the limit; `None` if it cannot be told."""
        return self._estimated

    @property
    def already_done(self) -> bool:
        """An earlier run had finished this import, so nothing is sent."""
        return self._checkpoint.already_done

    @property
    def resumed(self) -> int:
        """Records that earlier runs have done."""
        return self._checkpoint.resumed

    # -- running

    def stop(self, exit_code: int = 130, reason: str = "interrupted") -> None:
        """End the import: save the state, give requests under way a few seconds. Call it on the loop of `run`."""
        self._fail(Stopped(exit_code, f"{reason}: run the same command again to resume"))

    async def run(self) -> ImportReport:
        """Import until all is done, or something stops it. Does not raise for what happens on the way."""
        started = time.monotonic()
        if not self.already_done:
            try:
                await self._run()
            finally:
                await self._client.aclose()
        return self._report(time.monotonic() - started)

    async def _run(self) -> None:
        checkpoint = self._checkpoint
        assert checkpoint.rejects is not None
        sender = Sender(
            self._options,
            self._client,
            self._transport,
            self._preparer,
            checkpoint.window,
            checkpoint.rejects,
            checkpoint.broken,
        )
        is_whole = False
        try:
            async with self._client:
                await self._work(sender)
                is_whole = self._fault is None
                if self._fault is not None and self._can_deliver:
                    await self._client.flush(timeout=self._options.grace)
        finally:
            self._end(sender, is_whole=is_whole)

    async def _work(self, sender: Sender) -> None:
        """Import until it is done, or until something stops it."""
        thread = ReaderThread()
        work: list[asyncio.Task[object]] = [
            asyncio.create_task(sender.run(self._sources, thread)),
            asyncio.create_task(self._tick(sender)),
            asyncio.create_task(self._stopping.wait()),
        ]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = {task for task in work if task.done()}
            for task in work:
                task.cancel()
            results = await asyncio.gather(*work, return_exceptions=True)
            thread.shutdown()
        for task, result in zip(work, results, strict=True):
            if isinstance(result, Exception):
                self._note(result)
            elif task in ended and isinstance(result, BaseException):
                # Such as a cancellation by `on_progress`: without it, the import would seem to be complete.
                raise result

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

    @property
    def _can_deliver(self) -> bool:
        """Nothing but an interruption, or too many rejects, has stopped the import."""
        fault = self._fault
        return fault is None or fault.exit_code > UNREACHABLE or fault.exit_code == TOO_MANY_REJECTS

    def _end(self, sender: Sender, *, is_whole: bool) -> None:
        """The client is closed: what has an outcome has it now."""
        try:
            if self._can_deliver:
                sender.settle(is_stopped=self._fault is not None)
            checkpoint = self._checkpoint
            checkpoint.save_end(is_finished=is_whole and checkpoint.window.position.source >= len(self._sources))
        except (OSError, Stopped) as error:
            self._note(error)

    # -- once a second

    async def _tick(self, sender: Sender) -> None:
        meter = Meter(self._sources, self._total_bytes, self._estimated, self._checkpoint.window)
        while True:
            await asyncio.sleep(_TICK)
            sender.check_clock()
            sender.settle()
            self._checkpoint.save()
            trouble = None if self._client.statistics().server_up else self._transport.last
            progress = meter.tick(sender.opened, trouble)
            if self._on_progress is not None:
                self._on_progress(progress)

    # -- afterwards

    def _report(self, seconds: float) -> ImportReport:
        checkpoint, statistics = self._checkpoint, self._client.statistics()
        counts, fault = checkpoint.window.counts, self._fault
        if fault is not None:
            code, problem = fault.exit_code, self._too_many() if fault.exit_code == TOO_MANY_REJECTS else str(fault)
        else:
            code, problem = (SOME_REJECTED if counts.rejected or counts.failed or checkpoint.broken else DONE), None
        return ImportReport(
            code,
            problem,
            counts,
            len(checkpoint.window),
            seconds,
            statistics.requests,
            statistics.retries,
            tuple(checkpoint.broken),
            str(checkpoint.state_path),
            str(checkpoint.rejects_path),
            self.already_done,
        )

    def _too_many(self) -> str:
        counts = self._checkpoint.window.counts
        number = counts.rejected + counts.failed
        records = f"{counts.records:,} {'record' if counts.records == 1 else 'records'}"
        were = "was" if number == 1 else "were"
        return f"{number:,} of {records} {were} rejected or failed, and --max-rejects is {self._options.max_rejects}"

    def close(self) -> None:
        """Release the state. Call it in any case."""
        self._files.close()


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
        Judge(
            strict=options.strict,
            plan=options.loaded_plan(),
            rejects_violations=options.on_violation == "reject",
        ),
        since=options.moment("since"),
        until=options.moment("until"),
        now=time.time,
        keeps_ids=mode == "keep",
    )
