"""Sends one request and reads its response. Only this file and the resolver know aiohttp.

No aiohttp exception leaves this file, neither raised nor chained, because its `repr` contains the Authorization header.
Redirects are never followed and cookies never kept; proxies are taken from the environment only on request, and
credentials from `.netrc` never. At most 64 KiB of a response are read. aiohttp is imported when the first transport is
constructed, not with the package.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import zlib
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from weakref import WeakSet

from segment_async._checks import is_seconds
from segment_async._exceptions import TransportError

from .deadline import Deadline
from .origin import is_http_url, is_readable, split
from .user_agent import USER_AGENT, extended

if TYPE_CHECKING:
    import aiohttp

MAX_RESPONSE_BYTES: Final = 65_536
# Segment's addresses change: a resolved name is used for two minutes, and no longer than requests succeed.
_DNS_SECONDS: Final = 120
# Shorter than the 60 s after which load balancers close idle connections.
_KEEP_ALIVE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Response:
    """A response. Its `repr` shows the status alone, because the rest may contain a token.

    Attributes:
        headers: their names in upper or lower case.
        body: decompressed; it may be cut off.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes = field(default=b"", repr=False)


class Transport(Protocol):
    """Sends requests to Segment. Any object with these two methods is a transport."""

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """POST a batch. `body` is final: it is compressed if `headers` say so.

        The call is cancelled when the client's `timeout` expires, when the client closes, or when its loop ends.

        Raises:
            TransportError: there is no usable response. Any other exception is logged and treated as a
                `TransportError` with ``maybe_sent=True``.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class Secret(NamedTuple):
    """Wraps a value with credentials while it is a local variable: a traceback may be shown with its locals."""

    value: Any

    def __repr__(self) -> str:
        return "<hidden>"


class _Progress:
    """How far a request got.

    Attributes:
        connected: it has a connection.
        reused: the connection served other requests before.
        response: aiohttp's response, once its headers were read.
    """

    __slots__ = ("connected", "response", "reused")

    def __init__(self) -> None:
        self.connected = self.reused = False
        self.response: aiohttp.ClientResponse | None = None


# The progress of the current task's request. aiohttp's tracing would report the same, but takes 50 µs per request.
_progress: Final[ContextVar[_Progress]] = ContextVar("segment_async_progress")


class HTTPTransport:
    """The default transport: aiohttp with one session per event loop and kept-alive connections.

    Args:
        url: where batches are posted, such as ``https://api.segment.io/v1/batch``.
        timeout: seconds for one request, from connecting to the last byte of the response.
        proxy: URL of an HTTP proxy, with credentials if it needs them; `None`: no proxy, unless `trust_env` is set.
        ssl_context: for a private certificate authority or a client certificate; `None`: the system's authorities.
            Verification cannot be switched off.
        trust_env: take the proxy and the certificate authorities from the environment if they are not given here:
            ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY``; ``SSL_CERT_FILE``, ``SSL_CERT_DIR``,
            ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE``. It is read once, here.

    Raises:
        ValueError: `url` or `proxy` is not an HTTP URL, `url` contains credentials, `timeout` is not a positive number,
            or `ssl_context` does not verify certificates and host names; or a variable of the environment names no HTTP
            proxy, or no file or folder of certificates.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 15.0,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        trust_env: bool = False,
    ) -> None:
        # Import aiohttp here and not in the first `send`, where it would block the loop for 0.1 s; and a fork in the
        # middle of an import would leave the import lock held in the child.
        import_module("aiohttp")
        import_module("segment_async._http.resolver")
        parts = split(url) if is_http_url(url) else None
        if parts is None or parts.username is not None:
            raise ValueError('url must be a URL such as "https://api.segment.io/v1/batch", without credentials')
        if proxy is not None and not is_http_url(proxy):
            raise ValueError('proxy must be a URL such as "http://proxy.example:3128"')
        if not is_seconds(timeout) or not timeout:
            raise ValueError("timeout must be a positive number of seconds")
        if ssl_context is not None and not _verifies(ssl_context):
            raise ValueError("ssl_context must verify certificates and host names, or others could read the write key")
        if not isinstance(trust_env, bool):
            # Text such as "no" would count as `True`.
            raise ValueError("trust_env must be True or False")  # noqa: TRY004  # as the other options
        if trust_env:
            from .environment import authorities, proxy_for

            proxy = proxy if proxy is not None else proxy_for(url)
            ssl_context = ssl_context if ssl_context is not None else authorities()
        self._url = url
        self._hostname = parts.hostname or ""
        self._timeout = timeout
        self._proxy = proxy
        self._ssl = ssl_context
        self._sessions: dict[asyncio.AbstractEventLoop, _Session] = {}

    @property
    def hostname(self) -> str:
        """The host name, without the rest of the URL."""
        return self._hostname

    @property
    def address(self) -> str:
        """Where batches are posted to; it holds no credentials."""
        return self._url

    @property
    def is_readable(self) -> bool:
        """Whether others on the network can read what is sent: plain HTTP beyond this machine, or through a proxy."""
        return is_readable(self._url, self._proxy)

    def __repr__(self) -> str:
        return f"<HTTPTransport to {self._hostname}>"

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        """POST a batch and read the response, at most 64 KiB of its body.

        If the call is cancelled, the connection is closed, and the request may or may not have arrived.

        Raises:
            TransportError: there is no usable response.
        """
        request = Secret((body, headers))
        del body, headers
        handled = sys.exception()
        progress = _Progress()
        failure: TransportError
        # Assigned to a name for the reason that its docstring gives.
        deadline = Deadline(self._timeout)
        try:
            async with deadline:
                return await self._post(request, progress)
        except TimeoutError:
            if progress.response is not None:
                # The status is known; only the end of the body is missing.
                return Response(progress.response.status, progress.response.headers)
            text = f"no response within {self._timeout:g} s"
            failure = TransportError(text, maybe_sent=progress.connected, timed_out=progress.connected)
        except Exception as error:
            if isinstance(error.__context__, GeneratorExit) and error.__context__ is not handled:
                # Garbage-collected with its loop, which aiohttp still called. Nothing waits for a response.
                raise error.__context__ from None
            failure = self._failure(error, progress)
        finally:
            # The connection keeps the context in which it was opened, and with it the progress.
            progress.response = None
        self._forget_addresses()
        # Outside of the handlers: the error must not have aiohttp's exception as its context.
        raise failure

    async def _post(self, request: Secret, progress: _Progress) -> Response:
        _progress.set(progress)
        session = self._session_of_this_loop()
        # aiohttp now keeps the loop busy for 0.3 ms. Let other tasks run first.
        await asyncio.sleep(0)
        response = await session.http.post(
            session.url,
            data=request.value[0],
            headers=session.with_user_agent(request.value[1]),
            allow_redirects=False,
            proxy=self._proxy,
        )
        progress.response = response
        try:
            content = await _read(response)
        finally:
            # If the response was read to its end, its connection is in the pool already. Otherwise close it: the next
            # response would be preceded by the rest of this one; after a 101 it does not speak HTTP any more.
            response.close()
        return Response(response.status, response.headers, content)

    def _failure(self, error: Exception, progress: _Progress) -> TransportError:
        import aiohttp

        text = type(error).__name__
        if isinstance(error, (aiohttp.ClientConnectorError, OSError)) and getattr(error, "strerror", None):
            text = f"{text}: {error.strerror}"
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return TransportError(f"no connection (the proxy answered {error.status})", maybe_sent=False)
        if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ClientProxyConnectionError)):
            return TransportError(f"no connection ({text})", maybe_sent=False)
        stale = progress.reused and isinstance(
            error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError)
        )
        return TransportError(f"no usable response ({text})", maybe_sent=progress.connected, stale_connection=stale)

    def _forget_addresses(self) -> None:
        # If a request is garbage-collected together with its loop, this runs without a running loop.
        loop = asyncio._get_running_loop()
        session = self._sessions.get(loop) if loop is not None else None
        connector = session.http.connector if session is not None else None
        if connector is not None:
            connector.clear_dns_cache()  # type: ignore[attr-defined]  # it is the TCPConnector made below

    def _session_of_this_loop(self) -> _Session:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            for other in list(self._sessions):
                if not other.is_running():
                    self._detach(other)
            session = self._sessions[loop] = _make_session(self._url, self._ssl)
        return session

    def _detach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Drop the session of a loop that is not used any more; the loop closes its connections if it runs again.

        Schedules a plain callback, because a task logs an error if the loop does not run again or not for long enough.
        """
        session = self._sessions.pop(loop, None)
        if session is None:
            # The loop's own thread has just closed it.
            return
        session.http.detach()
        try:
            loop.call_soon_threadsafe(_close, session.connections)
        except RuntimeError:
            # The loop is closed: only these connections refer to it, and they are garbage-collected with it.
            pass

    def abandon(self) -> None:
        """Drop the connections of a parent process without closing them."""
        for session in self._sessions.values():
            session.http.detach()
        self._sessions = {}

    async def aclose(self) -> None:
        """Close the connections; a later `send` opens new ones."""
        here = asyncio.get_running_loop()
        for loop in list(self._sessions):
            if loop is not here:
                self._detach(loop)
        await self.close_here()

    async def close_here(self) -> None:
        """Close the connections of the running loop, which is about to end, and no others."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.http.close()


def _verifies(context: ssl.SSLContext) -> bool:
    # Checked at run time, too: `False` switches verification off in other HTTP clients.
    return isinstance(context, ssl.SSLContext) and context.verify_mode is not ssl.CERT_NONE and context.check_hostname


class _Session(NamedTuple):
    """`connections` are the open connections of the session, in its pool or in use."""

    http: aiohttp.ClientSession
    connections: WeakSet[Any]
    url: Any
    product: str

    def with_user_agent(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {**headers, "User-Agent": extended(headers.get("User-Agent", USER_AGENT), self.product)}


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
            """Suppress aiohttp's warning: the session of an ended loop or of a parent process is left on purpose."""

    class ClosingResponse(aiohttp.ClientResponse):
        async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
            """Do not reuse the connection after a 5xx: of several servers behind one name, this one may be broken.

            This happens before the body is read, because a short response is complete with its headers, and its
            connection is back in the pool before the caller sees the status.
            """
            protocol = connection.protocol
            await super().start(connection)
            if self.status >= 500 and protocol is not None:
                if self.closed:
                    protocol.close()
                else:
                    protocol.force_close()
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
        response_class=ClosingResponse,
        auto_decompress=False,
        skip_auto_headers=("Accept-Encoding",),
    )
    return _Session(session, connections, URL(url), f"aiohttp/{aiohttp.__version__}")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, up to `MAX_RESPONSE_BYTES`.

    The status is known, so the response stays usable if its body is cut off or is not valid gzip.
    """
    content = bytearray()
    try:
        while len(content) < MAX_RESPONSE_BYTES and not response.content.at_eof():
            content += await response.content.read(MAX_RESPONSE_BYTES - len(content))
    except Exception:
        # The connection was reset, the chunks are malformed, and the like.
        pass
    if "gzip" in response.headers.get("Content-Encoding", "").lower():
        return _unzipped(bytes(content))
    return bytes(content)


def _unzipped(content: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(content, MAX_RESPONSE_BYTES)
    except zlib.error:
        return b""
