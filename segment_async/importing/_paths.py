"""Which files an import may write to: none that it reads, and no two that are one file.

The state file is replaced, a file that it is written to first is emptied, its lock is removed, and the rejects file is
emptied. Paths are compared as files, so that links count. Nothing is opened here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ._report import ImportUsageError
from ._state import lock_path, new_path


class FileRead(NamedTuple):
    """A file that an import reads, or that it needs for itself.

    Attributes:
        what: what it is to the import, such as ``the mapping``.
        name: as it is shown; empty if `what` says it all.
    """

    what: str
    path: Path
    name: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.name}".rstrip()


def check_paths(state: Path, rejects: Path, files_read: Sequence[FileRead]) -> None:
    """Raises:
    ImportUsageError: `state` or `rejects` is a path that must not be written to.
    """
    _check_kind("state", state)
    _check_kind("rejects", rejects)
    beside = [new_path(state), lock_path(state)]
    _refuse_any_of(files_read, state, f"state file {state}: is", "state")
    for path in beside:
        _refuse_any_of(files_read, path, f"state file {state}: {path}, which the import uses beside it, is", "state")
    of_state = [FileRead("the state file", state)]
    of_state += [FileRead("a file that the import uses beside the state file:", path, str(path)) for path in beside]
    _refuse_any_of([*of_state, *files_read], rejects, f"rejects file {rejects}: is", "rejects")


def _check_kind(name: str, path: Path) -> None:
    """A device or a pipe takes rejects, but no state."""
    if path.exists() and (path.is_dir() or (name == "state" and not path.is_file())):
        raise ImportUsageError(f"{name} file {path}: is not a regular file; choose another one with --{name}")


def _refuse_any_of(others: Sequence[FileRead], path: Path, problem: str, option: str) -> None:
    for each in others:
        if _is_same(path, each.path):
            raise ImportUsageError(f"{problem} also {each}; choose another with --{option}")


def _is_same(one: Path, other: Path) -> bool:
    # A file that does not exist yet has a path alone.
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False
