"""A moment of the threads with loops that run and stop; the whole of it is `python -m tests.loops`."""

import pytest

from tests.loops import main


def test_a_client_that_moves_between_loops_loses_and_doubles_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--seeds", "1"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "1 seeds, 0 broken" in said.out
