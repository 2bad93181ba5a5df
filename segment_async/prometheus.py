"""The door for Prometheus: what a client does, as metrics of `prometheus_client`.

    client = Client("WRITE_KEY", transport=TimedTransport("https://api.segment.io/v1/batch"))
    watch(client)

`watch` alone is enough for everything but the duration of requests. Counts are read when Prometheus asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import Client
from ._observed import COUNTERS, GAUGES, ObservedTransport, Request, outcomes

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Histogram
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError("segment_async.prometheus needs prometheus_client: pip install prometheus-client") from error

__all__ = ["TimedTransport", "watch"]


def watch(client: Client, *, name: str = "segment", registry: CollectorRegistry = REGISTRY) -> Collector:
    """Report the client's counts under this name; gives the collector, for `registry.unregister`.

    Clients of one registry need names of their own.
    """
    collector = _Counts(client, name)
    registry.register(collector)
    return collector


class TimedTransport(ObservedTransport):
    """The default transport (`HTTPTransport` has its arguments), with a histogram of how long requests take."""

    def __init__(
        self, url: str, *, name: str = "segment", registry: CollectorRegistry = REGISTRY, **options: Any
    ) -> None:
        super().__init__(url, self._observe, **options)
        self._durations = Histogram(
            f"{name}_request_duration_seconds",
            "Seconds from a request's start to its end, by the answer's status.",
            ["status"],
            registry=registry,
        )

    def _observe(self, request: Request) -> None:
        self._durations.labels(str(request.status or "none")).observe(request.seconds)


class _Counts(Collector):
    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name

    def collect(self) -> Iterable[Metric]:
        statistics, name = self._client.statistics(), self._name
        for field, (_, text) in GAUGES.items():
            yield GaugeMetricFamily(f"{name}_{field}", text, getattr(statistics, field))
        for field, text in COUNTERS.items():
            yield CounterMetricFamily(f"{name}_{field}", text, getattr(statistics, field))
        ended = CounterMetricFamily(f"{name}_messages", "Messages by outcome and reason.", labels=["outcome", "reason"])
        for outcome, reason, count in outcomes(statistics):
            ended.add_metric([outcome, reason], count)
        yield ended
