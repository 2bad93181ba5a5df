"""An application whose logging handler enqueues what is logged, from the client's loop and from another thread.

The other thread is in the handler, which logging has locked, when the client logs for its part. The argument names
what the client's requests meet. Prints "done"; a program that stands still ends by itself, with its stacks on stderr.
"""

import asyncio
import faulthandler
import logging
import sys
import threading
from contextlib import suppress
from typing import Any

from segment_async import Client, ClientClosed, Response, messages
from segment_async.testing import RecordingTransport

PATIENCE = 4.0

in_handler, client_logs = threading.Event(), threading.Event()


def refused(_batch: object) -> Response:
    return Response(403, {"Content-Type": "application/json"}, b"{}")


def a_bug(_batch: object) -> Response:
    raise ZeroDivisionError


def unreadable(_batch: object) -> Any:
    return object()


def redirected(_batch: object) -> Response:
    return Response(307, {"Location": "https://elsewhere.example/"})


client = Client("KEY", transport=RecordingTransport(globals()[sys.argv[1]]), flush_at=1, close_timeout=0.1)


class Enqueues(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "application":
            in_handler.set()
            client_logs.wait(PATIENCE / 4)
        with suppress(ClientClosed):
            client.enqueue_nowait(messages.track("user-1", "Logged", {"level": record.levelname}))


def note_that_the_client_logs(record: logging.LogRecord) -> bool:
    """Runs in the thread that logs, before it waits for the handler."""
    in_handler.wait(PATIENCE / 4)
    client_logs.set()
    return True


async def main() -> None:
    logging.getLogger().addHandler(Enqueues())
    logging.getLogger("segment_async").addFilter(note_that_the_client_logs)
    other = threading.Thread(target=logging.getLogger("application").warning, args=("something happened",))
    other.start()
    await client.track("user-1", "Counted")
    await client.flush(timeout=1)
    other.join()
    await client.aclose()
    print("done", flush=True)


faulthandler.dump_traceback_later(PATIENCE, exit=True)
asyncio.run(main())
faulthandler.cancel_dump_traceback_later()
