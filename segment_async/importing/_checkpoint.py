"""Where an import can resume: its state file and its rejects file, saved together, and the window that both belong to.

This file does not know how records are sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ._paths import FileRead, check_paths
from ._rejects import RejectsFile
from ._report import Counts, ImportUsageError
from ._state import Belongings, Position, Saved, StateFile
from ._window import Window


class Checkpoint:
    """`load` it, `begin` it before anything is sent, `save` it from time to time, and `close` it in any case.

    Args:
        files_read: what the import reads, and must not write to.

    Attributes:
        already_done: an earlier run has done everything.
        resumed: records that earlier runs have done.
        broken: sources that cannot be read to their end.
        window: of the records on their way, from where an earlier run stopped.
        rejects: once it has begun.

    Raises:
        ImportUsageError: another process works on this state, or one of the paths must not be written to.
        OSError: the state file cannot be opened.
    """

    def __init__(
        self, state_path: Path, rejects_path: Path, belongings: Belongings, files_read: Sequence[FileRead] = ()
    ) -> None:
        check_paths(state_path, rejects_path, files_read)
        self.state_path = state_path
        self.rejects_path = rejects_path
        self.rejects: RejectsFile | None = None
        self._belongings = belongings
        self._state = StateFile(state_path)

    def load(self, *, restart: bool) -> None:
        """Look at what an earlier run saved, unless everything is done again.

        Raises:
            ImportUsageError: the state belongs to another import, or is not a state file.
            OSError: it cannot be read.
        """
        saved = None if restart else self._state.load(self._belongings)
        if saved is None:
            saved = Saved(self._belongings, Position(), Counts(), 0, [], finished=False)
        self._saved = saved
        self.broken = saved.broken
        self.already_done = saved.finished
        self.resumed = saved.counts.records
        self.window = Window(saved.counts, saved.position)

    def begin(self) -> None:
        """Open the rejects file, and save: a disk that refuses is found before anything is sent.

        Raises:
            ImportUsageError: the rejects file cannot be opened.
            OSError: the disk is full, or refused.
        """
        try:
            self.rejects = RejectsFile(self.rejects_path, self._saved.rejects_bytes)
        except OSError as error:
            raise ImportUsageError(
                f"rejects file {self.rejects_path}: cannot be opened: {error.strerror or error}; choose another with "
                "--rejects"
            ) from error
        self.save()

    def save(self) -> None:
        """Have on disk what has its outcome.

        Raises:
            OSError: the disk is full, or refused.
        """
        assert self.rejects is not None
        # First the rejects: the state must not move past one that is not on disk.
        self.rejects.sync()
        saved = self._saved
        saved.position = self.window.position
        saved.rejects_bytes = self.rejects.size
        self._state.save(saved)

    def save_end(self, *, is_finished: bool) -> None:
        """The same, when the run is over; `is_finished`: nothing is left to do."""
        self._saved.finished = is_finished
        self.save()

    def close(self) -> None:
        """Release both files."""
        if self.rejects is not None:
            try:
                self.rejects.close()
            except OSError:
                pass  # a full disk was reported when it was written to
        self._state.close()
