"""The files of a spool: their names, whose they are, what is set aside.

    analytics.db                  the first process's shard; analytics.db.1, analytics.db.2 … those of further ones
    analytics.db-wal, -shm        SQLite's own
    analytics.db.lock             the lock, the watermark, and the reserve for a full disk
    analytics.db.new, .mended     a file being made; one that is whole and only has to take its place
    analytics.db.log              a mended log that only has to take its place
    analytics.db.corrupt-…        what was damaged, kept for a look

This file knows no tables, and not who holds what.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import stat
import time
from pathlib import Path
from typing import Final

from segment_async._exceptions import SpoolUnavailable

_SQLITE_MARK: Final = b"SQLite format 3\0"
APPLICATION_ID: Final = 0x73A9C55B
"""Four bytes of our own in SQLite's header, none of them zero, so that a scratched mark can be told from none."""
FORMAT: Final = 1
"""Of the tables. A file with a higher one was written by a newer version."""


def user_version(number: int) -> int:
    """The format and its complement: a flipped bit must not make a file look as if it were newer."""
    return number << 16 | ~number & 0xFFFF


class Place:
    """The paths around one shard's database."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.log = database.with_name(database.name + "-wal")
        self.shared_memory = database.with_name(database.name + "-shm")
        self.lock = database.with_name(database.name + ".lock")
        self.new = database.with_name(database.name + ".new")
        self.mended = database.with_name(database.name + ".mended")
        self.kept_log = database.with_name(database.name + ".log")

    def looks(self) -> object:
        """Something that changes when somebody writes to the shard."""
        return [(path.stat().st_mtime_ns, path.stat().st_size) for path in (self.database, self.log) if path.exists()]

    def corrupt_files(self) -> list[Path]:
        return sorted(self.database.parent.glob(glob.escape(self.database.name) + ".corrupt-*"))

    def set_aside(self) -> None:
        """Move the database and its log out of the way, under names that fit each other, and let nothing take over
        the old log.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{os.urandom(3).hex()}"
        corrupt = self.database.with_name(f"{self.database.name}.corrupt-{stamp}")
        for path, target in ((self.log, corrupt.with_name(corrupt.name + "-wal")), (self.database, corrupt)):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size:
                    path.rename(target)
                else:
                    path.unlink()
        self.shared_memory.unlink(missing_ok=True)
        sync_folder(self.database.parent)

    def keep_log(self, content: bytes) -> None:
        """Put a log away that is to be used when the one that is there has been closed, and removed with it."""
        descriptor = os.open(self.kept_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)

    def use_kept_log(self) -> None:
        if self.kept_log.exists():
            self.kept_log.replace(self.log)
            self.shared_memory.unlink(missing_ok=True)
            sync_folder(self.database.parent)

    def finish_mending(self) -> None:
        """Put a mended database in the place of the damaged one; does nothing where none is waiting."""
        self.new.unlink(missing_ok=True)
        if self.mended.exists():
            self.set_aside()
            self.mended.rename(self.database)
            sync_folder(self.database.parent)


def base_path(path: str | os.PathLike[str]) -> Path:
    """The same file under the same name for everybody, wherever they stand; the file itself may not be a link."""
    folder, name = os.path.split(os.path.abspath(path))
    return Path(os.path.realpath(folder), name)


def shard_path(base: Path, slot: int) -> Path:
    return base if slot == 0 else base.with_name(f"{base.name}.{slot}")


def slots_on_disk(base: Path) -> list[int]:
    """The numbers of all shards that exist beside the path."""
    pattern = re.compile(re.escape(base.name) + r"(?:\.([1-9]\d{0,5}))?")
    try:
        names = os.listdir(base.parent)
    except OSError:
        return []
    return sorted(int(match[1] or 0) for name in names if (match := pattern.fullmatch(name)))


def prepare_folder(folder: Path) -> None:
    """Make the folder, for its owner alone, or check the one that is there.

    Raises:
        SpoolUnavailable: everybody may write to it.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):
            each.mkdir(mode=0o700)
            sync_folder(each.parent)
    if folder.stat().st_mode & stat.S_IWOTH:
        raise SpoolUnavailable(f"{folder} may be written to by everybody; choose another folder for the spool")


def inspect(place: Place) -> bool:
    """Whether there is a database of ours; damaged ones are, with a mark that is still recognisable.

    Raises:
        SpoolUnavailable: what is there is not ours, is newer, or is no regular file. It was not touched.
    """
    path = place.database
    for each in (path, place.log, place.shared_memory, place.lock):
        if each.is_symlink():
            raise SpoolUnavailable(f"{each} is a symbolic link; the spool follows none")
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode):
        raise SpoolUnavailable(f"{path} is not a regular file")
    if status.st_size == 0:
        return False
    with path.open("rb") as file:
        _check_header(path, file.read(100))
    return True


def _check_header(path: Path, header: bytes) -> None:
    mark = header[:16] + header[68:72]
    ours = _SQLITE_MARK + APPLICATION_ID.to_bytes(4, "big")
    scratches = sum(one != other for one, other in zip(mark, ours, strict=False)) + len(ours) - len(mark)
    # A file cut off within its header has lost the second mark; the lock beside it tells that it was ours.
    cut_off = len(header) < 100 and ours.startswith(header[:16]) and path.with_name(path.name + ".lock").exists()
    if scratches > 3 and not cut_off:
        raise SpoolUnavailable(f"{path} is not a spool; it was left as it is")
    version = int.from_bytes(header[60:64], "big")
    number = version >> 16
    if len(header) == 100 and version == user_version(number) and number > FORMAT:
        raise SpoolUnavailable(f"{path} was written by a newer version of segment_async (format {number})")


def is_scratched(database: Path) -> bool:
    """Whether SQLite would take the file for one of another version, or for one that may not be written."""
    with database.open("rb") as file:
        header = file.read(100)
    versions, schema_format = header[18:20], int.from_bytes(header[44:48], "big")
    return len(header) == 100 and (versions not in (b"\1\1", b"\2\2") or not 1 <= schema_format <= 4)


def sync_folder(folder: Path) -> None:
    """Make names in it survive a power loss, where the file system knows of such a thing."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as fault:
        if fault.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private(path: Path) -> None:
    if path.exists() and path.stat().st_mode & 0o077:
        path.chmod(0o600)
