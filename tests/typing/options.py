"""The options: type checkers report misspelt names, unknown words and wrong types."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import ssl
from collections.abc import Mapping
from typing import Any, assert_type

from segment_async import (
    Client,
    DeliveryError,
    HTTPTransport,
    MessageError,
    MessageTooLarge,
    OAuth,
    Outcome,
    Response,
    RetryPolicy,
    Transport,
    TransportError,
    hooks,
)


class Mine:
    """A transport that inherits from nothing."""

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        if not body:
            raise TransportError("nothing to send", maybe_sent=False)
        return Response(200, {"Date": "today"}, b"ok")

    async def aclose(self) -> None: ...


class NotMine:
    async def send(self, body: str) -> int:
        return len(body)


def on_error(error: DeliveryError, messages: list[dict[str, Any]]) -> None:
    assert_type(error.outcome, Outcome)


async def on_error_async(error: DeliveryError, messages: list[dict[str, Any]]) -> None: ...


def before_send(message: dict[str, Any]) -> dict[str, Any] | None:
    return message if message.get("event") else None


async def right() -> None:
    async with Client("key") as client:
        assert_type(client, Client)
    Client("key", region="eu", overflow="drop_oldest", overflow_timeout=None, send=False)
    Client("key", host="http://proxy.example", allow_http=True, proxy=None, ssl_context=ssl.create_default_context())
    Client("key", on_error=on_error, before_send=before_send, retry=RetryPolicy(max_retries=3, give_up_after=60))
    Client("key", on_error=on_error_async, transport=Mine())
    Client(trust_env=True, defaults={"context": {"app": {"name": "shop"}}, "properties": {"tier": "beta"}})
    Client(before_send=[before_send, hooks.redact("password"), hooks.sample(0.1, events=["Seen"])])
    Client("key", transport=HTTPTransport("https://api.segment.io/v1/batch", timeout=5, proxy=None))
    Client("key", oauth=OAuth("id", "pem", "kid", scope="tracking_api:write"))
    transport: Transport = Mine()
    assert_type(await transport.send(b"", {}), Response)


def wrong() -> None:
    Client(b"key")  # type: ignore[arg-type]
    Client(defaults={"traits": {}})  # type: ignore[arg-type]
    Client(before_send=[on_error])  # type: ignore[list-item]
    Client("key", "eu")  # type: ignore[call-arg]
    Client("key", flushat=1)  # type: ignore[call-arg]
    Client("key", max_retries=3)  # type: ignore[call-arg]
    Client("key", region="uk")  # type: ignore[arg-type]
    Client("key", overflow="drop")  # type: ignore[arg-type]
    Client("key", flush_at="100")  # type: ignore[arg-type]
    Client("key", retry=3)  # type: ignore[arg-type]
    Client("key", transport=NotMine())  # type: ignore[arg-type]
    Client("key", on_error=before_send)  # type: ignore[arg-type]
    Client("key", before_send=on_error)  # type: ignore[arg-type]
    RetryPolicy(max_retry=3)  # type: ignore[call-arg]
    RetryPolicy(3)  # type: ignore[call-arg]
    TransportError("down")  # type: ignore[call-arg]


def errors(error: Exception) -> None:
    if isinstance(error, MessageTooLarge):
        assert_type(error.limit, int)
    elif isinstance(error, MessageError):
        assert_type(error.path, str)
    elif isinstance(error, TransportError):
        assert_type(error.maybe_sent, bool)
