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
`on_error(error, items)`       the error is a `DeliveryError`; also for messages that were dropped, such as at the exit
`sync_mode`                    the call waits for the outcome, and raises `DeliveryError`
`debug`, `log_handler`         for the logger ``segment_async``; it logs no message contents at any level
`thread`                       requests at once
`upload_size`                  messages that make a batch due; under load, batches are larger
`max_total_backoff_duration`   `give_up_after` of a `RetryPolicy`; the back-off itself is the `RetryPolicy`'s
`max_rate_limit_duration`      the longest `Retry-After` that is obeyed
`host` with plain ``http://``  the same, with a warning: the write key is readable on the way
`proxies`                      the one for the host's scheme
`flush`                        waits for requests that are under way, too
`join`, `shutdown`             what cannot be sent within 5 s is dropped, with a warning; later calls return `False`
`client.queue`, `.consumers`   are not there: they are the SDK's internals
message's ``library``          ``segment-async``; its ``timestamp`` ends in ``Z``
after a fork                   messages are sent: a child has a thread of its own
at the exit                    messages are sent, for 5 s at most
=============================  =========================================================================================
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from numbers import Number
from typing import Any, Concatenate, Final, ParamSpec, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from . import ClientClosed, MessageError, MessageTooLarge, OAuth, RetryPolicy, __version__, blocking, messages
from ._fork_lock import fork_safe_lock

__all__ = [
    "Client",
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

P = ParamSpec("P")
T = TypeVar("T")

Answer = tuple[bool, dict[str, Any]]
OnError = Callable[[Any, list[dict[str, Any]]], Any]

# Seconds within which a naive `datetime` is taken for the local time of now, as in the official SDK.
_JUST_NOW: Final = 5.0
_LIBRARY: Final = {"name": "segment-async", "version": __version__}


class InvalidMessage(MessageError, AssertionError):
    """The call is wrong, as `MessageError` says; an `AssertionError` as well, which the official SDK raises."""


class OversizedMessage(MessageTooLarge, RuntimeError):
    """The message is too large, as `MessageTooLarge` says; a `RuntimeError` as well, which the official SDK raises."""


class Client:
    """The official SDK's `Client`: its options, in its order; the module's table says what they do here.

    Raises:
        AssertionError: there is no write key.
        ValueError: an option is out of range.
    """

    log = logging.getLogger("segment_async")

    def __init__(
        self,
        write_key: str | None = None,
        host: str | None = None,
        debug: bool = False,
        max_queue_size: int = 10_000,
        send: bool = True,
        on_error: OnError | None = None,
        gzip: bool = True,
        max_retries: int = 10,
        sync_mode: bool = False,
        timeout: float = 15,
        proxies: Mapping[str, str] | str | None = None,
        thread: int = 1,
        upload_size: int = 100,
        upload_interval: float = 0.5,
        log_handler: logging.Handler | None = None,
        oauth_client_id: str | None = None,
        oauth_client_key: str | None = None,
        oauth_key_id: str | None = None,
        oauth_auth_server: str | None = "https://oauth2.segment.io",
        oauth_scope: str = "tracking_api:write",
        max_total_backoff_duration: float = 43_200,
        max_rate_limit_duration: float = 1_800,
    ) -> None:
        if not isinstance(write_key, str):
            raise AssertionError("write_key must be the key of a Segment source")  # noqa: TRY004  # as the official SDK
        self.write_key = write_key
        self.host = host
        self.debug = debug
        self.send = send
        self.on_error = on_error
        self.gzip = gzip
        self.sync_mode = sync_mode
        self.timeout = timeout
        self.proxies = proxies
        _set_up_log(self.log, log_handler, debug=debug)
        oauth = None
        if oauth_client_id and oauth_client_key and oauth_key_id:
            oauth = OAuth(
                oauth_client_id, oauth_client_key, oauth_key_id, scope=oauth_scope, auth_server=oauth_auth_server
            )
        self._client = blocking.Client(
            write_key,
            host=host,
            # In sync mode nothing comes that a message could wait for.
            flush_at=1 if sync_mode else upload_size,
            flush_interval=upload_interval,
            max_queue_size=max_queue_size if max_queue_size > 0 else sys.maxsize,
            overflow="drop_newest",
            max_in_flight=thread,
            gzip=gzip,
            timeout=timeout,
            retry=RetryPolicy(
                max_retries=max_retries,
                give_up_after=max_total_backoff_duration,
                max_retry_after=max_rate_limit_duration,
            ),
            # The official SDK takes anything false for none.
            on_error=on_error or None,
            oauth=oauth,
            proxy=_proxy_for(host, proxies),
            allow_http=_warned_of_http(host),
            send=send,
        )

    def track(
        self,
        user_id: Any = None,
        event: str | None = None,
        properties: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: Any = None,
        integrations: Mapping[str, Any] | None = None,
        message_id: Any = None,
    ) -> Answer:
        """Record an action of a user. Returns whether the message was queued, and the message.

        Raises:
            InvalidMessage: the call is wrong; names the field.
            OversizedMessage: the message has more than 32,768 bytes of JSON.
            DeliveryError: in sync mode, the message did not reach Segment.
        """
        common = _common(user_id, context, timestamp, anonymous_id, integrations, message_id)
        return self._send(lambda: messages.track(event=event, properties=properties, **common), "properties")

    def identify(
        self,
        user_id: Any = None,
        traits: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: Any = None,
        integrations: Mapping[str, Any] | None = None,
        message_id: Any = None,
    ) -> Answer:
        """Record who a user is. Otherwise like `track`."""
        common = _common(user_id, context, timestamp, anonymous_id, integrations, message_id)
        return self._send(lambda: messages.identify(traits=traits, **common), "traits")

    def group(
        self,
        user_id: Any = None,
        group_id: Any = None,
        traits: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: Any = None,
        integrations: Mapping[str, Any] | None = None,
        message_id: Any = None,
    ) -> Answer:
        """Record the group of a user. Otherwise like `track`."""
        common = _common(user_id, context, timestamp, anonymous_id, integrations, message_id)
        return self._send(lambda: messages.group(group_id=_id(group_id), traits=traits, **common), "traits")

    def alias(
        self,
        previous_id: Any = None,
        user_id: Any = None,
        context: Mapping[str, Any] | None = None,
        timestamp: datetime | str | None = None,
        integrations: Mapping[str, Any] | None = None,
        message_id: Any = None,
    ) -> Answer:
        """Record that two ids are one user. Otherwise like `track`."""
        common = _common(user_id, context, timestamp, None, integrations, message_id)
        return self._send(lambda: messages.alias(previous_id=_id(previous_id), **common), None)

    def page(
        self,
        user_id: Any = None,
        category: str | None = None,
        name: str | None = None,
        properties: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: Any = None,
        integrations: Mapping[str, Any] | None = None,
        message_id: Any = None,
    ) -> Answer:
        """Record a view of a page. Otherwise like `track`."""
        common = _common(user_id, context, timestamp, anonymous_id, integrations, message_id)
        fields: dict[str, Any] = {"category": category or None, "name": name or None, "properties": properties}
        return self._send(lambda: messages.page(**fields, **common), "properties")

    def screen(
        self,
        user_id: Any = None,
        category: str | None = None,
        name: str | None = None,
        properties: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: Any = None,
        integrations: Mapping[str, Any] | None = None,
        message_id: Any = None,
    ) -> Answer:
        """Record a view of an app's screen. Otherwise like `track`."""
        common = _common(user_id, context, timestamp, anonymous_id, integrations, message_id)
        fields: dict[str, Any] = {"category": category or None, "name": name or None, "properties": properties}
        return self._send(lambda: messages.screen(**fields, **common), "properties")

    def flush(self) -> None:
        """Send what is collected, and wait until every message has its outcome."""
        self._client.flush()

    def join(self) -> None:
        """Take no new messages, and send what is collected, for 5 seconds at most."""
        self._client.close()

    def shutdown(self) -> None:
        """Wait until every message has its outcome, and take no new ones."""
        self.flush()
        self.join()

    def _send(self, build: Callable[[], Mapping[str, Any]], content: str | None) -> Answer:
        """`content`: the field that is in the returned message even if it is empty."""
        try:
            message = build()
            try:
                delivery = self._client.enqueue(message)
            except ClientClosed:
                self.log.warning("A message came after join() or shutdown(), and was not queued.")
                return False, _complete(message, content)
        except MessageTooLarge as error:
            _, arguments = error.__reduce__()
            raise OversizedMessage(*arguments) from None
        except MessageError as error:
            raise InvalidMessage(error.path, error.problem) from None
        outcome = delivery.outcome
        if self.send and self.sync_mode:
            outcome = delivery.wait()
            outcome.raise_for_failure()
        return outcome is None or outcome.reason in (None, "disabled"), _complete(message, content)


def _complete(message: Mapping[str, Any], content: str | None) -> dict[str, Any]:
    """The message with all fields that the official SDK returns, whether they are set or not."""
    empty: dict[str, Any] = {"integrations": {}, "anonymousId": None, "userId": None}
    if content is not None:
        empty[content] = {}
    return {**empty, **message, "context": {**message.get("context", {}), "library": _LIBRARY.copy()}}


def _common(
    user_id: Any, context: Any, timestamp: Any, anonymous_id: Any, integrations: Any, message_id: Any
) -> dict[str, Any]:
    return {
        "user_id": _id(user_id),
        "anonymous_id": _id(anonymous_id),
        "context": context,
        "integrations": integrations,
        "timestamp": _aware(timestamp) if isinstance(timestamp, datetime) else timestamp,
        "message_id": _id(message_id),
    }


def _id(value: Any) -> Any:
    """The official SDK takes any number and an empty text for no id."""
    if value is True or value is False or not isinstance(value, (Number, UUID)):
        return None if value == "" else value
    return str(value)


def _aware(moment: datetime) -> datetime:
    """A naive `datetime` of just now is local time, any other one UTC, as in the official SDK."""
    if moment.tzinfo is None and (datetime.now() - moment).total_seconds() < _JUST_NOW:  # noqa: DTZ005  # both are naive
        return moment.astimezone()
    return moment


def _proxy_for(host: str | None, proxies: Mapping[str, str] | str | None) -> str | None:
    """The proxy for the host's scheme; one without a scheme of its own is spoken to in plain HTTP."""
    if proxies is not None and not isinstance(proxies, str):
        scheme = (host or "https").partition("://")[0]
        proxies = proxies.get(scheme) or proxies.get("all")
    return f"http://{proxies}" if proxies and "://" not in proxies else proxies


def _warned_of_http(host: str | None) -> bool:
    """Whether the host is spoken to in plain HTTP, as the official SDK would; logs a warning then, but on loopback."""
    plain = (host or "").lower().startswith("http://")
    if plain and urlsplit(host or "").hostname not in ("localhost", "127.0.0.1", "::1"):
        Client.log.warning("The host has plain http://: the write key is readable on the way. Use https:// if you can.")
    return plain


def _set_up_log(log: logging.Logger, handler: logging.Handler | None, *, debug: bool) -> None:
    if handler is not None:
        log.addHandler(handler)
    if debug:
        log.setLevel(logging.DEBUG)
        if handler is None:
            log.addHandler(logging.StreamHandler())


# -- the module as a client, which is made at its first use

write_key: str | None = None
host: str | None = None
on_error: OnError | None = None
debug: bool = False
log_handler: logging.Handler | None = None
send: bool = True
sync_mode: bool = False
max_queue_size: int = 10_000
gzip: bool = True
timeout: float = 15
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
