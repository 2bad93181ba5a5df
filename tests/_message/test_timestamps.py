"""The text of points in time: the current one, cached by the millisecond, and any datetime."""

import sys
from collections.abc import Callable
from datetime import datetime
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment_async._message.timestamps import clock_text


class TestClockText:
    @given(st.floats(0, 4_000_000_000))
    def test_any_moment(self, now: float) -> None:
        text = clock_text(now)
        moment = datetime.fromisoformat(text)
        assert len(text) == 24
        assert -0.001 <= now - moment.timestamp() < 0.0015

    @pytest.mark.parametrize("line", range(8))
    @pytest.mark.parametrize("other", [999.0, 1_000.9, 1_001.0])
    def test_another_thread_may_run_before_any_line(self, line: int, other: float) -> None:
        lines = []

        def interrupt(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
            if frame.f_code is not clock_text.__code__:
                return None
            if event == "line":
                lines.append(frame.f_lineno)
                if len(lines) == line + 1:
                    clock_text(other)
            return interrupt

        clock_text(5.0)
        tracer = sys.gettrace()
        sys.settrace(interrupt)
        try:
            text = clock_text(1_000.5)
        finally:
            sys.settrace(tracer)
        assert lines
        assert text == "1970-01-01T00:16:40.500Z"
