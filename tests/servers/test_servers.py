"""A short slice of `python -m tests.servers`: some of its setups, with few messages."""

import pytest

from .run import run
from .setups import SETUPS, Setup

SLICE = (
    "Flask, gunicorn -k gthread -w 2 --threads 4 --preload",
    "Django, gunicorn -w 2 --max-requests 60",
    "Django, uWSGI --threads 2",
    "a program, scheduled, SIGTERM",
)


@pytest.mark.parametrize("setup", [setup for setup in SETUPS if setup.name in SLICE], ids=lambda setup: setup.name)
def test_what_is_accepted_is_received_once(setup: Setup) -> None:
    result = run(setup, 800)
    assert result.is_good, result
    assert result.accepted >= 800


def test_every_setup_has_a_name_of_its_own() -> None:
    assert len({setup.name for setup in SETUPS}) == len(SETUPS)
