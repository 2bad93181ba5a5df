"""Every system call of a script that touches the spool's files: killed just before it, or answered with an error.

strace counts calls by name and thread, so each name is gone through by itself, from its first call to the last.
"""

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import witness
from .journal import Story

CALLS = (
    "openat", "pwrite64", "write", "fsync", "fdatasync", "ftruncate", "fallocate", "rename", "unlink", "mkdir",
    "fcntl", "pread64", "read", "newfstatat", "fstat", "close", "mmap", "fchmod", "chmod", "lseek", "readlink",
)  # fmt: skip
WRITING = ("openat", "pwrite64", "fsync", "fdatasync", "ftruncate", "fallocate", "rename", "unlink", "mkdir", "pread64")
ERRORS = ("EIO", "ENOSPC")
# What a spool says at its close if the disk refuses even then: these messages are sent once more.
_NOT_RECORDED = "notes not recorded"


def is_possible() -> bool:
    """Tracing may be missing, or forbidden in a container."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


def count_calls(home: Path, script: list[str]) -> dict[str, int]:
    """How often each call comes in the thread that makes it most often."""
    trace = home.with_name("trace")
    run_victim(home, script, "-o", str(trace), "-e", f"trace={','.join(CALLS)}")
    counts: dict[tuple[str, str], int] = {}
    for line in trace.read_text().splitlines():
        if match := re.match(r"(\d+) +(\w+)\(", line):
            counts[match[2], match[1]] = counts.get((match[2], match[1]), 0) + 1
    return {name: max(n for (each, _), n in counts.items() if each == name) for name, _ in counts}


def kill_everywhere(folder: Path, seed: str, steps: int, every: int = 1) -> dict[str, int]:
    script = [seed, str(steps), "full"]
    seen = {"calls": 0}
    for name, count in count_calls(_new_home(folder), script).items():
        for number in range(1, count + 1, every):
            home = _new_home(folder)
            run_victim(home, script, "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}")
            _check(home)
            seen["calls"] += 1
            seen[name] = seen.get(name, 0) + 1
    return seen


def fail_syncs(folder: Path, seed: str, steps: int) -> int:
    """Each sync fails, and the tries after it; returns how many there were."""
    script = [seed, str(steps), "full"]
    count = count_calls(_new_home(folder), script)["fdatasync"]
    for number in range(1, count + 1):
        home = _new_home(folder)
        run_victim(
            home, script, "-e", "trace=fdatasync", "-e", f"inject=fdatasync:error=EIO:when={number}..{number + 4}"
        )
        _check(home, once=True)
    return count


def fail_everywhere(folder: Path, seed: str, steps: int, every: int = 1) -> dict[str, int]:
    """Each call with each error: once, for a while, and from then on. A part of the calls: each in one of these ways."""
    script = [seed, str(steps), "full"]
    seen = {"calls": 0, "refused": 0}
    counts = count_calls(_new_home(folder), script)
    ways = [(error, after) for error in ERRORS for after in ("", "..{}", "+")]
    turns = itertools.cycle(ways)
    for name in (each for each in WRITING if each in counts):
        for number in range(1, counts[name] + 1, every):
            for error, after in ways if every == 1 else [next(turns)]:
                home = _new_home(folder)
                inject = f"inject={name}:error={error}:when={number}{after.format(number + 4)}"
                said = run_victim(home, script, "-e", f"trace={name}", "-e", inject)
                try:
                    story = _check(home, once=after != "+", is_recorded=_NOT_RECORDED not in said)
                except witness.Lost as fault:
                    raise witness.Lost(f"{inject}: {fault}\n{said}") from None
                seen["refused"] += len(story.refused)
                seen["calls"] += 1
    return seen


def _new_home(folder: Path) -> Path:
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700)
    return home


def run_victim(home: Path, script: list[str], *options: str) -> str:
    """Under strace, with these options for it; of the spool's files alone. Returns what it said."""
    spool = home / "spool" / "a.db"
    names = ("", "-wal", "-shm", ".lock", ".new", ".new-wal", ".new-shm", ".salvaged")
    paths = [spool.parent, *(spool.with_name(spool.name + each) for each in names)]
    watched = [part for path in paths for part in ("-P", str(path))]
    victim = [sys.executable, "-m", "tests.spool.crash.victim", str(spool), str(home / "journal"), *script]
    # What strace writes is wanted only where an option says so; the last one counts.
    command = ["strace", "-f", "-qq", "-o", "/dev/null", *options, *watched, *victim]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # Killed, as asked for, or at its end; nothing else.
    if done.returncode not in (0, -9, 137):
        raise witness.Lost(f"{' '.join(options)}: the victim ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stderr


def _check(home: Path, *, once: bool | None = None, is_recorded: bool = True) -> Story:
    """`once`: how often there was an error; `None`: there was none, only an end. `is_recorded`: nothing else was said."""
    journal = home / "journal"
    story = Story.of(journal.read_bytes() if journal.exists() else b"")
    path = home / "spool" / "a.db"
    attempts_are_known = once is not False and is_recorded
    witness.check(path, story, attempts_are_known=attempts_are_known, refusals_are_known=once is not False)
    witness.drain(path, story)
    return story
