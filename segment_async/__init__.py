"""segment_async: the asyncio-native Python SDK for Segment's tracking API."""

from . import messages
from ._client import Client
from ._exceptions import (
    ClientClosed,
    DeliveryError,
    MessageError,
    MessageTooLarge,
    QueueFull,
    SegmentError,
    SpoolUnavailable,
    TransportError,
)
from ._http.transport import HTTPTransport, Response, Transport
from ._message.context import bind, bound
from ._outcome import Outcome, Statistics, Status
from ._pipeline.auth import OAuth
from ._pipeline.delivery import Delivery
from ._pipeline.retry import RetryPolicy
from ._version import __version__

__all__ = [
    "Client",
    "ClientClosed",
    "Delivery",
    "DeliveryError",
    "HTTPTransport",
    "MessageError",
    "MessageTooLarge",
    "OAuth",
    "Outcome",
    "QueueFull",
    "Response",
    "RetryPolicy",
    "SegmentError",
    "SpoolUnavailable",
    "Statistics",
    "Status",
    "Transport",
    "TransportError",
    "__version__",
    "bind",
    "bound",
    "messages",
]

# A traceback names an error as it is imported.
for _error in (
    ClientClosed,
    DeliveryError,
    MessageError,
    MessageTooLarge,
    QueueFull,
    SegmentError,
    SpoolUnavailable,
    TransportError,
):
    _error.__module__ = __name__
