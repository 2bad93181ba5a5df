"""`python -m tests.soak`: a million messages through a hundred outages, in one process with real sockets.

The receiving end deletes each round after the comparison, so that only the client can grow. The law of the counters is
checked throughout, and memory and open files must stay below a limit. A run ends with its figures or with a violation.
"""

import argparse
import asyncio
import os
import random
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from segment_async import Client, Delivery, RetryPolicy, Status
from tests.support.exchange import Exchange, ReceivedRequest
from tests.support.fault_server import FaultServer
from tests.support.faults import OnRequest, answer, close_on_reuse, cut_body, garbage, lose_answer, silence
from tests.support.law import LawBroken, check_counters

# Growth of the process after the first tenth: during an outage, the queue of 32 MiB may be full.
MAX_GROWTH_BYTES = 96 * 1024 * 1024
# The connections of the client, and the files of the loop.
MAX_OPEN_FILES = 48
OUTAGES = ("down", "503", "429", "silence", "lost answers", "garbage", "stale connections", "cut bodies")


def _steps(kind: str) -> Callable[[ReceivedRequest], OnRequest]:
    """The faults of requests during an outage of this kind."""
    fault = {
        "503": answer(503),
        "429": answer(429, {"Retry-After": "0.2"}),
        "silence": silence(),
        "lost answers": lose_answer(),
        "garbage": garbage(),
        "stale connections": close_on_reuse(),
        "cut bodies": OnRequest(_taken_and_cut),
    }[kind]
    return lambda request: fault


async def _taken_and_cut(exchange: Exchange) -> None:
    """The status came, and says that Segment took the messages; the body is missing."""
    exchange.request.status = 200
    await cut_body().act(exchange)


def memory_now() -> int:
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        # Other systems report the maximum only.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


@dataclass
class Figures:
    """What a run saw; raises where a bound is passed."""

    outages: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTAGES, 0))
    doubled: int = 0
    first_memory: int = 0
    most_memory: int = 0
    most_files: int = 0
    files_before: int = field(default_factory=open_files)

    def look(self) -> None:
        memory, files = memory_now(), open_files()
        self.most_memory, self.most_files = max(self.most_memory, memory), max(self.most_files, files)
        if self.first_memory and memory > self.first_memory + MAX_GROWTH_BYTES:
            raise LawBroken(f"memory grew from {self.first_memory:,} to {memory:,} bytes")
        if files > self.files_before + MAX_OPEN_FILES:
            raise LawBroken(f"{files} files are open, {self.files_before} were before")


class Soak:
    """So many messages in rounds, with an outage amid each; after each round everything is settled and compared."""

    def __init__(self, messages: int, outages: int, seed: int, outage_seconds: float) -> None:
        self.figures = Figures()
        self._sizes = [messages // outages + (number < messages % outages) for number in range(outages)]
        self._chance = random.Random(seed)
        self._outage_seconds = outage_seconds
        self._deliveries: list[Delivery] = []

    async def run(self) -> None:
        retry = RetryPolicy(backoff=0.01, max_backoff=0.1)
        async with FaultServer() as self._server:
            async with Client(
                "KEY", host=self._server.url, retry=retry, timeout=2.0, overflow_timeout=None, close_timeout=30.0
            ) as self._client:
                for number, size in enumerate(self._sizes):
                    await self._round(size, OUTAGES[number % len(OUTAGES)])
                    if number == len(self._sizes) // 10:
                        self.figures.first_memory = memory_now()
            if self._client.statistics().delivered != sum(self._sizes):
                raise LawBroken(f"not all are delivered: {self._client.statistics()}")

    async def _round(self, size: int, kind: str) -> None:
        self.figures.outages[kind] += 1
        feeders = [asyncio.create_task(self._feed(size // 4 + (number < size % 4))) for number in range(4)]
        await asyncio.sleep(0)
        await self._outage(kind)
        await asyncio.gather(*feeders)
        left = await self._client.flush(timeout=60)
        self.figures.look()
        if left:
            raise LawBroken(f"{left} messages have no outcome a minute after the outage ({kind})")
        self._compare()

    async def _feed(self, count: int) -> None:
        for _ in range(count):
            fill = "x" * self._chance.randrange(200)
            self._deliveries.append(await self._client.track("user-1", "Soaked", {"fill": fill}))

    async def _outage(self, kind: str) -> None:
        if kind == "down":
            await self._server.go_down()
        else:
            self._server.script = _steps(kind)
        # During an outage, only time passes.
        await asyncio.sleep(self._chance.uniform(0, 2 * self._outage_seconds))
        check_counters(self._client.statistics())
        self.figures.look()
        if kind == "down":
            self._server.come_up()
        self._server.script = ()
        await self._server.reset_connections()

    def _compare(self) -> None:
        """Every message of the round against what the server took; then both are forgotten."""
        taken = self._server.taken
        for delivery in self._deliveries:
            outcome, times = delivery.outcome, len(taken.pop(delivery.message_id, ()))
            if outcome is None or outcome.status is not Status.DELIVERED or not times:
                raise LawBroken(f"taken {times} times: {outcome}")
            if times > 1 and not outcome.possibly_delivered:
                raise LawBroken(f"taken {times} times, yet not possibly delivered: {outcome}")
            self.figures.doubled += times > 1
        if taken:
            raise LawBroken(f"{len(taken)} messages arrived that were never accepted")
        self._deliveries.clear()
        self._server.requests.clear()
        check_counters(self._client.statistics())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, help="how many in all")
    parser.add_argument("--outages", type=int, default=100, help="how many, in turns of each kind")
    parser.add_argument("--outage-seconds", type=float, default=0.3, help="how long one lasts on average")
    parser.add_argument("--seed", type=int, default=0, help="of the lengths of outages and messages")
    options = parser.parse_args(arguments)
    soak = Soak(options.messages, options.outages, options.seed, options.outage_seconds)
    try:
        asyncio.run(soak.run())
    except LawBroken as broken:
        print(f"broken: {broken}", file=sys.stderr)
        return 1
    figures = soak.figures
    for kind, count in figures.outages.items():
        print(f"{count:>10,}  outages: {kind}")
    print(f"{figures.doubled:>10,}  messages taken twice, all of them marked")
    print(f"{figures.most_files:>10,}  files open at the most")
    print(
        f"{figures.most_memory >> 20:>10,}  MiB of memory at the most, {figures.first_memory >> 20:,} at the first tenth"
    )
    print(f"{options.messages:,} messages through {options.outages:,} outages: each delivered")
    return 0


if __name__ == "__main__":
    sys.exit(main())
