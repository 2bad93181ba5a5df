"""The lock of a shard, and what else its file is good for: the watermark, and a reserve for a full disk.

The lock is a record lock: the system takes it back when the process dies however it dies, and a forked child does
not have it. It has a file of its own because closing any descriptor of a file gives up all record locks on it.

The watermark is the ledger as it was after the last commit that was acknowledged, written after that commit and never
synced: it can be behind after a power loss, never ahead. So a database that knows less than its watermark has lost
what was acknowledged, which SQLite itself does not notice when the tail of a write-ahead log is damaged.

The reserve is room that the file takes and has nothing in. On a full disk it is given up, so that outcomes can still
be recorded, and messages are taken again when it can be had again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Final

from segment_async._exceptions import SpoolUnavailable

from ._ledger import PACKED_LEDGER, Ledger, unpack_ledger

# A log full of pages that the database has no room for yet, and a group on top.
_RESERVE: Final = 6 * 2**20
_MARK: Final = b"segment-async spool\n"
_CONTENT: Final = len(_MARK) + PACKED_LEDGER

# Record locks do not hold within one process, and opening a lock file once more would give the lock up: so what this
# process holds is known here, by path.
_held: set[Path] = set()
_held_guard = threading.Lock()


class Lock:
    """One shard's lock file, held by this process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._inode = os.fstat(descriptor).st_ino
        self._has_reserve = False

    @classmethod
    def acquire(cls, path: Path) -> Lock | None:
        """Take the lock; `None` where another process, or another spool of this one, has it."""
        with _held_guard:
            if path in _held:
                return None
            descriptor = _lock(path)
            if descriptor is None:
                return None
            _held.add(path)
        return cls(path, descriptor)

    def is_in_place(self) -> bool:
        try:
            return os.stat(self._path).st_ino == self._inode
        except OSError:
            return False

    def renew(self) -> Lock | None:
        """Take the lock anew after its file was removed; `None` where somebody was faster."""
        self.close()
        return Lock.acquire(self._path)

    def mark(self, ledger: Ledger) -> None:
        """Set the watermark."""
        os.pwrite(self._descriptor, _MARK + ledger.pack(), 0)

    def watermark(self) -> Ledger | None:
        found = os.pread(self._descriptor, _CONTENT, 0)
        return unpack_ledger(found[len(_MARK) :]) if found.startswith(_MARK) else None

    def keep_reserve(self) -> bool:
        """Have the reserve, if the disk has room for it."""
        if not self._has_reserve:
            try:
                _allocate(self._descriptor, _RESERVE)
            except OSError:
                self.release_reserve()
                return False
            self._has_reserve = True
        return True

    def release_reserve(self) -> None:
        self._has_reserve = False
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, _CONTENT)

    def close(self) -> None:
        with _held_guard:
            if self._descriptor >= 0:
                _held.discard(self._path)
                os.close(self._descriptor)
                self._descriptor = -1


def forget_locks() -> None:
    """In a forked child, which has none."""
    global _held_guard
    _held_guard = threading.Lock()
    _held.clear()


def _lock(path: Path) -> int | None:
    try:
        import fcntl
    except ImportError:
        raise SpoolUnavailable("this system has no record locks; the spool needs a POSIX system") from None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        # The file was removed between opening and locking: what is locked is not what others will find.
        os.close(descriptor)


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        end = os.fstat(descriptor).st_size
        while end < size:
            end += os.pwrite(descriptor, bytes(min(2**20, size - end)), end)
