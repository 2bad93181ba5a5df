"""Which sources an import reads, and what each one is: its name, its identity, its format, its compression.

Files, directories, globs, standard input, and everything that fsspec knows. Only the first 64 KiB of a source are read
here, or up to 1 MiB of standard input if its header is longer; records are the business of `_records` and `_parquet`.
"""

from __future__ import annotations

import errno
import glob
import gzip
import hashlib
import io
import os
import stat
import sys
import zlib
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import orjson

from ._report import ImportUsageError

HEAD_BYTES: Final = 65_536
# One byte more than a line may have, so that a header that is too long is refused.
_LONGEST_HEADER: Final = (1 << 20) + 1
_BUFFER: Final = 1 << 18
FORMATS: Final = ("csv", "jsonl", "parquet", "segment")
STATE_SUFFIX: Final = ".import.json"
REJECTS_SUFFIX: Final = ".rejects.jsonl"
# How a state begins; its lock is empty.
_STATE: Final = b'{\n  "version": '
_OURS: Final = (STATE_SUFFIX, STATE_SUFFIX + ".lock", STATE_SUFFIX + ".new", REJECTS_SUFFIX)
_SUFFIXES: Final = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_GZIP: Final = b"\x1f\x8b"
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_NO_TEXT: Final = {
    _GZIP: "is compressed twice: gzip -dc {} | segment-async import -",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: zstd -dc {} | segment-async import -",
    b"\xfd7zXZ\x00": "is compressed with xz: xz -dc {} | segment-async import -",
    b"BZh91AY&SY": "is compressed with bzip2: bzip2 -dc {} | segment-async import -",
    b"PK\x03\x04": "is a workbook of Excel or a zip file: save it as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "is a workbook of Excel: save it as CSV",
}


@dataclass(frozen=True, slots=True)
class Source:
    """One input.

    Attributes:
        name: as it is shown: the path, the address, or ``-``.
        format: one of `FORMATS`, or ``rejects``: a repaired rejects file.
        size: in bytes as it is stored; `None` if unknown.
        mtime: in nanoseconds; `None` if unknown.
        head: a hash of the first 64 KiB.
        path: of a local file.
    """

    name: str
    format: str
    compressed: bool
    size: int | None
    mtime: int | None
    head: str
    path: Path | None
    _open: Callable[[], BinaryIO] = field(repr=False)
    # `None`: it is read again, as thousands of sources would take 64 KiB each.
    _sample: bytes | None = field(repr=False)
    # How many bytes `head` is of. `size` does not say: a file may have grown since, and some say 0.
    _head_bytes: int = field(repr=False)

    @property
    def sample(self) -> bytes:
        """The first bytes after decompression.

        Raises:
            OSError: it cannot be read.
        """
        if self._sample is not None:
            return self._sample
        with self._open() as stored:
            return _sample_of(stored.read(HEAD_BYTES))

    @property
    def identity(self) -> list[object]:
        """What ids made from positions take from the source; equal for a copy of the file with the same name."""
        return [os.path.basename(self.name), self.size, self.head]

    @property
    def local(self) -> Path | None:
        """The file of this machine that it is, also if it was given as an address."""
        scheme, _, path = self.name.partition("://")
        return Path(path) if scheme == "file" and path else self.path

    @property
    def is_seekable(self) -> bool:
        """Whether a byte offset is a place to resume at."""
        return not self.compressed and self.name != "-"

    def fingerprint(self) -> dict[str, Any]:
        return {"name": self.name, "size": self.size, "mtime": self.mtime, "hash": self.head}

    def is_replaced(self) -> bool:
        """Whether the file begins in another way than when its columns were checked; it may have grown since.

        Raises:
            OSError: it cannot be read.
        """
        if self.path is None:
            return False
        with self._open() as stored:
            head = stored.read(self._head_bytes)
        return hashlib.sha256(head).hexdigest() != self.head

    def open_stored(self) -> BinaryIO:
        """The bytes as they are stored.

        Raises:
            OSError: it cannot be opened.
        """
        return self._open()

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        """The bytes after decompression, and the stored bytes that they are read from, whose place is the progress."""
        stored = self._open()
        if not self.compressed:
            return stored, stored
        # Without a buffer around it: that would drop what was read before a truncated end.
        return cast("BinaryIO", gzip.GzipFile(fileobj=stored)), stored


def find(
    arguments: Iterable[str],
    file_format: str | None = None,
    stdin: Callable[[], BinaryIO] | None = None,
    written: Collection[Path] = (),
) -> list[Source]:
    """The sources that the arguments name, in name order.

    `written` are files that the import writes to: what it has written there before is no source of a directory or a glob.

    Raises:
        ImportUsageError: one does not exist, matches nothing, or is not in a format that can be read.
    """
    found: dict[str, Source] = {}
    for argument in arguments:
        if not argument:
            # As of a variable that is not set; as a path it would be the current directory.
            raise ImportUsageError("a source is empty; for the current directory, give .")
        try:
            named = _named(argument, stdin, {*map(os.path.realpath, written)})
        except OSError as error:
            raise _unreadable(error.filename or argument, error) from error
        for name, make in named:
            if not _is_utf8(name):
                # The state and the rejects, which are JSON, name it.
                raise ImportUsageError(f"source {name}: its name is not UTF-8; rename the file")
            if name not in found:
                found[name] = make(file_format)
    if not found:
        raise ImportUsageError("no source: give files, directories, globs, addresses, or - for standard input")
    if "-" in found and len(found) > 1:
        raise ImportUsageError("standard input (-) cannot be combined with other sources")
    return [found[name] for name in sorted(found)]


_Make = Callable[[str | None], Source]


def _named(argument: str, stdin: Callable[[], BinaryIO] | None, written: Collection[str]) -> list[tuple[str, _Make]]:
    if argument == "-":
        return [("-", lambda file_format: _standard_input(file_format, stdin or _stdin))]
    if "://" in argument:
        return _remote(argument, written)
    path = Path(argument).expanduser()
    if path.is_dir():
        inside = [each for each in _files_inside(path) if _is_file(each) and not _is_ours(each, written)]
        if not inside:
            raise ImportUsageError(f"source {argument}: the directory has no files")
        return [_file(each) for each in inside]
    if path.exists():
        return [_file(path)]
    if glob.has_magic(argument):
        _check_folders(path)
        matches = [Path(each) for each in glob.glob(str(path), recursive=True)]
        named = {os.path.normpath(each): each for each in matches if _is_file(each)}
        names = _of_glob(argument, named, written)
        if not names:
            raise ImportUsageError(f"source {argument}: no file matches")
        return [_file(named[name]) for name in names]
    raise ImportUsageError(f"source {argument}: no such file")


def _files_inside(directory: Path) -> Iterator[Path]:
    """All files but hidden ones.

    Raises:
        ImportUsageError: one of the folders cannot be read: its files must not be missing unnoticed.
    """

    def refuse(error: OSError) -> None:
        raise _unreadable(error.filename, error) from error

    for folder, folders, names in os.walk(directory, onerror=refuse):
        folders[:] = [each for each in folders if not each.startswith(".")]
        yield from (Path(folder, each) for each in names if not each.startswith("."))


def _check_folders(pattern: Path, *, lists_all: bool = False) -> None:
    """A glob passes over the folders that it cannot read.

    `lists_all`: it lists those, too, in which it looks for one name alone.

    Raises:
        ImportUsageError: one of those that the pattern leads to cannot be read: its files must not be missing unnoticed.
    """
    parts = (*pattern.parts, "*") if pattern.name == "**" else pattern.parts
    first = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    for count in range(first, len(parts)):
        is_listed = lists_all or glob.has_magic(parts[count]) or "**" in parts[count - 1 : count]
        for folder in glob.glob(os.path.join(*parts[:count], "") or "./", recursive=True):
            try:
                os.stat(os.path.join(folder, "."))
                if is_listed:
                    os.scandir(folder).close()
            except OSError as error:
                raise _unreadable(os.path.normpath(folder), error) from error


def _is_file(path: Path) -> bool:
    """Raises:
    ImportUsageError: it is a link to nothing: its file must not be missing unnoticed.
    """
    if path.is_symlink() and not path.exists():
        raise ImportUsageError(f"source {path}: is a link to a file that does not exist")
    return path.is_file()


def _is_hidden(inner: Path) -> bool:
    """By the path within a folder."""
    return any(part.startswith(".") for part in inner.parts)


def _of_glob(pattern: str, named: dict[str, Path], written: Collection[str]) -> list[str]:
    """The names of the sources among what matches, which is given by its name as a source."""
    if not pattern.endswith(_OURS):
        return [name for name, path in named.items() if not _is_ours(path, written)]
    # Such as rejects that were repaired; but not those of an import of them.
    return [
        name for name, path in named.items() if not (_is_this_ones(path, written) or _is_left_by(named.keys(), path))
    ]


def _is_ours(path: Path, written: Collection[str]) -> bool:
    """Whether an import has left it beside its source, or this one has written it before."""
    return path.name.endswith(_OURS) or _is_this_ones(path, written)


def _is_this_ones(path: Path, written: Collection[str]) -> bool:
    return os.path.realpath(path) in written and _was_written(path)


def _is_left_by(names: Collection[str], rejects: Path) -> bool:
    """Whether the state beside the rejects is that of an import of nothing but these sources."""
    try:
        state = orjson.loads(rejects.with_name(rejects.name.removesuffix(REJECTS_SUFFIX) + STATE_SUFFIX).read_bytes())
        return {each["name"] for each in state["belongings"]["sources"]} <= {*names}
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _was_written(path: Path) -> bool:
    """Whether it holds what an import writes: a file that does not is refused, as it would be lost."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return not head or head.startswith(_STATE) or _is_rejects(head)


def _file(path: Path) -> tuple[str, _Make]:
    name = os.path.normpath(path)

    def make(file_format: str | None) -> Source:
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                # What is read of a pipe here would be missing later.
                raise ImportUsageError(
                    f"source {name}: is not a file but a pipe or a device: cat {name} | segment-async import -"
                )
            with open(path, "rb") as file:
                head = file.read(HEAD_BYTES)
                status = os.fstat(file.fileno())
        except OSError as error:
            raise _unreadable(name, error) from error
        return _source(name, head, status.st_size, status.st_mtime_ns, path, lambda: open(path, "rb"), file_format)

    return name, make


def _unreadable(name: str, error: OSError) -> ImportUsageError:
    return ImportUsageError(f"source {name}: cannot be read: {error.strerror}")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remote(address: str, written: Collection[str]) -> list[tuple[str, _Make]]:
    try:
        import fsspec  # pyright: ignore[reportMissingTypeStubs]
    except ModuleNotFoundError:
        raise ImportUsageError(
            f"source {address}: addresses require fsspec: pip install fsspec, and the package for this scheme; or pipe "
            "the file into segment-async import -"
        ) from None
    try:
        system, path = cast("Any", fsspec.core).url_to_fs(address)
        is_local = isinstance(system, cast("Any", fsspec).get_filesystem_class("file"))
        # Elsewhere, the import has written nothing.
        paths = _remote_paths(system, path, written if is_local else (), is_local=is_local)
        names = [str(system.unstrip_protocol(each)) for each in paths]
    except ImportUsageError:
        raise
    except Exception as error:
        # The package for a scheme has errors of its own, such as of missing credentials.
        raise ImportUsageError(f"source {address}: cannot be opened: {_text_of(error)}") from error
    if not paths:
        raise ImportUsageError(f"source {address}: no file matches")

    def maker(name: str, path: str) -> _Make:
        def make(file_format: str | None) -> Source:
            def open_it() -> BinaryIO:
                with _as_os_error():
                    opened = system.open(path, "rb")
                return cast("BinaryIO", io.BufferedReader(_Remote(opened), _BUFFER))

            try:
                size = system.info(path).get("size")
                with open_it() as file:
                    head = file.read(HEAD_BYTES)
            except Exception as error:
                raise ImportUsageError(f"source {name}: cannot be read: {_text_of(error)}") from error
            return _source(name, head, size, None, None, open_it, file_format)

        return make

    return [(name, maker(name, path)) for name, path in zip(names, paths, strict=True)]


def _remote_paths(system: Any, path: str, written: Collection[str], *, is_local: bool) -> list[str]:
    """What the path of an address stands for: itself, the files of a folder, or those that match a glob.

    Raises:
        OSError: it cannot be read.
        ImportUsageError: a folder of this machine in it cannot be read, which fsspec passes over.
    """
    if glob.has_magic(path):
        if is_local:
            _check_folders(Path(path), lists_all=True)
        found = cast("dict[str, Any]", system.glob(path, detail=True)).items()
        files = sorted(each for each, details in found if details["type"] != "directory")
        named = {str(system.unstrip_protocol(each)): each for each in files}
        return [named[name] for name in _of_glob(path, {name: Path(each) for name, each in named.items()}, written)]
    if not system.isdir(path):
        return [path]
    if is_local:
        deque(_files_inside(Path(path)), 0)
    # The path of a root may be empty, while those in it begin with a slash.
    inside = [each for each in system.find(path) if not _is_hidden(Path(each.removeprefix(path)))]
    return sorted(each for each in inside if not _is_ours(Path(each), written))


def _text_of(error: Exception) -> str:
    return str(error) or type(error).__name__


@contextmanager
def _as_os_error() -> Generator[None, None, None]:
    """Raises:
    OSError: the package for a scheme raised an error of its own, which would end the import without a state to resume at.
    """
    try:
        yield
    except Exception as error:
        # Without a number, pyarrow's own would be alike, of a damaged file.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise OSError(errno.EIO, _text_of(error)) from error


class _Remote(io.RawIOBase):
    """A file of fsspec, whose errors may be its own: that of a zip file is, if it is damaged.

    Those of S3, GCS and HTTP read no line up to a number of bytes.
    """

    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._opened.seekable())

    def tell(self) -> int:
        return int(self._opened.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _as_os_error():
            self._opened.seek(offset, whence)
        return self.tell()

    def readinto(self, buffer: Any) -> int:
        with _as_os_error():
            block = self._opened.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()


class _Prefixed(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = memoryview(head)
        self._rest = rest
        self._place = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        if self._head:
            count = min(len(buffer), len(self._head))
            buffer[:count] = self._head[:count]
            self._head = self._head[count:]
        else:
            # What a pipe has at once: a full buffer may be a long time coming.
            read = getattr(self._rest, "read1", self._rest.read)
            chunk = read(len(buffer))
            count = len(chunk)
            buffer[:count] = chunk
        self._place += count
        return count


def _stdin() -> BinaryIO:
    # A file object of its own: the interpreter's end does not wait for a read of it that never returns.
    return open(os.dup(sys.stdin.fileno()), "rb")


def _standard_input(file_format: str | None, stdin: Callable[[], BinaryIO]) -> Source:
    stream = stdin()
    head = b""
    while len(head) < HEAD_BYTES and (more := stream.read(HEAD_BYTES - len(head))):
        head += more
    # What comes later cannot be looked at before it is imported, and a header of thousands of columns is longer.
    while not _has_header(_sample_of(head, _LONGEST_HEADER)) and len(head) < _LONGEST_HEADER:
        if not (more := stream.read(HEAD_BYTES)):
            break
        head += more

    def open_once() -> BinaryIO:
        return cast("BinaryIO", io.BufferedReader(_Prefixed(head, stream), _BUFFER))

    return _source("-", head, None, None, None, open_once, file_format)


def _source(
    name: str,
    head: bytes,
    size: int | None,
    mtime: int | None,
    path: Path | None,
    open_it: Callable[[], BinaryIO],
    file_format: str | None,
) -> Source:
    compressed, sample = head.startswith(_GZIP), _sample_of(head)
    if name == "-" and not _has_header(sample):
        sample = _sample_of(head, _LONGEST_HEADER)
    chosen = file_format or _format_of(name, sample)
    if chosen == "jsonl" and file_format is None and _is_rejects(sample):
        chosen = "rejects"
    if chosen == "parquet" and (compressed or name == "-"):
        raise ImportUsageError(f"source {name}: Parquet cannot be read from a pipe or a gzip file; save it as a file")
    if chosen != "parquet":
        _check_text(name, sample)
        if chosen != "csv" and sample.removeprefix(_UTF8_BOM).lstrip().startswith(b"["):
            raise ImportUsageError(
                f"source {name}: is one JSON array, not JSON lines; convert it: jq -c '.[]' {name} > lines.jsonl"
            )
    beginning = head[:HEAD_BYTES]
    digest = hashlib.sha256(beginning).hexdigest()
    kept = sample if path is None else None
    return Source(name, chosen, compressed, size, mtime, digest, path, open_it, kept, len(beginning))


def _sample_of(head: bytes, most: int = HEAD_BYTES) -> bytes:
    """The first bytes after decompression."""
    if not head.startswith(_GZIP):
        return head[:most]
    sample = b""
    # The first of several members may be short, or empty.
    while head.startswith(_GZIP) and len(sample) < most:
        member = zlib.decompressobj(31)
        try:
            sample += member.decompress(head, most - len(sample))
        except zlib.error:
            break  # damaged: reading it says so
        head = member.unused_data.lstrip(b"\0")
    return sample


def _has_header(sample: bytes) -> bool:
    """Whether the sample holds the whole first line; within quotes, a line of CSV may contain line ends."""
    if _looks_like_json(sample):
        return b"\n" in sample
    quotes = 0
    for line in io.BytesIO(sample):
        quotes += line.count(b'"')
        if quotes % 2 == 0 and line.endswith(b"\n"):
            return True
    return False


def _format_of(name: str, sample: bytes) -> str:
    if sample.startswith(b"PAR1"):
        return "parquet"
    suffix = Path(name.lower().removesuffix(".gz")).suffix
    by_name = _SUFFIXES.get(suffix)
    if by_name is not None:
        return by_name
    return "jsonl" if _looks_like_json(sample) else "csv"


def _looks_like_json(sample: bytes) -> bool:
    return sample.removeprefix(_UTF8_BOM).lstrip().startswith((b"{", b"["))


def _is_rejects(sample: bytes) -> bool:
    line = sample.removeprefix(_UTF8_BOM).lstrip().partition(b"\n")[0]
    try:
        first = orjson.loads(line)
    except ValueError:
        # A row may be longer than the sample.
        return line.startswith(b'{"source":') and b',"record":' in line and b',"rule":' in line
    return isinstance(first, dict) and {"source", "record", "rule", "row"} <= cast("dict[str, object]", first).keys()


def _check_text(name: str, sample: bytes) -> None:
    for beginning, problem in _NO_TEXT.items():
        if sample.startswith(beginning):
            raise ImportUsageError(f"source {name}: {problem.format(name)}")
    if sample.startswith(_UTF16) or sample[:4_096].count(0) > len(sample[:4_096]) // 4:
        raise ImportUsageError(
            f"source {name}, line 1: is UTF-16 or binary, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 {name}"
        )
