"""Prometheus metrics for a client, with `prometheus_client`.

    watch(client)

Counters are read when Prometheus scrapes them; the duration of a request is recorded at its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from . import Client
from .instrumentation import COUNTERS, GAUGES, Request, outcomes

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Histogram
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as _error:
    raise ImportError("segment_async.prometheus needs prometheus_client: pip install prometheus-client") from _error

__all__ = ["watch"]

# Name suffixes that Prometheus requires, by unit.
_SUFFIXES: Final = {"s": "_seconds"}


def watch(client: Client, *, name: str = "segment", registry: CollectorRegistry = REGISTRY) -> Collector:
    """Report the client's counters and the duration of its requests, with this prefix.

    Returns the collector, for `registry.unregister`. Each client of a registry needs a different name.
    """
    collector = _ClientCollector(client, name)
    registry.register(collector)
    client.observe(collector.record)
    return collector


class _ClientCollector(Collector):
    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._durations = Histogram(
            f"{name}_request_duration_seconds",
            "Duration of requests in seconds, by the status of the response.",
            ["status"],
            registry=None,
        )

    def record(self, request: Request) -> None:
        self._durations.labels(str(request.status or "none")).observe(request.seconds)

    def collect(self) -> Iterable[Metric]:
        statistics, name = self._client.statistics(), self._name
        for field, (unit, text) in GAUGES.items():
            yield GaugeMetricFamily(f"{name}_{field}{_SUFFIXES.get(unit, '')}", text, getattr(statistics, field))
        for field, text in COUNTERS.items():
            yield CounterMetricFamily(f"{name}_{field}", text, getattr(statistics, field))
        ended = CounterMetricFamily(f"{name}_messages", "Messages by outcome and reason.", labels=["outcome", "reason"])
        for outcome, reason, count in outcomes(statistics):
            ended.add_metric([outcome, reason], count)
        yield ended
        yield from self._durations.collect()
