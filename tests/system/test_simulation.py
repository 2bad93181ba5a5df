"""A slice of the simulation; `make sim SEEDS=20000` runs many."""

import pytest

from tests.simulation.__main__ import MUST_BE_SEEN, main, run_seeds


# A process that crashes leaves calls of its own `on_error` that its loop never began; only these may be complained of.
@pytest.mark.filterwarnings("ignore:.*Scenario._complain_later:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("first", range(0, 60, 10))
def test_a_slice_of_seeds_keeps_the_law(first: int) -> None:
    _, broken = run_seeds(first, 10)
    assert not broken, broken[0][1]


def test_a_broken_seed_names_the_line_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(self: object) -> None:
        raise AssertionError("the law does not hold")

    monkeypatch.setattr("tests.simulation.scenario.Scenario.run", lose)
    assert main(["--seeds", "1", "--first", "7"]) == 1
    assert "python -m tests.simulation --first 7 --seeds 1" in capsys.readouterr().out


def test_the_faults_that_must_be_seen_are_many() -> None:
    assert len(MUST_BE_SEEN) > 90
