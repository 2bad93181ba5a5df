"""The floor: the least that a Python program needs to build messages and send them.

It encodes with orjson, appends, compresses with ISA-L, writes to a blocking socket, and reads each response before the
next request. No queue, no checks, no retries, no event loop.
"""

import importlib
import socket
from datetime import UTC, datetime
from random import getrandbits
from typing import Any
from urllib.parse import urlsplit

from orjson import dumps

BATCH = 500
LIBRARY = {"name": "segment-async", "version": "0"}


class Floor:
    awaits = False

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address)
        # Appended at once: orjson's buffers are larger than their contents, and keeping many of them costs page faults.
        self._batch = bytearray()
        self._count = 0
        self._in_flight = False
        self._compress = importlib.import_module("isal.igzip").compress

    def track(self, user_id: str, event: str, properties: dict[str, Any], context: dict[str, Any]) -> None:
        context["library"] = LIBRARY
        message = {
            "type": "track",
            "messageId": f"{getrandbits(128):032x}",
            "timestamp": datetime.now(UTC),
            "userId": user_id,
            "event": event,
            "properties": properties,
            "context": context,
        }
        self._batch += dumps(message)
        self._batch += b","
        self._count += 1
        if self._count == BATCH:
            self._send()

    def _send(self) -> None:
        body = self._compress(b'{"batch":[' + self._batch[:-1] + b'],"writeKey":"benchmark"}', 1)
        self._batch.clear()
        self._count = 0
        self._read_answer()
        head = b"POST /v1/batch HTTP/1.1\r\nHost: sink\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        self._socket.sendall(head % len(body) + body)
        self._in_flight = True

    def _read_answer(self) -> None:
        if self._in_flight:
            self._socket.recv(4096)
            self._in_flight = False

    async def settle(self) -> None:
        if self._count:
            self._send()
        self._read_answer()

    async def close(self) -> None:
        self._socket.close()


async def start(url: str, queue_size: int | None) -> Floor:
    where = urlsplit(url)
    return Floor((where.hostname or "", where.port or 80))
