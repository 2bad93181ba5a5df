"""The relay process: a client that reads from Redis and delivers, until it is told to stop.

At the end it stops reading, lets what is in flight finish within its time, and gives the rest back to the other relays.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from segment_async import Client, SpoolUnavailable

from ._health import Endpoint
from ._inspect import RelayInspector
from ._spool import RedisSpool

_log = logging.getLogger("segment_async")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_RELEASE_SECONDS = 10.0
_LAST_PORT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOptions:
    """What a relay needs.

    Attributes:
        url: of Redis.
        rate: messages a second of all relays of the key together; `None`: as fast as they can.
        region, host, max_in_flight: as of `Client`.
        max_queue_size: messages that may be in memory; half of them are read ahead.
        close_timeout: seconds that what is in flight has at the end.
        lease: seconds after which the other relays take over what this one has not renewed.
        metrics_port: of the endpoint with health and metrics; 0 picks a free one, `None`: none. `metrics_host`: the
            address that it listens on.
    """

    url: str = field(repr=False)
    write_key: str = field(repr=False)
    rate: float | None = None
    region: Literal["us", "eu"] = "us"
    host: str | None = None
    allow_http: bool = False
    max_in_flight: int = 4
    max_queue_size: int = 10_000
    close_timeout: float = 10.0
    lease: float = 60.0
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"


class RelayUsageError(ValueError):
    """An option is wrong; nothing was read or sent."""


async def run_relay(options: RelayOptions, *, started: Callable[[str], None] = lambda _line: None) -> None:
    """Deliver what waits in Redis until SIGTERM or SIGINT comes. `started` gets one line for people.

    A Redis that is out of reach is tried again for as long as it takes.

    Raises:
        ValueError: an option is out of range, or Redis must not be used as it is set up.
        OSError: the endpoint's port is taken.
    """
    with _stop_on_signals() as stop:
        await _deliver(options, started, stop)


async def _deliver(options: RelayOptions, started: Callable[[str], None], stop: asyncio.Event) -> None:
    try:
        spool, client = _made(options)
    except ValueError as error:
        raise RelayUsageError(str(error)) from error
    try:
        await spool.connect()
    except SpoolUnavailable as error:
        _log.warning("Redis is out of reach and is tried again: %s", error)
    except ValueError:
        await client.aclose()
        raise
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(client)
        if options.metrics_port is not None:
            inspector = RelayInspector(options.url, options.write_key, lease=options.lease)
            endpoint = Endpoint(client, spool, inspector)
            # Closed after the client, so that the end can be watched.
            await endpoint.start(options.metrics_host, options.metrics_port)
            stack.push_async_callback(endpoint.aclose)
            started(f"health and metrics on {endpoint.url}")
        started("delivering what waits in Redis; SIGTERM ends it")
        await stop.wait()
        started("ending: what is in flight finishes, the rest is given back")
        await client.aclose()
        # The client's close waits for the spool only for a moment, and other relays take what was given back only once it
        # is written.
        with suppress(TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await spool.aclose()
    statistics = client.statistics()
    started(f"delivered {statistics.delivered:,}, failed {statistics.failed:,}, given back {statistics.pending:,}")


def _made(options: RelayOptions) -> tuple[RedisSpool, Client]:
    port: object = options.metrics_port
    is_port = isinstance(port, int) and not isinstance(port, bool) and 0 <= port <= _LAST_PORT
    if port is not None and not is_port:
        raise ValueError(f"metrics_port must be from 0 to {_LAST_PORT}")
    spool = RedisSpool(options.url, rate=options.rate, lease=options.lease)
    client = Client(
        options.write_key,
        spool=spool,
        region=options.region,
        host=options.host,
        allow_http=options.allow_http,
        max_in_flight=options.max_in_flight,
        max_queue_size=options.max_queue_size,
        close_timeout=options.close_timeout,
    )
    return spool, client


@contextmanager
def _stop_on_signals() -> Generator[asyncio.Event, None, None]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for number in _SIGNALS:
            before = signal.getsignal(number)
            # Windows has no such handlers; there Ctrl-C ends the loop.
            with suppress(NotImplementedError):
                loop.add_signal_handler(number, stop.set)
                # If they are equal, both are the loop's, and what the one before called is replaced: nothing to restore.
                if before is not None and before != signal.getsignal(number):
                    stack.callback(signal.signal, number, before)
                stack.callback(loop.remove_signal_handler, number)
        yield stop
