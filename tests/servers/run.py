"""Runs one setup: so many messages are tracked in its processes, then it ends, and what came is compared."""

import asyncio
import re
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.fault_server import FaultServer
from tests.support.ledger import noted
from tests.support.programs import Ended, Program, finished, running

from .setups import Setup

# Messages that one request, or one task, tracks.
EACH = 16
VISITORS = 8
# Seconds that it gets to end in after a signal.
STOP_SECONDS = 20.0
# What servers say of themselves, and we of uWSGI without threads.
EXPECTED = ("uWSGI runs without threads", "KeyboardInterrupt", "Error while closing socket")


@dataclass(frozen=True)
class Result:
    """Attributes:
    accepted: what the processes noted after their calls returned.
    received: with what was accepted by a call that a signal interrupted.
    trouble: what it said that it should not have said.
    """

    accepted: int
    received: int
    twice: int
    lost: int
    trouble: str

    @property
    def is_good(self) -> bool:
        return self.accepted > 0 and self.twice == self.lost == 0 and not self.trouble


def run(setup: Setup, count: int) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        ledger, broker = Path(folder, "ledger"), Path(folder, "broker")
        ledger.mkdir()
        broker.mkdir()
        said, received = asyncio.run(_run(setup, count, {"LEDGER": str(ledger), "CELERY_FOLDER": str(broker)}))
        accepted = noted(ledger)
    return Result(
        accepted=len(accepted),
        received=len(received),
        twice=sum(times > 1 for times in received.values()),
        lost=len(set(accepted) - received.keys()),
        trouble=_trouble(said.out),
    )


async def _run(setup: Setup, count: int, environment: dict[str, str]) -> tuple[Ended, Counter[str]]:
    """What it said, and how often each message came."""
    async with FaultServer() as server:
        async with _started(setup, count, {**environment, "host": server.url}) as program:
            await {"web": _visit, "celery": _work, "program": _wait}[setup.kind](setup, program, count)
            if setup.ends_with is not None:
                program.signal(setup.ends_with, whole_group=setup.whole_group)
                said = await _end(program)
            else:
                said = await program.end(within=300)
        return said, Counter({message: len(times) for message, times in server.taken.items()})


async def _end(program: Program) -> Ended:
    """As systemd does, kill what does not end: of a signal to all of its processes, Celery's prefork pool often hangs."""
    try:
        return await program.end(within=STOP_SECONDS)
    except TimeoutError:
        program.signal(signal.SIGKILL, whole_group=True)
        return await program.end()


@asynccontextmanager
async def _started(setup: Setup, count: int, environment: dict[str, str]) -> AsyncIterator[Program]:
    if setup.kind == "celery":
        sent = await finished("-m", "tests.programs.celery_shop", "many", str(count // EACH), str(EACH), **environment)
        assert sent.code == 0, sent.err
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = {"COUNT": str(count), "127.0.0.1:PORT": f"127.0.0.1:{port}"}
    command = [words.get(word, word) for word in setup.command]
    async with running(*command, together=True, **environment) as program:
        yield program


async def _visit(setup: Setup, program: Program, count: int) -> None:
    found = re.search(r"127\.0\.0\.1:(\d+)", await program.says("127.0.0.1:"))
    assert found is not None
    program.go_on_reading()
    left = iter(range(count // EACH))

    async def visitor() -> None:
        for _ in left:
            # A connection each, so that every worker gets some.
            while not await _is_answered(int(found[1])):
                pass

    async with asyncio.timeout(240), asyncio.TaskGroup() as visitors:
        for _ in range(VISITORS):
            visitors.create_task(visitor())


async def _is_answered(port: int) -> bool:
    """Whether a request was answered: a worker that is replaced may leave a connection without an answer."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /many/%d HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" % EACH)
        answer = await reader.read()
        writer.close()
    except ConnectionError:
        return False
    assert not answer or b" 200 OK\r\n" in answer, answer.decode()
    return b"noted" in answer


async def _work(setup: Setup, program: Program, count: int) -> None:
    for _ in range(count // EACH // (2 if setup.amid else 1)):
        await program.says("succeeded")


async def _wait(setup: Setup, program: Program, count: int) -> None:
    if setup.ends_with is not None:
        await program.says(f"tracked {count}" if setup.amid else "ready")


def _trouble(said: str) -> str:
    lines = said.splitlines()
    bad = [line for line in lines if re.search(r"Error\b|segment_async|unsent|not sent|Fatal", line)]
    return next((line for line in bad if not any(map(line.count, EXPECTED))), "")
