"""The file of `--save`, which `--load` reads: one event per line, in the format of `/_dev/events`.

Writing blocks the event loop, which is acceptable in a development tool. A disk that is full is reported, and costs
nothing but the saved events.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson

from segment_async.verdicts import SEVERITIES, Verdict

from ._arrivals import Event, ReceivedBatch
from ._judging import Judged

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)


class SavedFile:
    """Appends events to a file. `show` is called with a line when that fails, and when it succeeds again.

    A new file is readable by its owner alone, because events are personal data.
    """

    def __init__(self, path: Path, show: Callable[[str], None]) -> None:
        self._path = path
        self._show = show
        self._descriptor = os.open(path, _FLAGS, 0o600)
        self._unsaved = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def append(self, events: Sequence[Event]) -> None:
        """Write all of the events or none. Never raises for what the disk does."""
        lines = b"".join(orjson.dumps(event.as_dict(), option=orjson.OPT_APPEND_NEWLINE) for event in events)
        size = os.fstat(self._descriptor).st_size
        try:
            _write(self._descriptor, lines)
        except OSError as error:
            with suppress(OSError):  # a device has no size
                os.ftruncate(self._descriptor, size)
            if not self._unsaved:
                self._show(f"Cannot save events to {self._path}: {error.strerror}. They are accepted and shown.")
            self._unsaved += len(events)
            return
        if self._unsaved and events:
            self._show(f"Saving events to {self._path} again; {self._unsaved:,} of them are missing there.")
            self._unsaved = 0


def _write(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def loaded(path: Path) -> Iterator[tuple[ReceivedBatch, list[Judged]]]:
    """The requests whose events were saved, with their messages.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is not a saved event; names it.
    """
    with path.open("rb") as file:
        lines = (_parsed(line, f"{path}, line {number}") for number, line in enumerate(file, 1) if line.strip())
        for batch, group in groupby(lines, key=lambda entry: entry[0]):
            judged = [message for _, message in group]
            size = sum(len(json) for _, json, _ in judged)
            yield batch._replace(messages=len(judged), bytes=size, wire_bytes=size), judged


def _parsed(line: bytes, where: str) -> tuple[ReceivedBatch, Judged]:
    try:
        fields = orjson.loads(line)
        batch = ReceivedBatch(
            number=int(fields["batch"]),
            received_at=datetime.fromisoformat(fields["received_at"]).timestamp(),
            route=str(fields["route"]),
            source=str(fields["source"]),
            attempt=int(fields["attempt"]),
            messages=0,
            bytes=0,
            wire_bytes=0,
            sent_at=None,
            headers={},
        )
        message = fields["message"]
        return batch, (message, orjson.dumps(message), [_verdict(verdict) for verdict in fields["verdicts"]])
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: is not an event that --save wrote") from error


def _verdict(fields: dict[str, Any]) -> Verdict:
    if fields["severity"] not in SEVERITIES:
        raise ValueError(fields["severity"])
    return Verdict(fields["severity"], str(fields["rule"]), str(fields["path"]), str(fields["text"]))
