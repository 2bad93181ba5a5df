"""The blocking client under gunicorn and uWSGI: what was tracked is received, once each, when the server has ended."""

import asyncio
import os
import re
import shutil
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.support.fault_server import FaultServer
from tests.support.programs import ROOT, Program, running

APPLICATION = "tests.programs.wsgi_shop:app"
UWSGI = shutil.which("uwsgi", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
# A worker that is ended amid a request, as with --die-on-term, runs no exit hooks.
GRACEFUL = ("--hook-master-start", "unix_signal:15 gracefully_kill_them_all")
VISITS = 100


async def visit(url: str) -> set[str]:
    """Each visit by a connection of its own, so that every worker may get some. Returns the ids of what was tracked."""
    tracked = set()
    for _ in range(VISITS):
        async with aiohttp.ClientSession(url) as session, session.get("/") as response:
            assert response.status == 200
            tracked.add(await response.text())
    return tracked


def check(server: FaultServer, tracked: set[str], imported: int) -> Counter[int]:
    """What came is what was tracked. Returns how many messages each process sent."""
    assert all(len(times) == 1 for times in server.taken.values())
    messages = [message for (message,) in server.taken.values()]
    assert Counter(message["event"] for message in messages) == Counter(Visited=VISITS, Imported=imported)
    assert tracked <= server.taken.keys()
    return Counter(message["properties"]["process"] for message in messages if message["event"] == "Visited")


async def served(program: Program, address: str, *ready: str) -> tuple[set[str], str]:
    """What was tracked, and what the server said; `ready`: what it says before it is visited."""
    found = re.search(address, await program.says("127.0.0.1:"))
    assert found is not None
    for text in ready:
        await program.says(text)
    tracked = await visit(f"http://{found[1]}")
    program.signal(signal.SIGTERM)
    said = await program.end()
    assert "Traceback" not in said.out, said.out
    return tracked, said.out


@pytest.mark.parametrize(
    ("options", "imported", "processes"),
    [
        (("-w", "2"), 2, 1),
        (("-w", "2", "--preload"), 1, 1),
        (("-w", "1", "-k", "gthread", "--threads", "4"), 1, 1),
        (("-w", "2", "-k", "gthread", "--threads", "2", "--preload"), 1, 1),
        (("-w", "1", "--preload", "--max-requests", "30"), 1, 4),
    ],
)
def test_gunicorn(options: tuple[str, ...], imported: int, processes: int) -> None:
    async def main() -> None:
        command = ("-m", "gunicorn", "-b", "127.0.0.1:0", "--no-control-socket", *options, APPLICATION)
        async with FaultServer() as server:
            async with running(*command, host=server.url, together=True, AT_IMPORT="1") as program:
                tracked, _ = await served(program, r"http://(127\.0\.0\.1:\d+)")
            assert len(check(server, tracked, imported)) >= processes

    asyncio.run(main())


@pytest.mark.skipif(UWSGI is None, reason="uwsgi not installed")
@pytest.mark.parametrize(
    ("options", "imported"),
    [
        ((), 1),
        (("--enable-threads",), 1),
        (("--enable-threads", "--lazy-apps"), 2),
        (("--threads", "2"), 1),
        (("--enable-threads", "--skip-atexit-teardown"), 1),
        (("--enable-threads", "--max-requests", "30"), 1),
    ],
)
def test_uwsgi(options: tuple[str, ...], imported: int) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        assert UWSGI is not None
        start = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
        command = ("-c", start, UWSGI, "--master", "--processes", "2", "--need-app", *GRACEFUL, "--http-socket")
        app = ("--chdir", str(ROOT), "--pythonpath", str(ROOT), "--module", APPLICATION)
        async with FaultServer() as server:
            environment = {"AT_IMPORT": "1", "VIRTUAL_ENV": sys.prefix}
            async with running(
                *command, address, *app, *options, host=server.url, together=True, **environment
            ) as program:
                tracked, said = await served(program, r"(127\.0\.0\.1:\d+)", *["WSGI app 0"] * imported)
            check(server, tracked, imported)
            assert ("uWSGI runs without threads" in said) == (not options)

    asyncio.run(main())
