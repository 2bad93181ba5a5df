"""One of several processes on a spool: tracks as many messages as it is told, and goes on sending until SIGTERM."""

import asyncio
import os
import sys

from segment_async import Client
from segment_async.spool import SQLiteSpool


async def main() -> None:
    name, count = sys.argv[1], int(sys.argv[2])
    spool = SQLiteSpool(os.environ["SPOOL"], check_interval=0.1)
    async with Client("KEY", spool=spool, flush_interval=float(os.environ["INTERVAL"])) as client:
        client.drain_on_signals()
        for number in range(count):
            await client.track("user-1", "Counted", message_id=f"{name}-{number}")
        print("accepted", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
