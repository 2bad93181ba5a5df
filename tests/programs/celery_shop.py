"""Tasks that track on the blocking client, for workers of each pool.

As a program with the argument N it sends N tasks; with `many N COUNT`, N tasks that track so many messages each.

`CONNECT` in the environment: what `connect` is called with, or `no`.
"""

import os
import sys

from celery import Celery

from segment_async import bound
from segment_async.blocking import Client
from segment_async.celery import connect
from tests.support.ledger import note

client = Client("KEY", flush_interval=60)
if (how := os.environ.get("CONNECT", "")) != "no":
    connect(client)
    connect(client, flush_after_task=float(how) if how else None)

app = Celery("shop", broker="filesystem://")
app.conf.broker_transport_options = dict.fromkeys(
    ("data_folder_in", "data_folder_out", "control_folder"), os.environ["CELERY_FOLDER"]
)
app.conf.worker_hijack_root_logger = False


@app.task(name="receipt")
def receipt(number: int) -> None:
    client.track(event="Receipt Sent", properties={"n": number})


@app.task(name="explicit")
def explicit(number: int) -> None:
    client.track("task", "Receipt Sent", {"n": number})


@app.task(name="many")
def many(count: int) -> None:
    note([client.track("task", "Receipt Sent", {"n": number}).message_id for number in range(count)])


def send() -> None:
    if sys.argv[1] == "many":
        for _ in range(int(sys.argv[2])):
            many.delay(int(sys.argv[3]))
        return
    task = explicit if os.environ.get("CONNECT") == "no" else receipt
    with bound(user_id="user-1"):
        for number in range(int(sys.argv[1])):
            task.delay(number)
    if task is receipt:
        receipt.delay(-1)


if __name__ == "__main__":
    send()
