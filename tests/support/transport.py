"""What the package exports, until it does. For a short while only."""

from segment_async._delivery import Outcome, Status
from segment_async._exceptions import TransportError
from segment_async._transport import Response

__all__ = ["Outcome", "Response", "Status", "TransportError"]
