"""A Flask application with one endpoint that sends one event a request, served by four threads of waitress.

It prints its port when it is ready, and is killed in the end. By name: type checkers look at the harness's environment.
"""

import asyncio
import importlib
import json
import logging
import socket
from typing import Any

from benchmarks.probes import Task

THREADS = 4


async def run(task: Task) -> dict[str, Any]:
    flask: Any = importlib.import_module("flask")
    waitress: Any = importlib.import_module("waitress")
    # It warns of each request that waits for a thread.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    app = flask.Flask("benchmark")
    adapter = await task.start()
    tracks, track, make = task.adapter != "nothing", adapter.track, task.make

    @app.get("/orders/<int:number>")
    def order(number: int) -> Any:
        if tracks:
            user_id, event, properties, context = make(number)
            track(user_id, event, properties, context=context)
        return flask.Response(json.dumps({"order": number, "status": "paid"}), mimetype="application/json")

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        print(listener.getsockname()[1], flush=True)
        await asyncio.to_thread(waitress.serve, app, sockets=[listener], threads=THREADS)
    return {}
