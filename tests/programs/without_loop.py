"""Programs without an event loop, on the blocking client; the arguments name how they are written and how many they track."""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait

from segment_async import ClientClosed, bound
from segment_async.blocking import Client
from tests.support.ledger import note

client = Client("KEY", flush_interval=60)


def track(whose: str, count: int) -> None:
    note([client.track(whose, "Counted", {"n": number}).message_id for number in range(count)])


def wait_for(child: int) -> None:
    _, status = os.waitpid(child, 0)
    assert status == 0, status


def ends(count: int) -> None:
    track("user", count)


def raises(count: int) -> None:
    track("user", count)
    raise RuntimeError("a bug of the program's")


def sleeps(count: int) -> None:
    track("user", count)
    print("ready")
    time.sleep(60)


def blocks_sigterm(count: int) -> None:
    track("user", count)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    os.kill(os.getpid(), signal.SIGTERM)
    print("pending" if signal.SIGTERM in signal.sigpending() else "delivered")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    print("still here")


def flushes(count: int) -> None:
    track("user", count)
    print("ready")
    client.flush()


def never_stops(count: int) -> None:
    number = 0
    while True:
        note([client.track("user", "Counted", {"n": number}).message_id])
        number += 1
        if number % count == 0:
            print(f"tracked {number}")


def threads(count: int) -> None:
    callers = [threading.Thread(target=track, args=("user", count // 8)) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()


def scheduled(count: int) -> None:
    """As schedulers run jobs: all calls, the first one too, come from a pool's threads, while the main thread waits."""
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(track, "user", count // 40) for _ in range(40)]
        wait(jobs)
        print("ready")
        time.sleep(60)


def scheduled_by_daemons(count: int) -> None:
    """The daemon threads still run when the main thread ends."""
    tracked = threading.Semaphore(0)

    def job() -> None:
        track("user", count // 4)
        tracked.release()
        threading.Event().wait()

    for _ in range(4):
        threading.Thread(target=job, daemon=True).start()
    for _ in range(4):
        tracked.acquire()


def forks(count: int) -> None:
    track("parent", count)
    child = os.fork()
    if child == 0:
        track("child", count)
        sys.exit()
    wait_for(child)


def forks_in_a_thread(count: int) -> None:
    """The child ends when the function of the thread that forked it ends."""

    def fork() -> None:
        child = os.fork()
        if child == 0:
            track("child", count)
            sys.exit()
        wait_for(child)

    track("parent", count)
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()


def fork_without_hooks() -> int:
    """As under uWSGI: a fork that Python is not told of; it can go well only while no other thread runs Python code."""
    import ctypes

    time.sleep(0.2)
    return int(ctypes.PyDLL(None).fork())


def forks_without_hooks(count: int) -> None:
    track("parent", count)
    client.flush()
    child = fork_without_hooks()
    if child == 0:
        track("child", count)
        sys.exit()
    wait_for(child)


def forks_without_hooks_into_threads(count: int) -> None:
    """The first calls of the child come from several threads at once."""
    child = fork_without_hooks()
    if child == 0:
        sys.setswitchinterval(1e-6)
        ready = threading.Barrier(8)

        def call() -> None:
            ready.wait()
            track("child", count // 8)

        callers = [threading.Thread(target=call) for _ in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        sys.exit()
    wait_for(child)


def forks_without_hooks_or_calls(count: int) -> None:
    """The parent's messages are pending at the fork."""
    track("parent", count)
    child = fork_without_hooks()
    if child == 0:
        sys.exit()
    wait_for(child)


def forks_while_threads_track(count: int) -> None:
    over = threading.Event()
    tracked = [0, 0, 0]

    def call(caller: int) -> None:
        while not over.is_set():
            track("parent", 1)
            tracked[caller] += 1

    callers = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for caller in callers:
        caller.start()
    for _ in range(8):
        child = os.fork()
        if child == 0:
            track("child", count)
            client.close()
            os._exit(0)
        wait_for(child)
    over.set()
    for caller in callers:
        caller.join()
    print(f"parent {sum(tracked)}")


def by_multiprocessing(method: str, count: int) -> None:
    track("parent", count)
    process = multiprocessing.get_context(method).Process(target=track, args=("child", count))
    process.start()
    process.join()
    assert process.exitcode == 0, process.exitcode


def multiprocessing_fork(count: int) -> None:
    by_multiprocessing("fork", count)


def multiprocessing_spawn(count: int) -> None:
    by_multiprocessing("spawn", count)


def multiprocessing_forkserver(count: int) -> None:
    by_multiprocessing("forkserver", count)


def in_a_pool(count: int) -> None:
    track("parent", count)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(track, ("child", count))
        pool.close()
        pool.join()


def in_an_executor(count: int) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        for job in [pool.submit(track, "user", count // 10) for _ in range(10)]:
            job.result()


def waits_in_a_forked_child(count: int) -> None:
    with bound(user_id="parent"):
        deliveries = [client.track(event="Counted") for _ in range(count)]
    child = os.fork()
    if child == 0:
        try:
            deliveries[0].wait(5)
        except RuntimeError as error:
            print(error)
        os._exit(0)
    wait_for(child)


def at_exit(count: int) -> None:
    """A call that comes when the client is closed already."""
    track("user", count)
    atexit._run_exitfuncs()
    try:
        client.track("user", "Late")
    except ClientClosed as error:
        print(error)


def with_gevent(count: int) -> None:
    import gevent

    greenlets = [gevent.spawn(track, "user", count // 10) for _ in range(10)]
    gevent.joinall(greenlets, raise_error=True)
    last = client.track("user", "Counted")
    note([last.message_id])
    assert client.flush(30) == 0
    assert last.wait(0).reason is None


if __name__ == "__main__":
    program: Callable[[int], None] = globals()[sys.argv[1]]
    program(int(sys.argv[2]))
