"""The options of a client: checked once, and turned into what its parts are made of.

A part gets values that are known to be right. Some options are checked by what takes them instead: `retry` and
`oauth` by their classes, `defaults` by `_message.defaults`, `default` by `_message.conversions`, and `plan` with
`on_violation` by `_plan_check`.
"""

from __future__ import annotations

import os
import ssl as ssl_module
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import getattr_static, isfunction
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec

from ._hooks import check_plain, takes_one_argument
from ._http.origin import PLAIN_HTTP, batch_url, origin
from ._http.transport import HTTPTransport, Transport
from ._pipeline.admission import Overflow
from ._pipeline.auth import Auth, Basic, OAuth
from ._pipeline.batch import MAX_BATCH_MESSAGES
from ._pipeline.pipeline import PipelineOptions
from ._pipeline.retry import RetryPolicy, is_seconds
from ._pipeline.tokens import Tokens

if TYPE_CHECKING:
    from .spool._protocol import Spool

HOSTS: Final = {"us": "https://api.segment.io", "eu": "https://events.eu1.segmentapis.com"}
_AUTH_SERVERS: Final = {"us": "https://oauth2.segment.io", "eu": "https://oauth2.eu1.segmentapis.com"}

# Options of the official SDK that the client has by another name, and what to write instead.
_OFFICIAL: Final = {
    "debug": "logging.getLogger('segment_async').setLevel(logging.DEBUG)",
    "log_handler": "logging.getLogger('segment_async').addHandler(…)",
    "max_rate_limit_duration": "retry=RetryPolicy(max_retry_after=…)",
    "max_retries": "retry=RetryPolicy(max_retries=…)",
    "max_total_backoff_duration": "retry=RetryPolicy(give_up_after=…)",
    "oauth_auth_server": "oauth=OAuth(…, auth_server=…)",
    "oauth_client_id": "oauth=OAuth(client_id, client_key, key_id)",
    "oauth_client_key": "oauth=OAuth(client_id, client_key, key_id)",
    "oauth_key_id": "oauth=OAuth(client_id, client_key, key_id)",
    "oauth_scope": "oauth=OAuth(…, scope=…)",
    "proxies": "proxy='http://…'",
    "sync_mode": "the Delivery that a call returns, and await it",
    "thread": "max_in_flight=…",
    "upload_interval": "flush_interval=…",
    "upload_size": "flush_at=…",
}

_QUOTES: Final = tuple("'\"`“”‘’„«»")
_YES: Final = ("1", "true", "yes", "on")
_NO: Final = ("", "0", "false", "no", "off")

P = ParamSpec("P")

BeforeSend = Callable[[dict[str, Any]], Mapping[str, Any] | None]


class Network(NamedTuple):
    """How aiohttp reaches a server."""

    timeout: float
    proxy: str | None
    ssl_context: ssl_module.SSLContext | None
    trust_env: bool

    def transport(self, url: str) -> HTTPTransport:
        return HTTPTransport(
            url, timeout=self.timeout, proxy=self.proxy, ssl_context=self.ssl_context, trust_env=self.trust_env
        )

    def __repr__(self) -> str:
        return "<Network>"


def explains_official_options(init: Callable[P, None]) -> Callable[P, None]:
    """Decorate a constructor: for an option of the official SDK, its `TypeError` names the one to use."""

    @wraps(init)
    def checking(*args: P.args, **options: P.kwargs) -> None:
        for name in options.keys() & _OFFICIAL.keys():
            raise TypeError(f"Client() has no {name}, which is the official SDK's: use {_OFFICIAL[name]}")
        init(*args, **options)

    return checking


def checked_key(write_key: str | None, *, send: bool) -> str:
    """The write key without the white space around it; the environment's if none is given.

    Raises:
        ValueError: there is none although messages are to be sent, or it cannot be a key.
    """
    source = "write_key"
    if write_key is None:
        write_key, source = os.environ.get("SEGMENT_WRITE_KEY"), "SEGMENT_WRITE_KEY in the environment"
        if write_key is None and send:
            raise ValueError(
                "no write key: pass one, or set SEGMENT_WRITE_KEY; find it under API Keys in the source's settings"
            )
    if not send and (write_key is None or (isinstance(write_key, str) and not write_key.strip())):
        return ""
    if not isinstance(write_key, str) or not write_key.strip():
        raise ValueError(
            f"{source} must be the key of a Segment source; find it under API Keys in the source's settings"
        )
    stripped = write_key.strip()
    if stripped[0] in _QUOTES or stripped[-1] in _QUOTES:
        raise ValueError(
            f"{source} has quotation marks around it; remove them (docker run --env-file, for one, keeps those of a file)"
        )
    if not stripped.isprintable() or not stripped.isascii() or ":" in stripped or " " in stripped:
        raise ValueError(f"{source} contains characters that no Segment key has")
    return stripped


def environment_allows_http() -> bool:
    """Whether ``SEGMENT_ALLOW_HTTP`` is set.

    Raises:
        ValueError: it is neither a yes nor a no.
    """
    text = os.environ.get("SEGMENT_ALLOW_HTTP", "").strip().lower()
    if text not in (*_YES, *_NO):
        raise ValueError("SEGMENT_ALLOW_HTTP in the environment must be 1 or 0")
    return text in _YES


def check_pipeline(options: PipelineOptions) -> None:
    """Raises:
    ValueError: an option of the pipeline's is out of range, or contradicts another.
    """
    _check_words(overflow=(options.overflow, Overflow.__args__))  # type: ignore[attr-defined]  # of a Literal
    _check_positive(
        flush_at=options.flush_at, max_queue_size=options.max_queue_size, max_queue_bytes=options.max_queue_bytes
    )
    _check_positive(max_in_flight=options.max_in_flight)
    _check_seconds(flush_interval=options.flush_interval)
    if options.overflow_timeout is not None:
        _check_seconds(overflow_timeout=options.overflow_timeout)
    if options.flush_at > MAX_BATCH_MESSAGES:
        raise ValueError(f"flush_at must be {MAX_BATCH_MESSAGES:,} or less: Segment drops what a batch has beyond that")
    if options.on_error is not None and not callable(options.on_error):
        raise ValueError("on_error must be a function")
    if not isinstance(options.retry, RetryPolicy):
        raise ValueError("retry must be a RetryPolicy")  # noqa: TRY004  # as every other option


def check_region(region: str) -> None:
    """Raises:
    ValueError: there is no such region.
    """
    _check_words(region=(region, HOSTS))


def check_flags(**options: bool) -> None:
    """Raises:
    ValueError: one of them is neither `True` nor `False`: text such as "no" would count as `True`.
    """
    for name, flag in options.items():
        if not isinstance(flag, bool):
            raise ValueError(f"{name} must be True or False")  # noqa: TRY004  # as every other option


def check_times(timeout: float, close_timeout: float) -> None:
    """Raises:
    ValueError: one of them is no time limit.
    """
    _check_seconds(timeout=timeout, close_timeout=close_timeout)
    if timeout == 0:
        raise ValueError("timeout must be more than 0 seconds")


def before_send_for(hook: BeforeSend | Sequence[BeforeSend] | None) -> BeforeSend | None:
    """One function that does what all do, one after the other.

    Raises:
        ValueError: one of them is not a plain function of one argument.
    """
    if hook is None:
        return None
    steps: list[Any] = [hook] if callable(hook) or not isinstance(hook, Sequence) else [*hook]
    for step in steps:
        if not callable(step):
            raise ValueError("before_send must be a function, or a list of functions")  # noqa: TRY004  # as every other option
        check_plain("before_send", step)
        if not takes_one_argument(step):
            # It would fail with each message, which is dropped then.
            raise ValueError(
                "before_send must take one argument, the message; a step of segment_async.hooks is what a call returns, "
                "such as drop_bots()"
            )
    return steps[0] if len(steps) == 1 else _chained(steps) if steps else None


def _chained(steps: Sequence[Any]) -> BeforeSend:
    def one_after_the_other(message: dict[str, Any]) -> Mapping[str, Any] | None:
        for step in steps:
            changed = step(message)
            if changed is None:
                return None
            message = dict(changed)
        return message

    return one_after_the_other


def check_on_invalid(on_invalid: str) -> None:
    """Raises:
    ValueError: it is none of its words.
    """
    _check_words(on_invalid=(on_invalid, ("raise", "drop")))


def check_raises(on_invalid: str, on_violation: object) -> None:
    """Raises:
    ValueError: a violation of the plan would raise the `MessageError` that `on_invalid` makes a drop.
    """
    if on_invalid == "drop" and on_violation == "raise":
        raise ValueError(
            'on_violation="raise" contradicts on_invalid="drop", which drops messages instead of raising: choose '
            'another on_violation, or on_invalid="raise"'
        )


def transport_for(
    transport: Transport | None,
    host: str | None,
    region: str,
    network: Network,
    *,
    allow_http: bool,
    has_oauth: bool,
) -> Transport:
    """The transport that was given, or aiohttp's to the host.

    Raises:
        ValueError: the host is no safe address, or options contradict each other.
    """
    if transport is not None:
        if host is not None:
            raise ValueError("transport and host contradict each other: a transport knows its own address")
        if not has_oauth and (network.proxy is not None or network.ssl_context is not None or network.trust_env):
            raise ValueError("proxy, ssl_context and trust_env are for aiohttp: a custom transport has its own")
        _check_made("transport", transport, "send")
        if not _has(transport, "send", "aclose"):
            raise ValueError("transport must have the methods of a Transport: send and aclose")
        if isinstance(transport, HTTPTransport):
            _check_readable(transport, allow_http=allow_http)
        return transport
    made = network.transport(_url_for(host, region, allow_http=allow_http))
    _check_readable(made, allow_http=allow_http)
    return made


def _url_for(host: str | None, region: str, *, allow_http: bool) -> str:
    if host is not None:
        return batch_url(host, allow_http=allow_http)
    from_environment = os.environ.get("SEGMENT_HOST")
    try:
        return batch_url(from_environment or HOSTS[region], allow_http=allow_http)
    except ValueError as error:
        raise ValueError(f"SEGMENT_HOST in the environment is wrong: {error}") from None


def _check_readable(transport: HTTPTransport, *, allow_http: bool) -> None:
    if transport.is_readable and not allow_http:
        raise ValueError(f"the transport must use https://, without a plain proxy in between: {PLAIN_HTTP}")


def auth_for(
    write_key: str,
    oauth: OAuth | None,
    region: str,
    network: Network,
    policy: RetryPolicy,
    now: Callable[[], float],
    note_failure: Callable[[str, float], object],
    *,
    allow_http: bool,
    send: bool,
) -> Auth:
    """What makes the Authorization header; without `send` none is ever made. `note_failure`: see `Tokens`.

    Raises:
        ValueError: the token server is no safe address.
        ImportError: OAuth needs an extra that is not installed.
    """
    if oauth is None:
        return Basic(write_key)
    if not isinstance(oauth, OAuth):
        raise ValueError("oauth must be an OAuth")  # noqa: TRY004  # as every other option
    from random import random

    server = origin(oauth.auth_server or _AUTH_SERVERS[region], allow_http=allow_http, name="auth_server")
    tokens = network.transport(f"{server}/token")
    _check_readable(tokens, allow_http=allow_http)
    if not send:
        # Tests have a key that cannot be used.
        return Basic(write_key)
    return Tokens(
        oauth, server, tokens, policy, now=now, wall_clock=time.time, random=random, note_failure=note_failure
    )


def check_spool(spool: str | PathLike[str] | Spool | None, *, deliver: bool, overflow: str) -> None:
    """Raises:
    ValueError: the spool contradicts another option.
    """
    if spool is None and not deliver:
        raise ValueError("deliver=False hands messages over to a spool: set spool=")
    if isinstance(spool, str) and "://" in spool:
        # As a path it would be a file in a folder such as "redis:", from which no relay delivers.
        raise ValueError(
            "spool must be the path of a file, not a URL; for Redis or Valkey, pass segment_async.relay.RedisSpool(url)"
        )
    if spool is None or isinstance(spool, (str, PathLike)):
        return
    from .spool._protocol import is_shared

    _check_made("spool", spool, "claim")
    if not _has(spool, "claim", "append_nowait", "statistics", "aclose"):
        raise ValueError("spool must be the path of a file, or a Spool")
    if is_shared(spool) and overflow == "drop_oldest":
        raise ValueError(
            'overflow="drop_oldest" would drop messages of other hosts from a shared spool: choose another'
        )


def spool_for(
    spool: str | PathLike[str] | Spool | None, write_key: str, transport: Transport, *, send: bool
) -> Spool | None:
    """The spool that was given, or SQLite's at the path; it belongs to this key and address from now on.

    A shared one belongs to the key alone, as a host that only hands over has no use for the address.

    With ``send=False`` there is none: nothing is sent, not even what an earlier process left on disk.

    Raises:
        ValueError: there can be no spool at the path, or it holds messages of another key or host.
    """
    if spool is None or not send:
        return None
    from hashlib import sha256

    from .spool._protocol import is_shared

    if isinstance(spool, (str, PathLike)):
        from .spool._sqlite import SQLiteSpool

        spool = SQLiteSpool(spool)
    address = transport.address if isinstance(transport, HTTPTransport) else ""
    owner = write_key if is_shared(spool) else f"{write_key}\n{address}"
    spool.claim(sha256(owner.encode()).hexdigest()[:16])
    return spool


def _check_made(name: str, part: object, method: str) -> None:
    """Raises:
    ValueError: it is a class, whose method would lack its object.
    """
    if isinstance(part, type) and isfunction(getattr_static(part, method, None)):
        raise ValueError(f"{name} must be an object, not its class: {part.__name__}(…)")


def _has(part: object, *methods: str) -> bool:
    return all(callable(getattr(part, method, None)) for method in methods)


def _check_words(**options: tuple[str, Any]) -> None:
    for name, (word, words) in options.items():
        if word not in tuple(words):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}")


def _check_positive(**options: int) -> None:
    for name, number in options.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a positive integer")


def _check_seconds(**options: float) -> None:
    for name, seconds in options.items():
        if not is_seconds(seconds):
            raise ValueError(f"{name} must be a number of seconds, 0 or more")
