"""Plain programs that a signal ends while they wait; the argument names how they are written."""

import asyncio
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from segment_async import Client, DeliveryError, blocking, messages

# A program that inherits the signal ignored, as under nohup, is not ended by it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def told(error: DeliveryError, group: list[dict[str, Any]]) -> None:
    print(f"told of {len(group)}: {error.outcome.reason}")


client = Client("KEY", flush_interval=60, on_error=told)


def enqueue_all() -> None:
    for number in range(100):
        client.enqueue_nowait(messages.track("user-1", "Counted", {"n": number}))


async def track_and_wait() -> None:
    for number in range(100):
        await client.track("user-1", "Counted", {"n": number})
    print("ready")
    await asyncio.Event().wait()


def in_a_block() -> None:
    async def main() -> None:
        async with client:
            try:
                await track_and_wait()
            finally:
                print("left the block")

    client.drain_on_signals()
    asyncio.run(main())


def without_a_block() -> None:
    client.drain_on_signals()
    asyncio.run(track_and_wait())


def with_uvloop() -> None:
    import uvloop

    client.drain_on_signals()
    uvloop.run(track_and_wait())


def without_a_loop() -> None:
    client.drain_on_signals()
    enqueue_all()
    print("ready")
    time.sleep(60)


def in_a_loop_that_stands_still() -> None:
    async def main() -> None:
        enqueue_all()
        print("ready")
        time.sleep(60)  # noqa: ASYNC251  # that is the point

    client.drain_on_signals(signal.SIGTERM, signal.SIGHUP)
    asyncio.run(main())


def beside_a_blocking_client() -> None:
    blocking.Client("KEY", send=False).track("user-1", "Counted")
    without_a_loop()


def at_the_end() -> None:
    blocking.Client("KEY", send=False).track("user-1", "Counted")
    enqueue_all()


def with_stderr_gone() -> None:
    """The server is down, so that there is something to say."""
    blocking.Client("KEY", send=False).track("user-1", "Counted")
    enqueue_all()
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(reader)
    print("ready")
    time.sleep(60)


def without_a_thread() -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    threading.Thread.start = refuse  # type: ignore[method-assign]  # as the system does at its limit
    waiting = blocking.Client("KEY")
    for number in range(100):
        waiting.track("user-1", "Counted", {"n": number})
    print("ready")
    time.sleep(60)


def forks_in_the_drain() -> None:
    failed, forked = threading.Event(), threading.Event()

    def fork() -> None:
        failed.wait()
        pid = os.fork()
        if pid == 0:
            shared.track("user-1", "Counted")
            os.kill(os.getpid(), signal.SIGTERM)
            # Not reached, unless the signal was ignored.
            os._exit(1)
        print("the child ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        forked.set()

    def told(*_: object) -> None:
        failed.set()
        forked.wait(30)

    shared = blocking.Client("KEY", flush_interval=60, on_error=told)
    threading.Thread(target=fork, daemon=True).start()
    shared.track("user-1", "Counted")
    print("ready")
    time.sleep(60)


def with_a_handler() -> None:
    over = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        print(f"the program's own handler got {number}")
        over.set()

    signal.signal(signal.SIGTERM, note)
    client.drain_on_signals()
    enqueue_all()
    print("ready")
    while not over.wait(0.1):
        pass


def on_two_signals() -> None:
    client.drain_on_signals(signal.SIGTERM, signal.SIGHUP)
    asyncio.run(track_and_wait())


def on_ctrl_c() -> None:
    asyncio.run(track_and_wait())


def from_a_thread() -> None:
    def call() -> None:
        try:
            client.drain_on_signals()
        except ValueError as error:
            print(f"ValueError: {error}")

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
