"""A shop's history into the local endpoint: CSV, JSON lines and Parquet of the same orders, interrupted once, resumed.

    python examples/demo_import.py --orders 200000

It ends with the table of the import and with a check at the receiving end: every row accounted for, none twice.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from segment_async.devserver import serve

MAPPING = """
type = "track"
userId = { column = "customer_id" }
event = "Order Completed"
timestamp = { column = "created" }
messageId = { columns = ["order_id", "file"] }
[properties]
order_id = { column = "order_id" }
total = { column = "total", as = "number" }
currency = { column = "currency" }
[integrations]
All = false
"""
COLUMNS = ("order_id", "customer_id", "created", "total", "currency", "file")
BAD_EVERY = 5_000


def orders(count: int, file: str) -> list[dict[str, str]]:
    """The same orders for each file; a few have no time or no total that can be read."""
    chance = random.Random(16)
    made = []
    for number in range(count):
        day, hour = 1 + number % 28, number % 24
        order = {
            "order_id": f"o-{number:06d}",
            "customer_id": f"{chance.randrange(20_000):05d}",
            "created": f"2024-{1 + number % 12:02d}-{day:02d}T{hour:02d}:15:00Z",
            "total": f"{chance.randrange(500, 50_000) / 100:.2f}",
            "currency": "EUR",
            "file": file,
        }
        if number % BAD_EVERY == 7:
            order["created" if number % 2 else "total"] = "n/a"
        made.append(order)
    return made


def write_history(folder: Path, count: int) -> None:
    rows = orders(count, "csv")
    with (folder / "orders.csv").open("w") as file:
        file.write(",".join(COLUMNS) + "\n")
        file.writelines(",".join(row.values()) + "\n" for row in rows)
    with (folder / "orders.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in orders(count, "jsonl"))
    rows = orders(count, "parquet")
    pq.write_table(pa.table({name: [row[name] for row in rows] for name in COLUMNS}), folder / "orders.parquet")


async def start(folder: Path, host: str) -> asyncio.subprocess.Process:
    command = ("import", ".", "--map", "../map.toml", "--rate", "0", "--state", "../demo.import.json")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "segment_async.cli", *command),
        cwd=folder,
        env={**os.environ, "SEGMENT_HOST": host, "SEGMENT_WRITE_KEY": "demo"},
    )


async def main(count: int) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "history"
        folder.mkdir()
        (folder.parent / "map.toml").write_text(MAPPING)
        print(f"Writing {count:,} orders as CSV, JSON lines and Parquet ...", flush=True)
        write_history(folder, count)
        seen: set[str] = set()
        repeated = [0]

        def note(answered) -> None:
            for event in answered.events:
                message_id = event.message["messageId"]
                repeated[0] += message_id in seen
                seen.add(message_id)

        async with serve(keep=1, report=note) as endpoint:
            process = await start(folder, endpoint.url)
            await endpoint.wait(count, timeout=3_600)
            print("Interrupting it ...", flush=True)
            process.send_signal(signal.SIGINT)
            code = await process.wait()
            print(f"Exit code {code}. Running the same command again ...", flush=True)
            code = await (await start(folder, endpoint.url)).wait()
        bad = 3 * sum(1 for number in range(count) if number % BAD_EVERY == 7)
        print(f"The endpoint has {len(seen):,} different messages of {3 * count - bad:,}, {bad:,} rows are rejects.")
        print(f"{repeated[0]:,} arrived again, with the same id, because of the interruption.")
        return 0 if code == 1 and len(seen) == 3 * count - bad else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=200_000)
    sys.exit(asyncio.run(main(parser.parse_args().orders)))
