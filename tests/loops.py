"""`python -m tests.loops --seeds 200`: threads, each with a loop that runs and stops, share one client, in real time.

As the handlers of a serverless function, or the commands of a shell, each with `run_until_complete`: the client moves from
loop to loop, and one that stood still runs again while another one works. After each seed all is settled, each message
has arrived, one that arrived twice is marked, each body was JSON, and no loop has a task of the client's left.
"""

import argparse
import asyncio
import gzip
import json
import random
import sys
import threading
import time
from collections import Counter
from typing import Any

from segment_async import Client, Delivery, Response, RetryPolicy, Status, TransportError, messages
from tests.support.law import check_counters

THREADS, BURSTS, LARGEST_BURST = 4, 15, 40
# Seconds in which everything settles, and after which a thread stands still.
SETTLING, PATIENCE = 20.0, 60.0


class Sink:
    """A transport that answers after a moment, and sometimes refuses.

    Attributes:
        seen: how often each message arrived.
        unreadable: bodies that are no JSON.
    """

    def __init__(self, seed: int) -> None:
        self.seen: Counter[str] = Counter()
        self.unreadable = 0
        self._chance = random.Random(seed)
        self._lock = threading.Lock()

    async def send(self, body: bytes, headers: Any) -> Response:
        await asyncio.sleep(self._chance.choice((0, 0, 0.001, 0.01)))
        if self._chance.random() < 0.1:
            raise TransportError("refused", maybe_sent=False)
        try:
            text = gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body
            ids = [message["messageId"] for message in json.loads(text)["batch"]]
        except (ValueError, OSError):
            self.unreadable += 1
            return Response(400)
        with self._lock:
            self.seen.update(ids)
        return Response(200, {}, b'{"success":true}')

    async def aclose(self) -> None: ...


class Life:
    """One seed's client, and the threads that use it."""

    def __init__(self, seed: int, spool: str | None) -> None:
        chance = random.Random(seed)
        self._seed = seed
        self._sink = Sink(seed)
        self._client = Client(
            "key",
            transport=self._sink,
            flush_at=chance.choice((1, 5, 50)),
            flush_interval=0.01,
            max_in_flight=3,
            retry=RetryPolicy(backoff=0.01, max_backoff=0.05),
            spool=spool,
        )
        self._deliveries: list[Delivery] = []
        self._loops: list[asyncio.AbstractEventLoop] = []

    def run(self) -> None:
        threads = [threading.Thread(target=self._use, args=(number,), daemon=True) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads), "a thread stands still"
        asyncio.run(self._settle())
        self._compare()
        self._end_loops()

    def _use(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        loop = asyncio.new_event_loop()
        for burst in range(BURSTS):
            loop.run_until_complete(self._burst(chance, f"{number}-{burst}"))
            if chance.random() < 0.5:
                time.sleep(chance.choice((0, 0.001, 0.01)))
        # It stays at rest.
        self._loops.append(loop)

    async def _burst(self, chance: random.Random, name: str) -> None:
        for index in range(chance.randint(1, LARGEST_BURST)):
            text = "x" * chance.choice((10, 10, 5000))
            message = messages.track("u", "E", {"text": text}, message_id=f"{name}-{index}")
            self._deliveries.append(await self._client.enqueue(message))
            if chance.random() < 0.1:
                await asyncio.sleep(chance.choice((0, 0.001, 0.01)))
        if chance.random() < 0.2:
            await self._client.flush(timeout=5)

    async def _settle(self) -> None:
        assert await self._client.flush(timeout=SETTLING) == 0, "not all is settled"
        statistics = self._client.statistics()
        await self._client.aclose()
        check_counters(statistics)
        assert (statistics.accepted, statistics.pending) == (len(self._deliveries), 0), statistics

    def _compare(self) -> None:
        assert self._sink.unreadable == 0, f"{self._sink.unreadable} bodies were no JSON"
        outcomes = {each.message_id: each.outcome for each in self._deliveries}
        assert None not in outcomes.values(), "messages have no outcome"
        for name, outcome in outcomes.items():
            assert outcome is not None
            arrived = self._sink.seen[name]
            assert arrived > 0 or outcome.status is not Status.DELIVERED, f"{name} did not arrive: {outcome}"
            assert arrived < 2 or outcome.possibly_delivered, f"{name} arrived twice: {outcome}"

    def _end_loops(self) -> None:
        for loop in self._loops:
            loop.run_until_complete(asyncio.sleep(0.01))
            assert not asyncio.all_tasks(loop), f"tasks are left: {asyncio.all_tasks(loop)}"
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="how many lives")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--spool", help="a folder for the messages")
    options = parser.parse_args(arguments)
    broken = 0
    for seed in range(options.first, options.first + options.seeds):
        try:
            Life(seed, None if options.spool is None else f"{options.spool}/{seed}.db").run()
        except AssertionError as fault:
            broken += 1
            print(f"broken: python -m tests.loops --first {seed} --seeds 1: {fault}", file=sys.stderr)
    print(f"{options.seeds} seeds, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
