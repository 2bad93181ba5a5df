"""Celery: a task's calls have the user of the code that sent the task, and a worker sends everything before it ends.

To run it:

    pip install "segment-async" celery
    SEGMENT_WRITE_KEY=... celery -A celery_worker worker
"""

import os

from celery import Celery

from segment_async import bound
from segment_async.blocking import Client
from segment_async.celery import connect

app = Celery("shop", broker=os.environ.get("CELERY_BROKER", "memory://"))
if folder := os.environ.get("CELERY_FOLDER"):  # a broker in files, to try this without a server
    folders = ("data_folder_in", "data_folder_out", "control_folder")
    app.conf.broker_transport_options = dict.fromkeys(folders, folder)

# A worker's events are not urgent: send few large batches, the last one when the process ends.
client = Client(os.environ.get("SEGMENT_WRITE_KEY", "WRITE_KEY"), flush_interval=30)
connect(client)


@app.task
def send_receipt(order_id: str) -> None:
    client.track(event="Receipt Sent", properties={"order_id": order_id})


def pay(order_id: str, user_id: str) -> None:
    """Called in the web application; there, a web middleware may have bound the user."""
    with bound(user_id=user_id):
        send_receipt.delay(order_id)
