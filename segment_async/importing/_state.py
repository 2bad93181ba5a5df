"""The state file: what was imported, up to which record, and with what. Written atomically, under a lock.

A state belongs to one import: the sources, the mapping, the transform, the write key and the address must be the same
for a resume. This file knows neither formats nor the network.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from ._report import Counts, ImportUsageError
from ._sources import Source

_VERSION: Final = 1


def new_path(state: Path) -> Path:
    """Where a state is written before it replaces the one before it."""
    return state.with_name(state.name + ".new")


def lock_path(state: Path) -> Path:
    """The file that is locked while an import works on the state; the state itself is replaced at each save."""
    return state.with_name(state.name + ".lock")


@dataclass(frozen=True, slots=True)
class Position:
    """The first record without an outcome.

    Attributes:
        source: index of its source; the number of sources when all are done.
        record: records of the source before it.
        line: lines of the source before it.
        byte: its offset; meaningful for files that are neither compressed nor Parquet.
        group: Parquet: its row group.
        row: Parquet: its row in that group.
    """

    source: int = 0
    record: int = 0
    line: int = 0
    byte: int = 0
    group: int = 0
    row: int = 0


@dataclass(frozen=True, slots=True)
class Belongings:
    """What an import is made of: a state fits only the same."""

    sources: tuple[dict[str, Any], ...]
    mapping: str
    transform: str
    key: str
    address: str

    @classmethod
    def of(cls, sources: Sequence[Source], mapping: str, transform: str, key: str, address: str) -> Belongings:
        return cls(tuple(source.fingerprint() for source in sources), mapping, transform, key, address)


@dataclass(slots=True)
class Saved:
    """The contents of a state file."""

    belongings: Belongings
    position: Position
    counts: Counts
    rejects_bytes: int
    broken: list[str]
    finished: bool


class StateFile:
    """The state of one import, locked by this process until `close`.

    Raises:
        ImportUsageError: another process works on this state.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = lock_path(path)
        self._descriptor = _locked(self._lock_path)

    def load(self, belongings: Belongings) -> Saved | None:
        """What an earlier run saved; `None` if there is nothing.

        Raises:
            ImportUsageError: it belongs to another import, or is not a state file; says what differs.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            saved = _parse(orjson.loads(content))
        except (ValueError, KeyError, TypeError):
            raise ImportUsageError(
                f"state file {self.path}: not a state of this version of segment-async import. Use --restart to import "
                "everything again, or choose another file with --state"
            ) from None
        if not saved.counts.records:
            return None  # nothing was sent, such as with a wrong key
        _check_same(self.path, saved.belongings, belongings)
        return saved

    def save(self, saved: Saved) -> None:
        """Replace the file as a whole; after a crash it holds either this state or the one before.

        Raises:
            OSError: the disk refused, or is full.
        """
        content = {
            "version": _VERSION,
            "finished": saved.finished,
            "position": asdict(saved.position),
            "counts": saved.counts.as_dict(),
            "rejects_bytes": saved.rejects_bytes,
            "broken": saved.broken,
            "belongings": asdict(saved.belongings),
        }
        new = new_path(self.path)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            # Removed while it is locked: a process that opened it in between finds it without a link, and opens it again.
            self._lock_path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def _locked(path: Path) -> int | None:
    if sys.platform == "win32":
        raise ImportUsageError("segment-async import requires a POSIX system: it locks its state file")
    import fcntl

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            name = path.name.removesuffix(".lock")
            raise ImportUsageError(f"state file {name}: another process is working on this import") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _parse(content: dict[str, Any]) -> Saved:
    if content["version"] != _VERSION:
        raise ValueError
    belongings = content["belongings"]
    mapping, transform, key, address = (str(belongings[name]) for name in ("mapping", "transform", "key", "address"))
    return Saved(
        Belongings(tuple(belongings["sources"]), mapping, transform, key, address),
        Position(**content["position"]),
        Counts.from_dict(content["counts"]),
        int(content["rejects_bytes"]),
        [str(text) for text in content["broken"]],
        bool(content["finished"]),
    )


def _check_same(path: Path, saved: Belongings, given: Belongings) -> None:
    changed = [*_changed_sources(saved.sources, given.sources)]
    changed += [text for name, text in _NAMES.items() if getattr(saved, name) != getattr(given, name)]
    if saved.address != given.address:
        changed.append(f"the address (it was {saved.address})")
    if changed:
        raise ImportUsageError(
            f"state file {path}: belongs to another import: {', '.join(changed)} changed. Use --restart to import "
            "everything again, or --state for a second import"
        )


_NAMES: Final = {
    "mapping": "the mapping (or an option that changes messages)",
    "transform": "the transform (its name or its text)",
    "key": "the write key",
}


def _changed_sources(saved: tuple[dict[str, Any], ...], given: tuple[dict[str, Any], ...]) -> list[str]:
    if [source["name"] for source in saved] != [source["name"] for source in given]:
        return ["the list of sources"]
    return [
        f"source {new['name']} ({', '.join(key for key in new if new[key] != old.get(key))})"
        for old, new in zip(saved, given, strict=True)
        if new != old
    ]
