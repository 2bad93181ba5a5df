"""`python -m benchmarks.importing`: a CSV and a JSONL file into the sink, beside a loop with the official SDK.

Each contestant is a process of its own on the same file: `segment-async import --rate 0`, and what people write instead,
a loop over `csv.DictReader` with `track`. Prints rows a second by the clock and by the CPU, memory at its highest, and
what arrived.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import environments
from benchmarks.server.sink import Sink, compiled

ROOT = Path(__file__).parents[1]
MAPPING = """
type = "track"
userId = { column = "customer_id" }
event = "Order Completed"
timestamp = { column = "created" }
[properties]
order_id = { column = "order_id" }
total = { column = "total", as = "number" }
currency = { column = "currency" }
[integrations]
All = false
"""
LOOP = """
import csv, sys
from datetime import datetime
from segment.analytics.client import Client
client = Client("benchmark", host=sys.argv[2], gzip=True)
for row in csv.DictReader(open(sys.argv[1])):
    properties = {"order_id": row["order_id"], "total": float(row["total"]), "currency": row["currency"]}
    client.track(row["customer_id"], "Order Completed", properties, timestamp=datetime.fromisoformat(row["created"]),
                 integrations={"All": False})
client.flush()
client.join()
"""


def write_files(folder: Path, rows: int) -> None:
    (folder / "map.toml").write_text(MAPPING)
    with (folder / "orders.csv").open("w") as csv_file, (folder / "orders.jsonl").open("w") as json_file:
        csv_file.write("order_id,customer_id,created,total,currency\n")
        for i in range(rows):
            user, at, total = f"{i % 5_000:05d}", f"2024-11-21T09:30:{i % 60:02d}+00:00", f"{i % 900}.50"
            csv_file.write(f"o{i},{user},{at},{total},EUR\n")
            json_file.write(
                f'{{"type":"track","userId":"{user}","event":"Order Completed","timestamp":"{at}",'
                f'"properties":{{"order_id":"o{i}","total":{total},"currency":"EUR"}}}}\n'
            )


def measure(name: str, command: list[str], rows: int, sink: Sink, folder: Path) -> None:
    sink.reset()
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SEGMENT_HOST": sink.url, "SEGMENT_WRITE_KEY": "benchmark"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    cpu = usage.ru_utime + usage.ru_stime
    arrived = sink.count()
    memory = usage.ru_maxrss / (1 if sys.platform == "darwin" else 1_024)
    print(
        f"{name:26} {rows / seconds:9,.0f} rows/s  {rows / cpu:9,.0f} rows/CPU s  {memory:6,.0f} MB  "
        f"{arrived.messages - arrived.repeats:,} of {rows:,} arrived, exit code {process.returncode}",
        flush=True,
    )
    if process.returncode:
        print(errors[-2_000:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    ours = [sys.executable, "-m", "segment_async.cli", "import", "--rate", "0", "--quiet"]
    with tempfile.TemporaryDirectory() as temporary, Sink(compiled(environments.FOLDER / "sink")) as sink:
        folder = Path(temporary)
        write_files(folder, rows)
        measure("segment-async, CSV", [*ours, "orders.csv", "--map", "map.toml"], rows, sink, folder)
        measure("segment-async, JSONL", [*ours, "orders.jsonl", "--destinations", "none"], rows, sink, folder)
        problem = environments.prepare("official")
        if problem is not None:
            print(f"The official SDK cannot be installed: {problem}")
            return
        loop = [str(environments.python("official")), "-c", LOOP, "orders.csv", sink.url]
        measure("DictReader, official SDK", loop, rows, sink, folder)


if __name__ == "__main__":
    main()
