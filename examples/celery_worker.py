"""Celery: the task's headers carry the user's id, and a worker process sends everything before it ends.

To run it:

    pip install "segment-async" celery
    SEGMENT_WRITE_KEY=... celery -A celery_worker worker
"""

import asyncio
import os
from threading import Thread
from typing import Any

from celery import Celery, Task
from celery.signals import worker_process_init, worker_process_shutdown

from segment_async import Client, bound, messages

# A worker's events are not urgent: send few large batches, the last one when the process ends.
client = Client(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY"), flush_interval=30)


class IdentifiedTask(Task):  # type: ignore[misc]  # Celery has no types
    """A task whose calls to Segment have the identity from its headers."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        identity = (self.request.headers or {}).get("segment", {})
        with bound(**identity, without_identity="drop"):
            return super().__call__(*args, **kwargs)


app = Celery("shop", broker=os.environ.get("CELERY_BROKER", "memory://"), task_cls=IdentifiedTask)
if folder := os.environ.get("CELERY_FOLDER"):  # a broker in files, to try this without a server
    folders = ("data_folder_in", "data_folder_out", "control_folder")
    app.conf.broker_transport_options = dict.fromkeys(folders, folder)


@app.task
def send_receipt(order_id: str) -> None:
    client.enqueue_nowait(messages.track(event="Receipt Sent", properties={"order_id": order_id}))


def pay(order_id: str, user_id: str) -> None:
    """Called in the web application."""
    send_receipt.apply_async((order_id,), headers={"segment": {"user_id": user_id}})


# Tasks are synchronous; the client runs on an event loop in a thread of each worker process.
loop: asyncio.AbstractEventLoop


@worker_process_init.connect
def start(**_: Any) -> None:
    global loop
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="segment", daemon=True).start()
    asyncio.run_coroutine_threadsafe(client.flush(), loop).result(timeout=5)  # opens the client there


@worker_process_shutdown.connect
def stop(**_: Any) -> None:
    asyncio.run_coroutine_threadsafe(client.aclose(), loop).result(timeout=10)
