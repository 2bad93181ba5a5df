"""Calls that come while the interpreter ends.

Arguments: when they come, and on which client. Says what the calls gave, and at the very end what became of them.
"""

import atexit
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

when, kind, *options = sys.argv[1:]
calls: list[Any] = []
raised: Counter[str] = Counter()
over = threading.Event()


def call() -> None:
    try:
        calls.append(track())
    except Exception as error:
        raised[f"{type(error).__name__}: {error}"] += 1


def later() -> None:
    """Registered before the package is imported, so that it runs after the package's own exit handler."""
    if when in ("after", "after_others"):
        call()
    if when == "flush_after":
        print("left", client.flush(), client.flush(30))
    if when == "made_after":
        try:
            globals()["client"] = make()
            call()
        except Exception as error:
            raised[f"{type(error).__name__}: {error}"] += 1
    if when == "meanwhile":
        before = sum(raised.values())
        while not raised or sum(raised.values()) == before:
            over.wait(0.001)
        over.set()
    outcomes = Counter(str(delivery.outcome and delivery.outcome.status.value) for delivery in calls)
    print(f"calls {dict(outcomes)}, raised {dict(raised)}")


atexit.register(later)

if when.startswith("imported"):

    def imported() -> None:
        """The package is imported by an exit handler, where its own is registered too late."""
        import segment_async.blocking
        from segment_async.messages import track as event

        if kind == "asyncio":
            client = segment_async.Client("KEY")
            calls.append(client.enqueue_nowait(event("user", "Late")))
        else:
            client = segment_async.blocking.Client("KEY")
            calls.append(client.track("user", "Late"))
            if when == "imported_and_flushed":
                client.flush()

    atexit.register(imported)
    sys.exit()

from segment_async import Client, blocking, messages  # noqa: E402

client: Any


def make() -> Any:
    spool = options[0] if options else None
    if kind == "asyncio":
        return Client("KEY", spool=spool, flush_interval=60)
    return blocking.Client("KEY", spool=spool, flush_interval=60)


def track() -> Any:
    if kind == "asyncio":
        return client.enqueue_nowait(messages.track("user", "Late"))
    return client.track("user", "Late")


def keep_calling() -> None:
    while not over.is_set():
        call()
        over.wait(0.001)


def call_when_main_has_ended() -> None:
    threading.main_thread().join()
    call()


def before() -> None:
    """Registered after the import, as most handlers are: it runs before the package's own."""
    call()


def before_and_wait() -> None:
    call()
    print(calls[0].wait(30).status.value)


def before_and_flush() -> None:
    call()
    print("left", client.flush(30), calls[0].outcome.status.value)


def before_and_close() -> None:
    with client:
        call()


def before_with_a_full_queue() -> None:
    globals()["client"] = blocking.Client("KEY", max_queue_size=2, flush_at=1)
    for _ in range(10):
        call()


class TrackingHandler(logging.Handler):
    """Of `logging`; raises where it cannot track, as handlers should not."""

    def emit(self, record: logging.LogRecord) -> None:
        track()


client = make()
if when in ("after_others", "flush_after"):
    call()
elif when == "logged":
    logging.getLogger().addHandler(TrackingHandler())
    call()
elif when == "meanwhile":
    threading.Thread(target=keep_calling, daemon=True).start()
    while not calls:
        over.wait(0.001)
elif when == "in_a_thread":
    threading.Thread(target=call_when_main_has_ended).start()
elif when.startswith("before"):
    handler: Callable[[], None] = globals()[when]
    atexit.register(handler)
