"""Power loss: a script's writes and syncs are recorded, and replayed to what a disk may hold when the power goes.

The model is unkind. After any call, of what was written since a file's last sync any part may be on the disk: each
write whole, not at all, or some of its sectors, and a file may have grown without its content. Names made, changed and
removed since their folder's last sync may be there or not, in order or out of it. What was synced is there.
"""

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import witness
from .journal import Story

_SECTOR = 512
_CALLS = "openat,pwrite64,write,fsync,fdatasync,ftruncate,rename,unlink,close"
_LINE = re.compile(
    r"(\d+) +(?:(\w+)\((.*?)(\) += (-?\d+).*| <unfinished \.\.\.>)|<\.\.\. \w+ resumed>(.*)\) += (-?\d+).*)$"
)


@dataclass
class _File:
    synced: bytes = b""
    # Offset and bytes; a size and `None` for a truncation.
    since: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        content = bytearray(self.synced)
        for change in self.since:
            _apply(content, *change)
        self.synced = bytes(content)
        self.since.clear()

    def after_power_loss(self, chance: random.Random) -> bytes:
        if not self.since:
            return self.synced
        content = bytearray(self.synced)
        kindness = chance.random()
        for offset, data in self.since:
            if chance.random() < kindness:
                _apply(content, offset, data)
            elif data and chance.random() < 0.5:
                _apply_torn(content, offset, data, chance)
        return bytes(content)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
    end = offset + len(data or b"")
    content.extend(bytes(max(0, end - len(content))))
    if data:
        content[offset:end] = data


def _apply_torn(content: bytearray, offset: int, data: bytes, chance: random.Random) -> None:
    content.extend(bytes(max(0, offset + len(data) - len(content))))
    start = 0
    while start < len(data):
        # Sectors are those of the disk, not of the write.
        end = min(len(data), start + _SECTOR - (offset + start) % _SECTOR)
        if chance.random() < 0.5:
            content[offset + start : offset + end] = data[start:end]
        start = end


class Disk:
    """One folder, as the calls so far have left it, and as it would be after a power loss."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._names: dict[str, _File] = {}
        self._synced_names: dict[str, _File] = {}
        # What names were made (with their file) or removed (with `None`), call by call.
        self._since: list[list[tuple[str, _File | None]]] = []
        self._open: dict[int, _File | None] = {}
        self.told = b""

    def replay(self, call: str, arguments: list[str], result: int) -> bool:
        """Returns whether anything has changed."""
        return result >= 0 and bool(getattr(self, f"_{call}")(arguments, result))

    def states(self, chance: random.Random, count: int) -> Iterator[dict[str, bytes]]:
        for _ in range(count):
            names = dict(self._synced_names)
            kindness = chance.choice((0.0, 0.5, 0.9, 1.0))
            for change in self._since:
                if chance.random() <= kindness:
                    _rename(names, change)
                elif chance.random() < 0.5:
                    # As a journal does it: all up to here, and nothing more.
                    break
            yield {name: file.after_power_loss(chance) for name, file in names.items()}

    def _openat(self, arguments: list[str], descriptor: int) -> bool:
        path, flags = _text(arguments[1]).decode(), arguments[2]
        if not path.startswith(self._folder):
            # The journal, which is the world's.
            self._open[descriptor] = None
            return False
        name = path[len(self._folder) + 1 :]
        is_new = "O_CREAT" in flags and name not in self._names
        if is_new:
            self._change([(name, _File())])
        self._open[descriptor] = self._names.get(name)
        return is_new

    def _close(self, arguments: list[str], _: int) -> bool:
        self._open.pop(int(arguments[0]), None)
        return False

    def _pwrite64(self, arguments: list[str], _: int) -> bool:
        return self._write_to(int(arguments[0]), int(arguments[-1]), _text(arguments[1]))

    def _write(self, arguments: list[str], _: int) -> bool:
        self.told += _text(arguments[1])
        return True

    def _ftruncate(self, arguments: list[str], _: int) -> bool:
        return self._write_to(int(arguments[0]), int(arguments[1]), None)

    def _write_to(self, descriptor: int, offset: int, content: bytes | None) -> bool:
        file = self._open[descriptor]
        assert file is not None
        file.since.append((offset, content))
        return True

    def _fsync(self, arguments: list[str], _: int) -> bool:
        file = self._open[int(arguments[0])]
        if file is not None:
            file.sync()
        else:
            self._synced_names = dict(self._names)
            self._since.clear()
        return True

    _fdatasync = _fsync

    def _rename(self, arguments: list[str], _: int) -> bool:
        old, new = (_text(each).decode()[len(self._folder) + 1 :] for each in arguments)
        self._change([(old, None), (new, self._names[old])])
        return True

    def _unlink(self, arguments: list[str], _: int) -> bool:
        self._change([(_text(arguments[0]).decode()[len(self._folder) + 1 :], None)])
        return True

    def _change(self, change: list[tuple[str, _File | None]]) -> None:
        _rename(self._names, change)
        self._since.append(change)


def _rename(names: dict[str, _File], change: list[tuple[str, _File | None]]) -> None:
    for name, file in change:
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _text(escaped: str) -> bytes:
    return bytes.fromhex(escaped.strip().strip('".').replace("\\x", ""))


def record(home: Path, seed: str, steps: int) -> list[tuple[str, list[str], int]]:
    """The calls of a script, in the order in which they ended."""
    home.mkdir(mode=0o700)
    spool, trace = home / "spool" / "a.db", home / "trace"
    spool.parent.mkdir(mode=0o700)
    names = ("", "-wal", "-journal", ".lock", ".new", ".new-wal", ".new-journal", ".salvaged")
    paths = [spool.parent, home / "journal", *(spool.with_name(spool.name + each) for each in names)]
    watched = [part for path in paths for part in ("-P", str(path))]
    options = ["-f", "-qq", "-o", str(trace), "-xx", "-s", "1000000", "-e", f"trace={_CALLS}"]
    victim = [
        sys.executable,
        "-m",
        "tests.spool.crash.victim",
        str(spool),
        str(home / "journal"),
        seed,
        str(steps),
        "full",
        "2",
    ]
    subprocess.run(["strace", *options, *watched, *victim], check=True)
    return list(_parse(trace.read_text().splitlines()))


def _parse(lines: list[str]) -> Iterator[tuple[str, list[str], int]]:
    begun: dict[str, tuple[str, str]] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        thread, call, arguments, _, result, rest, late_result = match.groups()
        if call is None:
            call, arguments = begun.pop(thread)
            yield call, (arguments + rest).split(", "), int(late_result)
        elif result is None:
            begun[thread] = call, arguments
        else:
            yield call, arguments.split(", "), int(result)


def run(folder: Path, states: int, seed: int, steps: int) -> dict[str, int]:
    """Check that many states, spread over all calls of scripts of that many steps; raises `Lost` at the first wrong one."""
    seen = {"states": 0, "different": 0, "scripts": 0, "calls": 0}
    chance = random.Random(seed)
    different: set[int] = set()
    while seen["states"] < states:
        home = folder / f"script-{seed}-{seen['scripts']}"
        calls = record(home, f"{seed}.{seen['scripts']}", steps)
        disk, story = Disk(str(home / "spool")), Story()
        for call, arguments, result in calls:
            if not disk.replay(call, arguments, result):
                continue
            story.tell(disk.told)
            disk.told = b""
            for state in disk.states(chance, max(1, min(60, states // (4 * len(calls))))):
                _check(folder / "state", state, story)
                seen["states"] += 1
                different.add(hash(tuple(sorted(state.items()))))
            seen["calls"] += 1
        seen["scripts"] += 1
        shutil.rmtree(home)
    seen["different"] = len(different)
    return seen


def _check(home: Path, state: dict[str, bytes], story: Story) -> None:
    home.mkdir(mode=0o700)
    try:
        for name, content in state.items():
            (home / name).write_bytes(content)
        counts = witness.check(home / "a.db", story)
        if counts.damages:
            raise witness.Lost(f"a power loss was taken for damage: {counts}")
    except Exception:
        shutil.copytree(home, home.with_name("broken"), dirs_exist_ok=True)
        raise
    finally:
        shutil.rmtree(home)
