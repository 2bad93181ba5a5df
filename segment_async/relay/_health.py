"""Health and metrics of a relay over HTTP: ``/livez``, ``/readyz`` and ``/metrics``.

A relay is alive while its event loop runs; an orchestrator restarts one that is not. It is ready while Redis answers; a
restart would not change that.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from aiohttp import web

from segment_async import Client, SpoolUnavailable

from ._inspect import RelayInspector, RelayStatus
from ._spool import RedisSpool

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

_GAUGES: Final = {
    "backlog": "Messages that wait in Redis or are being sent.",
    "oldest_age": "Seconds since the oldest of them was appended.",
    "unread": "Messages that no relay was given yet.",
    "dead": "Dead letters.",
    "bytes": "Memory that the stream takes in Redis, in bytes.",
    "unknown": "Messages that wait for a newer version of the relay.",
}
_COUNTERS: Final = {
    "claimed": "Messages that this relay took over from others.",
    "lost": "Holds of this relay that ended before their messages did.",
    "full": "Messages that this process could not append, as the stream was full.",
}
_SECONDS: Final = 5.0


class Endpoint:
    """Attributes:
    url: what it listens on, once it was started.
    """

    def __init__(self, client: Client, spool: RedisSpool, inspector: RelayInspector) -> None:
        self.url = ""
        self._spool = spool
        self._inspector = inspector
        self._registry = _registry_of(client)
        self._looking = asyncio.Lock()
        application = web.Application()
        application.add_routes(
            [web.get("/livez", self._live), web.get("/readyz", self._ready), web.get("/metrics", self._metrics)]
        )
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self, host: str, port: int) -> None:
        """Raises:
        OSError: the port is taken.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise OSError(
                    f"port {port} of {host} is in use: stop the program that has it, or choose another port with "
                    "--metrics-port (0 picks a free one)"
                ) from error
            raise
        address, bound = self._runner.addresses[0][:2]
        self.url = f"http://[{address}]:{bound}" if ":" in address else f"http://{address}:{bound}"

    async def aclose(self) -> None:
        await self._runner.cleanup()
        self._inspector.close()

    async def _live(self, _request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        if self._spool.is_reachable():
            return web.Response(text="ready\n")
        return web.Response(status=503, text="Redis is out of reach\n")

    async def _metrics(self, _request: web.Request) -> web.Response:
        from prometheus_client import generate_latest
        from prometheus_client.registry import Collector

        registry, spool, status = self._registry, self._spool, await self._look()

        class _Relay(Collector):
            def collect(self) -> Iterator[Metric]:
                return _metrics_of(spool, status)

        relay = _Relay()
        registry.register(relay)
        try:
            text = generate_latest(registry)
        finally:
            registry.unregister(relay)
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _look(self) -> RelayStatus | None:
        """One at a time, as the connection is one."""
        async with self._looking:
            try:
                return await asyncio.wait_for(asyncio.to_thread(self._inspector.status), _SECONDS)
            except (SpoolUnavailable, TimeoutError):
                return None


def _registry_of(client: Client) -> CollectorRegistry:
    """Raises:
    ValueError: the metrics need an extra that is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry

        from segment_async.prometheus import watch
    except ImportError:
        raise ValueError('the endpoint needs the extra "prometheus": pip install "segment-async[prometheus]"') from None
    registry = CollectorRegistry()
    watch(client, registry=registry)
    return registry


def _metrics_of(spool: RedisSpool, status: RelayStatus | None) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    yield GaugeMetricFamily("segment_relay_redis_up", "1 while Redis answers.", int(spool.is_reachable()))
    counts = spool.counts()
    for name, text in _COUNTERS.items():
        yield CounterMetricFamily(f"segment_relay_{name}", text, counts.get(name, 0))
    if status is None:
        return
    for name, text in _GAUGES.items():
        suffix = "_seconds" if name == "oldest_age" else ""
        yield GaugeMetricFamily(f"segment_relay_{name}{suffix}", text, getattr(status, name) or 0)
    held = GaugeMetricFamily("segment_relay_held", "Messages that a relay holds.", labels=["consumer"])
    for consumer in status.consumers:
        held.add_metric([consumer.name], consumer.held)
    yield held
