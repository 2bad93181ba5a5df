"""The SQLite engine against a model of a few lines: any sequence of calls, restarts in between, the same answers."""

import itertools
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from segment_async.spool import BatchResult, Status, StoredMessage, Window
from segment_async.spool._database import Options
from segment_async.spool._writer import Append, Note, Writer

ROOM = 60
IDS = st.sampled_from("abcdefghij")
COUNTS = st.integers(0, 4)
FATES = st.sampled_from(
    [
        BatchResult(Status.DELIVERED),
        BatchResult(Status.FAILED, "refused"),
        BatchResult(Status.FAILED, "gave_up"),
        BatchResult(Status.DROPPED, "x"),
    ]
)


class SpoolMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.writer = self.open()
        # The model: what waits, in order; what is held, by key; dead letters' sizes, in the order of acceptance.
        self.waiting: list[tuple[str, bytes, int]] = []
        self.held: dict[int, tuple[str, bytes, int]] = {}
        self.dead: dict[int, int] = {}
        self.attempts: dict[int, int] = {}
        self.counts = dict.fromkeys(("accepted", "delivered", "failed", "dropped"), 0)
        self.reasons: dict[str, int] = {}
        self.number = itertools.count()

    def open(self):
        return Writer(Path(self.folder.name, "a.db"), Options(max_bytes=ROOM, power_safe=False))

    def teardown(self):
        self.writer.close()
        self.folder.cleanup()

    @initialize()
    def begin(self):
        self.writer.commit([Append([])])

    # -- the model

    def used(self):
        pending = [*self.waiting, *self.held.values()]
        return sum(len(body) for _, body, _ in pending) + sum(self.dead.values())

    def expect_append(self, messages, make_room, hold):
        """What becomes of each message of a group, and what is dropped for them."""
        pending = {each[0] for each in (*self.waiting, *self.held.values())}
        may_hold = not self.waiting
        fresh = {}
        for message_id, body in messages:
            if message_id not in pending and len(body) <= ROOM:
                fresh.setdefault(message_id, body)
        wanted = sum(map(len, fresh.values()))
        while self.used() + wanted > ROOM and self.dead:
            del self.dead[min(self.dead)]
        dropped = []
        while self.used() + wanted > ROOM and make_room and self.waiting:
            dropped.append(self.waiting.pop(0))
            self.end(BatchResult(Status.DROPPED, "queue_full"))
        stored, statuses = [], []
        for message_id, body in messages:
            if fresh.get(message_id) is body and self.used() + sum(len(each[1]) for each in stored) + len(body) <= ROOM:
                del fresh[message_id]
                pending.add(message_id)
                stored.append((message_id, body, next(self.number)))
                statuses.append("stored")
            else:
                statuses.append("known" if message_id in pending else "full")
        self.counts["accepted"] += len(stored)
        held = stored[:hold] if may_hold else []
        self.waiting += stored[len(held) :]
        return statuses, dropped, held

    def end(self, fate):
        self.counts[fate.status.value] += 1
        if fate.reason is not None:
            self.reasons[fate.reason] = self.reasons.get(fate.reason, 0) + 1

    # -- calls

    @rule(group=st.lists(st.tuples(IDS, st.binary(max_size=25)), max_size=5), make_room=st.booleans(), hold=COUNTS)
    def append(self, group, make_room, hold):
        # Each its own object, so that the model can tell equal ones apart.
        group = [(message_id, bytes(bytearray(body))) for message_id, body in group]
        expected, dropped, held = self.expect_append(group, make_room, hold)
        [result] = self.writer.commit([Append([(mid.encode(), body) for mid, body in group], hold, make_room)])
        assert [each.status for each in result.answers] == expected
        assert [each[:2] for each in result.dropped] == [each[:2] for each in dropped]
        keys = {mid: answer.key for (mid, _), answer in zip(group, result.answers, strict=True) if answer.held}
        assert list(keys) == [each[0] for each in held]
        self.held.update((keys[each[0]], each) for each in held)

    @rule(count=st.integers(1, 4), size=st.integers(1, 40))
    def read(self, count, size):
        window = self.writer.read(count, size)
        expected = []
        while self.waiting and len(expected) < count:
            if expected and sum(len(each[1]) for each in expected) + len(self.waiting[0][1]) > size:
                break
            expected.append(self.waiting.pop(0))
        messages = [] if window is None else window.messages
        assert [(each.message_id, each.body) for each in messages] == [each[:2] for each in expected]
        assert [each.attempts for each in messages] == [self.attempts.get(each[2], 0) for each in expected]
        self.held.update(zip((each.key for each in messages), expected, strict=True))

    def some_held(self, choice):
        return [key for index, key in enumerate(self.held) if choice >> index & 1]

    @precondition(lambda self: self.held)
    @rule(choice=st.integers(0, 255), fate=FATES)
    def settle(self, choice, fate):
        keys = self.some_held(choice)
        self.writer.commit([Note(keys, fate)])
        for key in keys:
            _, body, number = self.held.pop(key)
            self.end(fate)
            if fate.status is Status.FAILED:
                self.dead[number] = len(body)

    @precondition(lambda self: self.held)
    @rule(choice=st.integers(0, 255))
    def release(self, choice):
        """A reader is gone."""
        keys = self.some_held(choice)
        messages = [StoredMessage(key, self.held[key][0], self.held[key][1]) for key in keys]
        self.writer.release(Window(messages))
        self.waiting = sorted([*self.waiting, *(self.held.pop(key) for key in keys)], key=lambda each: each[2])

    @precondition(lambda self: self.held)
    @rule(choice=st.integers(0, 255))
    def sending(self, choice):
        keys = self.some_held(choice)
        attempt = 1 + max((self.attempts.get(self.held[key][2], 0) for key in keys), default=0)
        self.writer.commit([Note(keys, attempt)])
        for key in keys:
            self.attempts[self.held[key][2]] = attempt

    @rule()
    def restart(self):
        self.writer.close()
        self.writer = self.open()
        self.waiting = sorted([*self.held.values(), *self.waiting], key=lambda each: each[2])
        self.held.clear()
        self.writer.commit([Append([])])

    @invariant()
    def books(self):
        counts = self.writer.look()()
        if counts.accepted == 0:
            return
        assert {name: getattr(counts, name) for name in self.counts} == self.counts
        assert counts.pending == len(self.waiting) + len(self.held)
        assert counts.pending_bytes + counts.dead_bytes == self.used()
        assert counts.dead == len(self.dead)
        assert counts.reasons == self.reasons
        assert (counts.damages, counts.unrecorded) == (0, 0)


SpoolMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, derandomize=True)
test_any_sequence_of_calls = SpoolMachine.TestCase
