"""`python -m benchmarks.backlog`: a client starts with a million messages on disk; how fast, and with how much memory?

One process leaves them there, as an outage would. The next one opens the spool, sends to a transport that accepts
everything, and prints when its first request began, how much memory it used, and whether the order was kept.
"""

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

import orjson

from benchmarks.probes.memory import resident_bytes
from benchmarks.workload import medium
from segment_async import Client, Response
from segment_async.spool import SQLiteSpool

ROOT = Path(__file__).parents[1]
GROUP = 1_000


class CheckingTransport:
    """Accepts everything, and checks whether the messages come in the order of their numbers."""

    def __init__(self) -> None:
        self.first_request: float | None = None
        self.received = 0
        self.is_ordered = True
        self.peak_bytes = 0

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        self.first_request = self.first_request or time.perf_counter()
        content = zlib.decompress(body, 31) if headers.get("Content-Encoding") == "gzip" else body
        for message in orjson.loads(content)["batch"]:
            self.is_ordered &= message["properties"]["n"] == self.received
            self.received += 1
        self.peak_bytes = max(self.peak_bytes, resident_bytes())
        return Response(200, {"Content-Type": "application/json"}, b'{"success":true}')

    async def aclose(self) -> None: ...


async def leave(path: str, count: int) -> None:
    """Accept that many messages with a client whose server never responds."""

    class Silent(CheckingTransport):
        async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
            await asyncio.Event().wait()
            raise AssertionError

    spool = SQLiteSpool(path, max_bytes=2**33)
    async with Client("benchmark", transport=Silent(), spool=spool, close_timeout=0) as client:

        async def caller(numbers: "itertools.count[int]") -> None:
            while (n := next(numbers)) < count:
                user_id, event, properties, context = medium(n)
                await client.track(user_id, event, {**properties, "n": n}, context=context)

        numbers = itertools.count()
        await asyncio.gather(*(caller(numbers) for _ in range(GROUP)))


async def drain(path: str) -> None:
    before, start = resident_bytes(), time.perf_counter()
    transport = CheckingTransport()
    async with Client("benchmark", transport=transport, spool=path, max_in_flight=1) as client:
        left = await client.flush()
        counts = client.statistics()
    seconds = time.perf_counter() - start
    assert transport.first_request is not None
    figures = {
        "messages": transport.received,
        "left": left,
        "in order": transport.is_ordered,
        "first request after ms": round((transport.first_request - start) * 1e3),
        "drained a second": round(transport.received / seconds),
        "resident MiB before": round(before / 2**20),
        "resident MiB at most": round(transport.peak_bytes / 2**20),
        "counts": f"accepted {counts.accepted:,}, delivered {counts.delivered:,}, recovered {counts.recovered:,}",
    }
    print(json.dumps(figures, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backlog", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--folder", help="the folder for the spool (default: a temporary one)")
    parser.add_argument("--step", choices=("leave", "drain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "leave":
        asyncio.run(leave(options.folder, options.messages))
    elif options.step == "drain":
        asyncio.run(drain(options.folder))
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = str(Path(folder, "analytics.db"))
            start = time.perf_counter()
            _run("leave", path, options.messages)
            print(f"{options.messages:,} accepted in {time.perf_counter() - start:.0f} s", flush=True)
            print(f"{Path(path).stat().st_size / 2**20:,.0f} MiB on disk", flush=True)
            _run("drain", path, options.messages)


def _run(step: str, path: str, messages: int) -> None:
    command = ["-m", "benchmarks.backlog", "--step", step, "--folder", path, "--messages", str(messages)]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
