"""`python -m tests.stress --minutes 10`: threads, tasks, loops and signals against one client, in real time.

Tasks track, threads enqueue, loops of other threads track and wait, a sink on loopback goes wrong at random, and with
`--signals` a handler runs at random lines of the main thread: it enqueues, or looks at the counters, or raises where the
client's own code is interrupted, and the application catches that where it called the client. In rounds: after each,
everything settles, and what was told is compared with what arrived.

The law holds at every look, and a message that arrived twice is marked. A run that stands still ends with its stacks.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import logging
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Self

from segment_async import Client, Delivery, QueueFull, RetryPolicy, SpoolUnavailable, Status, messages
from tests.support.exchange import ReceivedRequest
from tests.support.fault_server import FaultServer
from tests.support.faults import OnRequest, answer, close_on_reuse, garbage, lose_answer, silence
from tests.support.interruptions import PACKAGE, Interrupted
from tests.support.law import LawBroken, check_counters

# Seconds of traffic in a round, and those in which it settles then.
ROUND, SETTLING = 4.0, 30.0
# Seconds without an end of a round after which the run stands still.
PATIENCE = 120.0
# The code that an application's handler may tear: what its own calls and the client's callbacks run.
TORN = tuple(str(PACKAGE / part) for part in ("_pipeline", "_lifecycle", "_client.py"))
FAULTS: dict[str, tuple[float, OnRequest]] = {
    "503": (0.05, answer(503)),
    "429": (0.01, answer(429, {"Retry-After": "0.1"})),
    "answer lost": (0.05, lose_answer()),
    "garbage": (0.02, garbage()),
    "stale connection": (0.05, close_on_reuse()),
    "silence": (0.003, silence()),
}
"""How often a request meets each fault."""


class Sink:
    """A server on a thread of its own, where no signal handler runs."""

    def __init__(self, seed: int) -> None:
        self.seen: Counter[str] = Counter()
        self.url = ""
        self.misbehaves = True
        self._chance = random.Random(seed)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="sink", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with FaultServer(self._choose) as self._server:
            self.url = self._server.url
            self._ready.set()
            await self._over.wait()

    def _choose(self, _request: ReceivedRequest) -> OnRequest:
        draw = self._chance.random()
        for name, (probability, fault) in FAULTS.items() if self.misbehaves else ():
            draw -= probability
            if draw < 0:
                self.seen[name] += 1
                return fault
        return answer()

    def take_all(self) -> dict[str, int]:
        """How often each message was taken since the last look."""

        async def take() -> dict[str, int]:
            taken = {message_id: len(times) for message_id, times in self._server.taken.items()}
            self._server.requests.clear()
            return taken

        return asyncio.run_coroutine_threadsafe(take(), self._loop).result()


class Signals:
    """A handler that runs every other millisecond, wherever the main thread is."""

    def __init__(self, act: Callable[[], None], seed: int) -> None:
        self.handled = self.raised = 0
        self._act = act
        self._chance = random.Random(seed)
        self._is_on = False

    def start(self) -> None:
        self._is_on = True
        signal.signal(signal.SIGALRM, self._handle)
        self._set_timer()

    def stop(self) -> None:
        self._is_on = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _set_timer(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._chance.uniform(0.0002, 0.004))

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        if not self._is_on:
            return
        self.handled += 1
        is_torn = frame is not None and frame.f_code.co_filename.startswith(TORN)
        if is_torn and self._chance.random() < 0.5:
            self.raised += 1
            self._set_timer()
            raise Interrupted
        try:
            self._act()
        finally:
            # The next one comes when this one is over: it would raise into it, and so into code of any kind.
            self._set_timer()


class Stress:
    def __init__(self, options: argparse.Namespace, sink: Sink) -> None:
        self.rounds = self.accepted = self.doubled = self.looks = self.interrupted = 0
        self._options = options
        self._sink = sink
        self._ends = time.monotonic() + options.minutes * 60
        self._names = iter(range(1 << 62))
        self._offered: set[str] = set()
        self._deliveries: list[Delivery] = []
        self._broken: list[BaseException] = []
        self._producing = False
        self._client = Client(
            "KEY",
            host=sink.url,
            spool=None if options.spool == "none" else options.spool,
            retry=RetryPolicy(backoff=0.01, max_backoff=0.2),
            flush_at=50,
            flush_interval=0.02,
            max_queue_size=2_000,
            overflow_timeout=5.0,
            timeout=2.0,
            close_timeout=30.0,
        )
        self.signals = Signals(self._handle_signal, options.seed)

    # -- what the application does

    def _next_message(self) -> dict[str, Any]:
        # In one step each: several threads and a signal handler call this.
        message_id = f"m{next(self._names)}"
        self._offered.add(message_id)
        return dict(messages.track("user-1", "Stressed", {"fill": "x" * 50}, message_id=message_id))

    def _handle_signal(self) -> None:
        if time.monotonic_ns() % 3:
            self._enqueue()
        else:
            self._look()

    def _enqueue(self) -> None:
        with contextlib.suppress(QueueFull, SpoolUnavailable):
            self._deliveries.append(self._client.enqueue_nowait(self._next_message()))

    def _look(self) -> None:
        try:
            check_counters(self._client.statistics())
            self.looks += 1
        except LawBroken as broken:
            self._broken.append(broken)

    async def _track(self) -> None:
        while self._producing:
            try:
                for _ in range(20):
                    self._deliveries.append(await self._client.enqueue(self._next_message()))
                self._look()
            except Interrupted:
                self.interrupted += 1
            except SpoolUnavailable:
                pass
            await asyncio.sleep(0.002)

    def _enqueue_from_a_thread(self) -> None:
        try:
            while self._producing:
                for _ in range(10):
                    self._enqueue()
                self._look()
                time.sleep(0.005)
        except BaseException as fault:
            self._broken.append(fault)

    def _track_on_a_loop_of_its_own(self) -> None:
        async def track() -> None:
            deliveries = [await self._client.enqueue(self._next_message()) for _ in range(5)]
            self._deliveries.extend(deliveries)
            async with asyncio.timeout(SETTLING):
                await deliveries[-1]

        try:
            while self._producing:
                with contextlib.suppress(SpoolUnavailable):
                    asyncio.run(track())
        except BaseException as fault:
            self._broken.append(fault)

    # -- rounds

    async def run(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._note_callback_fault)
        while time.monotonic() < self._ends and not self._broken:
            faulthandler.dump_traceback_later(PATIENCE, exit=True, file=sys.__stderr__)
            await self._produce()
            await self._settle()
            self.rounds += 1
        await self._client.aclose()
        self._look()

    def _note_callback_fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        if not isinstance(fault, Interrupted):
            self._broken.append(fault or RuntimeError(context["message"]))

    async def _produce(self) -> None:
        self._producing = self._sink.misbehaves = True
        threads = [
            *(threading.Thread(target=self._enqueue_from_a_thread, daemon=True) for _ in range(2)),
            *(threading.Thread(target=self._track_on_a_loop_of_its_own, daemon=True) for _ in range(2)),
        ]
        for thread in threads:
            thread.start()
        tasks = [asyncio.create_task(self._track()) for _ in range(4)]
        if self._options.signals:
            self.signals.start()
        await asyncio.sleep(min(ROUND, max(0.5, self._ends - time.monotonic())))
        self.signals.stop()
        self._producing = self._sink.misbehaves = False
        await asyncio.gather(*tasks)
        for thread in threads:
            await asyncio.to_thread(thread.join, PATIENCE)

    async def _settle(self) -> None:
        left = await self._client.flush(timeout=SETTLING)
        self._look()
        counts = self._client.statistics()
        if left or counts.pending:
            raise LawBroken(f"{left} messages have no outcome {SETTLING:g} s after the faults: {counts}")
        self._compare()

    def _compare(self) -> None:
        """What was told against what arrived; then both are forgotten."""
        taken = self._sink.take_all()
        for delivery in self._deliveries:
            outcome, times = delivery.outcome, taken.get(delivery.message_id, 0)
            if outcome is None or (outcome.status is Status.DELIVERED) > times:
                raise LawBroken(f"message {delivery.message_id} was taken {times} times: {outcome}")
            if (times > 1 or (times and outcome.status is not Status.DELIVERED)) and not outcome.possibly_delivered:
                raise LawBroken(f"message {delivery.message_id} was taken {times} times, and is not marked: {outcome}")
            self.doubled += times > 1
        if unknown := taken.keys() - self._offered:
            raise LawBroken(f"{len(unknown)} messages arrived that were never given to the client: {min(unknown)}")
        self.accepted += len(self._deliveries)
        self._deliveries.clear()
        self._offered.clear()

    def check(self) -> None:
        """Raises:
        BaseException: the first thing that broke in a thread, a handler or a callback.
        """
        if self._broken:
            raise self._broken[0]


def eager(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    """As `asyncio.eager_task_factory`, which does not take what uvloop hands it on Python 3.13.0."""
    return asyncio.Task(work, loop=loop, **{**options, "eager_start": True})  # type: ignore[call-arg]  # from 3.12 on


def run(stress: Stress, options: argparse.Namespace) -> None:
    async def main() -> None:
        if options.eager:
            asyncio.get_running_loop().set_task_factory(eager)
        await stress.run()

    factory = None
    if options.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio", help="the client's loop")
    parser.add_argument("--eager", action="store_true", help="tasks start at once, from Python 3.12 on")
    parser.add_argument("--switch-interval", type=float, default=5e-3, help="seconds between two threads (1e-6)")
    parser.add_argument("--signals", action="store_true", help="a handler at random lines")
    parser.add_argument("--spool", default="none", help="a file for the messages")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    options = parser.parse_args(arguments)
    if options.eager and sys.version_info < (3, 12):
        parser.error("eager tasks came with Python 3.12")
    if options.signals:
        # Each exception of the handler's is logged, with its stack: thousands of them.
        logging.getLogger("segment_async").setLevel(logging.CRITICAL)
    before = sys.getswitchinterval()
    sys.setswitchinterval(options.switch_interval)
    try:
        with Sink(options.seed) as sink:
            stress = Stress(options, sink)
            run(stress, options)
            stress.check()
    except Exception:
        traceback.print_exc()
        print("broken", file=sys.stderr)
        return 1
    finally:
        faulthandler.cancel_dump_traceback_later()
        sys.setswitchinterval(before)
    for name, count in sorted(sink.seen.items()):
        print(f"{count:>10,}  {name}")
    print(f"{stress.signals.handled:>10,}  signals, {stress.signals.raised:,} of which raised")
    print(f"{stress.looks:>10,}  looks at the counters")
    print(f"{stress.doubled:>10,}  messages taken twice, all of them marked")
    print(f"{stress.accepted:,} messages in {stress.rounds:,} rounds: the law held, and each has its outcome")
    return 0


if __name__ == "__main__":
    code = main()
    if code:
        # Threads may stand still, and the drain at exit with them.
        sys.stderr.flush()
        os._exit(code)
