"""Works with one spool twice in one process, lets another process read its files, tracks more, and is killed.

Prints the id of each message whose call returned. The argument names what else works with the spool in this process.
"""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from segment_async import Client, TransportError, spool
from segment_async.testing import RecordingTransport

PATH = Path(os.environ["SPOOL"])
Inspector = getattr(spool, "SpoolInspector", None) or spool.SpoolVisitor

READ = """
import pathlib, sqlite3, sys
for path in pathlib.Path(sys.argv[1]).iterdir():
    if path.suffix not in (".lock", ".inbox") and not path.name.endswith(("-wal", "-shm")):
        connection = sqlite3.connect(path)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error:
            pass
        connection.close()
"""


def down(_batch: object) -> None:
    raise TransportError("no connection", maybe_sent=False)


def make() -> Client:
    return Client("KEY", transport=RecordingTransport(down), spool=PATH)


async def track(client: Client, *message_ids: str) -> None:
    for message_id in message_ids:
        await client.track("user-1", "Counted", message_id=message_id)
        print(message_id, flush=True)


async def a_second_client() -> None:
    await track(make(), "second")


async def an_inspector() -> None:
    Inspector(PATH).status()


async def a_reader_of_the_application() -> None:
    connection = sqlite3.connect(PATH)
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    connection.close()


async def main() -> None:
    client = make()
    await track(client, *(f"before-{number}" for number in range(10)))
    await globals()[sys.argv[1]]()
    subprocess.run([sys.executable, "-c", READ, str(PATH.parent)], check=True)  # noqa: ASYNC221  # nothing else is to run
    await track(client, *(f"after-{number}" for number in range(20)))
    os.kill(os.getpid(), signal.SIGKILL)


asyncio.run(main())
