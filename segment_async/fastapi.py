"""The client as a FastAPI dependency.

    app = FastAPI(lifespan=lifespan("WRITE_KEY"))

    @app.post("/orders")
    async def order(segment: Segment): ...

`lifespan` is the one of `segment_async.asgi`; this file contains only what needs FastAPI itself.
"""

from __future__ import annotations

from typing import Annotated, Any

from . import Client
from .asgi import lifespan

try:
    from fastapi import Depends
    from fastapi.requests import HTTPConnection
except ImportError as _error:
    raise ImportError("segment_async.fastapi needs FastAPI: pip install fastapi") from _error

__all__ = ["Segment", "lifespan"]


async def _client_of(connection: HTTPConnection) -> Client:
    state: dict[str, Any] = connection.scope.get("state") or {}
    client: Client | None = state.get("segment")
    if client is None:
        raise RuntimeError(
            "No client in state['segment']. Open one with FastAPI(lifespan=lifespan('WRITE_KEY')) of "
            "segment_async.fastapi. If you do, the lifespan did not run: start the server with lifespan events "
            "(uvicorn --lifespan on; in tests `with TestClient(app)`), and pass the lifespan to the outermost "
            "application, because mounted ones get no lifespan events."
        )
    return client


Segment = Annotated[Client, Depends(_client_of)]
"""The client that `lifespan` opened, for the signature of an endpoint or of another dependency."""
