"""A moment of the stress; the whole of it is `python -m tests.stress`."""

import pytest

from tests.stress import main


@pytest.mark.parametrize("switch_interval", ["0.005", "1e-6"])
def test_a_slice_of_the_stress(capsys: pytest.CaptureFixture[str], switch_interval: str) -> None:
    code = main(["--minutes", "0.01", "--switch-interval", switch_interval])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "the law held, and each has its outcome" in said.out
