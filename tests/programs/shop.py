"""A web application that tracks on request, for uvicorn and gunicorn; run by itself, it is served by uvicorn.

It writes what a test wants to know to stdout, the client's counters after the close above all.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from segment_async import Client, messages

client = Client(
    "KEY",
    spool=os.environ.get("SPOOL"),
    flush_interval=float(os.environ.get("FLUSH_INTERVAL", "0.01")),
    close_timeout=float(os.environ.get("CLOSE_TIMEOUT", "1")),
)
if "AT_IMPORT" in os.environ:
    client.enqueue_nowait(messages.track("user-1", "Imported"))


async def track(request: Request) -> PlainTextResponse:
    delivery = await client.track("user-1", "Visited")
    return PlainTextResponse(delivery.message_id)


async def hang(request: Request) -> PlainTextResponse:
    print("hanging", flush=True)
    await asyncio.Event().wait()
    return PlainTextResponse("")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with client:
        yield
    now = client.statistics()
    print(f"closed accepted={now.accepted} delivered={now.delivered} dropped={now.dropped} pending={now.pending}")


app = Starlette(routes=[Route("/track", track), Route("/hang", hang)], lifespan=lifespan)

if __name__ == "__main__":
    import uvicorn

    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    uvicorn.run(app, port=0, log_config=None)
