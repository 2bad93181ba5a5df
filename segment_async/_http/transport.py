"""One request, one answer. The only file that knows aiohttp.

An aiohttp exception never leaves it, neither raised nor chained: its `repr` holds the Authorization header. Redirects
are never followed, cookies never kept, the environment's proxies never used, answers read to 64 KiB at most.
aiohttp is brought in when the first transport is made, not when the package is imported.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from urllib.parse import SplitResult, urlsplit
from weakref import WeakSet

from segment_async._exceptions import TransportError

if TYPE_CHECKING:
    import aiohttp

MAX_ANSWER_BYTES: Final = 65_536
# Segment's addresses change: a resolved name is good for two minutes, and only while it connects.
_DNS_SECONDS: Final = 120
# A load balancer that closes idle connections after 60 s must not be the first to do so.
_KEEP_ALIVE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: `headers` in any case, `body` decompressed and perhaps cut off; neither shows, both may hold a token."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


class Transport(Protocol):
    """Carries a request to Segment. Whatever has these two methods will do."""

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """POST a batch; `body` is final, compressed if `headers` say so.

        It is cancelled when the client's `timeout` is over, the client closes, or its loop ends.

        Raises:
            TransportError: there is no usable answer. Any other exception is taken as one whose request may have
                been sent, and logged.
        """
        ...

    async def aclose(self) -> None:
        """Let go of all connections."""
        ...


def batch_url(host: str, *, allow_http: bool = False) -> str:
    """The address of `/v1/batch` at an origin, which may have a path before it and end in `/` or `/v1`.

    Raises:
        ValueError: it is no origin that a write key may be sent to.
    """
    parts = urlsplit(origin(host, allow_http=allow_http))
    return parts._replace(path=f"{parts.path.removesuffix('/v1').rstrip('/')}/v1/batch").geturl()


def origin(host: str, *, allow_http: bool = False) -> str:
    """Scheme, host, port and path, without a trailing slash.

    Raises:
        ValueError: it is no origin that a write key may be sent to; does not repeat it.
    """
    if not _is_printable(host):
        raise ValueError("host must not hold white space or control characters")
    parts = _split(host)
    if parts is None or parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError('host must be an origin such as "https://api.segment.io"')
    if parts.username is not None or parts.password is not None:
        raise ValueError("host must not hold credentials")
    if parts.query or parts.fragment:
        raise ValueError("host must not have a query or a fragment")
    if not _has_valid_port(parts):
        raise ValueError("host has a port that is not a number from 0 to 65535")
    if parts.scheme == "http" and not allow_http and not is_loopback(parts.hostname):
        raise ValueError("plain http:// would show the write key to the network; use https://, or say allow_http=True")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def _is_printable(text: str) -> bool:
    return text.isprintable() and " " not in text


def _is_address(text: str) -> bool:
    """Whether it is an HTTP address that aiohttp could make something of."""
    parts = _split(text) if _is_printable(text) else None
    return parts is not None and parts.scheme in ("https", "http") and bool(parts.hostname) and _has_valid_port(parts)


def _split(host: str) -> SplitResult | None:
    try:
        return urlsplit(host)
    except ValueError:
        # Its text may repeat the host, credentials and all.
        return None


def _has_valid_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port >= 0
    except ValueError:
        return False


def is_loopback(hostname: str) -> bool:
    if hostname == "localhost" or hostname.endswith(".localhost"):
        return True
    try:
        return ip_address(hostname).is_loopback
    except ValueError:
        return False


class Hidden(NamedTuple):
    """What holds credentials, for as long as one of our frames does: a traceback may be shown with its locals."""

    value: Any

    def __repr__(self) -> str:
        return "<hidden>"


class Deadline:
    """A time limit that counts only time in which the loop could have done something.

    Keep it under a name where its block is not the task's own first frame: it holds the task. When both are garbage,
    Python 3.11 crashes if the task goes while an inner frame of its is being closed.

    Raises `TimeoutError` from its block. When the limit is found overdue because the loop stood still (a blocking
    call, a machine asleep), what came in meanwhile gets its chance before the block is cancelled.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._scope = asyncio.timeout(None)

    # Both hand on what is to be awaited, and await nothing themselves: a request has two coroutines less.

    def __aenter__(self) -> Coroutine[Any, Any, object]:
        self._arm(self._seconds)
        return self._scope.__aenter__()

    def __aexit__(self, *exc_info: Any) -> Coroutine[Any, Any, bool | None]:
        self._timer.cancel()
        return self._scope.__aexit__(*exc_info)

    def _arm(self, seconds: float) -> None:
        self._due = self._loop.time() + seconds
        self._timer = self._loop.call_at(self._due, self._expire)

    def _expire(self) -> None:
        late = self._loop.time() - self._due
        if late > 1.0:
            self._arm(min(late, self._seconds))
        else:
            self._scope.reschedule(self._loop.time())


class _Progress:
    """How far a request came: whether it has a connection, one that served others before, and aiohttp's answer."""

    __slots__ = ("connected", "response", "reused")

    def __init__(self) -> None:
        self.connected = self.reused = False
        self.response: aiohttp.ClientResponse | None = None


# Of the request that this task makes. aiohttp's own tracing would tell too, for 50 µs a request.
_progress: Final[ContextVar[_Progress]] = ContextVar("segment_async_progress")


class HTTPTransport:
    """The default transport: aiohttp, one session a loop, connections kept alive.

    Args:
        url: where batches are posted to, such as ``https://api.segment.io/v1/batch``.
        timeout: seconds for one request, from connecting to the last byte of the answer.
        proxy: address of an HTTP proxy, credentials included where it wants some; `None`: none, not even the
            environment's.
        ssl_context: for a private certificate authority or a client certificate; `None`: the system's authorities.
            There is no way to switch verification off.

    Raises:
        ValueError: `url` or `proxy` is none, or holds what it must not, `timeout` is not more than 0, or `ssl_context`
            does not verify certificates and the names in them.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 15.0,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        # Loaded here and not at the first send: 0.1 s that the loop would have to stand still; and a process that forks
        # amid an import leaves its lock taken in the child.
        import aiohttp  # noqa: F401

        from . import resolver as _resolver  # noqa: F401

        parts = urlsplit(url) if _is_address(url) else None
        if parts is None or parts.username is not None:
            raise ValueError('url must be an address such as "https://api.segment.io/v1/batch", without credentials')
        if proxy is not None and not _is_address(proxy):
            raise ValueError('proxy must be an address such as "http://proxy.example:3128"')
        if not timeout > 0:
            raise ValueError("timeout must be more than 0 seconds")
        if ssl_context is not None and not _verifies(ssl_context):
            raise ValueError("ssl_context must verify certificates and names: else anybody on the way reads the key")
        self._url = url
        self._hostname = parts.hostname or ""
        self._timeout = timeout
        self._proxy = proxy
        self._ssl = ssl_context
        self._sessions: dict[asyncio.AbstractEventLoop, _Session] = {}

    @property
    def hostname(self) -> str:
        """The host alone, without whatever else its address may hold."""
        return self._hostname

    @property
    def address(self) -> str:
        """Where batches are posted to; it holds no credentials."""
        return self._url

    def __repr__(self) -> str:
        return f"<HTTPTransport to {self._hostname}>"

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """POST a batch and read the answer, to 64 KiB of its body at most.

        Cancelled, the connection is closed; whether the request arrived is not known.

        Raises:
            TransportError: no usable answer.
        """
        request = Hidden((body, headers))
        del body, headers
        progress = _Progress()
        failure: TransportError
        # Under a name, as it says of itself.
        deadline = Deadline(self._timeout)
        try:
            async with deadline:
                return await self._post(request, progress)
        except TimeoutError:
            if progress.response is not None:
                # The status came; what is missing is only the end of a body that hardly matters.
                return Response(progress.response.status, progress.response.headers)
            failure = TransportError(f"no answer within {self._timeout:g} s", maybe_sent=progress.connected)
        except Exception as error:
            failure = self._failure(error, progress)
        finally:
            # The connection keeps the context that it was made in, and so what is in there.
            progress.response = None
        self._forget_addresses()
        # Outside of the handlers, so that the error has no context that would hold aiohttp's.
        raise failure

    async def _post(self, request: Hidden, progress: _Progress) -> Response:
        _progress.set(progress)
        session = self._session_here()
        # What comes is a long step of aiohttp's own, 0.3 ms; what led here was none of it.
        await asyncio.sleep(0)
        response = await session.http.post(
            session.url,
            data=request.value[0],
            headers=session.signed(request.value[1]),
            allow_redirects=False,
            proxy=self._proxy,
        )
        progress.response = response
        try:
            content = await _read(response)
        finally:
            # The connection of an answer read to its end is in the pool already. Any other is closed: what is left
            # would stand before the next answer; and after a 101, which has no end, it speaks HTTP no more.
            response.close()
        return Response(response.status, response.headers, content)

    def _failure(self, error: Exception, progress: _Progress) -> TransportError:
        import aiohttp

        text = type(error).__name__
        # Before aiohttp 3.13 the error of a certificate does not say what is wrong, only what it was raised for does.
        cause = getattr(error, "certificate_error", error)
        if isinstance(cause, (aiohttp.ClientConnectorError, OSError)) and getattr(cause, "strerror", None):
            text = f"{text}: {cause.strerror}"
        if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ClientProxyConnectionError)):
            return TransportError(f"no connection ({text})", maybe_sent=False)
        stale = progress.reused and isinstance(
            error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError)
        )
        return TransportError(f"no usable answer ({text})", maybe_sent=progress.connected, stale_connection=stale)

    def _forget_addresses(self) -> None:
        # Of a request that is garbage with its loop, the last lines run where no loop does.
        loop = asyncio._get_running_loop()
        session = self._sessions.get(loop) if loop is not None else None
        connector = session.http.connector if session is not None else None
        if connector is not None:
            connector.clear_dns_cache()  # type: ignore[attr-defined]  # it is the TCPConnector made below

    def _session_here(self) -> _Session:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            for other in list(self._sessions):
                if not other.is_running():
                    self._leave(other)
            session = self._sessions[loop] = _make_session(self._url, self._ssl)
        return session

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Another loop works now; this one closes its connections should it ever run again.

        By a bare callback: a task would complain where the loop runs no more, or only to its own end.
        """
        session = self._sessions.pop(loop)
        session.http.detach()
        try:
            loop.call_soon_threadsafe(_close, session.connections)
        except RuntimeError:
            # It is closed: nothing but these connections knows it any more, and they go with it.
            pass

    def abandon(self) -> None:
        """Let go of the connections of a parent process without touching them."""
        for session in self._sessions.values():
            session.http.detach()
        self._sessions = {}

    async def aclose(self) -> None:
        """Close the connections; a later `send` opens new ones."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        for loop in list(self._sessions):
            self._leave(loop)
        if session is not None:
            await session.http.close()


def _verifies(context: ssl.SSLContext) -> bool:
    return isinstance(context, ssl.SSLContext) and context.verify_mode is not ssl.CERT_NONE and context.check_hostname


class _Session(NamedTuple):
    """`connections`: all that were made for it and are open, whoever holds them."""

    http: aiohttp.ClientSession
    connections: WeakSet[Any]
    url: Any
    agent: str

    def signed(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {**headers, "User-Agent": f"{headers.get('User-Agent', '')} {self.agent}".strip()}


def _close(connections: WeakSet[Any]) -> None:
    for connection in list(connections):
        connection.close()


def _make_session(url: str, ssl_context: ssl.SSLContext | None) -> _Session:
    import aiohttp
    from yarl import URL

    from .resolver import Resolver

    connections: WeakSet[Any] = WeakSet()

    class Connector(aiohttp.TCPConnector):
        async def connect(self, *request: Any, **options: Any) -> aiohttp.connector.Connection:
            connection = await super().connect(*request, **options)
            progress, protocol = _progress.get(), connection.protocol
            progress.connected, progress.reused = True, protocol in connections
            if not progress.reused:
                connections.add(protocol)
            return connection

        def __del__(self, *_: Any) -> None:
            """A session left behind with its loop, or by a fork, is no fault of the application's."""

    class Answer(aiohttp.ClientResponse):
        async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
            """A server that answers 5xx may be a bad one of many: its connection serves no other request.

            Here and not after the answer was read: a short one is whole with its head, and the connection is in the
            pool again before anybody sees it.
            """
            protocol = connection.protocol
            await super().start(connection)
            if self.status >= 500 and protocol is not None:
                if self.closed:
                    protocol.close()
                else:
                    # aiohttp 3.11.0 to 3.11.6 can only close at once, which costs the rest of the body.
                    getattr(protocol, "force_close", protocol.close)()
            return self

    session = aiohttp.ClientSession(
        connector=Connector(
            limit=0,
            ttl_dns_cache=_DNS_SECONDS,
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
            resolver=Resolver(),
            ssl=ssl_context or True,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        response_class=Answer,
        auto_decompress=False,
        skip_auto_headers=("Accept-Encoding",),
    )
    return _Session(session, connections, URL(url), f"aiohttp/{aiohttp.__version__}")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The answer's body, as much of it as may be read.

    The status has come: a body that breaks off, or is no gzip though it says so, does not make it unusable.
    """
    content = bytearray()
    try:
        while len(content) < MAX_ANSWER_BYTES and not response.content.at_eof():
            content += await response.content.read(MAX_ANSWER_BYTES - len(content))
    except Exception:
        # Cut off, mis-chunked, reset: none of it takes the status back.
        pass
    if "gzip" in response.headers.get("Content-Encoding", "").lower():
        return _unzipped(bytes(content))
    return bytes(content)


def _unzipped(content: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(content, MAX_ANSWER_BYTES)
    except zlib.error:
        return b""
