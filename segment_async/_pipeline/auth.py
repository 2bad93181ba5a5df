"""How a request says who sends it: Basic with the write key, or OAuth 2.0 with a token (`tokens`).

Both give the value of the `Authorization` header, and a fresh one on demand; the sender knows no difference. This file
knows no batches, and makes no requests.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from typing import Protocol

from segment_async._http.origin import origin


class Refused(Exception):
    """There are no credentials to be had, and trying again will not help; the text says what to mend."""


class Auth(Protocol):
    """Attributes:
    asks_at: the clock when a token is asked for again, while there is none and the last request for one failed.
    """

    has_tokens: bool
    asks_at: float

    async def header(self) -> str: ...
    def renew(self, sent_at: float) -> None: ...
    async def close_here(self) -> None:
        """Leave nothing on the running loop, which is about to end."""
        ...

    async def aclose(self) -> None: ...
    def abandon(self) -> None:
        """At the interpreter's exit, when no loop runs any more: drop connections without closing them."""
        ...

    def abandon_after_fork(self) -> None:
        """In a forked child, whose clock begins at 0: forget what was learnt by the parent's."""
        ...


class Basic:
    """The write key as the user name, no password
    (https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/#writekey-authentication).
    """

    has_tokens = False
    asks_at = -math.inf

    def __init__(self, write_key: str) -> None:
        self._header = "Basic " + base64.b64encode(f"{write_key}:".encode()).decode()

    def __repr__(self) -> str:
        return "<Basic>"

    async def header(self) -> str:
        return self._header

    def renew(self, sent_at: float) -> None:
        """There is nothing to renew."""

    async def close_here(self) -> None:
        """There is nothing to leave."""

    async def aclose(self) -> None:
        """There is nothing to close."""

    def abandon(self) -> None:
        """There is nothing to drop."""

    def abandon_after_fork(self) -> None:
        """There is nothing to forget."""


@dataclass(frozen=True, slots=True)
class OAuth:
    """Credentials of an OAuth application (https://segment.com/docs/connections/oauth/).

    Attributes:
        client_id: of the application.
        client_key: its private key as PEM text; it stays in memory.
        key_id: of the public key that Segment holds.
        scope: what the token is for.
        auth_server: another token server's origin; `None`: Segment's of the client's region.

    Raises:
        ValueError: one of them is empty or not text, or `auth_server` is no origin.
    """

    client_id: str
    client_key: str = field(repr=False)
    key_id: str
    scope: str = "tracking_api:write"
    auth_server: str | None = None

    def __post_init__(self) -> None:
        for name in ("client_id", "client_key", "key_id", "scope"):
            if not getattr(self, name):
                raise ValueError(f"OAuth needs its {name}")
        for name in ("client_id", "key_id", "scope"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"OAuth's {name} must be text")  # noqa: TRY004  # as every other option
        if self.auth_server is not None:
            # Before anything can show it: it may hold credentials. Whether plain HTTP will do is the client's to say.
            origin(self.auth_server, allow_http=True, name="auth_server")
