"""The addresses that a write key may be sent to. Pure: text in, text out.

No error repeats the address that it refuses, because the address may hold credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from urllib.parse import SplitResult

PLAIN_HTTP: Final = (
    "plain http:// shows the write key to the network; to allow it, pass allow_http=True or set SEGMENT_ALLOW_HTTP=1"
)


def batch_url(host: str, *, allow_http: bool = False) -> str:
    """The URL of `/v1/batch` at an origin, which may have a path and may end in `/`, `/v1` or `/v1/batch`.

    Raises:
        ValueError: a write key must not be sent to this address.
    """
    parts = split(origin(host, allow_http=allow_http))
    path = parts.path.removesuffix("/batch") if parts.path.endswith("/v1/batch") else parts.path
    return parts._replace(path=f"{path.removesuffix('/v1').rstrip('/')}/v1/batch").geturl()


def origin(host: str, *, allow_http: bool = False, name: str = "host") -> str:
    """Scheme, host, port and path, without a trailing slash. `name`: of the option, for errors.

    Raises:
        ValueError: a write key must not be sent to this address.
    """
    if not isinstance(host, str):
        raise ValueError(f'{name} must be an origin such as "https://api.segment.io"')  # noqa: TRY004  # as every other option
    if not _is_printable(host):
        raise ValueError(f"{name} must not contain white space or control characters")
    parts = _split(host)
    if parts is None or parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError(f'{name} must be an origin such as "https://api.segment.io"')
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{name} must not contain credentials")
    if parts.query or parts.fragment:
        raise ValueError(f"{name} must not have a query or a fragment")
    if not _has_valid_port(parts):
        raise ValueError(f"{name} must have a port from 0 to 65535, or none")
    if parts.scheme == "http" and not allow_http and not is_loopback(parts.hostname):
        raise ValueError(f"{name} must use https://: {PLAIN_HTTP}")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def is_readable(url: str, proxy: str | None) -> bool:
    """Whether others can read the requests to this URL: plain HTTP beyond loopback, or through a proxy beyond it."""
    parts = split(url)
    hosts = [parts.hostname or "", *([split(proxy).hostname or ""] if proxy is not None else [])]
    return parts.scheme == "http" and not all(map(is_loopback, hosts))


def is_http_url(text: str) -> bool:
    """Whether it is an HTTP URL that aiohttp accepts."""
    parts = _split(text) if isinstance(text, str) and _is_printable(text) else None
    return parts is not None and parts.scheme in ("https", "http") and bool(parts.hostname) and _has_valid_port(parts)


def is_loopback(hostname: str) -> bool:
    if hostname == "localhost" or hostname.endswith(".localhost"):
        return True
    from ipaddress import ip_address

    try:
        return ip_address(hostname).is_loopback
    except ValueError:
        return False


def split(url: str) -> SplitResult:
    """As `urlsplit`, whose module takes 2 ms to import.

    Raises:
        ValueError: it is no URL.
    """
    from urllib.parse import urlsplit

    return urlsplit(url)


def _is_printable(text: str) -> bool:
    return text.isprintable() and " " not in text


def _split(host: str) -> SplitResult | None:
    try:
        return split(host)
    except ValueError:
        # The exception may quote the host with its credentials.
        return None


def _has_valid_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port >= 0
    except ValueError:
        return False
