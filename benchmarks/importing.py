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
from benchmarks.bench import ProbeFailed, pin
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


def measure(command: list[str], rows: int, sink: Sink, folder: Path, core: int | None = None) -> dict[str, float]:
    """Run the command in the folder, on this core; what it took for so many rows, and what arrived of them.

    Raises:
        ProbeFailed: it exited with an error; the text is the end of its standard error.
    """
    sink.reset()
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SEGMENT_HOST": sink.url, "SEGMENT_WRITE_KEY": "benchmark"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    pin(process.pid, core)
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    if process.returncode:
        raise ProbeFailed(errors[-2_000:])
    counted = sink.count()
    return {
        "rows_per_second": rows / seconds,
        "rows_per_cpu_second": rows / (usage.ru_utime + usage.ru_stime),
        "megabytes": usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10),
        "lost": rows - counted.messages + counted.repeats,
    }


def command_of(environment: str, variant: str, url: str) -> list[str]:
    """What imports the file of that variant, in this contestant's environment."""
    python = str(environments.python(environment))
    if environment == "official":
        return [python, "-c", LOOP, "orders.csv", url]
    ours = [python, "-m", "segment_async.cli", "import", "--rate", "0", "--quiet"]
    return (
        [*ours, "orders.csv", "--map", "map.toml"]
        if variant == "CSV"
        else [*ours, "orders.jsonl", "--destinations", "none"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as temporary, Sink(compiled(environments.FOLDER)) as sink:
        folder = Path(temporary)
        write_files(folder, rows)
        for environment, variant in (("ours-isal", "CSV"), ("ours-isal", "JSONL"), ("official", "CSV")):
            problem = environments.prepare(environment)
            if problem is not None:
                print(f"{environment} cannot be installed: {problem}")
                continue
            figures = measure(command_of(environment, variant, sink.url), rows, sink, folder)
            print(environment, variant, *(f"{name} {value:,.0f}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
