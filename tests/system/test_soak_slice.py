"""A few seconds of the soak; the whole of it is `python -m tests.soak`."""

import pytest

from tests.soak import OUTAGES, main


def test_a_slice_of_the_soak(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--messages", "8000", "--outages", "16", "--outage-seconds", "0.05"])
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    assert "8,000 messages through 16 outages: each delivered" in said.out
    assert all(f"2  outages: {kind}" in said.out for kind in OUTAGES)
