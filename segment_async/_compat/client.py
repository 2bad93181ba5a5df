"""The official SDK's `Client`, on the blocking one.

How arguments of the official SDK become those of this package is in `arguments`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from segment_async import (
    ClientClosed,
    DeliveryError,
    MessageError,
    MessageTooLarge,
    OAuth,
    RetryPolicy,
    blocking,
    messages,
)

from .arguments import (
    batch_size_for,
    check_types,
    common,
    complete,
    content,
    host_of,
    identifier,
    named_as_there,
    proxy_for,
    seconds_for,
    warned_of_http,
)

__all__ = ["Client", "FailedMessage", "InvalidMessage", "OnError", "OversizedMessage"]

Answer = tuple[bool, dict[str, Any]]
OnError = Callable[[Any, list[dict[str, Any]]], Any]

# Seconds in which at least one message must get its outcome for `shutdown` to go on waiting.
_SHUTDOWN_SECONDS: Final = 5.0


class InvalidMessage(MessageError, AssertionError):
    """The call is wrong, as `MessageError` says; an `AssertionError` as well, which the official SDK raises."""


class OversizedMessage(MessageTooLarge, RuntimeError):
    """The message is too large, as `MessageTooLarge` says; a `RuntimeError` as well, which the official SDK raises."""


class FailedMessage(DeliveryError):
    """A message did not reach Segment, as `DeliveryError` says; with what the official SDK's error has as well."""

    @property
    def status(self) -> int | None:
        """HTTP status of the last answer; `None` when none came."""
        return self.outcome.status_code

    @property
    def code(self) -> str | None:
        """The reason, such as ``refused``."""
        return self.outcome.reason

    @property
    def message(self) -> str:
        """The text of the error."""
        return str(self)


class Queue:
    """What monitoring code reads of the official SDK's queue: how many messages have no outcome yet, and the limit."""

    def __init__(self, client: blocking.Client, maxsize: int) -> None:
        self._client = client
        self.maxsize = maxsize

    def qsize(self) -> int:
        return self._client.statistics().pending

    def empty(self) -> bool:
        return self.qsize() == 0

    def full(self) -> bool:
        return 0 < self.maxsize <= self.qsize()


class Client:
    """The official SDK's `Client`: its options, in its order; the module's table says what they do here.

    Raises:
        AssertionError: there is no write key.
        ValueError: an option is out of range, or of a wrong type.
    """

    log = logging.getLogger("segment_async")

    class DefaultConfig:
        """The defaults of the options, where the official SDK has them."""

        write_key: str | None = None
        host: str | None = None
        debug: bool = False
        max_queue_size: int = 10_000
        send: bool = True
        on_error: OnError | None = None
        gzip: bool = True
        max_retries: int = 10
        sync_mode: bool = False
        timeout: float | tuple[float | None, float | None] | None = 15
        proxies: Mapping[str, str] | str | None = None
        thread: int = 1
        upload_size: int = 100
        upload_interval: float = 0.5
        log_handler: logging.Handler | None = None
        oauth_client_id: str | None = None
        oauth_client_key: str | None = None
        oauth_key_id: str | None = None
        oauth_auth_server: str | None = "https://oauth2.segment.io"
        oauth_scope: str = "tracking_api:write"
        max_total_backoff_duration: float = 43_200
        max_rate_limit_duration: float = 1_800

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
        timeout: float | tuple[float | None, float | None] | None = 15,
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
            raise AssertionError(  # noqa: TRY004  # as the official SDK
                "no write_key: set analytics.write_key, or pass it to Client; find it under API Keys in the source's settings"
            )
        check_types(host, proxies, log_handler)
        self.write_key = write_key
        self.host = host
        self.debug = debug
        self.send = send
        self.on_error = on_error
        self.gzip = gzip
        self.sync_mode = sync_mode
        self.timeout = timeout
        self.proxies = proxies
        self.max_total_backoff_duration = max_total_backoff_duration
        self.max_rate_limit_duration = max_rate_limit_duration
        _set_up_log(self.log, log_handler, debug=debug)
        host = host_of(host)
        oauth = None
        try:
            if oauth_client_id and oauth_client_key and oauth_key_id:
                oauth = OAuth(
                    oauth_client_id, oauth_client_key, oauth_key_id, scope=oauth_scope, auth_server=oauth_auth_server
                )
            self._client = blocking.Client(
                write_key,
                host=host,
                # In sync mode nothing comes that a message could wait for.
                flush_at=1 if sync_mode else batch_size_for(upload_size, self.log),
                flush_interval=upload_interval,
                max_queue_size=sys.maxsize
                if isinstance(max_queue_size, int) and max_queue_size <= 0
                else max_queue_size,
                overflow="drop_newest",
                max_in_flight=thread,
                gzip=bool(gzip),
                timeout=seconds_for(timeout, self.log),
                retry=RetryPolicy(
                    max_retries=max_retries,
                    give_up_after=max_total_backoff_duration,
                    max_retry_after=max_rate_limit_duration,
                ),
                # The official SDK takes anything false for none.
                on_error=_with_fields(on_error) if callable(on_error) else on_error or None,
                oauth=oauth,
                proxy=proxy_for(host, proxies),
                allow_http=warned_of_http(host, self.log),
                send=bool(send),
            )
        except ValueError as error:
            raise named_as_there(error) from None
        self.queue = Queue(self._client, max_queue_size)
        self._has_warned = False

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
            FailedMessage: in sync mode, the message did not reach Segment.
        """
        shared = common(user_id, context, timestamp, anonymous_id, integrations, message_id)
        return self._send(lambda: messages.track(event=event, properties=content(properties), **shared), "properties")

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
        shared = common(user_id, context, timestamp, anonymous_id, integrations, message_id)
        return self._send(lambda: messages.identify(traits=content(traits), **shared), "traits")

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
        shared = common(user_id, context, timestamp, anonymous_id, integrations, message_id)
        return self._send(
            lambda: messages.group(group_id=identifier(group_id), traits=content(traits), **shared), "traits"
        )

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
        shared = common(user_id, context, timestamp, None, integrations, message_id)
        return self._send(lambda: messages.alias(previous_id=identifier(previous_id), **shared), None)

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
        shared = common(user_id, context, timestamp, anonymous_id, integrations, message_id)
        fields: dict[str, Any] = {"category": category or None, "name": name or None, "properties": content(properties)}
        return self._send(lambda: messages.page(**fields, **shared), "properties")

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
        shared = common(user_id, context, timestamp, anonymous_id, integrations, message_id)
        fields: dict[str, Any] = {"category": category or None, "name": name or None, "properties": content(properties)}
        return self._send(lambda: messages.screen(**fields, **shared), "properties")

    def flush(self) -> None:
        """Send what is collected, and wait until every message has its outcome."""
        self._client.flush()

    def join(self) -> None:
        """Take no new messages, and send what is collected, for 5 seconds at most."""
        self._client.close()

    def shutdown(self) -> None:
        """Wait until every message has its outcome, as long as some get one every 5 seconds; then as `join`."""
        left, before = 1, -1
        while left and self._ended != before:
            before = self._ended
            left = self._client.flush(timeout=_SHUTDOWN_SECONDS)
        self.join()

    @property
    def _ended(self) -> int:
        """How many messages have their outcome."""
        statistics = self._client.statistics()
        return statistics.accepted - statistics.pending

    def _send(self, build: Callable[[], Mapping[str, Any]], content: str | None) -> Answer:
        """`content`: the field that is in the returned message even if it is empty."""
        try:
            message = build()
            try:
                delivery = self._client.enqueue(message)
            except ClientClosed:
                if not self._has_warned:
                    self._has_warned = True
                    self.log.warning("A message came after join() or shutdown(), and was not queued (logged once).")
                return False, complete(message, content)
        except MessageTooLarge as error:
            _, arguments = error.__reduce__()
            raise OversizedMessage(*arguments) from None
        except MessageError as error:
            raise InvalidMessage(error.path, error.problem) from None
        outcome = delivery.outcome
        if self.send and self.sync_mode:
            outcome = delivery.wait()
            try:
                outcome.raise_for_failure()
            except DeliveryError as error:
                raise FailedMessage(error.outcome) from None
        return outcome is None or outcome.reason in (None, "disabled"), complete(message, content)


def _with_fields(on_error: OnError) -> OnError:
    return lambda error, items: on_error(FailedMessage(error.outcome), items)


def _set_up_log(log: logging.Logger, handler: logging.Handler | None, *, debug: bool) -> None:
    if handler is not None:
        log.addHandler(handler)
    if debug:
        log.setLevel(logging.DEBUG)
        if handler is None:
            log.addHandler(logging.StreamHandler())
