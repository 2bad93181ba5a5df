"""Segment's end of the wire: reads requests, keeps what arrived, and says what they break.

`Arrival` and `violations` serve every receiving end of the tests, real or simulated. `SimulatedSegment` decides what
Segment would answer. It knows neither time nor network, and nothing of how a client comes to its bodies.
"""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from segment_async import Response

Message = dict[str, Any]
Verdict = Callable[[Message], int | None]

MAX_MESSAGE_BYTES = 32_768
MAX_BATCH_BYTES = 500_000
MAX_BATCH_MESSAGES = 2_500
MAX_ID_CHARACTERS = 99


@dataclass
class Arrival:
    """One request to `/v1/batch`, decoded; `size` counts the bytes of its JSON, `body` is as it travelled.

    `status` is what Segment says of it; `None` while it has said nothing. A 2xx means that Segment took the messages,
    whether or not the client ever learnt of it.
    """

    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    envelope: Mapping[str, Any] = field(repr=False)
    size: int
    status: int | None = None

    @classmethod
    def read(cls, body: bytes, headers: Mapping[str, str]) -> "Arrival":
        """Decode a request.

        Raises:
            ValueError: it is not a JSON object, or not compressed as it says.
        """
        text = _inflate(body, headers)
        envelope = orjson.loads(text)
        if not isinstance(envelope, dict):
            raise ValueError(f"the body is no object but {type(envelope).__name__}")
        return cls(dict(headers), body, envelope, len(text))

    @property
    def messages(self) -> list[Message]:
        batch: list[Message] = self.envelope.get("batch", [])
        return batch

    @property
    def ids(self) -> list[str]:
        return [message["messageId"] for message in self.messages]

    @property
    def retry_count(self) -> int:
        """The `X-Retry-Count`, 0 where the header is absent."""
        return int(_header(self.headers, "X-Retry-Count") or 0)

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def taken_messages(arrivals: Iterable[Arrival]) -> dict[str, list[Message]]:
    """Collect what Segment took, by id: one entry for each time that it came."""
    taken: dict[str, list[Message]] = {}
    for arrival in arrivals:
        for message in arrival.messages if arrival.taken else ():
            taken.setdefault(message["messageId"], []).append(message)
    return taken


def violations(arrival: Arrival) -> list[str]:
    """Say in words which rules of the wire a request breaks; no client of ours may ever break one."""
    return [*_broken_by_envelope(arrival), *_broken_by_headers(arrival), *_broken_by_messages(arrival.messages)]


def _broken_by_envelope(arrival: Arrival) -> Iterator[str]:
    if arrival.size > MAX_BATCH_BYTES:
        yield f"the batch has {arrival.size:,} bytes"
    if not 1 <= len(arrival.messages) <= MAX_BATCH_MESSAGES:
        yield f"the batch has {len(arrival.messages):,} messages"
    for name in ("writeKey", "sentAt"):
        if not isinstance(arrival.envelope.get(name), str):
            yield f"the envelope has no {name}"


def _broken_by_headers(arrival: Arrival) -> Iterator[str]:
    if _header(arrival.headers, "Content-Type") != "application/json":
        yield "the Content-Type is not application/json"
    count = _header(arrival.headers, "X-Retry-Count")
    if count is not None and not (count.isdecimal() and int(count) >= 1):
        yield f"the X-Retry-Count is {count!r}"


def _broken_by_messages(messages: list[Message]) -> Iterator[str]:
    ids = [message.get("messageId") for message in messages]
    if len(set(ids)) < len(ids):
        yield "an id stands twice in one batch"
    for message, message_id in zip(messages, ids, strict=True):
        size = len(orjson.dumps(message))
        if size > MAX_MESSAGE_BYTES:
            yield f"message {message_id} has {size:,} bytes"
        if not isinstance(message_id, str) or not 1 <= len(message_id) <= MAX_ID_CHARACTERS:
            yield f"the id {message_id!r} is no text of 1 to {MAX_ID_CHARACTERS} characters"


def _inflate(body: bytes, headers: Mapping[str, str]) -> bytes:
    try:
        return gzip.decompress(body) if _header(headers, "Content-Encoding") == "gzip" else body
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"the body is no gzip: {error}") from None


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name.lower()), None)


class SimulatedSegment:
    """Answers a request as Segment would, and keeps it.

    `verdict` may name messages that Segment refuses: it returns the status with which a whole batch is answered for
    the sake of this message, `None` for a good one. `max_body_bytes` is what a proxy in between lets through, counted
    as a proxy counts, on the compressed body; above it the answer is 413.
    """

    def __init__(self, *, verdict: Verdict | None = None, max_body_bytes: int | None = None) -> None:
        self._verdict = verdict
        self._max_body_bytes = max_body_bytes
        self.arrivals: list[Arrival] = []
        self.violations: list[str] = []

    @property
    def taken(self) -> dict[str, list[Message]]:
        return taken_messages(self.arrivals)

    def receive(self, arrival: Arrival, *, overruled_by: int | None = None) -> Response:
        """Keep a request and answer it; with `overruled_by`, Segment has a bad day and answers that status."""
        broken = violations(arrival)
        self.violations += broken
        self.arrivals.append(arrival)
        arrival.status = overruled_by or (400 if broken else self._judge(arrival))
        return Response(arrival.status, {"Content-Type": "application/json"}, _answer_body(arrival))

    def _judge(self, arrival: Arrival) -> int:
        if self._max_body_bytes is not None and len(arrival.body) > self._max_body_bytes:
            return 413
        verdicts = map(self._verdict, arrival.messages) if self._verdict else ()
        return next((status for status in verdicts if status is not None), 200)


def _answer_body(arrival: Arrival) -> bytes:
    return b'{"success":true}' if arrival.taken else b'{"success":false,"message":"refused"}'
