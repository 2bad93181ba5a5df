"""The errors: their classes, their texts, pickling, and that they contain no secrets."""

import copy
import pickle
from collections.abc import Callable

import pytest

import segment_async
from segment_async import (
    ClientClosed,
    DeliveryError,
    MessageError,
    MessageTooLarge,
    Outcome,
    QueueFull,
    SegmentError,
    SpoolUnavailable,
    Status,
    TransportError,
)

REFUSED = Outcome(Status.FAILED, "id-1", "refused", 400, 3, possibly_delivered=True)
ERRORS = [
    MessageError("properties.cart[3].owner", "cannot become JSON (type object)"),
    MessageTooLarge(40_000, 32_768, {"properties.a": 30_000, "traits": 9_000}),
    QueueFull("full"),
    ClientClosed("closed"),
    SpoolUnavailable("no space"),
    DeliveryError(REFUSED),
    TransportError("no answer", maybe_sent=True, stale_connection=True),
    TransportError("no answer in time", maybe_sent=True, timed_out=True),
]


class TestTree:
    @pytest.mark.parametrize(
        ("error", "parents"),
        [
            (MessageError, (SegmentError, ValueError)),
            (MessageTooLarge, (MessageError,)),
            (QueueFull, (SegmentError,)),
            (ClientClosed, (SegmentError, RuntimeError)),
            (SpoolUnavailable, (SegmentError,)),
            (DeliveryError, (SegmentError,)),
        ],
    )
    def test_the_hierarchy(self, error: type[Exception], parents: tuple[type[Exception], ...]) -> None:
        assert all(issubclass(error, parent) for parent in parents)

    def test_a_transport_error_is_not_a_segment_error(self) -> None:
        assert not issubclass(TransportError, SegmentError)

    def test_each_is_public(self) -> None:
        assert {type(error).__name__ for error in ERRORS} <= set(segment_async.__all__)


class TestTexts:
    def test_a_message_error_names_the_field(self) -> None:
        error = MessageError("userId", "is empty")
        assert (str(error), error.path, error.problem) == ("userId: is empty", "userId", "is empty")

    def test_a_message_too_large_names_the_largest_fields(self) -> None:
        error = MessageTooLarge(40_000, 32_768, {"properties.a": 30_000, "traits": 9_000})
        assert (error.size, error.limit, error.path) == (40_000, 32_768, "properties.a")
        assert str(error) == (
            "properties.a: the message has 40,000 bytes, the limit is 32,768; "
            "its largest fields: properties.a (30,000 bytes), traits (9,000 bytes)"
        )

    def test_a_delivery_error_shows_the_outcome(self) -> None:
        assert str(DeliveryError(REFUSED)) == "message id-1 failed: refused, status 400"
        dropped = DeliveryError(Outcome(Status.DROPPED, "id-2", "queue_full"))
        assert str(dropped) == "message id-2 dropped: queue_full"
        assert dropped.outcome.reason == "queue_full"

    def test_a_transport_error_is_not_stale_by_default(self) -> None:
        error = TransportError("down", maybe_sent=False)
        assert (error.maybe_sent, error.stale_connection) == (False, False)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_they_can_be_pickled_and_copied(error: Exception, again: Callable[[Exception], Exception]) -> None:
    other = again(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)
