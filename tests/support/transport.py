"""The shapes of a transport, until the package exports them. For a short while only."""

from collections.abc import Mapping
from dataclasses import dataclass

from segment_async._exceptions import TransportError

__all__ = ["Response", "TransportError"]


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes
