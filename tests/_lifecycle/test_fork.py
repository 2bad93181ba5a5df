"""Forked processes: the parent keeps and sends its own, the child starts with nothing; all arrive exactly once."""

import asyncio
import contextlib
import re
import signal
from collections import Counter

import aiohttp
import pytest

from tests.support.exchange import ReceivedRequest
from tests.support.fault_server import FaultServer
from tests.support.faults import OnRequest, answer
from tests.support.programs import PROGRAMS, Ended, finished, running
from tests.support.token_server import TokenServer, private_key_pem

FORKS = PROGRAMS / "forks.py"
APPLICATION = "tests.programs.shop:app"


def forked(how: str) -> tuple[Counter[str], Ended]:
    """Whose messages came, and how often."""

    async def main() -> tuple[Counter[str], Ended]:
        async with FaultServer() as server:
            said = await finished(FORKS, how, host=server.url)
            assert said.code == 0, said.err
            assert "segment_async:" not in said.err, said.err
            assert all(len(times) == 1 for times in server.taken.values())
            return Counter(message["userId"] for (message,) in server.taken.values()), said

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("how", "parents"),
    [
        ("before_the_first_call", 1),
        ("after_a_call", 2),
        ("with_a_thousand_queued", 1_000),
        ("by_a_child_that_flushes", 1_000),
        ("by_a_child_that_awaits_what_is_the_parents", 2),
        ("with_a_request_in_flight", 2),
        ("with_kept_connections", 2),
        ("from_a_thread", 2),
        ("without_hooks", 10),
    ],
)
def test_os_fork(how: str, parents: int) -> None:
    arrived, _ = forked(how)
    assert arrived == {"parent": parents, "child": 1}


def test_a_child_has_a_token_of_its_own() -> None:
    """Its clock begins at 0, so that the parent's times would tell it nothing."""

    async def main() -> None:
        def choose(request: ReceivedRequest) -> OnRequest:
            return answer(200 if tokens.accepts(request.headers["Authorization"]) else 401)

        async with TokenServer() as tokens, FaultServer(choose) as server:
            given = {"OAUTH_KEY": private_key_pem(), "TOKEN_SERVER": tokens.url}
            said = await finished(FORKS, "with_kept_connections", host=server.url, **given)
            assert said.code == 0, said.err
            used = {request.json["batch"][0]["userId"]: request.headers["Authorization"] for request in server.requests}
            assert used == {"parent": f"Bearer {tokens.tokens[0]}", "child": f"Bearer {tokens.tokens[1]}"}
            assert len(server.requests) == 3
            assert tokens.complaints == []

    asyncio.run(main())


@pytest.mark.parametrize("how", ["siblings", "siblings_without_hooks", "siblings_with_clients_of_their_own"])
def test_siblings_draw_ids_of_their_own(how: str) -> None:
    arrived, _ = forked(how)
    assert arrived == {"parent": 1, "child": 4}


def test_os_fork_while_other_threads_hold_locks() -> None:
    arrived, said = forked("while_other_threads_call")
    assert arrived == {"parent": int(said.out.split()[1]), "child": 8}


@pytest.mark.parametrize(
    "how",
    [
        "multiprocessing_fork",
        "multiprocessing_fork_with_a_loop",
        "multiprocessing_by_default",
        "multiprocessing_spawn",
        "multiprocessing_forkserver",
        "in_a_pool",
    ],
)
def test_multiprocessing(how: str) -> None:
    arrived, _ = forked(how)
    assert arrived == {"parent": 10, "child": 1}


async def visit(url: str, times: int) -> set[str]:
    """Each visit by a connection of its own, so that every worker may get some; gives the ids of what was tracked."""
    tracked = set()
    for _ in range(times):
        async with aiohttp.ClientSession(url) as session, session.get("/track") as response:
            tracked.add(await response.text())
    return tracked


def served(command: tuple[str, ...], ready: str, workers: int) -> tuple[FaultServer, set[str], Ended]:
    """An application on several workers that was visited and terminated, and what it tracked meanwhile."""

    async def main() -> tuple[FaultServer, set[str], Ended]:
        environment = {"AT_IMPORT": "1", "FLUSH_INTERVAL": "60"}
        async with FaultServer() as server, running(*command, host=server.url, together=True, **environment) as program:
            found = re.search(r"(http://127\.0\.0\.1:\d+)", await program.says("http://127.0.0.1:"))
            assert found is not None
            for _ in range(workers):
                await program.says(ready)
            await listens(found[1])
            tracked = await visit(found[1], 20)
            program.signal(signal.SIGTERM)
            return server, tracked, await program.end()

    return asyncio.run(main())


async def listens(url: str) -> None:
    """Wait for a server that says that its application has started before it listens, as uvicorn does."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
                writer.close()
                return
            await asyncio.sleep(0)


def check_served(server: FaultServer, tracked: set[str], imported: int) -> None:
    assert all(len(times) == 1 for times in server.taken.values())
    events = Counter(message["event"] for (message,) in server.taken.values())
    assert events == {"Visited": 20, "Imported": imported}
    assert tracked <= server.taken.keys()


def test_gunicorn_with_a_preloaded_application() -> None:
    command = ("-m", "gunicorn", "--preload", "-w", "2", "-k", "uvicorn_worker.UvicornWorker", "-b", "127.0.0.1:0")
    server, tracked, said = served((*command, "--no-control-socket", APPLICATION), "Application startup complete", 2)
    # What the master queued before it forked is the master's, and goes out when the master ends.
    check_served(server, tracked, imported=1)
    assert said.out.count("closed accepted") == 2, said


def test_uvicorn_with_two_workers() -> None:
    command = ("-m", "uvicorn", "--workers", "2", "--port", "0")
    server, tracked, said = served((*command, APPLICATION), "Application startup complete", 2)
    check_served(server, tracked, imported=2)
    assert said.out.count("closed accepted") == 2, said
