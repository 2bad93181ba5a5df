"""kill -9 at random moments, life after life on one spool."""

import asyncio
import os
import random
import signal
import time
from pathlib import Path

from segment_async.spool import SQLiteSpool

from . import witness
from .journal import Journal, Story
from .victim import Victim

_LIVES_A_SPOOL = 25


def run(folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Returns what was seen; raises `Lost` with the first thing that is wrong."""
    seen = {"kills": 0, "ends": 0, "accepted": 0, "sent": 0, "recovered": 0}
    chance = random.Random(seed)
    spool_number = 0
    while seen["kills"] < kills:
        spool_number += 1
        home = folder / f"spool-{spool_number}"
        home.mkdir(mode=0o700)
        story = _lives(home, f"{seed}.{spool_number}", chance, min(_LIVES_A_SPOOL, kills - seen["kills"]), seen)
        seen["accepted"] += len(story.accepted)
        seen["sent"] += len(story.sent)
        witness.drain(home / "a.db", story)
        for path in home.iterdir():
            path.unlink()
        home.rmdir()
    return seen


def _lives(home: Path, seed: str, chance: random.Random, lives: int, seen: dict[str, int]) -> Story:
    story = Story()
    journal = home / "journal"
    told = 0
    for life in range(lives):
        moment = chance.random() ** 2 * 0.1
        durability = "process" if chance.random() < 0.3 else "full"
        child = os.fork()
        if not child:
            live(home, f"{seed}.{life}", durability)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        seen["kills" if os.WIFSIGNALED(status) else "ends"] += 1
        assert os.WIFSIGNALED(status) or status == 0, status
        text = journal.read_bytes() if journal.exists() else b""
        story.tell(text[told:])
        told = len(text)
        seen["recovered"] += witness.check(home / "a.db", story).pending
    return story


def live(home: Path, seed: str, durability: str, steps: int = 60) -> None:
    """In a forked child: work with the spool there, and never return."""
    status = 1
    try:
        victim = Victim(SQLiteSpool(home / "a.db", durability=durability), Journal(home / "journal"), seed)
        asyncio.run(victim.live(steps, at_once=True))
        status = 0
    finally:
        os._exit(status)
