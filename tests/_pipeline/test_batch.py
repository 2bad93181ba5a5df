"""Batches: whatever goes in comes out of the body, byte for byte, whoever inflates it; and no body is too large."""

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isal import igzip, isal_zlib

from segment_async._pipeline.batch import MAX_BATCH_MESSAGES, MAX_BODY_BYTES, Batch, Envelope, fastest
from segment_async._pipeline.delivery import History, Record

KEY = "THE-WRITE-KEY"
NOW = "2026-11-21T19:20:03.047Z"
ENVELOPE = Envelope(KEY)
ROOM = MAX_BODY_BYTES - ENVELOPE.size


class Office:
    def ensure_served(self) -> None:
        return None


@pytest.fixture(params=["isal", "zlib", "none"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Batch]]:
    """Makes batches, compressed by either library or not at all."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    fastest.cache_clear()
    yield lambda limit=ROOM, start=0: new(limit, start, compressed=request.param != "none")
    fastest.cache_clear()


def new(limit: int = ROOM, start: int = 0, *, compressed: bool = True) -> Batch:
    return Batch(Record(Office()), start, limit, 5.0, History(), gzip=compressed)


def sealed(batch: Batch, messages: list[bytes]) -> Batch:
    """All of them in it, by one, two, three … at a time."""
    start, count = 0, 1
    while start < len(messages):
        batch.extend(messages[start : start + count])
        start, count = start + count, count + 1
    batch.seal()
    return batch


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
        batch = sealed(new(compressed=compressed), messages)
        assert text_of(batch.body(ENVELOPE.tail(sent_at))) == expected(messages, sent_at)
        assert list(batch.messages()) == messages

    @pytest.mark.parametrize("count", [1, 2, 10, 100, 2_500])
    @pytest.mark.parametrize("size", [30, 190, 16_370, 16_384, 32_768])
    def test_across_slices(self, make: Callable[..., Batch], count: int, size: int) -> None:
        batch, messages = make(), []
        while len(messages) < count and batch.fits(size):
            messages.append(message(size, len(messages)))
            batch.extend([messages[-1]])
        batch.seal()
        assert text_of(batch.body(ENVELOPE.tail(NOW))) == expected(messages)
        assert list(batch.messages()) == messages

    def test_each_attempt_has_a_time_of_its_own(self, make: Callable[..., Batch]) -> None:
        batch = sealed(make(), [b"{}"])
        for second in range(3):
            sent_at = f"2026-11-21T19:20:0{second}.000Z"
            assert text_of(batch.body(ENVELOPE.tail(sent_at))) == expected([b"{}"], sent_at)

    @pytest.mark.parametrize("key", ["k", 'k"\\', "ключ", "k" * 60_000])
    def test_any_key(self, make: Callable[..., Batch], key: str) -> None:
        envelope = Envelope(key)
        body = sealed(make(), [b"{}"]).body(envelope.tail(NOW))
        assert text_of(body) == expected([b"{}"], key=key)

    def test_the_key_is_kept_in_no_batch(self, make: Callable[..., Batch]) -> None:
        batch = sealed(make(), [b"{}"])
        batch.body(ENVELOPE.tail(NOW))
        assert KEY.encode() not in repr(vars(batch)).encode()
        assert KEY not in repr(ENVELOPE)

    def test_it_compresses(self, make: Callable[..., Batch]) -> None:
        messages = [b'{"type":"track","event":"Order Completed","n":%d}' % number for number in range(1_000)]
        body = sealed(make(), messages).body(ENVELOPE.tail(NOW))
        if body.startswith(b"\x1f\x8b"):
            assert len(body) < len(expected(messages)) / 4


class TestLimits:
    @pytest.mark.parametrize(("over", "fits"), [(-1, True), (0, True), (1, False)])
    def test_a_body_is_500_000_bytes_at_most(self, make: Callable[..., Batch], over: int, *, fits: bool) -> None:
        batch, messages = make(), []
        for number in range(15):
            messages.append(message(32_768, number))
            batch.extend([messages[-1]])
        # The last one is to end the body just where it may end, or a byte before or after.
        last = MAX_BODY_BYTES + over - len(expected(messages)) - 1
        assert batch.fits(last) is fits
        if fits:
            messages.append(message(last, 99))
            batch.extend([messages[-1]])
            batch.seal()
            assert len(text_of(batch.body(ENVELOPE.tail(NOW)))) == MAX_BODY_BYTES + over

    def test_2_500_messages_at_most(self, make: Callable[..., Batch]) -> None:
        batch = make()
        for _ in range(MAX_BATCH_MESSAGES):
            assert batch.fits(2)
            batch.extend([b"{}"])
        assert not batch.fits(2)
        batch.seal()
        assert text_of(batch.body(ENVELOPE.tail(NOW))) == expected([b"{}"] * 2_500)

    def test_an_empty_batch_takes_any_message(self) -> None:
        batch = new(limit=10)
        assert batch.fits(32_768)
        batch.extend([message(32_768)])
        assert not batch.fits(0)

    @given(st.lists(st.integers(20, 32_768), min_size=1, max_size=400))
    def test_whatever_fits_keeps_the_limit(self, sizes: list[int]) -> None:
        batch, messages = new(compressed=False), []
        for number, size in enumerate(sizes):
            if not batch.fits(size):
                # It did not fit because it could not.
                assert len(expected([*messages, message(size)])) > MAX_BODY_BYTES
                break
            messages.append(message(size, number))
            batch.extend([messages[-1]])
        batch.seal()
        assert len(batch.body(ENVELOPE.tail(NOW))) == len(expected(messages)) <= MAX_BODY_BYTES

    def test_the_envelope_is_as_large_as_it_says(self) -> None:
        for key in ("k", '"' * 50, "ключ"):
            assert Envelope(key).size == len(expected([], key=key))


class TestRecordKeeping:
    def test_places_and_sizes(self, make: Callable[..., Batch]) -> None:
        batch = make(start=40)
        assert [batch.extend([body]) for body in (b"{}", b'{"a":1}')] == [0, 1]
        assert (batch.start, batch.stop, batch.offset, batch.count, batch.size) == (40, 42, 0, 2, 9)
        assert (batch.opened_at, batch.not_before, batch.baseline) == (5.0, 5.0, None)


class TestSplit:
    @given(messages=MESSAGES.filter(lambda messages: len(messages) > 1), start=st.integers(0, 10**9))
    @pytest.mark.parametrize("compressed", [True, False])
    def test_the_halves_hold_all_of_it(self, messages: list[bytes], start: int, *, compressed: bool) -> None:
        batch = sealed(new(start=start, compressed=compressed), messages)
        first, second = batch.split()
        assert [*first.messages(), *second.messages()] == messages
        assert (first.start, first.stop) == (start, second.start)
        assert second.stop == batch.stop
        assert abs(first.count - second.count) <= 1
        assert first.size + second.size == batch.size

    def test_down_to_single_messages(self, make: Callable[..., Batch]) -> None:
        bodies = [message(200, number) for number in range(37)]
        parts, alone = [sealed(make(start=10), bodies)], []
        while parts:
            part = parts.pop(0)
            (alone if part.count == 1 else parts).extend([part] if part.count == 1 else part.split())
        alone.sort(key=lambda part: part.start)
        assert [next(part.messages()) for part in alone] == bodies
        assert [part.offset for part in alone] == list(range(37))
        assert [part.start for part in alone] == list(range(10, 47))
        for part, body in zip(alone, bodies, strict=True):
            assert text_of(part.body(ENVELOPE.tail(NOW))) == expected([body])

    def test_what_the_whole_met_goes_with_them(self) -> None:
        batch = sealed(new(), [b"{}"] * 4)
        batch.history = History(sends=3, maybe_sent=True)
        batch.baseline = (1, 2)
        batch.not_before = 17.0
        for part in batch.split():
            assert (part.history, part.baseline, part.not_before) == (batch.history, (1, 2), 17.0)
            assert (part.record, part.opened_at) == (batch.record, batch.opened_at)
