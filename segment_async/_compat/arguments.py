"""What the official SDK's arguments are to this package. This file knows no client."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import datetime
from numbers import Number
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from segment_async import __version__

# Seconds within which a naive `datetime` is taken for the local time of now, as in the official SDK.
_JUST_NOW: Final = 5.0
_LIBRARY: Final = {"name": "segment-async", "version": __version__}


def complete(message: Mapping[str, Any], content: str | None) -> dict[str, Any]:
    """The message with all fields that the official SDK returns, whether they are set or not."""
    empty: dict[str, Any] = {"integrations": {}, "anonymousId": None, "userId": None}
    if content is not None:
        empty[content] = {}
    return {**empty, **message, "context": {**message.get("context", {}), "library": _LIBRARY.copy()}}


def common(
    user_id: Any, context: Any, timestamp: Any, anonymous_id: Any, integrations: Any, message_id: Any
) -> dict[str, Any]:
    return {
        "user_id": identifier(user_id),
        "anonymous_id": identifier(anonymous_id),
        "context": context,
        "integrations": integrations,
        "timestamp": _aware(timestamp) if isinstance(timestamp, datetime) else timestamp,
        "message_id": identifier(message_id),
    }


def identifier(value: Any) -> Any:
    """The official SDK takes any number and an empty text for no id."""
    if value is True or value is False or not isinstance(value, (Number, UUID)):
        return None if value == "" else value
    return str(value)


def _aware(moment: datetime) -> datetime:
    """A naive `datetime` of just now is local time, any other one UTC, as in the official SDK."""
    if moment.tzinfo is None and (datetime.now() - moment).total_seconds() < _JUST_NOW:  # noqa: DTZ005  # both are naive
        return moment.astimezone()
    return moment


def proxy_for(host: str | None, proxies: Mapping[str, str] | str | None) -> str | None:
    """The proxy for the host's scheme; one without a scheme of its own is spoken to in plain HTTP."""
    if proxies is not None and not isinstance(proxies, str):
        scheme = (host or "https").partition("://")[0]
        proxies = proxies.get(scheme) or proxies.get("all")
    return f"http://{proxies}" if proxies and "://" not in proxies else proxies


def host_of(host: str | None) -> str | None:
    """The host, or the one that the environment names."""
    return host or os.environ.get("SEGMENT_HOST")


def warned_of_http(host: str | None, log: logging.Logger) -> bool:
    """Whether the host is spoken to in plain HTTP, as the official SDK would; logs a warning then, but on loopback."""
    plain = (host or "").lower().startswith("http://")
    if plain and urlsplit(host or "").hostname not in ("localhost", "127.0.0.1", "::1"):
        log.warning("The host has plain http://: the write key is readable on the way. Use https:// if you can.")
    return plain
