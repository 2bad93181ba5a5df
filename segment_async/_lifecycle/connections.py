"""The connections of one client: to the tracking API, and to the token server if it uses OAuth.

This file says how they are closed, on the loop that used them or without it. The callers decide when.
"""

from __future__ import annotations

from segment_async._http.transport import HTTPTransport, Transport
from segment_async._pipeline.auth import Auth


class Connections:
    """Ends what the transport and the credentials hold open, in this order."""

    def __init__(self, transport: Transport, auth: Auth) -> None:
        self._transport = transport
        self._auth = auth

    async def aclose(self) -> None:
        try:
            await self._transport.aclose()
        finally:
            # Also if a custom transport raises, or takes too long and is cancelled.
            await self._auth.aclose()

    async def close_here(self) -> None:
        """Leave nothing on the running loop, which is about to end."""
        if isinstance(self._transport, HTTPTransport):
            await self._transport.close_here()
        await self._auth.close_here()

    def abandon(self) -> None:
        """At the interpreter's exit, when no loop runs any more: drop connections without closing them."""
        if isinstance(self._transport, HTTPTransport):
            self._transport.abandon()
        self._auth.abandon()

    def abandon_after_fork(self) -> None:
        """In a forked child: they belong to the parent."""
        if isinstance(self._transport, HTTPTransport):
            self._transport.abandon()
        self._auth.abandon_after_fork()
