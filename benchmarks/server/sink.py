"""Controls the sink, the server that every contestant sends to: starts it, configures it, counts what it received.

Runs the C program if there is a compiler, else `sink_asyncio`; both speak the same HTTP and take the same orders. This
module decides what counts as delivered: after the measured time it decompresses and parses the bodies that the sink
kept. It knows no contestant.
"""

import gzip
import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.workload import medium, on_the_wire

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Statistics:
    """Since the last reset. Times are `time.monotonic_ns`, which all processes of a machine share."""

    requests: int
    answered: int
    bytes: int
    lost_bodies: int
    first_ns: int
    last_ns: int
    cpu_ns: int


@dataclass(frozen=True)
class Counted:
    """The contents of the bodies. `repeats` are messages whose id had arrived before."""

    messages: int
    repeats: int
    other_requests: int


def compiled(folder: Path) -> Path | None:
    """The sink's executable, compiled if it is older than its source; `None` without a working compiler."""
    compiler, program, source = shutil.which("cc"), folder / "sink", HERE / "sink.c"
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    if compiler is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([compiler, "-O2", "-o", str(program), str(source)], capture_output=True, check=False)
    return program if done.returncode == 0 else None


class Sink:
    """A running sink, as a context manager. It ends with the block, and in any case with this process."""

    def __init__(self, program: Path | None) -> None:
        self.kind = "C" if program else "asyncio"
        self._command = [str(program)] if program else [sys.executable, str(HERE / "sink_asyncio.py")]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.process_id = self._process.pid
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()

    def order(self, words: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", f"/_sink/{words}")
            return connection.getresponse().read()
        finally:
            connection.close()

    def reset(self) -> None:
        self.order("reset")

    def statistics(self) -> Statistics:
        return Statistics(**json.loads(self.order("statistics")))

    def count(self) -> Counted:
        """Count everything the sink kept since its last reset."""
        return count_messages(bodies(self.order("bodies")))


def bodies(kept: bytes) -> Iterator[bytes]:
    """The bodies that the sink kept, decompressed."""
    at = 0
    while at < len(kept):
        length, compressed = (int.from_bytes(kept[at + shift : at + shift + 4]) for shift in (0, 4))
        body = kept[at + 8 : at + 8 + length]
        yield gzip.decompress(body) if compressed else body
        at += 8 + length


def count_messages(found: Iterator[bytes]) -> Counted:
    """Count the messages of all batches by their ids (`uuid` is PostHog's name for it)."""
    ids: set[str] = set()
    messages = other = 0
    for body in found:
        batch = _batch(body)
        if batch is None:
            other += 1
            continue
        messages += len(batch)
        ids.update(str(message.get("messageId", message.get("uuid"))) for message in batch)
    return Counted(messages, messages - len(ids), other)


def _batch(body: bytes) -> list[dict[str, Any]] | None:
    try:
        batch = json.loads(body)["batch"]
    except (ValueError, KeyError, TypeError):
        return None
    return batch if isinstance(batch, list) else None


def capacities(sink: Sink) -> dict[str, float]:
    """Messages a second that the sink can receive in batches of a hundred, plain and compressed."""
    batch = json.dumps({"batch": [on_the_wire(medium(i), i) for i in range(100)]}).encode()
    plain, compressed = capacity(sink, batch), capacity(sink, gzip.compress(batch))
    return {"plain": 100 * plain, "gzip": 100 * compressed}


def capacity(sink: Sink, body: bytes, *, seconds: float = 0.2) -> float:
    """Requests that the sink can receive in a second of its own CPU time.

    Requests are pipelined; a sender in Python is still slower than the sink, which is why this counts CPU time.
    """
    request = b"POST /v1/batch HTTP/1.1\r\nHost: sink\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    ahead = max(2, (256 << 10) // len(request))
    sink.reset()
    with socket.create_connection(("127.0.0.1", sink.port)) as connection:
        before, until = sink.statistics().cpu_ns, time.monotonic() + seconds
        while time.monotonic() < until:
            connection.sendall(request * ahead)
            _read_answers(connection, ahead)
    after = sink.statistics()
    sink.reset()
    return after.answered / ((after.cpu_ns - before) / 1e9)


def _read_answers(connection: socket.socket, count: int) -> None:
    got = b""
    while got.count(b"\r\n\r\n") < count:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("the sink closed the connection")
        got += more
