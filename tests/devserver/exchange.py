"""Shared by the tests of the endpoint: a running endpoint, a session, messages to send."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from segment_async.devserver import Endpoint, serve

Case = Callable[[Endpoint, aiohttp.ClientSession], Awaitable[None]]

KEY = {"Authorization": "Basic a2V5Og=="}  # "key:", the write key as the user name


def with_endpoint(case: Case, **options: Any) -> None:
    """Run `case` with a new endpoint."""

    async def main() -> None:
        async with serve(**options) as endpoint, aiohttp.ClientSession(endpoint.url) as session:
            await case(endpoint, session)

    asyncio.run(main())


def track(number: int = 1, **fields: object) -> dict[str, object]:
    """A valid message."""
    return {
        "type": "track",
        "event": "Order Completed",
        "userId": "u1",
        "messageId": f"m{number}",
        "timestamp": "2026-11-21T19:20:03.047Z",
        **fields,
    }


def body(*messages: object, **fields: object) -> bytes:
    return json.dumps({"batch": messages, "sentAt": "2026-11-21T19:20:03.047Z", **fields}).encode()


async def send(session: aiohttp.ClientSession, *messages: object, **headers: str) -> int:
    """Post a batch and return the status of the response."""
    async with session.post("/v1/batch", data=body(*messages), headers={**KEY, **headers}) as answer:
        return answer.status


async def get(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as answer:
        return await answer.json()


async def raw(endpoint: Endpoint, head: bytes, content: bytes = b"") -> int:
    """Send a request that no client library would send, and return the status of the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(endpoint.url.rpartition(":")[2]))
    writer.write(head + b"\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
    status = await reader.readline()
    writer.close()
    return int(status.split()[1])
