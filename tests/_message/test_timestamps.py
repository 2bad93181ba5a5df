"""The text of points in time near the current one."""

from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from segment_async._message.timestamps import millisecond_text


@given(st.integers(0, 4_000_000_000_000))
def test_any_moment(millisecond: int) -> None:
    text = millisecond_text(millisecond)
    assert len(text) == 24
    assert round(datetime.fromisoformat(text).timestamp() * 1000) == millisecond
