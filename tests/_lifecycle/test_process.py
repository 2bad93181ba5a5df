"""Programs that end without closing their client: what was accepted arrives, or its count is named on stderr."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.support.fault_server import FaultServer, Script
from tests.support.faults import answer, never_read, silence
from tests.support.programs import PROGRAMS, Ended, finished

ENDS = PROGRAMS / "ends.py"
# Of the drain at exit, with room for a machine that has other things to do.
DRAIN_SECONDS, ROOM = 2.0, 2.0


def ended(*how: str, script: Script = (), up: bool = True, python: tuple[str, ...] = ()) -> tuple[Ended, FaultServer]:
    async def main() -> tuple[Ended, FaultServer]:
        async with FaultServer(script, up=up) as server:
            return await finished(*python, ENDS, *how, host=server.url), server

    return asyncio.run(main())


def numbers(server: FaultServer) -> list[int]:
    """Of the messages that came; perhaps twice, for a request may have been on its way when the loop ended."""
    return sorted(messages[0]["properties"]["n"] for messages in server.taken.values())


def unsent(said: Ended) -> int:
    found = re.findall(
        r"^segment_async: ([\d,]+) messages were not sent before the program ended$", said.err, re.MULTILINE
    )
    assert len(found) == 1, said.err
    return int(found[0].replace(",", ""))


class TestAllArrives:
    @pytest.mark.parametrize(
        "how",
        [
            *("after_run", "without_a_loop", "from_a_thread", "in_a_loop_that_is_left_standing", "after_a_close"),
            *("with_all_flushed_on_a_loop_that_is_left_standing", "with_all_flushed_on_a_loop_that_is_closed"),
        ],
    )
    def test_of_a_program_that_simply_ends(self, how: str) -> None:
        said, server = ended(how)
        assert (said.code, said.err) == (0, "")
        assert numbers(server) == list(range(1_000))

    @pytest.mark.parametrize("every", range(50, 800, 50))
    def test_whenever_the_garbage_of_a_loop_left_standing_is_collected(self, every: int) -> None:
        """Its requests are suspended many frames deep, and a collector may begin anywhere."""
        said, server = ended("in_a_loop_that_is_left_standing_and_collected", str(every))
        assert (said.code, said.err) == (0, "")
        assert numbers(server) == list(range(1_000))

    @pytest.mark.parametrize(
        ("how", "code"), [("by_an_exception", 1), ("by_an_exception_later", 1), ("by_sys_exit", 7)]
    )
    def test_of_one_that_ends_otherwise(self, how: str, code: int) -> None:
        said, server = ended(how)
        assert said.code == code
        assert "segment_async:" not in said.err
        assert numbers(server) == list(range(1_000))

    def test_of_clients_that_are_not_kept(self) -> None:
        said, server = ended("with_many_clients")
        assert (said.code, said.err) == (0, "")
        assert numbers(server) == [0, 1, 2, 3, 4]

    def test_over_a_server_that_stumbles(self) -> None:
        _, server = ended("after_run", script=[answer(503)])
        assert numbers(server) == list(range(1_000))


class TestWhatIsLeftIsNamed:
    @pytest.mark.parametrize("how", ["after_run", "without_a_loop"])
    def test_while_the_server_is_down(self, how: str) -> None:
        said, _ = ended(how, up=False)
        assert said.code == 0
        assert unsent(said) == 1_000
        assert said.err.count("segment_async:") == 1
        assert said.seconds < DRAIN_SECONDS + ROOM

    @pytest.mark.parametrize("step", [silence(), never_read()], ids=["silence", "never_read"])
    def test_while_the_server_says_nothing(self, step: object) -> None:
        said, _ = ended("after_run", script=[step] * 100)
        assert unsent(said) == 1_000
        assert said.seconds < DRAIN_SECONDS + ROOM

    @pytest.mark.parametrize(
        ("script", "up", "reason"), [((), False, "exit"), ([answer(404)], True, "refused")], ids=["down", "refused"]
    )
    def test_to_a_hook_that_takes_a_moment(self, script: Script, up: bool, reason: str) -> None:
        said, _ = ended("with_a_hook_that_takes_a_moment", script=script, up=up)
        assert f"told of 1: {reason}" in said.out
        assert said.seconds < DRAIN_SECONDS + ROOM

    def test_to_a_hook_also_for_what_was_dropped_before(self) -> None:
        said, _ = ended("with_a_message_that_was_dropped")
        assert "told of 1: before_send" in said.out
        assert "told of 1: invalid" in said.out
        assert "segment_async:" not in said.err

    @pytest.mark.parametrize("what", ["hook", "transport"])
    def test_beside_a_task_that_goes_on_although_it_is_cancelled(self, what: str) -> None:
        said, _ = ended(f"with_a_{what}_that_goes_on", up=False)
        assert said.code == 0
        assert said.err.endswith("segment_async: 1 message was not sent before the program ended\n")
        assert "destroyed" not in said.err
        assert said.seconds < DRAIN_SECONDS + ROOM

    def test_after_loops_that_were_closed_amid_a_request(self) -> None:
        # What those leave is collected in any order, which used to take the interpreter with it.
        said, _ = ended("in_loops_that_are_closed_amid_a_request", script=[silence()] * 100)
        assert said.code == 0
        assert unsent(said) == 20

    def test_where_no_event_loop_can_be_made(self) -> None:
        said, _ = ended("with_too_many_open_files")
        assert unsent(said) == 1_000
        assert "never awaited" not in said.err
        assert "segment_async/" not in said.err

    def test_together_for_all_clients(self) -> None:
        said, _ = ended("with_many_clients", up=False)
        assert unsent(said) == 5
        assert said.seconds < DRAIN_SECONDS + ROOM


class TestNames:
    def test_a_name_that_is_not_known(self) -> None:
        said = asyncio.run(finished(ENDS, "without_a_loop", host="https://" + "a" * 64 + ".example"))
        assert unsent(said) == 1_000
        assert said.seconds < DRAIN_SECONDS + ROOM

    def test_a_name_that_hangs(self, tmp_path: Path) -> None:
        said = asyncio.run(finished(PROGRAMS / "hanging_names.py", tmp_path, host="https://a.example"))
        assert unsent(said) == 3
        assert said.seconds < DRAIN_SECONDS + ROOM


class TestTheReminder:
    def test_a_resource_warning_for_those_who_want_to_see_it(self) -> None:
        said, server = ended("without_a_loop", python=("-W", "always::ResourceWarning"))
        assert said.err.count("ResourceWarning") == 1
        assert "1 segment_async client(s) had messages to send at exit" in said.err
        assert numbers(server) == list(range(1_000))

    def test_none_if_every_message_arrived_before(self) -> None:
        said, server = ended("after_run", python=("-W", "always"))
        assert said.err == ""
        assert numbers(server) == list(range(1_000))

    @pytest.mark.parametrize("how", ["after_a_close", "without_a_message"])
    def test_and_none_where_there_is_nothing_to_close(self, how: str) -> None:
        said, _ = ended(how, python=("-W", "always"))
        assert said.err == ""

    def test_with_all_warnings_nothing_else_is_complained_of(self) -> None:
        said, _ = ended("without_a_loop", python=("-W", "always"))
        assert re.sub(r".*ResourceWarning: 1 segment_async client.*\n(  .*\n)*", "", said.err) == ""
