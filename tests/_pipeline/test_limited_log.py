"""Log records: how often those of one kind are written."""

import logging

import pytest

from segment_async._pipeline.limited_log import LimitedLog


def test_one_record_of_a_kind_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    limited_log = LimitedLog(lambda: now)
    for now in (0.0, 1.0, 59.9, 60.0, 61.0, 120.0):
        limited_log.warn("kind", "at %g", now)
        limited_log.warn("other kind", "another")
    assert [record.getMessage() for record in caplog.records if "at" in record.getMessage()] == [
        "at 0",
        "at 60",
        "at 120",
    ]


def test_once_and_for_all(caplog: pytest.LogCaptureFixture) -> None:
    moments = iter(range(0, 10_000, 1_000))
    limited_log = LimitedLog(lambda: next(moments))
    for _ in range(3):
        limited_log.warn_once("kind", "said %s", "once")
    assert [record.getMessage() for record in caplog.records] == ["said once"]
    assert {(record.name, record.levelno) for record in caplog.records} == {("segment_async", logging.WARNING)}
