"""Processes that use a client with a spool: however they end, each message that was accepted is received, and once."""

import asyncio
import re
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from segment_async import Client
from segment_async.spool import SpoolInspector
from tests.support.fault_server import FaultServer
from tests.support.programs import PROGRAMS, Ended, Program, finished, running

ENDS, FORKS, SHOP, SPOOLED = (PROGRAMS / f"{name}.py" for name in ("ends", "forks", "shop", "spooled"))
APPLICATION = "tests.programs.shop:app"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "analytics.db"


async def send_the_rest(path: Path, server: FaultServer) -> set[str]:
    """The next process, which is this one; gives what it sent."""
    before = {*server.taken}
    server.come_up()
    async with Client("KEY", host=server.url, spool=path) as client:
        assert await client.flush(timeout=30) == 0
    return {*server.taken} - before


def check_once(server: FaultServer) -> None:
    assert {message_id: len(times) for message_id, times in server.taken.items() if len(times) > 1} == {}


def pending(path: Path) -> int:
    return sum(each.statistics.pending for each in SpoolInspector(path).status())


def numbers(server: FaultServer) -> list[int]:
    check_once(server)
    return sorted(message["properties"]["n"] for (message,) in server.taken.values())


class TestExit:
    @pytest.mark.parametrize("how", ["after_run", "without_a_loop", "from_a_thread"])
    def test_without_a_close_while_the_server_is_down(self, path: Path, how: str) -> None:
        async def main() -> tuple[Ended, FaultServer]:
            async with FaultServer(up=False) as server:
                said = await finished(ENDS, how, host=server.url, SPOOL=str(path))
                await send_the_rest(path, server)
                return said, server

        said, server = asyncio.run(main())
        assert said.code == 0
        # Before it, the log tells of the outage.
        assert said.err.endswith("segment_async: 1,000 messages were kept in a spool for the next process to send\n")
        assert numbers(server) == list(range(1_000))

    def test_without_a_close_while_the_server_is_up(self, path: Path) -> None:
        async def main() -> tuple[Ended, FaultServer]:
            async with FaultServer() as server:
                said = await finished(ENDS, "after_run", host=server.url, SPOOL=str(path))
                assert not await send_the_rest(path, server)
                return said, server

        said, server = asyncio.run(main())
        assert (said.code, said.err) == (0, "")
        # What was on its way when the loop ended may be there twice, as without a spool.
        assert {messages[0]["properties"]["n"] for messages in server.taken.values()} == set(range(1_000))

    def test_by_sigterm_through_a_lifespan(self, path: Path) -> None:
        async def main() -> Ended:
            async with (
                FaultServer(up=False) as server,
                running(SHOP, host=server.url, SPOOL=str(path), CLOSE_TIMEOUT="0.1") as program,
            ):
                tracked = await visit(program)
                program.signal(signal.SIGTERM)
                said = await program.end()
                assert await send_the_rest(path, server) == {tracked}
                return said

        said = asyncio.run(main())
        assert "closed accepted=1 delivered=0 dropped=0 pending=1" in said.out
        assert "Closed with 1 message unsent; kept in the spool for the next process." in said.out


async def visit(program: Program) -> str:
    """The id of what was tracked."""
    found = re.search(r"(http://127\.0\.0\.1:\d+)", await program.says("http://127.0.0.1:"))
    assert found is not None
    async with aiohttp.ClientSession(found[1]) as session, session.get("/track") as response:
        return await response.text()


class TestForks:
    @pytest.mark.parametrize(
        ("how", "parents"),
        [
            ("before_the_first_call", 1),
            ("after_a_call", 2),
            ("with_a_thousand_queued", 1_000),
            ("by_a_child_that_flushes", 1_000),
            ("with_a_request_in_flight", 2),
            ("with_kept_connections", 2),
            ("from_a_thread", 2),
            ("without_hooks", 10),
            ("multiprocessing_fork", 10),
            ("multiprocessing_spawn", 10),
            ("in_a_pool", 10),
        ],
    )
    def test_parent_and_child_each_keep_and_send_their_own(self, path: Path, how: str, parents: int) -> None:
        async def main() -> FaultServer:
            async with FaultServer() as server:
                said = await finished(FORKS, how, host=server.url, SPOOL=str(path))
                assert (said.code, said.err) == (0, "")
                assert not await send_the_rest(path, server)
                return server

        server = asyncio.run(main())
        check_once(server)
        whose = Counter(message["userId"] for (message,) in server.taken.values())
        assert whose == {"parent": parents, "child": 1}

    def test_of_a_preloading_server(self, path: Path) -> None:
        command = ("-m", "gunicorn", "--preload", "-w", "2", "-k", "uvicorn_worker.UvicornWorker", "-b", "127.0.0.1:0")
        environment = {"AT_IMPORT": "1", "SPOOL": str(path)}

        async def main() -> tuple[FaultServer, str]:
            async with (
                FaultServer() as server,
                running(
                    *command, "--no-control-socket", APPLICATION, host=server.url, together=True, **environment
                ) as program,
            ):
                tracked = await visit(program)
                program.signal(signal.SIGTERM)
                await program.end()
                return server, tracked

        server, tracked = asyncio.run(main())
        check_once(server)
        events = {message_id: message["event"] for message_id, (message,) in server.taken.items()}
        assert sorted(events.values()) == ["Imported", "Visited"]
        assert events[tracked] == "Visited"


@pytest.mark.parametrize(("living", "doomed"), [(2, 1), (20, 5)])
def test_of_many_processes_each_message_is_received_once(path: Path, living: int, doomed: int) -> None:
    """Some are killed before they send; those that live send what is left of them."""

    async def main() -> tuple[FaultServer, list[Ended]]:
        async with FaultServer() as server, AsyncExitStack() as stack:

            async def start(name: str, interval: str) -> Program:
                environment = {"SPOOL": str(path), "INTERVAL": interval}
                return await stack.enter_async_context(
                    running(SPOOLED, name, "20", host=server.url, together=True, **environment)
                )

            living_ones = [await start(f"living-{number}", "0.01") for number in range(living)]
            doomed_ones = [await start(f"doomed-{number}", "3600") for number in range(doomed)]
            for program in (*living_ones, *doomed_ones):
                await program.says("accepted")
            for program in doomed_ones:
                await program.kill()
            async with asyncio.timeout(60):
                while len(server.taken) < 20 * (living + doomed):
                    await server.wait_for_requests(len(server.arrivals) + 1)
                # A request that an end of its loop cuts off may be sent again: its answer has to be taken in first.
                while await asyncio.to_thread(pending, path):
                    pass
            for program in living_ones:
                program.signal(signal.SIGTERM)
            ended = [await program.end() for program in living_ones]
            assert not await send_the_rest(path, server)
            return server, ended

    server, ended = asyncio.run(main())
    check_once(server)
    names = [f"living-{number}" for number in range(living)] + [f"doomed-{number}" for number in range(doomed)]
    assert server.taken.keys() == {f"{name}-{number}" for name in names for number in range(20)}
    assert {program.code for program in ended} == {128 + signal.SIGTERM}
    assert not any("segment_async:" in program.out for program in ended)
