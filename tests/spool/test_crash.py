"""A small slice of `tests.spool.crash`, to see that both the spool and the machinery stand; `make crash` runs the rest."""

import subprocess
import sys
from pathlib import Path

import pytest

from .crash import calls

ROOT = Path(__file__).parents[2]

needs_strace = pytest.mark.skipif(not calls.is_possible(), reason="strace is missing, or may not trace here")


def crash(*options):
    """In a process of its own, because it forks."""
    command = [sys.executable, "-m", "tests.spool.crash", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_random_kills():
    assert "'kills': 40" in crash("--kills", "40")


def test_flipped_bits():
    assert "'flips': 60" in crash("--flips", "60")


@needs_strace
def test_kills_at_system_calls():
    assert "'calls': " in crash("--calls", "--steps", "4", "--every", "70")


@needs_strace
def test_kills_during_a_salvage():
    assert "'calls': " in crash("--salvage", "--every", "120")


@needs_strace
def test_errors_of_system_calls():
    assert "'refused': " in crash("--errors", "--steps", "4", "--every", "60")


@needs_strace
def test_a_sync_that_fails_leaves_no_doubt(tmp_path):
    """The log may have what was refused, or what is tried once more: neither is there twice, or against its answer."""
    assert calls.fail_syncs(tmp_path, "sync", 3) > 3


@needs_strace
def test_power_loss():
    assert "'states': " in crash("--power", "200", "--steps", "6")
