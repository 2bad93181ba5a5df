"""Other processes that use a spool: told what to do by a program, killed when a test wants it."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Process:
    """A program that says a line when it is ready, and ends when its input does."""

    def __init__(self, program: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", HEAD + textwrap.dedent(program), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self._read_rest()

    def end(self) -> tuple[str, str]:
        out, err = self._read_rest()
        assert self.process.returncode == 0, err
        return out, err

    def _read_rest(self) -> tuple[str, str]:
        with self.process:
            self.process.stdin.close()
            return self.process.stdout.read(), self.process.stderr.read()


HEAD = """
import asyncio, os, sys
from segment_async.spool import SQLiteSpool
from tests.spool.contract import *
path = sys.argv[1]
"""

HOLDER = """
async def main():
    spool = SQLiteSpool(path)
    # A transaction for each message.
    for message_id in sys.argv[2:]:
        await append(spool, message_id)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await spool.aclose()
asyncio.run(main())
"""


def reader_without_end(path):
    """A process that reads an old state of the spool until its `end`."""
    reader = Process(
        """
        import sqlite3
        connection = sqlite3.connect(path)
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM messages").fetchone()
        print("reads", flush=True)
        sys.stdin.read()
        """,
        path,
    )
    assert reader.line() == "reads"
    return reader
