"""kill -9 at every system call of a salvage: the next process finds everything but what was damaged, and counts that.

A changed body costs its message. With a scratched header SQLite reads nothing, with a flipped bit in the log nothing
after that bit: what is lost has to be counted.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
from pathlib import Path

from segment_async.spool import SQLiteSpool

from . import calls, witness
from .journal import Journal, Story
from .victim import Victim

# Messages that have to be pending, so that they fill several pages.
_PENDING = 30
_TRIES = 50
_SAYS = "salvaging what is sound"
_LOG_HEADER, _FRAME = 32, 24 + 4096


def run(folder: Path, seed: str, every: int = 1) -> dict[str, int]:
    seen = {"calls": 0}
    for damage, lost in ((_change_a_body, 1), (_scratch_the_header, None), (_flip_a_bit_of_the_log, None)):
        model = _make_model(folder, f"{seed}.{damage.__name__}")
        damage(model / "spool" / "a.db")
        kills = _kill_everywhere(model, folder, seed, lost, every)
        seen["calls"] += kills
        seen[damage.__name__.replace("_", " ").strip()] = kills
        shutil.rmtree(model)
    return seen


def _kill_everywhere(model: Path, folder: Path, seed: str, lost: int | None, every: int) -> int:
    script = _find_script(model, folder, seed)
    counts = calls.count_calls(_copy(model, folder), script)
    moments = [(name, number + 1) for name, count in counts.items() for number in range(count)][::every]
    for name, number in moments:
        home = _copy(model, folder)
        calls.run_victim(home, script, "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}")
        _check(home, lost)
    return len(moments)


def _make_model(folder: Path, seed: str) -> Path:
    """What a killed process left behind, its log included, with enough in it to be damaged."""
    model = folder / "model"
    for attempt in range(_TRIES):
        (model / "spool").mkdir(mode=0o700, parents=True)
        child = os.fork()
        if not child:
            _work_and_die(model, f"{seed}.{attempt}")
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        home = _copy(model, folder)
        if witness.check(home / "spool" / "a.db", _story(home)).pending >= _PENDING:
            return model
        shutil.rmtree(model)
    raise witness.Lost("no script leaves enough to be damaged")


def _work_and_die(home: Path, seed: str) -> None:
    with contextlib.suppress(Exception):
        victim = Victim(SQLiteSpool(home / "spool" / "a.db"), Journal(home / "journal"), seed)
        asyncio.run(victim.work(40, at_once=False))
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _find_script(model: Path, folder: Path, seed: str) -> list[str]:
    """One that comes upon the damage."""
    for attempt in range(_TRIES):
        script = [f"{seed}.salvage.{attempt}", "5", "full"]
        if _SAYS in calls.run_victim(_copy(model, folder), script):
            return script
    raise witness.Lost("no script comes upon the damage")


def _copy(model: Path, folder: Path) -> Path:
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(model, home)
    return home


def _story(home: Path) -> Story:
    return Story.of((home / "journal").read_bytes())


def _check(home: Path, wanted: int | None) -> None:
    """`wanted`: how many messages are to be lost; `None`: as many as are counted."""
    path, story = home / "spool" / "a.db", _story(home)
    witness.check(path, story, attempts_are_known=False, may_lose=True)
    lost = witness.drain(path, story).reasons.get("damaged", 0)
    if wanted is not None and lost != wanted:
        raise witness.Lost(f"{wanted} messages were damaged, {lost} were lost")


def _change_a_body(spool: Path) -> None:
    with contextlib.closing(sqlite3.connect(spool, isolation_level=None)) as connection:
        connection.execute(
            "UPDATE messages SET body = zeroblob(length(body)) WHERE position = (SELECT min(position) FROM messages)"
        )


def _scratch_the_header(spool: Path) -> None:
    # SQLite empties the log when it closes; what is there hides what is in the file.
    with contextlib.closing(sqlite3.connect(spool)) as connection:
        connection.execute("SELECT * FROM counters").fetchall()
    with spool.open("r+b") as file:
        # A field that has one value in every database: without it SQLite opens none.
        file.seek(21)
        file.write(b"\x41")


def _flip_a_bit_of_the_log(spool: Path) -> None:
    """In the middle of it."""
    path = spool.with_name(spool.name + "-wal")
    log = bytearray(path.read_bytes())
    frames = range(_LOG_HEADER, len(log) - _FRAME + 1, _FRAME)
    current = [at for at in frames if log[at + 8 : at + 16] == log[16:24]]
    log[current[len(current) // 2] + 24 + 4000] ^= 1
    path.write_bytes(log)
