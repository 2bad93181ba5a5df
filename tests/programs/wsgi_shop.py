"""A WSGI application that tracks each request on the blocking client, for gunicorn and uWSGI."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from segment_async.blocking import Client

client = Client("KEY", flush_interval=60)
if "AT_IMPORT" in os.environ:
    client.track("user-1", "Imported")


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    delivery = client.track("user-1", "Visited", {"process": os.getpid()})
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [delivery.message_id.encode()]
