"""A slice of the simulation; `make sim SEEDS=20000` runs many."""

import asyncio
import subprocess
import sys
import textwrap
from collections import Counter

import pytest

from segment_async import Client
from segment_async._lifecycle.waiting import wait_until
from tests.simulation.__main__ import MUST_BE_SEEN, kind_of, main, run_seeds
from tests.simulation.on_sqlite import SQLiteScenario
from tests.simulation.scenario import Scenario
from tests.simulation.second_looks import without_second_looks
from tests.simulation.spooled import SpooledScenario
from tests.support import virtual_clock
from tests.support.scripted_transport import ScriptedTransport
from tests.support.virtual_clock import Deadlock

# A seed of each kind is among them, and two with SQLite's spool.
SLICE = range(60)


# A process that crashes leaves calls of its own `on_error` that its loop never began; only these may be complained of.
@pytest.mark.filterwarnings("ignore:.*Scenario._complain_later:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("first", SLICE[::10])
def test_a_slice_of_seeds_keeps_the_law(first: int) -> None:
    _, broken = run_seeds(first, 10)
    assert not broken, broken[0][1]


def test_the_slice_has_each_kind_of_seed() -> None:
    kinds = Counter(kind_of(seed) for seed in SLICE)
    assert kinds == {Scenario: 40, SpooledScenario: 18, SQLiteScenario: 2}


def test_a_broken_seed_names_the_line_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(self: object) -> None:
        raise AssertionError("the law does not hold")

    monkeypatch.setattr("tests.simulation.scenario.Scenario.run", lose)
    assert main(["--seeds", "1", "--first", "7"]) == 1
    assert "python -m tests.simulation --first 7 --seeds 1" in capsys.readouterr().out


def test_a_seed_that_never_ends_is_named_before_its_process_is_ended() -> None:
    """In virtual time it may go on for ever, and no limit there is reached."""
    program = """
        import time
        from tests.simulation import __main__ as simulation

        simulation._PATIENCE = 0.2
        simulation.Scenario.run = lambda _: time.sleep(60)
        simulation.main(["--seeds", "1", "--first", "7"])
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 1
    assert "python -m tests.simulation --first 7 --seeds 1" in ended.stdout
    assert "in run_seeds" in ended.stderr


def test_a_loop_that_never_ends_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait_in_vain(self: object) -> None:
        while True:  # noqa: ASYNC110  # it waits for nothing
            await asyncio.sleep(10_000)

    monkeypatch.setattr("tests.simulation.scenario.Scenario._last_day", wait_in_vain)
    _, [(seed, text)] = run_seeds(0, 1)
    assert seed == 0
    assert "wait_in_vain" in text
    assert "TimeoutError" in text


def test_the_faults_that_must_be_seen_are_many() -> None:
    assert len(MUST_BE_SEEN) > 90


def test_a_lost_wake_up_stays_lost_in_the_simulation() -> None:
    """Outside of it, the client's timers find what an exception in a signal handler has left undone."""

    async def change_without_a_notification() -> None:
        client, changes = Client("key", transport=ScriptedTransport()), []
        await client.flush()
        asyncio.get_running_loop().call_later(1, changes.append, "made")
        await wait_until(lambda: bool(changes), lambda: client._owner.pipeline.queue.changed, client._owner)

    with without_second_looks(), pytest.raises(Deadlock):
        virtual_clock.run(change_without_a_notification())
    virtual_clock.run(change_without_a_notification())
