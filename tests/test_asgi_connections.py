"""Requests on one connection, which uvicorn may start in the context of an earlier one: nothing of that is theirs."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from segment_async import Client, bind, bound
from segment_async._message.context import DeferredBound
from segment_async.asgi import SegmentMiddleware
from tests.support.asgi import App, answering, ask, recording, request, served, visit

LOGIN = b"POST /login HTTP/1.1\r\nHost: shop\r\nCookie: ajs_anonymous_id=first\r\nContent-Length: %d\r\n\r\n"
LATER = b"GET /%d HTTP/1.1\r\nHost: shop\r\nCookie: ajs_anonymous_id=%d\r\n\r\n"
WITHOUT_ID = b"GET /none HTTP/1.1\r\nHost: shop\r\n\r\n"


def shop(client: Client) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        with bound(context={"inner": scope["path"]}):
            if scope["path"] == "/login":
                bind(user_id="alice")
                # More comes than the server takes beforehand: it stops reading, and begins again for `receive`.
                for _ in range(50):
                    await asyncio.sleep(0)
            while (await receive()).get("more_body"):
                pass
            await client.track(event=scope["path"])
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

    return SegmentMiddleware(app, client)


@asynccontextmanager
async def connection(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def pipelined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(LOGIN % 0 + WITHOUT_ID + LATER % (3, 3))
    for _ in range(3):
        await reader.readuntil(b"ok")


async def after_an_upload(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = bytes(1_000_000)
    for sent in (LOGIN % len(body) + body, WITHOUT_ID, LATER % (3, 3)):
        writer.write(sent)
        await reader.readuntil(b"ok")


@pytest.mark.parametrize("exchange", [pipelined, after_an_upload])
def test_a_request_has_nothing_of_an_earlier_one(exchange: Any) -> None:
    client, arrived = recording()

    async def main() -> None:
        async with client, served(shop(client)) as address:
            async with connection(address) as (reader, writer):
                await exchange(reader, writer)

    asyncio.run(main())
    login, third = arrived
    assert (login["event"], login["userId"], login["anonymousId"]) == ("/login", "alice", "first")
    assert (third["event"], third.get("userId"), third["anonymousId"]) == ("/3", None, "3")
    assert third["context"]["inner"] == "/3"
    assert client.statistics().reasons == {"no_identity": 1}


def test_a_request_does_not_keep_all_that_came_before_it() -> None:
    client, _ = recording()

    async def main() -> None:
        async with client, served(shop(client)) as address, connection(address) as (reader, writer):
            writer.write(b"".join(LATER % (n, n) for n in range(5)))
            for _ in range(5):
                await reader.readuntil(b"ok")
            # The server itself may keep contexts for a while.
            assert {each.outer for each in gc.get_objects() if isinstance(each, DeferredBound)} <= {None}

    asyncio.run(main())


def test_a_request_that_is_made_within_another_one() -> None:
    """By an HTTP client that calls the application in the process, such as httpx's ASGITransport."""
    client, arrived = recording()

    async def inner() -> None:
        await client.track(event="Inner")

    async def outer() -> None:
        bind(user_id="alice", context={"groupId": "acme"})
        with bound(context={"step": 1}):
            await ask(
                SegmentMiddleware(answering(doing=inner), client), request(headers={"cookie": "ajs_anonymous_id=b"})
            )
            await client.track(event="Step")
        await client.track(event="Outer")

    async def main() -> None:
        async with client:
            with bound(context={"app": {"name": "shop"}}):
                await ask(SegmentMiddleware(answering(doing=outer), client), visit())
                with pytest.raises(ValueError, match="userId"):
                    await client.track(event="Outside")

    asyncio.run(main())
    first, step, last = arrived
    assert (first.get("userId"), first["anonymousId"]) == (None, "b")
    assert first["context"]["app"] == {"name": "shop"}
    assert not {"groupId", "step"} & first["context"].keys()
    assert (step["userId"], step["context"]["step"]) == ("alice", 1)
    assert (last["userId"], last["context"]["groupId"]) == ("alice", "acme")
