"""What tests of the ASGI door need: a transport that records, requests as a server would hand them over, uvicorn."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from segment_async import Client, Response

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
ANONYMOUS = "3b9ae1a7-2d3e-4a44-9d4c-0d1ab2a0a9d1"

Scope = dict[str, Any]
App = Callable[..., Awaitable[None]]


class Recorder:
    """Answers 200 to everything; keeps what came."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        self.messages += json.loads(gzip.decompress(body))["batch"]
        return Response(200, {}, b'{"success": true}')

    async def aclose(self) -> None:
        pass


def recording() -> tuple[Client, list[dict[str, Any]]]:
    """A client, and the messages it will have sent once it was flushed."""
    recorder = Recorder()
    return Client("KEY", transport=recorder), recorder.messages


def request(path: str = "/", headers: Mapping[str, str | bytes] | None = None, **scope: Any) -> Scope:
    """The scope of a GET of this path, query string included, from a browser without cookies."""
    sent = {"host": "shop.example", "user-agent": FIREFOX, "accept": "text/html,*/*;q=0.8", **(headers or {})}
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "method": "GET",
        "scheme": "https",
        "path": path,
        "query_string": query.encode(),
        "root_path": "",
        "client": ("203.0.113.9", 4711),
        "server": ("192.0.2.1", 443),
        "headers": [(name.encode(), text if isinstance(text, bytes) else text.encode()) for name, text in sent.items()],
        **scope,
    }


def visit(path: str = "/", headers: Mapping[str, str | bytes] | None = None, **scope: Any) -> Scope:
    """As `request`, from a visitor who was here before."""
    return request(path, {"cookie": f"ajs_anonymous_id={ANONYMOUS}", **(headers or {})}, **scope)


@dataclass
class Answer:
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    @property
    def cookies(self) -> list[str]:
        return [value.decode() for name, value in self.headers if name == b"set-cookie"]


async def ask(app: App, scope: Scope) -> Answer:
    """Send one request through the application."""
    answer = Answer()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], list(message["headers"])
        else:
            answer.body += message.get("body", b"")

    await app(scope, receive, send)
    return answer


def answering(
    body: bytes = b"<html><head><title>Home</title></head></html>",
    *,
    status: int = 200,
    content_type: str = "text/html; charset=utf-8",
    headers: Mapping[str, str] | None = None,
    doing: Callable[[], Awaitable[Any]] | None = None,
) -> App:
    """An application that does something and gives one answer to everything."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if doing is not None:
            await doing()
        sent = {"content-type": content_type, **(headers or {})}
        raw = [(name.encode(), value.encode()) for name, value in sent.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body[:7], "more_body": True})
        await send({"type": "http.response.body", "body": body[7:]})

    return app


@asynccontextmanager
async def served(app: Any, **options: Any) -> AsyncIterator[str]:
    """The application in a real server; gives its address."""
    config = uvicorn.Config(app, log_level="error", lifespan="auto", **options)
    server = uvicorn.Server(config)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
