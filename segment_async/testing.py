"""For tests of code that tracks: the real client, with a transport that records instead of sending.

    transport = RecordingTransport()
    async with Client("test", transport=transport) as client:
        await signed_up(client)
    assert [message["event"] for message in transport.messages] == ["Signed Up"]

Everything but the socket is the pipeline that runs in production: checks, encoding, batches, compression, retries.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from segment_async import Response

__all__ = ["RecordingTransport"]

Batch = dict[str, Any]


class RecordingTransport:
    """Takes every batch, and keeps it.

    Args:
        answer: what to answer a batch with, in place of Segment's 200; may raise `TransportError`.

    Attributes:
        batches: what was sent, attempt by attempt, as the decoded JSON of its body.
    """

    def __init__(self, answer: Callable[[Batch], Response] | None = None) -> None:
        self.batches: list[Batch] = []
        self._answer = answer

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages of all batches, in the order of their arrival; once an attempt."""
        return [message for batch in self.batches for message in batch["batch"]]

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """Keep a batch and answer it at once."""
        batch: Batch = orjson.loads(zlib.decompress(body, 31) if headers.get("Content-Encoding") == "gzip" else body)
        self.batches.append(batch)
        if self._answer is not None:
            return self._answer(batch)
        return Response(200, {"Content-Type": "application/json"}, b'{"success":true}')

    async def aclose(self) -> None:
        """There is nothing to close."""
