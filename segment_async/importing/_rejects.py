"""The rejects file: one JSON line for each record that was not delivered, to be repaired and imported again."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from ._records import Problem, Record, shown_row
from ._values import dumps


class RejectsFile:
    """Appends rejects. A resumed run first removes what an interrupted one wrote beyond its saved state.

    If the saved size is in the middle of a line, someone has changed the file since, and all of it stays.

    Args:
        size: bytes that the saved state knows of.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, size: int) -> None:
        # Rows are personal data: the file is its owner's.
        self._file = open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb", buffering=1 << 16)  # noqa: SIM115
        self.size = size
        self._failure: OSError | None = None
        # A pipe or a device has no size.
        self._is_file = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        if self._is_file:
            # Shorter, longer or new, if someone repaired rejects in it or took them away.
            length = os.fstat(self._file.fileno()).st_size
            is_ours = size <= length and _has_line_end_at(path, size)
            self.size = size if is_ours else length
            self._file.truncate(self.size)
            self._file.seek(self.size)
            if not _has_line_end_at(path, self.size):
                self.size += self._file.write(b"\n")

    def add(self, record: Record, columns: list[str] | None, problem: Problem, message: dict[str, Any] | None) -> None:
        """Raises:
        OSError: the disk is full, or refused.
        """
        line = {
            "source": record.source.name,
            "record": record.number,
            "line": record.line,
            "byte": record.byte,
            "rule": problem.rule,
            "path": problem.path,
            "text": problem.text,
            "row": shown_row(record, columns),
            "message": message,
        }
        try:
            content = dumps(line)
        except (TypeError, ValueError, RecursionError):
            # A transform can put anything into its messages, and into the row.
            content = dumps(line | {"row": repr(line["row"]), "message": None})
        try:
            self.size += self._file.write(content + b"\n")
        except OSError as error:
            # This line is lost: nothing may count as being on disk from here on.
            self._failure = error
            raise

    def sync(self) -> None:
        """Have on disk what was added.

        Raises:
            OSError: the disk is full, or refused.
        """
        if self._failure is not None:
            raise self._failure
        self._file.flush()
        if self._is_file:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _has_line_end_at(path: Path, size: int) -> bool:
    """Whether a line can begin after `size` bytes: an editor may have moved lines, or left out the last line end."""
    if not size:
        return True
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"
