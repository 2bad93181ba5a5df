"""Plain programs that a signal ends while they wait; the argument names how they are written."""

import asyncio
import signal
import sys
import threading
import time
from types import FrameType

from segment_async import Client, blocking, messages

# A program that inherits the signal ignored, as under nohup, is not ended by it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

client = Client("KEY", flush_interval=60)


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
