"""The SQLite engine against a model of a few lines: any sequence of calls, restarts in between, the same answers."""

import itertools
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from segment_async.spool import BatchResult, Status
from segment_async.spool._intake import NewMessage
from segment_async.spool._ledger import by_slot
from segment_async.spool._shard import Limits, Note
from segment_async.spool._shards import Shards

ROOM = 60
IDS = st.sampled_from("abcdefghij")
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
        self.shards = self.open()
        # The model: what waits, in order; what is held, by key; dead letters' sizes, in the order of acceptance.
        self.waiting: list[tuple[str, bytes, int]] = []
        self.held: dict[int, tuple[str, bytes, int]] = {}
        self.dead: dict[int, int] = {}
        self.attempts: dict[int, int] = {}
        self.counts = dict.fromkeys(("accepted", "delivered", "failed", "dropped"), 0)
        self.reasons: dict[str, int] = {}
        self.number = itertools.count()

    def open(self):
        clock = itertools.count(1_000)
        limits = Limits(ROOM, None, lambda: next(clock))
        return Shards(Path(self.folder.name, "a.db"), limits, power_safe=False, falls_back=False)

    def teardown(self):
        self.shards.close()
        self.folder.cleanup()

    @initialize()
    def begin(self):
        self.shards.commit([])

    # -- the model

    def used(self):
        pending = [*self.waiting, *self.held.values()]
        return sum(len(body) for _, body, _ in pending) + sum(self.dead.values())

    def expect_append(self, message_id, body, make_room, known, group):
        if message_id in group:
            return "known", []
        dropped = []
        if len(body) <= ROOM:
            while self.used() + len(body) > ROOM and self.dead:
                del self.dead[min(self.dead)]
            while self.used() + len(body) > ROOM and make_room and self.waiting and self.waiting[0][0] not in group:
                dropped.append(self.waiting.pop(0))
                self.end(BatchResult(Status.DROPPED, "queue_full"))
        if self.used() + len(body) > ROOM:
            return "full", dropped
        group.add(message_id)
        if message_id in known - {each[0] for each in dropped}:
            return "known", dropped
        self.counts["accepted"] += 1
        self.waiting.append((message_id, body, next(self.number)))
        return "stored", dropped

    def end(self, fate):
        self.counts[fate.status.value] += 1
        if fate.reason is not None:
            self.reasons[fate.reason] = self.reasons.get(fate.reason, 0) + 1

    # -- calls

    @rule(message_id=IDS, body=st.binary(max_size=25), make_room=st.booleans())
    def append(self, message_id, body, make_room):
        known = {each[0] for each in (*self.waiting, *self.held.values())}
        expected, dropped = self.expect_append(message_id, body, make_room, known, set())
        [result] = self.shards.commit([NewMessage(message_id.encode(), body, make_room)])
        assert result.status == expected
        assert [each[:2] for each in result.dropped] == [each[:2] for each in dropped]

    @rule(count=st.integers(1, 4), size=st.integers(1, 40))
    def read(self, count, size):
        window = self.shards.read(count, size)
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
        for slot, where in by_slot(keys).items():
            self.shards.note(slot, Note(where, fate))
        self.shards.commit()
        for key in keys:
            _, body, number = self.held.pop(key)
            self.end(fate)
            if fate.status is Status.FAILED:
                self.dead[number] = len(body)

    @precondition(lambda self: self.held)
    @rule(choice=st.integers(0, 255))
    def sending(self, choice):
        keys = self.some_held(choice)
        attempt = 1 + max((self.attempts.get(self.held[key][2], 0) for key in keys), default=0)
        for slot, where in by_slot(keys).items():
            self.shards.note(slot, Note(where, attempt))
        self.shards.commit()
        for key in keys:
            self.attempts[self.held[key][2]] = attempt

    @rule()
    def restart(self):
        self.shards.close()
        self.shards = self.open()
        self.waiting = sorted([*self.held.values(), *self.waiting], key=lambda each: each[2])
        self.held.clear()
        self.shards.commit([NewMessage(b"never there", b"x" * (ROOM + 1), False)])

    @invariant()
    def books(self):
        counts = self.shards.snapshot().statistics()
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
