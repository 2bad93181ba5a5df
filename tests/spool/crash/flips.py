"""One bit turned over, in the database or its log: nothing wrong is sent, and what is lost is counted.

The spools are those of victims that were killed, so that a log is there, and of some that came to their end. What
cannot be noticed, because nothing reads it, does no harm either.
"""

import os
import random
import shutil
import signal
import time
from pathlib import Path

from . import witness
from .journal import Story
from .kills import live

_FLIPS_A_SPOOL = 100


def run(folder: Path, flips: int, seed: int = 0) -> dict[str, int]:
    """Returns how often what was seen; raises `Lost` at the first flip that is not borne."""
    seen = {"flips": 0, "noticed": 0, "harmless": 0, "messages": 0, "lost": 0}
    chance = random.Random(seed)
    spool_number = 0
    while seen["flips"] < flips:
        spool_number += 1
        home = folder / f"model-{seed}-{spool_number}"
        story = _make_spool(home, f"{seed}.{spool_number}", chance, is_killed=spool_number % 3 > 0)
        # On a slow machine a process may be killed before it has made its files.
        for _ in range(min(_FLIPS_A_SPOOL, flips - seen["flips"]) if story.accepted else 0):
            _flip(home, folder / "flipped", story, chance, seen)
        shutil.rmtree(home)
    return seen


def _make_spool(home: Path, seed: str, chance: random.Random, *, is_killed: bool) -> Story:
    home.mkdir(mode=0o700)
    child = os.fork()
    if not child:
        live(home, seed, "full", steps=150)
    if is_killed:
        time.sleep(0.1 + chance.random() / 2)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Story.of((home / "journal").read_bytes())


def _flip(home: Path, copy: Path, story: Story, chance: random.Random, seen: dict[str, int]) -> None:
    shutil.copytree(home, copy)
    try:
        sizes = {name: (copy / name).stat().st_size for name in ("a.db", "a.db-wal") if (copy / name).exists()}
        name = chance.choice([name for name, size in sizes.items() if size])
        # The first page is read most and understood best: it gets more than its share.
        at = chance.randrange(min(4096, sizes[name]) if chance.random() < 0.2 else sizes[name])
        bit = chance.randrange(8)
        with (copy / name).open("r+b") as file:
            byte = os.pread(file.fileno(), 1, at)[0]
            os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), at)
        try:
            counts = witness.check(copy / "a.db", story, attempts_are_known=False, may_lose=True)
            damages = counts.damages + witness.drain(copy / "a.db", story.copy()).damages
        except Exception as fault:
            raise witness.Lost(f"bit {bit} of byte {at} in {name}") from fault
        lost = counts.reasons.get("damaged", 0)
        if lost and not damages:
            raise witness.Lost(f"bit {bit} of byte {at} in {name}: {lost} messages lost, and no damage counted")
        seen["flips"] += 1
        seen[f"lost by {name}"] = seen.get(f"lost by {name}", 0) + lost
        seen["noticed" if damages else "harmless"] += 1
        seen["messages"] += counts.pending
        seen["lost"] += lost
    finally:
        shutil.rmtree(copy)
