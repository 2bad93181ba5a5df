"""Programs on the blocking client in real processes: what was accepted is received, once each, however they end."""

import asyncio
import re
import signal
from collections import Counter
from importlib.util import find_spec

import pytest

from tests.support.exchange import Exchange
from tests.support.fault_server import FaultServer
from tests.support.faults import OnRequest
from tests.support.programs import Ended, finished, running

PROGRAM = ("-m", "tests.programs.without_loop")


def received(server: FaultServer) -> Counter[str]:
    """How many messages came of each user; none came twice."""
    assert all(len(times) == 1 for times in server.taken.values())
    return Counter(message["userId"] for (message,) in server.taken.values())


def run(how: str, count: int, *, code: int = 0) -> tuple[Counter[str], Ended]:
    async def main() -> tuple[Counter[str], Ended]:
        async with FaultServer() as server:
            said = await finished(*PROGRAM, how, str(count), host=server.url)
            assert said.code == code, said.err
            assert "segment_async" not in said.err, said.err
            return received(server), said

    return asyncio.run(main())


def terminated(how: str, count: int, until: str) -> tuple[Counter[str], Ended]:
    async def main() -> tuple[Counter[str], Ended]:
        async with FaultServer() as server, running(*PROGRAM, how, str(count), host=server.url) as program:
            await program.says(until)
            program.signal(signal.SIGTERM)
            said = await program.end()
            assert said.code == -signal.SIGTERM, said.err
            return received(server), said

    return asyncio.run(main())


class TestTheEnd:
    @pytest.mark.parametrize("how", ["ends", "threads"])
    def test_of_a_script(self, how: str) -> None:
        arrived, said = run(how, 10_000)
        assert arrived == {"user": 10_000}
        assert said.err == ""

    def test_by_an_exception(self) -> None:
        async def main() -> Counter[str]:
            async with FaultServer() as server:
                said = await finished(*PROGRAM, "raises", "1000", host=server.url)
                assert said.code == 1
                return received(server)

        assert asyncio.run(main()) == {"user": 1_000}

    def test_by_sigterm(self) -> None:
        arrived, said = terminated("sleeps", 10_000, "ready")
        assert arrived == {"user": 10_000}
        assert said.err == ""

    def test_by_sigterm_that_comes_twice(self) -> None:
        came_again = asyncio.Event()

        async def act(exchange: Exchange) -> None:
            await came_again.wait()
            # Only a program that goes on tries again.
            await exchange.answer(503, {}, b"")

        async def main() -> tuple[Counter[str], Ended]:
            async with (
                FaultServer([OnRequest(act)]) as server,
                running(*PROGRAM, "sleeps", "50", host=server.url) as program,
            ):
                await program.says("ready")
                program.signal(signal.SIGTERM)
                await server.wait_for_requests(1)
                program.signal(signal.SIGTERM)
                came_again.set()
                said = await program.end()
                return received(server), said

        arrived, said = asyncio.run(main())
        assert said.code == -signal.SIGTERM
        assert arrived == {"user": 50}

    def test_by_sigterm_that_was_blocked_until_then(self) -> None:
        arrived, said = run("blocks_sigterm", 50, code=-signal.SIGTERM)
        assert arrived == {"user": 50}
        assert said.out == "pending\n"

    def test_by_sigterm_when_all_calls_came_from_other_threads(self) -> None:
        arrived, _ = terminated("scheduled", 1_000, "ready")
        assert arrived == {"user": 1_000}

    def test_by_sigterm_amid_calls(self) -> None:
        async def main() -> tuple[list[int], Ended]:
            async with FaultServer() as server, running(*PROGRAM, "never_stops", "1000", host=server.url) as program:
                await program.says("tracked 3000")
                program.signal(signal.SIGTERM)
                said = await program.end()
                received(server)
                return sorted(message["properties"]["n"] for (message,) in server.taken.values()), said

        numbers, said = asyncio.run(main())
        assert said.code == -signal.SIGTERM, said.err
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= int(re.findall(r"tracked (\d+)", said.out)[-1])

    def test_by_sigterm_amid_a_flush_of_an_outage(self) -> None:
        async def main() -> Ended:
            async with FaultServer(up=False) as server, running(*PROGRAM, "flushes", "10", host=server.url) as program:
                await program.says("ready")
                program.signal(signal.SIGTERM)
                return await program.end()

        said = asyncio.run(main())
        assert said.code == -signal.SIGTERM
        assert "Closed with 10 messages unsent" in said.err
        assert said.seconds < 5 + 3

    def test_a_call_after_it_raises(self) -> None:
        arrived, said = run("at_exit", 10)
        assert arrived == {"user": 10}
        assert "closed" in said.out


class TestForks:
    @pytest.mark.parametrize(
        "how",
        [
            "forks",
            "forks_in_a_thread",
            "forks_without_hooks",
            "multiprocessing_fork",
            "multiprocessing_spawn",
            "multiprocessing_forkserver",
            "in_a_pool",
        ],
    )
    def test_the_child_has_a_thread_of_its_own(self, how: str) -> None:
        arrived, _ = run(how, 1_000)
        assert arrived == {"parent": 1_000, "child": 1_000}

    def test_the_first_calls_of_a_child_without_hooks_may_come_from_several_threads_at_once(self) -> None:
        arrived, _ = run("forks_without_hooks_into_threads", 80)
        assert arrived == {"child": 80}

    def test_a_child_without_hooks_leaves_the_parents_messages_alone(self) -> None:
        arrived, _ = run("forks_without_hooks_or_calls", 50)
        assert arrived == {"parent": 50}

    def test_while_other_threads_track(self) -> None:
        arrived, said = run("forks_while_threads_track", 100)
        assert arrived == {"parent": int(said.out.split()[1]), "child": 800}

    def test_a_child_does_not_wait_for_the_parents_message(self) -> None:
        arrived, said = run("waits_in_a_forked_child", 3)
        assert arrived == {"parent": 3}
        assert "the parent process sends it" in said.out


@pytest.mark.skipif(find_spec("gevent") is None, reason="gevent not installed")
class TestGevent:
    def run(self, when: str) -> tuple[Counter[str], Ended]:
        async def main() -> tuple[Counter[str], Ended]:
            async with FaultServer() as server:
                command = ("-m", "tests.programs.gevent_first", when, "with_gevent", "20000")
                said = await finished(*command, host=server.url)
                return received(server), said

        return asyncio.run(main())

    def test_the_client_runs_in_a_patched_process(self) -> None:
        arrived, said = self.run("early")
        assert said.code == 0, said.err
        assert arrived == {"user": 20_001}

    def test_a_process_that_is_patched_too_late_gets_an_error(self) -> None:
        arrived, said = self.run("late")
        assert said.code == 1
        assert "call gevent.monkey.patch_all() before that import" in said.err
        assert not arrived
