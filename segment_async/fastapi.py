"""The door for FastAPI: the client as a dependency.

    app = FastAPI(lifespan=lifespan("WRITE_KEY"))

    @app.post("/orders")
    async def order(segment: Segment): ...

`lifespan` is that of `segment_async.asgi`; this file adds only what needs FastAPI's own words.
"""

from __future__ import annotations

from typing import Annotated

from . import Client
from .asgi import lifespan

try:
    from fastapi import Depends
    from fastapi.requests import HTTPConnection
except ImportError as error:
    raise ImportError("segment_async.fastapi needs FastAPI: pip install fastapi") from error

__all__ = ["Segment", "lifespan"]


async def _client_of(connection: HTTPConnection) -> Client:
    client: Client | None = (connection.scope.get("state") or {}).get("segment")
    if client is None:
        raise RuntimeError(
            "No client under state['segment']: FastAPI(lifespan=lifespan('WRITE_KEY')) of segment_async.fastapi opens "
            "one. Where that stands, the lifespan did not run: the server must send its events (uvicorn --lifespan on; "
            "in tests `with TestClient(app)`), and only the outermost application gets them, no mounted one."
        )
    return client


Segment = Annotated[Client, Depends(_client_of)]
"""The client that `lifespan` opened; in the signature of an endpoint or of another dependency."""
