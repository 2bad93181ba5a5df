"""The client's transport with two additions: it compares the first answer's `Date` with this machine's clock, and
remembers how the last request ended.

Segment computes an event's time from the clock of the machine that sends it, so a wrong clock shifts a whole import.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from segment_async import Client, HTTPTransport, Response, Transport, TransportError

HOSTS: Final = {"us": "https://api.segment.io", "eu": "https://events.eu1.segmentapis.com"}
MAX_SKEW: Final = 60.0


class WatchedTransport:
    """Passes requests on to the client's transport, and watches the answers.

    Attributes:
        skew: seconds that this machine is ahead of the server, by the first answer; `None` before it, or if it has no
            date.
        last: how the last request ended, and at which host; shown while the client says that deliveries fail.
        hostname: the host, for the client's log; empty if the transport does not tell it.
    """

    def __init__(self, transport: Transport, wall_clock: Callable[[], float] = time.time) -> None:
        self.skew: float | None = None
        self.last = ""
        # How the last request ended that was not answered with 2xx.
        self._failure = ""
        self.hostname = transport.hostname if isinstance(transport, HTTPTransport) else ""
        self._host = f"{self.hostname}: " if self.hostname else ""
        self._transport = transport
        self._wall_clock = wall_clock
        self._answered = False

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        try:
            response = await self._transport.send(body, headers)
        except TransportError as error:
            self.last = self._failure = f"{self._host}{error}"
            raise
        except asyncio.CancelledError:
            self.last = self._failure = f"{self._host}no response in time"
            raise
        self.last = self._answered_with(response.status)
        if not _is_success(response.status):
            self._failure = self.last
        if not self._answered:
            self._answered = True
            self.skew = _skew(response, self._wall_clock())
        return response

    async def aclose(self) -> None:
        await self._transport.aclose()

    def error_of(self, status: int | None) -> str:
        """Why a message was given up whose last answer had this status; others may have been delivered since."""
        if status is not None and (_is_success(status) or not self._failure):
            return self._answered_with(status)
        return self._failure or "no response"

    def _answered_with(self, status: int) -> str:
        hint = " without Segment's confirmation, perhaps from a proxy or a login page" if _is_success(status) else ""
        return f"{self._host}status {status}{hint}"

    @property
    def is_clock_wrong(self) -> bool:
        return self.skew is not None and abs(self.skew) > MAX_SKEW


def _is_success(status: int) -> bool:
    return 200 <= status < 300


def _skew(response: Response, now: float) -> float | None:
    given = next((value for name, value in response.headers.items() if name.lower() == "date"), None)
    try:
        return None if given is None else now - parsedate_to_datetime(given).timestamp()
    except (ValueError, OverflowError):
        return None


def address_of(region: str, host: str | None) -> str:
    """Where batches are posted. `Client` checks the address first.

    Raises:
        ValueError: the write key must not be sent there, or there is no such region.
    """
    if region not in HOSTS:
        raise ValueError(f"region must be one of {', '.join(HOSTS)}")
    given = host or os.environ.get("SEGMENT_HOST") or HOSTS[region]
    Client("checks-the-address", host=given, send=False)
    path = given.rstrip("/")
    path = path.removesuffix("/batch") if path.endswith("/v1/batch") else path
    return path.removesuffix("/v1").rstrip("/") + "/v1/batch"


def http_transport(address: str, timeout: float) -> HTTPTransport:
    return HTTPTransport(address, timeout=timeout)
