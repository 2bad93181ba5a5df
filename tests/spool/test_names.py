"""The public names of `segment_async.spool`, what importing them loads, and what they show of a message."""

import pickle
import subprocess
import sys

import pytest

import segment_async.spool
from segment_async.spool import DeadLetter, DroppedMessage, NewMessage, PendingMessage, SpoolStatistics, StoredMessage

NAMES = """
Spool Intake Outlet NewMessage Appended AppendResult StoredMessage Window DroppedMessage SpoolStatistics SQLiteSpool
SpoolInspector DeadLetter PendingMessage ShardStatus SpoolUnavailable Status BatchResult TryLater
""".split()


def test_the_names_are_these_and_all_are_there():
    assert sorted(segment_async.spool.__all__) == sorted(NAMES)
    assert all(getattr(segment_async.spool, name) is not None for name in NAMES)
    with pytest.raises(AttributeError, match="has no attribute 'SpoolVisitor'"):
        segment_async.spool.SpoolVisitor  # noqa: B018 -- the access is what is tried


@pytest.mark.untraced
def test_sqlite_is_loaded_with_the_engine_and_not_before():
    program = """
import sys
import segment_async, segment_async.spool
from segment_async.spool import Spool, Window, SpoolUnavailable
assert "sqlite3" not in sys.modules
from segment_async.spool import SQLiteSpool
assert "sqlite3" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


BODY = b'{"email":"a@example.com"}'


@pytest.mark.parametrize(
    "message",
    [
        NewMessage("id-1", BODY),
        StoredMessage(7, "id-1", BODY, 2),
        DroppedMessage("id-1", BODY, "too_old"),
        PendingMessage("id-1", BODY, 1.0, 2),
        DeadLetter("id-1", BODY, 1.0, 2.0, "refused", 400, 3, True, "no such source"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_no_repr_shows_a_body(message):
    for text in (repr(message), str(message), f"{[message]}"):
        assert "example" not in text
        assert "id-1" in text
        assert f"<{len(BODY)} bytes>" in text
    assert pickle.loads(pickle.dumps(message)) == message


def test_statistics_can_be_compared_hashed_and_pickled():
    statistics = SpoolStatistics(accepted=1)
    assert pickle.loads(pickle.dumps(statistics)) == statistics
    assert hash(statistics) == hash(SpoolStatistics(accepted=1))
