"""The lifespan events of applications that answer them, in part, wrongly, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from segment_async._web.shutdown import Lifespan

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Server:
    """Starts and stops an application; `heard` is what it was told, with a mark where the flush was."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._events = iter(("lifespan.startup", "lifespan.shutdown"))

    async def receive(self) -> dict[str, Any]:
        return {"type": next(self._events)}

    async def send(self, message: Any) -> None:
        self.heard.append(message["type"].removeprefix("lifespan."))

    async def flush(self) -> None:
        self.heard.append("flush")


def heard(app: Any, error: type[Exception] | None = None) -> list[str]:
    server = Server()
    lifespan = Lifespan(server.receive, server.send, server.flush)
    if error is None:
        asyncio.run(lifespan.run(app, {"type": "lifespan"}))
    else:
        with pytest.raises(error):
            asyncio.run(lifespan.run(app, {"type": "lifespan"}))
    return server.heard


ORDERLY = ["startup.complete", "flush", "shutdown.complete"]


async def refusing(scope: Any, receive: Receive, send: Send) -> None:
    raise ValueError("this application takes http")


async def silent(scope: Any, receive: Receive, send: Send) -> None:
    pass


async def complete(scope: Any, receive: Receive, send: Send) -> None:
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def complete_before_it_asks(scope: Any, receive: Receive, send: Send) -> None:
    await send({"type": "lifespan.startup.complete"})


async def gone_after_the_start(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})


async def asking_only(scope: Any, receive: Receive, send: Send) -> None:
    await receive()


async def silent_at_the_end(scope: Any, receive: Receive, send: Send) -> None:
    await gone_after_the_start(scope, receive, send)
    await receive()


@pytest.mark.parametrize(
    "app", [refusing, silent, complete, complete_before_it_asks, gone_after_the_start, asking_only, silent_at_the_end]
)
def test_what_the_application_does_not_answer_is_answered(app: Any) -> None:
    assert heard(app) == ORDERLY


def test_an_application_that_could_not_stop_is_flushed_too() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await silent_at_the_end(scope, receive, send)
        await send({"type": "lifespan.shutdown.failed", "message": "its own"})

    assert heard(app) == ["startup.complete", "flush", "shutdown.failed"]


def test_a_failure_at_the_start_is_the_servers_business() -> None:
    async def reporting(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "its own"})
        raise OSError

    async def raising(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        raise OSError

    async def leaving(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "its own"})

    assert heard(reporting, OSError) == ["startup.failed"]
    assert heard(raising, OSError) == []
    assert heard(leaving) == ["startup.failed"]


def test_an_application_that_raises_while_it_runs_is_flushed_as_it_hears_of_no_stop() -> None:
    async def raising(scope: Any, receive: Receive, send: Send) -> None:
        await gone_after_the_start(scope, receive, send)
        raise OSError

    assert heard(raising, OSError) == ["startup.complete", "flush"]


def test_an_application_that_raises_when_it_stops_is_flushed_once() -> None:
    async def raising(scope: Any, receive: Receive, send: Send) -> None:
        await silent_at_the_end(scope, receive, send)
        raise OSError

    async def reporting(scope: Any, receive: Receive, send: Send) -> None:
        await silent_at_the_end(scope, receive, send)
        await send({"type": "lifespan.shutdown.failed", "message": "its own"})
        raise OSError

    assert heard(raising, OSError) == ["startup.complete", "flush"]
    assert heard(reporting, OSError) == ["startup.complete", "flush", "shutdown.failed"]
