"""The public names of `segment_async.relay`, and what they say where the extra is not installed."""

import subprocess
import sys
from typing import Any

import pytest

import segment_async.relay


@pytest.mark.parametrize("identity", [None, 42, b"user-1"])
def test_a_user_is_named_by_text(identity: Any) -> None:
    pytest.importorskip("redis", reason="the extra redis is not installed")
    inspector = segment_async.relay.RelayInspector("redis://127.0.0.1:1", "KEY")
    for method in (inspector.count_of_user, inspector.purge):
        with pytest.raises(ValueError, match=r"identity must be text, as ids are sent: str\(user_id\)"):
            method(identity)


@pytest.mark.parametrize("name", segment_async.relay.__all__)
def test_a_name_says_which_extra_is_missing(name: str) -> None:
    program = f"import sys; sys.modules['redis'] = None; import segment_async.relay; segment_async.relay.{name}"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith(
        'ImportError: segment_async.relay requires the extra "redis": pip install "segment-async[redis]"\n'
    )
