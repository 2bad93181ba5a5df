"""A drop-in for the official SDK: replace ``import segment.analytics as analytics`` by one line.

    import segment_async.compat as analytics

    analytics.write_key = "WRITE_KEY"
    analytics.track("user-1", "Order Completed", {"total": 30.5})

The functions, the module's settings, and `Client` with its options in their order and with their defaults are those of
`segment.analytics` 2.4. The settings are read at the first call. Behind them is `segment_async.blocking`. What differs:

=============================  =========================================================================================
official SDK                   here, and why
=============================  =========================================================================================
`gzip` is off                  it is on: a tenth of the bytes; ``gzip=False`` switches it off
calls raise `AssertionError`   a subclass of it, and of `MessageError`, which names the field; also for what Segment
                               would answer with 200 and then drop
too large: `RuntimeError`      a subclass of it, and of `MessageTooLarge`
values without JSON            are encoded (`UUID`, dataclasses, numpy, …), or refused by name; never removed silently
queue full: `False`            the same, in memory that is bounded by 32 MiB as well; with a `max_queue_size` of 0 only so
`on_error(error, items)`       the error is a `DeliveryError` with `status`, `code` and `message`; also for messages that
                               were dropped, such as at the exit
`sync_mode`                    the call waits for the outcome, and raises the same
`debug`, `log_handler`         for the logger ``segment_async``; it logs no message contents at any level
`thread`                       requests at once
`upload_size`                  messages that make a batch due, 2,500 at most, with a warning; under load, batches are
                               larger
`timeout`                      for the whole request; of a pair, the second number; `None` is a day, with a warning
wrong options                  a `ValueError` names the option; the official SDK fails later, or not at all
`max_total_backoff_duration`   `give_up_after` of a `RetryPolicy`; the back-off itself is the `RetryPolicy`'s
`max_rate_limit_duration`      the longest `Retry-After` that is obeyed
`host` with plain ``http://``  the same, with a warning: the write key is readable on the way
`proxies`                      the one for the host's scheme
`flush`                        waits for requests that are under way, too
`join`                         what cannot be sent within 5 s is dropped, with a warning; later calls return `False`
`shutdown`                     waits as long as messages are delivered; when none was for 5 s, goes on as `join`
`client.queue`                 has `qsize`, `empty`, `full` and `maxsize`: messages count until they have an outcome
`Client.DefaultConfig`         has the defaults that are here
`VERSION`, `__version__`       of this package
`client.consumers`             is not there: it is one of the SDK's internals, as are its other modules
message's ``library``          ``segment-async``; its ``timestamp`` ends in ``Z``
after a fork                   messages are sent: a child has a thread of its own
at the exit                    messages are sent, for 5 s at most
=============================  =========================================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Concatenate, ParamSpec, TypeVar

from segment_async import __version__

from ._compat.client import Client, FailedMessage, InvalidMessage, OnError, OversizedMessage
from ._locks import fork_safe_lock

__all__ = [
    "Client",
    "FailedMessage",
    "InvalidMessage",
    "OversizedMessage",
    "alias",
    "flush",
    "group",
    "identify",
    "join",
    "page",
    "screen",
    "shutdown",
    "track",
]

VERSION = __version__

# A traceback names an error as it is imported.
FailedMessage.__module__ = __name__
InvalidMessage.__module__ = __name__
OversizedMessage.__module__ = __name__

P = ParamSpec("P")
T = TypeVar("T")

# The settings, which the first call reads.

write_key: str | None = None
host: str | None = None
on_error: OnError | None = None
debug: bool = False
log_handler: logging.Handler | None = None
send: bool = True
sync_mode: bool = False
max_queue_size: int = 10_000
gzip: bool = True
timeout: float | tuple[float | None, float | None] | None = 15
max_retries: int = 10
oauth_client_id: str | None = None
oauth_client_key: str | None = None
oauth_key_id: str | None = None
oauth_auth_server: str | None = "https://oauth2.segment.io"
oauth_scope: str = "tracking_api:write"

default_client: Client | None = None
_lock = fork_safe_lock()


def _default_client() -> Client:
    return default_client or _made_client()


def _made_client() -> Client:
    global default_client
    with _lock:
        # Another thread may have made it meanwhile.
        default_client = default_client or Client(
            write_key,
            host=host,
            debug=debug,
            max_queue_size=max_queue_size,
            send=send,
            on_error=on_error,
            gzip=gzip,
            max_retries=max_retries,
            sync_mode=sync_mode,
            timeout=timeout,
            log_handler=log_handler,
            oauth_client_id=oauth_client_id,
            oauth_client_key=oauth_client_key,
            oauth_key_id=oauth_key_id,
            oauth_auth_server=oauth_auth_server,
            oauth_scope=oauth_scope,
        )
        return default_client


def _of_default_client(method: Callable[Concatenate[Client, P], T]) -> Callable[P, T]:
    """The method as a function, of the client that the module's settings make."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return method(_default_client(), *args, **kwargs)

    whole = signature(method)
    # Without `self`: `unittest.mock` compares calls by it.
    call.__signature__ = whole.replace(parameters=[*whole.parameters.values()][1:])  # type: ignore[attr-defined]  # functions have it
    return call


track = _of_default_client(Client.track)
identify = _of_default_client(Client.identify)
group = _of_default_client(Client.group)
alias = _of_default_client(Client.alias)
page = _of_default_client(Client.page)
screen = _of_default_client(Client.screen)
flush = _of_default_client(Client.flush)
join = _of_default_client(Client.join)
shutdown = _of_default_client(Client.shutdown)
