"""Signals: servers need nothing but their lifespan, plain programs one call; what was accepted has an outcome."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from tests.support.exchange import OK_BODY, Exchange
from tests.support.fault_server import FaultServer, Script
from tests.support.faults import OnRequest, answer, silence
from tests.support.programs import PROGRAMS, Ended, Program, running

SHOP = PROGRAMS / "shop.py"
SIGNALLED = PROGRAMS / "signalled.py"
CLOSE_TIMEOUT, GRACE = 1.0, 0.5
DRAIN_SECONDS = 2.0
# For a machine that has other things to do.
ROOM = 2.0

Meanwhile = Callable[[FaultServer], Awaitable[None]]


async def visit(url: str, path: str, times: int = 1) -> None:
    async with aiohttp.ClientSession(url) as session:
        for _ in range(times):
            async with session.get(path) as response:
                assert response.status == 200


async def shop_url(program: Program) -> str:
    found = re.search(r"running on (http://\S+)", await program.says("running on"))
    assert found is not None
    return found[1]


def counters(said: Ended) -> dict[str, int]:
    (line,) = re.findall(r"^closed .*$", said.out, re.MULTILINE)
    return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line)}


class TestUvicorn:
    def terminated(self, script: Script, when: Meanwhile, then: Callable[[], None] = lambda: None) -> dict[str, int]:
        """The counters of an application that tracked once, got SIGTERM at that moment, and closed."""

        async def main() -> dict[str, int]:
            async with FaultServer(script) as server, running(SHOP, host=server.url) as program:
                await visit(await shop_url(program), "/track")
                await when(server)
                sent = asyncio.get_running_loop().time()
                program.signal(signal.SIGTERM)
                await program.says("Shutting down")
                then()
                said = await program.end()
                assert asyncio.get_running_loop().time() - sent < CLOSE_TIMEOUT + GRACE + ROOM
                assert len(server.taken) == counters(said)["delivered"]
                return counters(said)

        return asyncio.run(main())

    def test_while_idle(self) -> None:
        async def idle(server: FaultServer) -> None:
            await server.wait_for_requests(1)

        assert self.terminated([], idle) == {"accepted": 1, "delivered": 1, "dropped": 0, "pending": 0}

    def test_in_a_request_that_is_answered(self) -> None:
        terminated = asyncio.Event()

        async def act(exchange: Exchange) -> None:
            await terminated.wait()
            await exchange.answer(200, {}, OK_BODY)

        async def in_a_request(server: FaultServer) -> None:
            await server.wait_for_requests(1)

        told = self.terminated([OnRequest(act)], in_a_request, terminated.set)
        assert told == {"accepted": 1, "delivered": 1, "dropped": 0, "pending": 0}

    def test_in_a_request_that_is_not(self) -> None:
        async def in_a_request(server: FaultServer) -> None:
            await server.wait_for_requests(1)

        told = self.terminated([silence()] * 9, in_a_request)
        assert told == {"accepted": 1, "delivered": 0, "dropped": 1, "pending": 0}

    @pytest.mark.parametrize(("answers", "delivered"), [([503] * 3, 1), ([503] * 99, 0)])
    def test_in_a_back_off(self, answers: list[int], delivered: int) -> None:
        async def in_a_back_off(server: FaultServer) -> None:
            # The next attempt is a second away or more.
            await server.wait_for_requests(3)

        told = self.terminated([answer(status) for status in answers], in_a_back_off)
        assert told == {"accepted": 1, "delivered": delivered, "dropped": 1 - delivered, "pending": 0}

    def test_in_a_pause(self) -> None:
        async def in_a_pause(server: FaultServer) -> None:
            await server.wait_for_requests(1)

        told = self.terminated([answer(429, {"Retry-After": "60"})] * 9, in_a_pause)
        assert told == {"accepted": 1, "delivered": 0, "dropped": 1, "pending": 0}

    def test_twice_interrupted_it_skips_its_lifespan_and_the_drain_sends(self) -> None:
        async def main() -> None:
            async with FaultServer() as server, running(SHOP, host=server.url, FLUSH_INTERVAL="60") as program:
                url = await shop_url(program)
                await visit(url, "/track", times=10)
                hanging = asyncio.create_task(visit(url, "/hang"))
                await program.says("hanging")
                program.signal(signal.SIGINT)
                await program.says("Waiting for connections to close")
                program.signal(signal.SIGINT)
                said = await program.end()
                assert said.seconds < DRAIN_SECONDS + ROOM
                assert "closed" not in said.out
                assert len(server.taken) == 10
                await asyncio.wait((hanging,))
                assert hanging.exception() is not None

        asyncio.run(main())


class TestPlainPrograms:
    def ended(self, how: str, number: int) -> Ended:
        async def main() -> Ended:
            async with FaultServer() as server, running(SIGNALLED, how, host=server.url) as program:
                await program.says("ready")
                program.signal(number)
                said = await program.end()
                # Perhaps twice: a request may have been on its way when the loop ended.
                assert len(server.taken) == 100
                return said

        return asyncio.run(main())

    @pytest.mark.parametrize("how", ["without_a_block", "without_a_loop", "beside_a_blocking_client", "with_uvloop"])
    def test_drain_on_sigterm(self, how: str) -> None:
        said = self.ended(how, signal.SIGTERM)
        assert (said.code, said.err) == (128 + signal.SIGTERM, "")

    def test_are_drained_where_no_thread_can_be_started(self) -> None:
        said = self.ended("without_a_thread", signal.SIGTERM)
        assert said.code == -signal.SIGTERM
        assert said.err.count("\n") == said.err.count("No thread can be started") == 1

    def test_leave_their_blocks_first(self) -> None:
        said = self.ended("in_a_block", signal.SIGTERM)
        assert said.code == 128 + signal.SIGTERM
        assert "left the block" in said.out

    def test_drain_on_the_signals_that_are_named(self) -> None:
        assert self.ended("on_two_signals", signal.SIGHUP).code == 128 + signal.SIGHUP

    def test_keep_a_handler_of_their_own(self) -> None:
        said = self.ended("with_a_handler", signal.SIGTERM)
        assert said.code == 0
        assert "own handler got 15" in said.out

    def test_need_nothing_on_ctrl_c(self) -> None:
        said = self.ended("on_ctrl_c", signal.SIGINT)
        assert "KeyboardInterrupt" in said.err
        assert "segment_async:" not in said.err

    def test_whose_loop_stands_still_end_with_the_second_signal(self) -> None:
        async def main() -> None:
            command = (SIGNALLED, "in_a_loop_that_stands_still")
            async with FaultServer() as server, running(*command, host=server.url) as program:
                await program.says("ready")
                # Of one kind, two that come at once may be told as one.
                program.signal(signal.SIGHUP)
                program.signal(signal.SIGTERM)
                said = await program.end()
                assert said.code in (128 + signal.SIGTERM, 128 + signal.SIGHUP)
                assert len(server.taken) == 100

        asyncio.run(main())

    def test_must_ask_from_the_main_thread(self) -> None:
        async def main() -> None:
            async with running(SIGNALLED, "from_a_thread", host="http://127.0.0.1:9") as program:
                assert "main thread" in await program.says("ValueError")

        asyncio.run(main())


def test_a_signal_in_the_drain_ends_it_at_once() -> None:
    async def main() -> None:
        async with FaultServer([silence()] * 9) as server, running(SIGNALLED, "on_ctrl_c", host=server.url) as program:
            await program.says("ready")
            await server.wait_for_requests(1)
            program.signal(signal.SIGINT)
            # The one at the loop's end, and then the drain's own.
            await server.wait_for_requests(3)
            program.signal(signal.SIGINT)
            said = await program.end()
            assert "segment_async: 100 messages were not sent before the program ended" in said.err
            assert "told of 100: exit" in said.out
            assert "destroyed" not in said.err

    asyncio.run(main())


def test_sigterm_in_the_drain_ends_the_program_after_it() -> None:
    async def main() -> None:
        async def terminate(exchange: Exchange) -> None:
            program.signal(signal.SIGTERM)
            await exchange.answer(503, {}, b"")

        async with (
            FaultServer([OnRequest(terminate)]) as server,
            running(SIGNALLED, "at_the_end", host=server.url) as program,
        ):
            said = await program.end()
            assert (said.code, said.err) == (-signal.SIGTERM, "")
            assert len(server.taken) == 100

    asyncio.run(main())


def test_sigterm_ends_a_program_whose_stderr_has_no_reader() -> None:
    async def main() -> None:
        async with running(SIGNALLED, "with_stderr_gone", host="http://127.0.0.1:9") as program:
            await program.says("ready")
            program.signal(signal.SIGTERM)
            said = await program.end()
            assert said.code == -signal.SIGTERM

    asyncio.run(main())


def test_a_forked_child_has_no_handler_before_its_first_call() -> None:
    """With one, Python may lose a SIGTERM that comes while a worker of `multiprocessing.Pool` begins to wait for a job."""
    program = """
import os, signal
from segment_async.blocking import Client
client = Client("KEY", send=False)
def has_handler():
    return signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
print(has_handler(), flush=True)
if os.fork() == 0:
    print(has_handler())
    client.track("user-1", "Seen")
    print(has_handler(), flush=True)
    os._exit(0)
os.wait()
print(has_handler())
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True", "False", "True", "True"]


def test_a_child_forked_in_the_drain_obeys_the_signal_too() -> None:
    async def main() -> None:
        async with (
            FaultServer([answer(404)]) as server,
            running(SIGNALLED, "forks_in_the_drain", host=server.url, PYTHONWARNINGS="ignore") as program,
        ):
            await program.says("ready")
            program.signal(signal.SIGTERM)
            said = await program.end()
            assert f"the child ended with {-signal.SIGTERM}" in said.out
            assert said.code == -signal.SIGTERM
            assert len(server.taken) == 1

    asyncio.run(main())
