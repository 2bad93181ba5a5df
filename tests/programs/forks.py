"""Forks in the way that its argument names; parent and child each send messages that say whose they are."""

import asyncio
import atexit
import gc
import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

from segment_async import Client, Delivery, OAuth, messages

# What Python 3.12 and later say of a fork beside threads, such as a spool's: that it works all the same is tested.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

key = os.environ.get("OAUTH_KEY")
oauth = OAuth("the-client", key, "the-key", auth_server=os.environ["TOKEN_SERVER"]) if key else None
client = Client("KEY", spool=os.environ.get("SPOOL"), oauth=oauth)


def enqueue(whose: str, count: int = 1) -> None:
    for _ in range(count):
        client.enqueue_nowait(messages.track(whose, "Forked"))


def in_a_child(work: Callable[[], None]) -> int:
    """As servers fork: the child ends by an ordinary exit, and never returns to where it began."""
    child = os.fork()
    if child == 0:
        work()
        sys.exit(0)
    return child


def wait_for(child: int) -> None:
    _, status = os.waitpid(child, 0)
    assert status == 0, status


def leave_the_loop() -> NoReturn:
    """End a child that was forked within a coroutine, by an ordinary exit.

    From Python 3.14 on it cannot return into the loop, which is its parent's: each callback there fails.
    """
    if sys.version_info < (3, 14):
        raise SystemExit
    threading._shutdown()
    atexit._run_exitfuncs()
    os._exit(0)


def before_the_first_call() -> None:
    child = in_a_child(lambda: enqueue("child"))
    enqueue("parent")
    wait_for(child)


def after_a_call() -> None:
    async def main() -> None:
        await client.track("parent", "Forked")
        assert await client.flush() == 0

    asyncio.run(main())
    child = in_a_child(lambda: enqueue("child"))
    enqueue("parent")
    wait_for(child)


def with_a_thousand_queued() -> None:
    enqueue("parent", 1_000)
    child = in_a_child(lambda: enqueue("child"))
    wait_for(child)


def by_a_child_that_flushes() -> None:
    """The official SDK hangs here for ever."""

    async def main() -> None:
        await client.track("child", "Forked")
        assert await client.flush() == 0
        await client.aclose()

    enqueue("parent", 1_000)
    wait_for(in_a_child(lambda: asyncio.run(main())))


def by_a_child_that_awaits_what_is_the_parents() -> None:
    """In the queue, and in a batch."""

    async def in_the_child(queued: Delivery, batched: Delivery) -> None:
        for delivery in (queued, batched):
            said = ""
            try:
                await delivery
            except RuntimeError as error:
                said = str(error)
            assert "before the fork" in said
        await client.track("child", "Forked")

    async def main() -> int:
        batched = await client.track("parent", "Forked")
        while not client.statistics().in_flight:  # noqa: ASYNC110  # a program has no event for this
            await asyncio.sleep(0)
        queued = await client.track("parent", "Forked")
        child = os.fork()
        if child == 0:
            thread = threading.Thread(target=lambda: asyncio.run(in_the_child(queued, batched)))
            thread.start()
            thread.join()
            leave_the_loop()
        assert await client.flush() == 0
        return child

    wait_for(asyncio.run(main()))


def with_a_request_in_flight() -> None:
    async def in_the_child() -> None:
        await client.track("child", "Forked")

    async def main() -> int:
        await client.track("parent", "Forked")
        while not client.statistics().in_flight:  # noqa: ASYNC110  # a program has no event for this
            await asyncio.sleep(0)
        child = os.fork()
        if child == 0:
            # As may happen anywhere: what is the parent's must not look lost.
            gc.collect()
            threading.Thread(target=lambda: asyncio.run(in_the_child())).start()
            leave_the_loop()
        await client.track("parent", "Forked")
        assert await client.flush() == 0
        return child

    wait_for(asyncio.run(main()))


def with_kept_connections() -> None:
    """The child must not write into the parent's connection, which is open and idle."""

    async def in_the_child() -> None:
        async with client:
            await client.track("child", "Forked")

    async def main() -> None:
        await client.track("parent", "Forked")
        assert await client.flush() == 0
        child = os.fork()
        if child == 0:
            # As may happen anywhere: what is the parent's must not look lost.
            gc.collect()
            threading.Thread(target=lambda: asyncio.run(in_the_child())).start()
            leave_the_loop()
        wait_for(child)
        await client.track("parent", "Forked")
        assert await client.flush() == 0

    asyncio.run(main())


def from_a_thread() -> None:
    async def main() -> None:
        async with client:
            await client.track("parent", "Forked")
            await asyncio.to_thread(lambda: wait_for(in_a_child_of_a_thread(lambda: enqueue("child"))))
            await client.track("parent", "Forked")

    asyncio.run(main())


def in_a_child_of_a_thread(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        work()
        asyncio.run(client.aclose())
        os._exit(0)
    return child


def while_other_threads_call() -> None:
    """Whatever locks are held at that moment, no child may wait for them."""
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            client.statistics()
            client.enqueue_nowait(messages.track("parent", "Forked"))

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for _ in range(8):
        wait_for(in_a_child_of_a_thread(lambda: enqueue("child")))
    over.set()
    for caller in callers:
        caller.join()
    print(f"pending {client.statistics().pending}")


def without_hooks() -> None:
    """As under uWSGI: a fork that Python is not told of."""
    import ctypes

    enqueue("parent", 10)
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        asyncio.run(in_a_child_without_hooks())
        os._exit(0)
    wait_for(child)


async def in_a_child_without_hooks() -> None:
    assert client.statistics().accepted == 0, client.statistics()
    async with client:
        await client.track("child", "Forked")


async def track_once(sender: Client, whose: str) -> None:
    async with sender:
        await sender.track(whose, "Forked")


def siblings() -> None:
    """None of them may draw the message ids that another one draws."""
    for child in [in_a_child(lambda: asyncio.run(track_once(client, "child"))) for _ in range(4)]:
        wait_for(child)
    asyncio.run(track_once(client, "parent"))


def siblings_without_hooks() -> None:
    fork_siblings_without_hooks(lambda: client)


def siblings_with_clients_of_their_own() -> None:
    fork_siblings_without_hooks(lambda: Client("KEY"))


def fork_siblings_without_hooks(sender: Callable[[], Client]) -> None:
    import ctypes

    children = []
    for _ in range(4):
        children.append(ctypes.PyDLL(None).fork())
        if children[-1] == 0:
            asyncio.run(track_once(sender(), "child"))
            os._exit(0)
    for child in children:
        wait_for(child)
    asyncio.run(track_once(client, "parent"))


def by_multiprocessing(method: str | None, work: Callable[[], None]) -> None:
    enqueue("parent", 10)
    process = multiprocessing.get_context(method).Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0, process.exitcode


def enqueue_in_child() -> None:
    enqueue("child")


def track_in_child() -> None:
    async def main() -> None:
        await client.track("child", "Forked")

    asyncio.run(main())


def multiprocessing_fork() -> None:
    by_multiprocessing("fork", enqueue_in_child)


def multiprocessing_fork_with_a_loop() -> None:
    by_multiprocessing("fork", track_in_child)


def multiprocessing_by_default() -> None:
    """On Linux ``forkserver`` from Python 3.14 on, ``fork`` before."""
    by_multiprocessing(None, enqueue_in_child)


def multiprocessing_spawn() -> None:
    by_multiprocessing("spawn", enqueue_in_child)


def multiprocessing_forkserver() -> None:
    by_multiprocessing("forkserver", enqueue_in_child)


def in_a_pool() -> None:
    enqueue("parent", 10)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(enqueue_in_child)
        pool.close()
        pool.join()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
