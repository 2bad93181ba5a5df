"""Calls that come while the interpreter ends: each is sent, or raises; none is accepted and forgotten."""

import asyncio
import re
from ast import literal_eval
from pathlib import Path

import pytest

from tests.support.fault_server import FaultServer, Script
from tests.support.faults import answer
from tests.support.programs import Ended, finished

ENDING = "ClientClosed: the client is closed: the program is ending, and nothing would send this message"


def run(*how: str, script: Script = ()) -> tuple[int, dict[str, int], dict[str, int], Ended]:
    """How many messages were received; what became of the calls, by outcome; and what they raised."""

    async def main() -> tuple[int, Ended]:
        async with FaultServer(script) as server:
            said = await finished("-m", "tests.programs.late_calls", *how, host=server.url)
            assert said.code == 0, said.err
            assert all(len(times) == 1 for times in server.taken.values())
            return len(server.taken), said

    received, said = asyncio.run(main())
    found = re.search(r"calls (\{.*\}), raised (\{.*\})", said.out)
    assert found, (said.out, said.err)
    assert "Traceback" not in said.err, said.err
    return received, literal_eval(found[1]), literal_eval(found[2]), said


@pytest.mark.parametrize("kind", ["asyncio", "blocking"])
class TestAfterTheDrain:
    def test_the_first_call_raises(self, kind: str) -> None:
        assert run("after", kind)[:3] == (0, {}, {ENDING: 1})

    def test_of_a_client_made_then_as_well(self, kind: str) -> None:
        assert run("made_after", kind)[:3] == (0, {}, {ENDING: 1})

    def test_a_later_call_raises(self, kind: str) -> None:
        assert run("after_others", kind)[:3] == (1, {"delivered": 1}, {ENDING: 1})

    def test_calls_of_a_thread_that_goes_on_are_sent_or_raise(self, kind: str) -> None:
        received, outcomes, raised, said = run("meanwhile", kind)
        assert received > 0
        assert outcomes == {"delivered": received}
        assert list(raised) == [ENDING]
        assert said.err == ""

    def test_with_a_spool(self, kind: str, tmp_path: Path) -> None:
        received, outcomes, raised, _ = run("meanwhile", kind, str(tmp_path / "spool"))
        assert received > 0
        assert outcomes == {"delivered": received}
        assert list(raised) == [ENDING]


@pytest.mark.parametrize("kind", ["asyncio", "blocking"])
def test_a_handler_of_the_log_that_tracks_does_not_end_the_drain(kind: str) -> None:
    received, outcomes, _, _ = run("logged", kind, script=[answer(404)])
    assert (received, outcomes) == (0, {"failed": 1})


def test_after_the_drain_a_flush_has_nothing_to_wait_for() -> None:
    received, outcomes, raised, said = run("flush_after", "blocking")
    assert (received, outcomes, raised) == (1, {"delivered": 1}, {})
    assert "left 0 0" in said.out


class TestBeforeTheDrain:
    """From Python 3.12 on no thread can be started any more."""

    @pytest.mark.parametrize("when", ["before", "in_a_thread"])
    @pytest.mark.parametrize("kind", ["asyncio", "blocking"])
    def test_the_first_call_is_sent(self, when: str, kind: str) -> None:
        assert run(when, kind)[:3] == (1, {"delivered": 1}, {})

    @pytest.mark.parametrize("kind", ["asyncio", "blocking"])
    def test_into_a_spool_as_well(self, kind: str, tmp_path: Path) -> None:
        assert run("before", kind, str(tmp_path / "spool"))[:3] == (1, {"delivered": 1}, {})

    @pytest.mark.parametrize(
        ("when", "says"),
        [("before_and_flush", "left 0 delivered"), ("before_and_wait", "delivered"), ("before_and_close", "")],
    )
    def test_and_can_be_waited_for(self, when: str, says: str) -> None:
        received, outcomes, raised, said = run(when, "blocking")
        assert (received, outcomes, raised) == (1, {"delivered": 1}, {})
        assert says in said.out

    def test_a_first_import_in_an_exit_handler_says_what_to_do(self) -> None:
        received, outcomes, _, said = run("imported", "asyncio")
        assert (received, outcomes) == (0, {"None": 1})
        assert "imported while the program ends" in said.err

    def test_and_a_flush_sends(self) -> None:
        assert run("imported_and_flushed", "blocking")[:2] == (1, {"delivered": 1})

    def test_calls_wait_for_room(self) -> None:
        assert run("before_with_a_full_queue", "blocking")[:3] == (10, {"delivered": 10}, {})
