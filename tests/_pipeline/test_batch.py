"""Batches: what goes in comes out of the body byte for byte, with any library that inflates it; no body is too large."""

import gzip
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isal import igzip, isal_zlib

from segment_async import Delivery, Status
from segment_async._outcome import BatchResult
from segment_async._pipeline.batch import (
    MAX_BATCH_MESSAGES,
    MAX_BODY_BYTES,
    Batch,
    Envelope,
    OpenBatch,
    bytes_at_once,
    fastest,
)
from segment_async._pipeline.delivery import bodies_of
from segment_async._pipeline.retry import History
from tests.support.stations import deliveries, opened, sealed

KEY = "THE-WRITE-KEY"
NOW = "2026-11-21T19:20:03.047Z"
ENVELOPE = Envelope(KEY)
ROOM = MAX_BODY_BYTES - ENVELOPE.size


@pytest.fixture(params=["isal", "zlib", "none"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., OpenBatch]]:
    """Makes open batches, compressed by either library or not at all."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    fastest.cache_clear()
    bytes_at_once.cache_clear()
    gzip = request.param != "none"
    yield lambda bodies=(), **options: opened(bodies, gzip=gzip, **{"limit": ROOM, **options})
    fastest.cache_clear()
    bytes_at_once.cache_clear()


def add(batch: OpenBatch, body: bytes) -> None:
    batch.take(deque(deliveries([body])), [body], len(body))


def text_of(body: bytes) -> bytes:
    """The body's JSON, as three libraries read it."""
    if not body.startswith(b"\x1f\x8b"):
        return body
    texts = {gzip.decompress(body), igzip.decompress(body), isal_zlib.decompress(body, wbits=31)}
    inflater = zlib.decompressobj(31)
    texts.add(inflater.decompress(body))
    # One member, whole, and nothing after it.
    assert inflater.eof
    assert not inflater.unused_data
    assert len(texts) == 1
    return texts.pop()


def expected(messages: list[bytes], sent_at: str = NOW, key: str = KEY) -> bytes:
    return b'{"batch":[%s],"sentAt":"%s","writeKey":%s}' % (b",".join(messages), sent_at.encode(), orjson.dumps(key))


def message(size: int, number: int = 0) -> bytes:
    """So many bytes of JSON, hardly alike from one number to the next."""
    head = b'{"n":%06d,"s":"' % number
    filling = b"%08x" % (number * 2_654_435_761 % 2**32) * (size // 8 + 1)
    return head + filling[: size - len(head) - 2] + b'"}'


MESSAGES = st.lists(
    st.dictionaries(st.text(max_size=5), st.text(max_size=40) | st.integers(0, 10**9), max_size=5).map(orjson.dumps),
    min_size=1,
    max_size=60,
)


class TestBody:
    @given(messages=MESSAGES, sent_at=st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=30))
    @pytest.mark.parametrize("compressed", [True, False])
    def test_any_messages_come_out_as_they_went_in(
        self, messages: list[bytes], sent_at: str, *, compressed: bool
    ) -> None:
        batch = sealed(messages, gzip=compressed)
        assert text_of(batch.body(ENVELOPE.tail(sent_at))) == expected(messages, sent_at)
        assert list(batch.bodies()) == messages

    @pytest.mark.parametrize("count", [1, 2, 10, 100, 2_500])
    @pytest.mark.parametrize("size", [30, 190, 16_370, 16_384, 32_768])
    def test_across_pieces(self, make: Callable[..., OpenBatch], count: int, size: int) -> None:
        batch, messages = make(), []
        while len(messages) < count and batch.fits(size):
            messages.append(message(size, len(messages)))
            add(batch, messages[-1])
            batch.press()
        assert batch.bodies() == messages
        whole = batch.seal()
        assert text_of(whole.body(ENVELOPE.tail(NOW))) == expected(messages)
        assert list(whole.bodies()) == messages

    def test_each_attempt_has_a_time_of_its_own(self, make: Callable[..., OpenBatch]) -> None:
        batch = make([b"{}"]).seal()
        for second in range(3):
            sent_at = f"2026-11-21T19:20:0{second}.000Z"
            assert text_of(batch.body(ENVELOPE.tail(sent_at))) == expected([b"{}"], sent_at)

    @pytest.mark.parametrize("key", ["k", 'k"\\', "ключ", "k" * 60_000])
    def test_any_key(self, make: Callable[..., OpenBatch], key: str) -> None:
        body = make([b"{}"]).seal().body(Envelope(key).tail(NOW))
        assert text_of(body) == expected([b"{}"], key=key)

    def test_the_key_is_kept_in_no_batch(self, make: Callable[..., OpenBatch]) -> None:
        batch = make([b"{}"]).seal()
        batch.body(ENVELOPE.tail(NOW))
        kept = [getattr(batch, name) for name in Batch.__slots__]
        assert KEY.encode() not in repr(kept).encode()
        assert KEY.encode() not in batch.payload.content
        assert KEY not in repr(ENVELOPE)

    def test_it_compresses(self, make: Callable[..., OpenBatch]) -> None:
        messages = [b'{"type":"track","event":"Order Completed","n":%d}' % number for number in range(1_000)]
        body = make(messages).seal().body(ENVELOPE.tail(NOW))
        if body.startswith(b"\x1f\x8b"):
            assert len(body) < len(expected(messages)) / 4

    def test_what_is_compressed_is_not_in_the_text_of_a_payload(self, make: Callable[..., OpenBatch]) -> None:
        assert repr(make([b'{"secret":1}']).seal().payload) == "<Payload of 22 bytes>"


class TestLimits:
    @pytest.mark.parametrize(("over", "fits"), [(-1, True), (0, True), (1, False)])
    def test_a_body_is_500_000_bytes_at_most(self, make: Callable[..., OpenBatch], over: int, *, fits: bool) -> None:
        messages = [message(32_768, number) for number in range(15)]
        batch = make(messages)
        # The last one is to end the body just where it may end, or a byte before or after.
        last = MAX_BODY_BYTES + over - len(expected(messages)) - 1
        assert batch.fits(last) is fits
        if fits:
            add(batch, message(last, 99))
            assert len(text_of(batch.seal().body(ENVELOPE.tail(NOW)))) == MAX_BODY_BYTES + over

    def test_2_500_messages_at_most(self, make: Callable[..., OpenBatch]) -> None:
        batch = make()
        for left in range(MAX_BATCH_MESSAGES, 0, -1):
            assert batch.places == left
            assert batch.fits(2)
            add(batch, b"{}")
        assert not batch.fits(2)
        assert text_of(batch.seal().body(ENVELOPE.tail(NOW))) == expected([b"{}"] * 2_500)

    def test_or_fewer(self) -> None:
        batch = opened([b"{}"] * 6, max_messages=7)
        assert batch.fits(2)
        add(batch, b"{}")
        assert not batch.fits(2)

    def test_an_empty_batch_takes_any_message(self) -> None:
        batch = opened(limit=10)
        assert batch.fits(32_768)
        add(batch, message(32_768))
        assert not batch.fits(0)

    @given(st.lists(st.integers(20, 32_768), min_size=1, max_size=400))
    def test_what_fits_keeps_the_limit(self, sizes: list[int]) -> None:
        batch, messages = opened(limit=ROOM), []
        for number, size in enumerate(sizes):
            # With a comma each, as the queue asks.
            assert batch.fits(size) == (not messages or size + 1 <= batch.room)
            if not batch.fits(size):
                # It did not fit because it could not.
                assert len(expected([*messages, message(size)])) > MAX_BODY_BYTES
                break
            messages.append(message(size, number))
            add(batch, messages[-1])
        assert len(batch.seal().body(ENVELOPE.tail(NOW))) == len(expected(messages)) <= MAX_BODY_BYTES

    def test_the_envelope_is_as_large_as_it_says(self) -> None:
        for key in ("k", '"' * 50, "ключ"):
            assert Envelope(key).size == len(expected([], key=key))


class TestRecordKeeping:
    def test_places_and_sizes(self, make: Callable[..., OpenBatch]) -> None:
        batch = make([b"{}", b'{"a":1}'], start=40)
        whole = batch.seal()
        for one in (batch, whole):
            assert (one.start, one.stop, one.offset, one.count, one.size, one.opened_at) == (40, 42, 0, 2, 9, 5.0)
        assert (whole.not_before, whole.baseline, whole.is_poison_suspect) == (5.0, None, False)
        assert (list(whole.lengths), list(whole.keys), whole.history) == ([2, 7], [], History())

    def test_what_the_spool_calls_its_messages(self) -> None:
        assert list(opened([b"{}"] * 3, keys=[7, 2**62, 9]).seal().keys) == [7, 2**62, 9]

    def test_messages_that_an_earlier_process_tried_may_have_been_sent(self) -> None:
        assert opened([b"{}"], sends=3).seal().history == History(sends=3, maybe_sent=True)

    def test_messages_leave_the_queue_for_the_batch(self) -> None:
        bodies = [b'{"n":%d}' % number for number in range(5)]
        messages = deque(deliveries(bodies))
        batch = opened()
        batch.take(messages, bodies[:3], sum(map(len, bodies[:3])))
        assert bodies_of(messages) == bodies[3:]
        assert bodies_of(batch.deliveries) == batch.bodies() == bodies[:3]


class TestPlacing:
    """A message's outcome is in the record of its batch from then on, and its bytes are the batch's."""

    def test_of_a_sealed_batch(self) -> None:
        bodies = [b'{"n":%d}' % number for number in range(3)]
        batch = opened(bodies)
        messages = batch.deliveries
        whole = batch.seal()
        assert bodies_of(messages) == bodies
        assert (whole.place(), whole.place()) == (True, False)
        assert bodies_of(messages) == [b""] * 3
        whole.record.settle(1, 2, BatchResult(Status.DELIVERED))
        assert [one.outcome is not None for one in messages] == [False, True, False]
        assert list(whole.bodies()) == bodies

    def test_of_an_open_one_which_keeps_the_bodies(self) -> None:
        bodies = [b'{"n":%d}' % number for number in range(3)]
        batch = opened(bodies)
        for _ in range(2):
            assert batch.place()
        assert bodies_of(batch.deliveries) == [b""] * 3
        assert batch.bodies() == bodies
        batch.repair()
        assert list(batch.seal().bodies()) == bodies


class Interrupted(BaseException):
    """Comes between any two lines, as from a signal handler."""


class TestRepair:
    """An exception amid a change costs the compression so far, and no message."""

    def test_after_an_exception_between_any_two_lines(self) -> None:
        bodies = [message(12_000, number) for number in range(12)]
        line = 0
        is_over = False
        while not is_over:
            batch, messages = opened(gzip=True), deque(deliveries(bodies))
            is_over = interrupted(partial(fill, batch, messages), line)
            batch.repair()
            while messages:
                fill(batch, messages)
            assert batch.size == sum(map(len, bodies))
            assert batch.count == 12
            assert text_of(batch.seal().body(ENVELOPE.tail(NOW))) == expected(bodies)
            line += 1
        assert line > 20

    def test_compressing_on_after_an_exception_between_any_two_lines(self) -> None:
        bodies = [message(3_000, number) for number in range(12)]
        line, is_over = 0, False
        while not is_over:
            batch = opened(bodies[:10], gzip=True)
            batch.take(deque(deliveries(bodies[10:])), bodies[10:], 6_000)
            is_over = interrupted(partial(batch.press, 0), line)
            batch.press(0)
            assert text_of(batch.seal().body(ENVELOPE.tail(NOW))) == expected(bodies)
            line += 1
        assert line > 5

    def test_sealing_again_after_an_exception_between_any_two_lines(self) -> None:
        bodies = [message(3_000, number) for number in range(12)]
        line = 0
        while True:
            batch = opened(bodies, gzip=True)
            is_over = interrupted(batch.seal, line)
            whole = batch.seal()
            assert text_of(whole.body(ENVELOPE.tail(NOW))) == expected(bodies)
            if is_over:
                break
            line += 1
        assert line > 10


def fill(batch: OpenBatch, messages: deque[Delivery]) -> None:
    while messages:
        some = bodies_of(messages)[:4]
        batch.take(messages, some, sum(map(len, some)))
        batch.press()


def interrupted(work: Callable[[], object], line: int) -> bool:
    """Do it, and raise before that line of the batches' file is executed; `True`: it has not so many."""
    left = line

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith("_pipeline/batch.py"):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise Interrupted
        return trace

    tracer = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except Interrupted:
        return False
    finally:
        sys.settrace(tracer)
    return True


def test_no_message_is_lost_whatever_memory_is_refused() -> None:
    memory = pytest.importorskip("_testcapi")
    bodies, refusals = [b"x"] * 100, 0
    for number in range(20):
        batch, messages = opened(), deque(deliveries(bodies))
        try:
            memory.set_nomemory(number, number + 1)
            batch.take(messages, bodies, 100)
        except MemoryError:
            refusals += 1
        finally:
            memory.remove_mem_hooks()
        assert len(messages) + batch.count == 100
    assert refusals


class TestSplit:
    @given(messages=MESSAGES.filter(lambda messages: len(messages) > 1), start=st.integers(0, 10**9))
    @pytest.mark.parametrize("compressed", [True, False])
    def test_the_halves_hold_all_of_it(self, messages: list[bytes], start: int, *, compressed: bool) -> None:
        batch = sealed(messages, start=start, gzip=compressed)
        first, second = batch.split()
        assert [*first.bodies(), *second.bodies()] == messages
        assert (first.start, first.stop) == (start, second.start)
        assert second.stop == batch.stop
        assert abs(first.count - second.count) <= 1
        assert first.size + second.size == batch.size

    def test_down_to_single_messages(self, make: Callable[..., OpenBatch]) -> None:
        bodies = [message(200, number) for number in range(37)]
        parts, alone = [make(bodies, start=10, keys=range(100, 137)).seal()], []
        while parts:
            part = parts.pop(0)
            (alone if part.count == 1 else parts).extend([part] if part.count == 1 else part.split())
        alone.sort(key=lambda part: part.start)
        assert [next(part.bodies()) for part in alone] == bodies
        assert [part.offset for part in alone] == list(range(37))
        assert [part.start for part in alone] == list(range(10, 47))
        assert [list(part.keys) for part in alone] == [[key] for key in range(100, 137)]
        for part, body in zip(alone, bodies, strict=True):
            assert text_of(part.body(ENVELOPE.tail(NOW))) == expected([body])

    @given(messages=MESSAGES, data=st.data())
    @pytest.mark.parametrize("compressed", [True, False])
    def test_runs_of_what_stays_and_of_what_goes(
        self, messages: list[bytes], data: st.DataObject, *, compressed: bool
    ) -> None:
        out = data.draw(st.sets(st.integers(0, len(messages) - 1)))
        batch = sealed(messages, start=7, gzip=compressed)
        kept, taken = batch.parts(out)
        for parts, wanted in ((kept, set(range(len(messages))) - out), (taken, out)):
            indices = [index for part in parts for index in range(part.offset, part.offset + part.count)]
            assert indices == sorted(wanted)
            assert [body for part in parts for body in part.bodies()] == [messages[index] for index in indices]
            assert all(part.start == 7 + part.offset for part in parts)
        # Runs, and not one batch a message.
        edges = sum((index in out) != (index - 1 in out) for index in range(1, len(messages)))
        assert len(kept) + len(taken) == edges + 1

    def test_what_the_whole_met_goes_with_them(self) -> None:
        batch = sealed([b"{}"] * 4)
        batch.history = History(sends=3, maybe_sent=True)
        batch.baseline = (1, 2)
        batch.not_before = 17.0
        batch.is_poison_suspect = True
        for part in (*batch.split(), *batch.parts({1})[0]):
            assert (part.history, part.baseline, part.not_before) == (batch.history, (1, 2), 17.0)
            assert (part.record, part.opened_at, part.is_poison_suspect) == (batch.record, batch.opened_at, True)

    def test_all_parts_learn_of_a_refusal(self) -> None:
        batch = sealed([b"{}"] * 4)
        first, second = batch.split()
        second.split()[0].record.has_refusal = True
        assert first.record.has_refusal
        assert not sealed([b"{}"]).record.has_refusal
