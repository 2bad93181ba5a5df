"""CPU time of the import, in a fresh interpreter that has already loaded asyncio, and with a first client.

A program of its own, so that nothing else is loaded: `imports.py`. Prints its figures as one line of JSON.
"""

import asyncio  # noqa: F401  # part of every program that uses the package
import json
import os
import time

if __name__ == "__main__":
    start = time.process_time()
    import segment_async

    imported = time.process_time()
    segment_async.Client("benchmark")
    ready = time.process_time()
    print(json.dumps({"import_ms": (imported - start) * 1e3, "client_ms": (ready - start) * 1e3}), flush=True)
    os._exit(0)
