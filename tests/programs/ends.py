"""Tracks a thousand messages, never closes its client, and ends in the way that its argument names."""

import asyncio
import contextlib
import gc
import os
import resource
import sys
import threading
from typing import Any

from segment_async import Client, DeliveryError, Response, blocking, messages

client = Client("KEY", spool=os.environ.get("SPOOL"))


async def track_all() -> None:
    for number in range(1_000):
        await client.track("user-1", "Counted", {"n": number})


def enqueue_all() -> None:
    for number in range(1_000):
        client.enqueue_nowait(messages.track("user-1", "Counted", {"n": number}))


def after_run() -> None:
    asyncio.run(track_all())


def by_an_exception() -> None:
    async def main() -> None:
        await track_all()
        raise RuntimeError("a bug of the program's")

    asyncio.run(main())


def by_an_exception_later() -> None:
    asyncio.run(track_all())
    raise RuntimeError("a bug of the program's")


def by_sys_exit() -> None:
    async def main() -> None:
        await track_all()
        sys.exit(7)

    asyncio.run(main())


def without_a_loop() -> None:
    enqueue_all()


def from_a_thread() -> None:
    thread = threading.Thread(target=enqueue_all)
    thread.start()
    thread.join()


def in_a_loop_that_is_left_standing() -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(track_all())


def in_a_loop_that_is_left_standing_and_collected(every: str) -> None:
    gc.set_threshold(int(every))
    in_a_loop_that_is_left_standing()


def with_all_flushed_on_a_loop_that_is_left_standing() -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(track_all())
    loop.run_until_complete(client.flush())


def with_all_flushed_on_a_loop_that_is_closed() -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(track_all())
    loop.run_until_complete(client.flush())
    loop.close()


def in_loops_that_are_closed_amid_a_request() -> None:
    hurried = Client("KEY", flush_interval=0)
    for number in range(20):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(hurried.track("user-1", "Counted", {"n": number}))
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
    gc.collect()


def with_many_clients() -> None:
    for number in range(5):
        Client("KEY").enqueue_nowait(messages.track("user-1", "Counted", {"n": number}))


def with_a_hook_that_takes_a_moment() -> None:
    async def told(error: DeliveryError, group: list[dict[str, Any]]) -> None:
        await asyncio.sleep(0.05)
        print(f"told of {len(group)}: {error.outcome.reason}")

    Client("KEY", on_error=told).enqueue_nowait(messages.track("user-1", "Counted", {"n": 0}))


async def never_end() -> None:
    while True:
        # Cancelled, and also when its coroutine is closed.
        with contextlib.suppress(BaseException):
            await asyncio.sleep(60)


def with_a_hook_that_goes_on() -> None:
    async def told(*_: object) -> None:
        await never_end()

    Client("KEY", on_error=told).enqueue_nowait(messages.track("user-1", "Counted", {"n": 0}))


def with_a_transport_that_goes_on() -> None:
    class Transport:
        async def send(self, *_: object) -> Response:
            await never_end()
            raise AssertionError

        async def aclose(self) -> None:
            """Nothing is held."""

    Client("KEY", transport=Transport()).enqueue_nowait(messages.track("user-1", "Counted", {"n": 0}))


def with_a_message_that_was_dropped() -> None:
    def told(error: DeliveryError, group: list[dict[str, Any]]) -> None:
        print(f"told of {len(group)}: {error.outcome.reason}")

    Client("KEY", on_error=told, before_send=lambda _: None).enqueue_nowait(messages.track("user-1", "Counted"))
    blocking.Client("KEY", on_error=told, on_invalid="drop").track("user-1", "")


def with_too_many_open_files() -> None:
    enqueue_all()
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def after_a_close() -> None:
    async def main() -> None:
        async with client:
            await track_all()

    asyncio.run(main())


def without_a_message() -> None:
    Client("KEY")


if __name__ == "__main__":
    print(f"ending {sys.argv[1]}")
    globals()[sys.argv[1]](*sys.argv[2:])
    print("at the end")
