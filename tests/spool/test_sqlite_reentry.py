"""A signal handler, or a finalizer, between any two steps of a call to the SQLite engine: no lock is left held.

Each test goes through the places one after the other, with a new spool for each, and acts on a thread of its own, so
that one that stands still fails the test. Afterwards any other thread can use the spool.
"""

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segment_async.spool import AppendResult, NewMessage, SpoolInspector, SpoolUnavailable, SQLiteSpool, _sqlite
from segment_async.spool._writer import Writer
from tests.support.interruptions import Interrupted, Points

SECONDS = 10.0
# Places that a test goes through, spread over all of them; an odd step meets each line of a loop's body.
PLACES = 25


def go_through(path: Path, call: Callable[[Path, Points], None], act: Callable[[], None], *parts: str) -> None:
    """Act at one place of the call after the other; `call` raises, or ends, within the limit."""
    counted = Points(*parts)
    in_a_thread(lambda: call(path / "counted" / "a.db", counted))
    assert counted.count > 0
    for at in range(0, counted.count, max(1, counted.count // PLACES) | 1):
        points = Points(*parts, act=act, at=at)
        try:
            in_a_thread(lambda at=at, points=points: call(path / str(at) / "a.db", points))
        except Exception as fault:
            raise AssertionError(f"place {at} of {counted.count}: {points.where}") from fault
    # From Python 3.13 on, a connection that nothing has closed is told of here.
    gc.collect()


def in_a_thread(work: Callable[[], object]) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as fault:
            raised.append(fault)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        raise TimeoutError("it stands still")
    if raised:
        raise raised[0]


class Answers:
    """What a spool answers to single messages, from any thread."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self._changed = threading.Condition()

    def append(self, spool: SQLiteSpool, message_id: str) -> None:
        def done(result: AppendResult | SpoolUnavailable) -> None:
            assert not isinstance(result, SpoolUnavailable), result
            with self._changed:
                self.taken.append(message_id)
                self._changed.notify_all()

        spool.append_nowait([NewMessage(message_id, b"{}")], done)

    def wait_for(self, *message_ids: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: {*message_ids} <= {*self.taken}, SECONDS), self.taken


def threads_of_spools() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "segment_async spool"}


def interrupt() -> None:
    raise Interrupted


with_and_without_threads = pytest.mark.parametrize("has_threads", [True, False], ids=["thread", "no thread"])


def new_spool(path: Path, *, has_threads: bool) -> SQLiteSpool:
    spool = SQLiteSpool(path)
    if not has_threads:
        # As in a child of uWSGI's: each caller runs the turn.
        spool._engine()._has_threads = False
    return spool


@with_and_without_threads
def test_a_handler_that_raises_leaves_no_lock_held(tmp_path: Path, has_threads: bool) -> None:
    def call(path: Path, points: Points) -> None:
        path.parent.mkdir()
        before = threads_of_spools()
        spool = new_spool(path, has_threads=has_threads)
        answers = Answers()
        try:
            with points:
                spool.append_nowait([NewMessage("interrupted", b"{}")], lambda _: None)
        except Interrupted:
            pass
        answers.append(spool, "after")
        in_a_thread(lambda: answers.append(spool, "elsewhere"))
        answers.wait_for("after", "elsewhere")
        check_threads(before, has_threads=has_threads)

    go_through(tmp_path, call, interrupt, "spool")


def check_threads(before: set[threading.Thread], *, has_threads: bool) -> None:
    """One thread works; another one that was started at the same time ends at once."""
    [*started] = threads_of_spools() - before
    while len(started) > 1:
        ended = next((each for each in started if (each.join(SECONDS / 100), not each.is_alive())[1]), None)
        assert ended is not None, started
        started.remove(ended)
    assert len(started) == has_threads


@with_and_without_threads
def test_a_handler_or_a_finalizer_that_appends_waits_for_nothing(tmp_path: Path, has_threads: bool) -> None:
    held: list[tuple[SQLiteSpool, Answers]] = []

    def call(path: Path, points: Points) -> None:
        path.parent.mkdir()
        before = threads_of_spools()
        spool, answers = new_spool(path, has_threads=has_threads), Answers()
        held.append((spool, answers))
        with points:
            answers.append(spool, "outer")
        answers.wait_for("outer", *(["inner"] if points.where else []))
        check_threads(before, has_threads=has_threads)

    def append() -> None:
        spool, answers = held[-1]
        answers.append(spool, "inner")

    # Amid the start of a thread as well.
    parts = ("spool", threading.__file__) if has_threads else ("spool",)
    go_through(tmp_path, call, append, *parts)


def test_what_an_answer_appends_without_a_thread_is_served_although_its_turn_raises(tmp_path: Path) -> None:
    """As by a signal handler. The client asks for no further group before this one is answered."""
    spool, taken = new_spool(tmp_path / "a.db", has_threads=False), []

    def append_next(_: object) -> None:
        spool.append_nowait([NewMessage("next", b"{}")], taken.append)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spool.append_nowait([NewMessage("first", b"{}")], append_next)
    assert len(taken) == 1


def test_an_answer_that_appends_without_a_thread_begins_no_turn_within_its_own(tmp_path: Path) -> None:
    """As the client's, which hands over its next messages then: nested, many of them would reach Python's limit."""
    spool, taken, under_way = new_spool(tmp_path / "a.db", has_threads=False), [], []

    def append(number: int) -> None:
        def done(_: object) -> None:
            assert not under_way
            under_way.append(number)
            taken.append(number)
            if number < 3:
                append(number + 1)
            under_way.clear()

        spool.append_nowait([NewMessage(str(number), b"{}")], done)

    append(1)
    assert taken == [1, 2, 3]
    append(4)
    assert taken == [1, 2, 3, 4]


def test_the_first_calls_in_a_child_of_a_fork_without_hooks_may_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread calls while another one is still about to leave the parent's state behind."""
    spool, answers, seen = SQLiteSpool(tmp_path / "a.db"), Answers(), threading.Event()

    def call_second() -> None:
        answers.append(spool, "second")
        seen.set()

    second = threading.Thread(target=call_second, daemon=True)

    def make_writer(*arguments: Any) -> _sqlite.Writer:
        if second.ident is None:
            second.start()
            assert seen.wait(SECONDS)
        return Writer(*arguments)

    # What such a child finds.
    spool._engines = {(0, 0): spool._engine()}
    monkeypatch.setattr(_sqlite, "_pid", 0)
    monkeypatch.setattr(_sqlite, "Writer", make_writer)
    answers.append(spool, "first")
    second.join(SECONDS)
    answers.wait_for("first", "second")
    # Not in the parent's queue, or with its writer.
    assert spool.statistics().accepted == 2
    assert spool._engine()._thread is None


def test_a_construction_that_is_interrupted_leaves_no_lock_held(tmp_path: Path) -> None:
    def call(path: Path, points: Points) -> None:
        path.parent.mkdir()
        try:
            with points:
                SQLiteSpool(path)
        except Interrupted:
            pass
        in_a_thread(lambda: SQLiteSpool(path))

    go_through(tmp_path, call, interrupt, "spool")


def test_a_look_that_is_interrupted_leaves_no_lock_held(tmp_path: Path) -> None:
    def call(path: Path, points: Points) -> None:
        path.parent.mkdir()
        spool, answers = SQLiteSpool(path), Answers()
        answers.append(spool, "stored")
        answers.wait_for("stored")
        try:
            with points:
                SpoolInspector(path).status()
        except Interrupted:
            pass
        in_a_thread(lambda: SpoolInspector(path).status())
        answers.append(spool, "after")
        answers.wait_for("after")

    go_through(tmp_path, call, interrupt, "spool")
