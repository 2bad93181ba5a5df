"""`make crash-import`: one import, killed with SIGKILL at random rows and run again, until it is through.

In the end every row has arrived; what arrived twice has the same id, and is no more than a kill can repeat: the records
on their way, and those since the state was last saved. The same seed kills at the same rows, as far as the machine's
timing allows.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
from pathlib import Path

import orjson

from segment_async.devserver import Endpoint, serve

from .support import MAPPING, orders, write_csv

ROOT = Path(__file__).parents[2]
# Messages a second: the state is saved once a second, and each run lives about two.
_RATE = 1_000
_APART = 3_000


class Crashes:
    """One import of so many rows that each kill comes before its end.

    Attributes:
        repeats: messages that arrived more than once.
    """

    def __init__(self, folder: Path, kills: int, seed: int) -> None:
        self._folder = folder
        self._kills = kills
        self._random = random.Random(seed)
        self.rows = _APART * kills + 2 * _RATE
        self.repeats = 0

    async def run(self) -> None:
        """Kill, resume, and check what arrived."""
        (self._folder / "map.toml").write_text(MAPPING)
        write_csv(self._folder / "orders.csv", orders(self.rows))
        async with serve(keep=5 * self.rows) as endpoint:
            for number in range(self._kills):
                await self._run_once(endpoint, kill_after=self._random.randrange(1, _APART))
                print(f"kill {number + 1}: {len(endpoint.messages):,} messages arrived", flush=True)
            assert self._saved() > 0
            await self._run_once(endpoint, kill_after=None)
            ids = {(message["messageId"], message["userId"]) for message in endpoint.messages}
            self.repeats = len(endpoint.messages) - self.rows
        users = [user for _, user in ids]
        assert sorted(users) == sorted(f"u{number}" for number in range(self.rows)), "a row is lost, or has two ids"

    async def _run_once(self, endpoint: Endpoint, kill_after: int | None) -> None:
        saved, before = self._saved(), len(endpoint.messages)
        process = await self._start(endpoint, rate=_RATE if kill_after is not None else 0)
        if kill_after is not None:
            assert await endpoint.wait(before + kill_after, timeout=120)
            process.kill()
        assert await process.wait() == (0 if kill_after is None else -9)
        messages = endpoint.messages
        repeated = min(int(message["userId"][1:]) for message in messages[before:])
        assert repeated >= saved, "something was sent again that had its outcome"
        assert self._saved() <= len({message["userId"] for message in messages}), "the state is ahead of what arrived"

    async def _start(self, endpoint: Endpoint, rate: int) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "segment_async.cli", "import", "orders.csv", "--map", "map.toml"]
        given = {"PYTHONPATH": str(ROOT), "SEGMENT_HOST": endpoint.url, "SEGMENT_WRITE_KEY": "KEY"}
        return await asyncio.create_subprocess_exec(
            *[*command, "--rate", str(rate), "--quiet"], cwd=self._folder, env={**os.environ, **given}
        )

    def _saved(self) -> int:
        """Records that have their outcome, by the state file."""
        try:
            return int(orjson.loads((self._folder / "orders.csv.import.json").read_bytes())["counts"]["records"])
        except FileNotFoundError:
            return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        crashes = Crashes(Path(folder), given.kills, given.seed)
        asyncio.run(crashes.run())
    print(
        f"{given.kills} kills (seed {given.seed}): {crashes.rows:,} of {crashes.rows:,} rows arrived, "
        f"{crashes.repeats:,} repeats, all with the same ids"
    )


if __name__ == "__main__":
    main()
