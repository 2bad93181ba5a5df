"""The lifespan events of an ASGI application, so that something can be done when the server is about to stop.

Servers such as uvicorn end by the signal that stopped them, and then nothing of the program runs any more; the event
before that is the last moment. An application without lifespan events needs one too, so its events are answered here.
This file knows neither clients nor messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

ASGIMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_STARTED: Final = "lifespan.startup.complete"
_STOPPED: Final = ("lifespan.shutdown.complete", "lifespan.shutdown.failed")


class Lifespan:
    """Passes on the events of one start and stop; `at_shutdown` runs after the application's own shutdown."""

    def __init__(self, receive: Receive, send: Send, at_shutdown: Callable[[], Awaitable[None]]) -> None:
        self._receive = receive
        self._send = send
        self._at_shutdown = at_shutdown
        # What the server has asked, and what it has been told.
        self._asked: str | None = None
        self._told: str | None = None

    async def run(self, app: App, scope: MutableMapping[str, Any]) -> None:
        """Run the application with its events, and answer those that it does not."""
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            # If it has received no event, it does not handle lifespan events. Otherwise the server handles its failure.
            if self._asked is not None or self._told is not None:
                # One that fails while it runs hears of no stop any more.
                if self._told == _STARTED or (self._asked == "lifespan.shutdown" and self._told not in _STOPPED):
                    await self._at_shutdown()
                raise
        await self._answer_rest()

    async def receive(self) -> ASGIMessage:
        message = await self._receive()
        self._asked = message["type"]
        return message

    async def send(self, message: ASGIMessage) -> None:
        if message["type"] in _STOPPED and self._told not in _STOPPED:
            await self._at_shutdown()
        self._told = message["type"]
        await self._send(message)

    async def _answer_rest(self) -> None:
        if self._told is None:
            if self._asked is None:
                await self.receive()
            await self.send({"type": _STARTED})
        if self._told == _STARTED:
            if self._asked != "lifespan.shutdown":
                await self.receive()
            await self.send({"type": _STOPPED[0]})
