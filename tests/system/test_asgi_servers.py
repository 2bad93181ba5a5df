"""A client at module level under uvicorn and gunicorn: what was tracked is received when the server was told to end."""

import asyncio
import re
import signal
from collections import Counter

import aiohttp
import pytest

from tests.support.fault_server import FaultServer
from tests.support.programs import Ended, Program, running

APPLICATION = "tests.programs.asgi_shop:app"
UVICORN = ("-m", "uvicorn", "--port", "0", APPLICATION)
GUNICORN = (
    "-m",
    "gunicorn",
    "-b",
    "127.0.0.1:0",
    "--no-control-socket",
    "-k",
    "uvicorn_worker.UvicornWorker",
    APPLICATION,
)
VISITS = 40


async def visited(program: Program) -> tuple[set[str], Ended]:
    """Visit it, and tell it to end as soon as the last answer is here. Returns what was tracked, and how it ended."""
    found = re.search(r"http://(127\.0\.0\.1:\d+)", await program.says("127.0.0.1:"))
    assert found is not None
    async with aiohttp.ClientSession(f"http://{found[1]}") as session:

        async def visit() -> str:
            async with session.get("/") as response:
                assert response.status == 200
                return await response.text()

        tracked = {await visit() for _ in range(VISITS)}
    program.signal(signal.SIGTERM)
    ended = await program.end()
    assert "Traceback" not in ended.out, ended.out
    return tracked, ended


async def served(*command: str, **environment: str) -> tuple[Counter[str], Ended]:
    """The events that arrived of an application that was visited and told to end; and how it ended."""
    async with FaultServer() as server:
        async with running(*command, host=server.url, together=True, **environment) as program:
            tracked, ended = await visited(program)
        assert len(tracked) == VISITS
        assert all(len(messages) == 1 for messages in server.taken.values())
        return Counter(message["event"] for (message,) in server.taken.values()), ended


@pytest.mark.parametrize("command", [UVICORN, GUNICORN], ids=["uvicorn", "gunicorn"])
@pytest.mark.parametrize(("inner", "others"), [("http_only", {}), ("silent", {}), ("starlette", {"Stopped": 1})])
def test_what_was_tracked_is_sent_at_sigterm(command: tuple[str, ...], inner: str, others: dict[str, int]) -> None:
    events, _ = asyncio.run(served(*command, INNER=inner))
    assert events == {"Visited": VISITS, **others}


@pytest.mark.parametrize("command", [UVICORN, GUNICORN, (*UVICORN, "--lifespan", "off")])
def test_a_drain_on_signals_ends_the_server_in_order(command: tuple[str, ...]) -> None:
    events, ended = asyncio.run(served(*command, DRAINS="1"))
    assert events == {"Visited": VISITS}
    assert "segment_async:" not in ended.out
    assert ended.code == (0 if command is GUNICORN else 128 + signal.SIGTERM)


def test_without_lifespan_events_it_says_what_will_be_lost() -> None:
    events, ended = asyncio.run(served(*UVICORN, "--lifespan", "off"))
    assert not events
    assert ended.out.count("uvicorn sends no lifespan events, so messages that wait when it stops are lost.") == 1
