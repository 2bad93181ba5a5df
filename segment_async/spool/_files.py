"""The files of a spool: their names, who may write beside them, whose they are, and who has them open.

    analytics.db                  the shard of the first process; analytics.db.1, analytics.db.2 … those of further ones
    analytics.db-wal, -shm        SQLite's log and its index
    analytics.db.lock             the lock of the process that uses the shard, and the watermark
    analytics.db.new, .salvaged   a file being made; one that is complete and only has to take the damaged one's place
    analytics.db.corrupt-…        a damaged file that was set aside

POSIX drops all of a process's locks on a file when the process closes *any* descriptor of it, and SQLite's locks are of
that kind. So a process opens a database and a lock file once, and `open_files` knows which it has open. A forked child
never opens what its parent had open: SQLite in the child would believe that it holds the parent's locks.

This file knows no messages.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import stat
import time
import weakref
from pathlib import Path
from threading import RLock
from typing import Final, Protocol

from segment_async._exceptions import SpoolUnavailable
from segment_async._locks import is_held_here, reentrant_lock

from ._tables import Counters, Damaged

APPLICATION_ID: Final = 0x73A9C55B
"""Marks our files in SQLite's header."""
FORMAT: Final = 3
"""Of the tables. A file with a higher number was written by a newer version."""
_SQLITE_MARK: Final = b"SQLite format 3\0"
# Bits of the mark that damage may have flipped; another program's differs in more.
_MOST_FLIPPED: Final = 4
_LOCK_MARK: Final = b"segment-async spool\n"


def user_version(number: int) -> int:
    """The format and its complement, so that a flipped bit cannot make a file look newer."""
    return number << 16 | ~number & 0xFFFF


# -- names


class Place:
    """The paths around one shard's database."""

    def __init__(self, base: Path, slot: int = 0) -> None:
        self.slot = slot
        self.database = base.with_name(f"{base.name}.{slot}") if slot else base
        self.log, self.shared_memory, self.lock, self.new, self.salvaged = (
            self._beside(suffix) for suffix in ("-wal", "-shm", ".lock", ".new", ".salvaged")
        )

    def _beside(self, suffix: str) -> Path:
        return self.database.with_name(self.database.name + suffix)

    def stamp(self) -> object:
        """Something that changes when the shard is written to."""
        return [(path.stat().st_mtime_ns, path.stat().st_size) for path in (self.database, self.log) if path.exists()]

    def disk_bytes(self) -> int:
        return size_of(self.database) + size_of(self.log)

    def corrupt_files(self) -> list[Path]:
        return sorted(self.database.parent.glob(glob.escape(self.database.name) + ".corrupt-*"))

    def finish_salvage(self) -> None:
        """Set the damaged file aside and put the salvaged one in its place, if one is waiting."""
        self.new.unlink(missing_ok=True)
        if not self.salvaged.exists():
            return
        corrupt = f".corrupt-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(3).hex()}"
        for path, suffix in ((self.log, corrupt + "-wal"), (self.database, corrupt)):
            if size_of(path):
                path.rename(self._beside(suffix))
            path.unlink(missing_ok=True)
        self.shared_memory.unlink(missing_ok=True)
        sync(self.database.parent)
        self.salvaged.rename(self.database)
        sync(self.database.parent)


def base_path(path: str | os.PathLike[str]) -> Path:
    """One name for one file, with `~` expanded and links in the folder's path resolved."""
    folder, name = os.path.split(os.path.abspath(os.path.expanduser(path)))
    return Path(os.path.realpath(folder), name)


def slots_on_disk(base: Path) -> list[int]:
    """The numbers of all shards beside the path, also of one whose salvage was interrupted between its last steps."""
    pattern = re.compile(re.escape(base.name) + r"(?:\.([1-9]\d{0,5}))?(?:\.salvaged)?")
    with contextlib.suppress(OSError):
        return sorted({int(match[1] or 0) for name in os.listdir(base.parent) if (match := pattern.fullmatch(name))})
    return []


def status_of(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def size_of(path: Path) -> int:
    status = status_of(path)
    return 0 if status is None else status.st_size


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power loss, on file systems that support it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as fault:
        if fault.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def made_beside(path: Path) -> int:
    """Make a file beside a database, whose name it has with one suffix more. Returns its descriptor.

    An administrator's inspector makes it for the owner of the database. By its descriptor: in that user's folder, a path
    may lead to another file by now.

    Raises:
        FileExistsError: it is there.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    status = status_of(path.with_suffix(""))
    if status is not None and os.geteuid() == 0:
        # A container's root may be forbidden to give files away, and goes on itself.
        with contextlib.suppress(OSError):
            os.fchown(descriptor, status.st_uid, status.st_gid)
    return descriptor


# -- what may be used


def check_path(path: str | os.PathLike[str]) -> Path:
    """Find out at construction whether a spool can be at this path; returns its one name.

    Raises:
        ValueError: it cannot; says why, and what to do.
    """
    if isinstance(path, str) and "://" in path:
        # It would be a file in a folder such as "sqlite:".
        raise ValueError("the spool's path must be that of a file, not a URL")
    base = base_path(path)
    folder = base.parent
    if not hasattr(os, "getegid"):
        raise ValueError("the spool needs a POSIX system: this one has no record locks")
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_ISDIR(base.stat().st_mode):
                example = f"{base}/analytics.db"
                raise ValueError(f"the spool's path {base} is a folder: give the path of a file, such as {example}")
        if not folder.exists() and not folder.parent.is_dir():
            raise ValueError(f"the spool's folder {folder} does not exist, and neither does {folder.parent}")
        # A damaged file is ours, and is salvaged when it is opened.
        with open_files.guard, contextlib.suppress(Damaged, FileNotFoundError):
            check_folder(base)
            check_files(Place(base))
    except (SpoolUnavailable, OSError) as refusal:
        raise ValueError(str(refusal)) from None
    return base


def check_folder(base: Path) -> None:
    """Raise `SpoolUnavailable` if other users may write to the folder: they could exchange the spool's files.

    The group may write if it is the process's own primary group, as on systems where each user has a group.
    """
    status = base.parent.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise SpoolUnavailable(f"the spool's folder {base.parent} is not a folder")
    group_may_write = status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid()
    if status.st_mode & stat.S_IWOTH or group_may_write:
        raise SpoolUnavailable(
            f"other users may write to the spool's folder {base.parent} (mode {stat.S_IMODE(status.st_mode):04o}): give "
            f"a path in a sub-folder, such as {base.parent / 'spool' / base.name}, which is created for its owner alone, "
            f"or take their permission away (chmod go-w {base.parent})"
        )


def prepare_folder(base: Path) -> None:
    """Make the folder, for its owner alone, or check the one that is there."""
    if not base.parent.exists():
        with contextlib.suppress(FileExistsError):
            base.parent.mkdir(mode=0o700)
            sync(base.parent.parent)
    check_folder(base)


def check_files(place: Place) -> bool:
    """Whether there is a database of ours. Call it with the guard of `open_files` held.

    Raises:
        SpoolUnavailable: what is there is not ours, is of another version, or is no regular file. It was not touched.
        Damaged: it is ours, but its header is damaged.
    """
    path = place.database
    for each in (path, place.log, place.shared_memory, place.lock):
        if each.is_symlink():
            raise SpoolUnavailable(f"{each} is a symbolic link; the spool follows none")
    if path.exists() and not path.is_file():
        raise SpoolUnavailable(f"{path} is not a regular file")
    if not size_of(path):
        return False
    if file_id(path) not in (*open_files.databases, *open_files.visitors.values()):
        with path.open("rb") as file:
            header = file.read(100)
        _check_header(place, header)
    return True


def _check_header(place: Place, header: bytes) -> None:
    is_database = header[:16] == _SQLITE_MARK
    other_bits = (int.from_bytes(header[68:72], "big") ^ APPLICATION_ID).bit_count()
    if not is_database or other_bits:
        # The file beside it shows whether it was ours, unless it is a sound one with the marks of another program.
        is_sound = is_database and len(header) == 100 and header[18:20] in (b"\1\1", b"\2\2")
        version = int.from_bytes(header[60:64], "big")
        is_others = is_sound and other_bits > _MOST_FLIPPED and version != user_version(version >> 16)
        if is_others or peek_watermark(place) is None:
            raise SpoolUnavailable(f"{place.database} is not a spool; it was left as it is")
        raise Damaged("its header is damaged")
    version = int.from_bytes(header[60:64], "big")
    number = version >> 16
    if version == user_version(number) and number != FORMAT:
        age = "a newer" if number > FORMAT else "an older, unreleased"
        raise SpoolUnavailable(f"{place.database} was written by {age} version of segment_async (format {number})")
    # With other bytes here SQLite would call the file read-only, or of another version.
    if header[18:20] not in (b"\1\1", b"\2\2") or not 1 <= int.from_bytes(header[44:48], "big") <= 4:
        raise Damaged("its header is damaged")


# -- what this process has open

FileId = tuple[int, int]


def file_id(path: Path) -> FileId:
    """Device and inode; zeros if there is no such file."""
    return id_of(status_of(path))


def id_of(status: os.stat_result | None) -> FileId:
    return (0, 0) if status is None else (status.st_dev, status.st_ino)


class _User(Protocol):
    """A `Database`, as far as this file knows it."""

    def abandon(self) -> None: ...


class _OpenFiles:
    """The databases and lock files that this process has open.

    Attributes:
        guard: held while a file is looked for, opened and registered, so that no two threads open the same one. It is
            held while the disk is touched; nothing is logged meanwhile. A forked child has its own, also without hooks.
        inspecting: held for each step of an inspector, so that no fork happens in the middle of one: SQLite has locks of
            its own, and the child would find them held. Taken before the lock of a database and before `guard`.
        turns: the locks that engines hold for a turn, for the same reason.
        databases, locks: each with the `Database` that opened it, and the `Lock`.
        visitors: the file of each `Database` that is open beside the one that holds it.
        inherited: databases that a parent of this process had open when it forked.
    """

    def __init__(self) -> None:
        self._guard = reentrant_lock()
        self.inspecting = reentrant_lock()
        self.turns: weakref.WeakValueDictionary[int, RLock] = weakref.WeakValueDictionary()
        self.databases: dict[FileId, _User] = {}
        self.visitors: dict[_User, FileId] = {}
        self.inherited: set[FileId] = set()
        self.locks: dict[FileId, Lock] = {}
        self._pid = os.getpid()
        # Held while a child begins, each its own: it may inherit one that is held for good.
        self._beginnings: dict[int, RLock] = {}

    @property
    def guard(self) -> RLock:
        self.forget()
        return self._guard

    def forget(self) -> None:
        """In a forked child, which has none of its parent's locks; does nothing the second time."""
        if self._pid == (pid := os.getpid()):
            return
        with self._beginnings.setdefault(pid, reentrant_lock()):
            if self._pid != pid:
                self._guard = reentrant_lock()
                self.inspecting = reentrant_lock()
                # A turn of the parent's may be under way, and never ends here.
                self.turns.clear()
                for user in (*self.databases.values(), *self.visitors):
                    user.abandon()
                self.inherited.update(self.databases, self.visitors.values())
                self.databases.clear()
                self.visitors.clear()
                self.locks.clear()
                # Last: from now on other threads rely on the rest.
                self._pid = pid


open_files: Final = _OpenFiles()
# A disk may take long, and a parent must not hang in a fork.
_FORK_WAIT: Final = 5.0


def _held_in_forks() -> list[RLock]:
    # Not an iteration: another thread may make a spool meanwhile.
    turns = [turn for reference in open_files.turns.valuerefs() if (turn := reference()) is not None]
    return [*turns, open_files.inspecting]


def _before_fork() -> None:
    for lock in _held_in_forks():
        lock.acquire(timeout=_FORK_WAIT)


def _after_fork_in_parent() -> None:
    # Not the ones that `_before_fork` noted: several threads may fork at once.
    for lock in _held_in_forks():
        if is_held_here(lock):
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=open_files.forget)


class Lock:
    """The lock of one shard, held by this process until it ends or calls `close`.

    The system releases it however the process dies, and a forked child does not have it.

    Its file also has the watermark: the counters as of the last transaction that was acknowledged, written after that
    and never synced. After a power loss it may be behind, never ahead. So a database that knows less than its
    watermark has lost something, which SQLite does not notice when the end of its log is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = made_beside(path)
        except FileExistsError:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._id = id_of(os.fstat(self._descriptor))

    @classmethod
    def acquire(cls, path: Path) -> Lock | None:
        """Take the lock; `None` if another process, or another spool of this one, has it."""
        # Missing on Windows, where no spool can be constructed.
        import fcntl

        with open_files.guard:
            # Opening and closing the file once more would release the lock.
            while file_id(path) not in open_files.locks:
                lock = cls(path)
                open_files.locks[lock._id] = lock
                try:
                    fcntl.lockf(lock._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as fault:
                    lock.close()
                    if fault.errno in (errno.EACCES, errno.EAGAIN):
                        return None
                    raise
                if lock.is_in_place():
                    return lock
                # The file was removed between opening and locking: others would not find what is locked.
                lock.close()
        return None

    @property
    def is_closed(self) -> bool:
        return self._descriptor < 0

    def is_in_place(self) -> bool:
        return file_id(self._path) == self._id

    def set_watermark(self, counters: Counters) -> None:
        content = counters.pack()
        os.pwrite(self._descriptor, _LOCK_MARK + len(content).to_bytes(4, "big") + content, 0)

    def watermark(self) -> Counters | None:
        return _parse_watermark(os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0))

    def close(self) -> None:
        with open_files.guard:
            # A forked child leaves it open, as closing it would release a lock of its own on the file.
            if not self.is_closed and open_files.locks.get(self._id) is self:
                del open_files.locks[self._id]
                os.close(self._descriptor)
            self._descriptor = -1


def peek_watermark(place: Place) -> Counters | None:
    """The watermark of a shard, whichever process has its lock."""
    with open_files.guard, contextlib.suppress(OSError):
        if (lock := open_files.locks.get(file_id(place.lock))) is not None:
            return lock.watermark()
        if not place.lock.is_symlink():
            return _parse_watermark(place.lock.read_bytes())
    return None


def _parse_watermark(content: bytes) -> Counters | None:
    start = len(_LOCK_MARK) + 4
    if content.startswith(_LOCK_MARK):
        with contextlib.suppress(Damaged):
            return Counters.unpack(content[start : start + int.from_bytes(content[start - 4 : start], "big")])
    return None
