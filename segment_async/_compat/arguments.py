"""What the official SDK's arguments are to this package. This file knows no client."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from datetime import datetime
from numbers import Number
from typing import Any, Final, cast
from urllib.parse import urlsplit
from uuid import UUID

from segment_async import __version__

# Seconds within which a naive `datetime` is taken for the local time of now, as in the official SDK.
_JUST_NOW: Final = 5.0
# Messages in a batch: Segment drops what it has beyond that.
_LARGEST_BATCH: Final = 2_500
_DAY: Final = 86_400.0
_PAIR: Final = 2
_NAMES: Final = {
    "auth_server": "oauth_auth_server",
    "client_id": "oauth_client_id",
    "client_key": "oauth_client_key",
    "flush_at": "upload_size",
    "flush_interval": "upload_interval",
    "give_up_after": "max_total_backoff_duration",
    "key_id": "oauth_key_id",
    "max_in_flight": "thread",
    "max_retry_after": "max_rate_limit_duration",
    "proxy": "proxies",
    "scope": "oauth_scope",
}
# At the beginning of the text, where an error names its option.
_NAME: Final = re.compile(rf"^((?:OAuth needs its )?)({'|'.join(_NAMES)})\b")
_LIBRARY: Final = {"name": "segment-async", "version": __version__}


def complete(message: Mapping[str, Any], content: str | None) -> dict[str, Any]:
    """The message with all fields that the official SDK returns, whether they are set or not."""
    empty: dict[str, Any] = {"integrations": {}, "anonymousId": None, "userId": None}
    if content is not None:
        empty[content] = {}
    if message["type"] in ("page", "screen"):
        empty |= {"category": None, "name": None}
    return {**empty, **message, "context": {**message.get("context", {}), "library": _LIBRARY.copy()}}


def common(
    user_id: Any, context: Any, timestamp: Any, anonymous_id: Any, integrations: Any, message_id: Any
) -> dict[str, Any]:
    return {
        "user_id": identifier(user_id),
        "anonymous_id": identifier(anonymous_id),
        "context": content(context),
        "integrations": content(integrations),
        "timestamp": _aware(timestamp) if isinstance(timestamp, datetime) else timestamp,
        "message_id": identifier(message_id),
    }


def content(value: Any) -> Any:
    """The official SDK takes anything false for no content; an empty mapping may be of a type that means something."""
    given: object = value
    return value if given or isinstance(given, Mapping) else None


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


def batch_size_for(upload_size: Any, log: logging.Logger) -> Any:
    """The messages that make a batch due: no more than Segment takes; logs a warning then."""
    if not isinstance(upload_size, int) or upload_size <= _LARGEST_BATCH:
        return upload_size
    log.warning(
        "upload_size=%d is used as %d: Segment drops what a batch has beyond that.", upload_size, _LARGEST_BATCH
    )
    return _LARGEST_BATCH


def seconds_for(timeout: Any, log: logging.Logger) -> Any:
    """The seconds for a request: of a pair, as for connecting and reading, those for reading.

    Without a limit it is a day; logs a warning then.
    """
    given: object = timeout
    if isinstance(given, tuple):
        pair = cast("tuple[object, ...]", given)
        if len(pair) != _PAIR:
            raise ValueError("timeout must be a number of seconds, or a pair of them")
        timeout = pair[1]
    if timeout is not None:
        return timeout
    log.warning("A request without a time limit ends after a day: set timeout to a number of seconds.")
    return _DAY


def named_as_there(error: ValueError) -> ValueError:
    """The error with the names of the official SDK's options in place of this package's."""
    return ValueError(_NAME.sub(lambda found: found[1] + _NAMES[found[2]], str(error)))


def check_types(host: object, proxies: object, log_handler: object) -> None:
    """Raises:
    ValueError: one of these options is of a wrong type. A host that is false is none, as for the official SDK.
    """
    if host and not isinstance(host, str):
        raise ValueError('host must be text, such as "https://api.segment.io"')
    if proxies is not None and not isinstance(proxies, (str, Mapping)):
        raise ValueError('proxies must be a dict such as {"https": "http://proxy.example:3128"}')
    if log_handler is not None and not isinstance(log_handler, logging.Handler):
        # Each record of the logger would raise, also within calls.
        raise ValueError("log_handler must be a handler of logging")


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
