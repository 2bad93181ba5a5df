"""The door for Prometheus: what a client does, as metrics of `prometheus_client`.

    watch(client)

Counts are read when Prometheus asks for them; requests are timed as they end.
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
except ImportError as error:
    raise ImportError("segment_async.prometheus needs prometheus_client: pip install prometheus-client") from error

__all__ = ["watch"]

# What Prometheus wants at the end of a name, by unit.
_SUFFIXES: Final = {"s": "_seconds"}


def watch(client: Client, *, name: str = "segment", registry: CollectorRegistry = REGISTRY) -> Collector:
    """Report the client's counts, and how long its requests take, under this name.

    Gives the collector, for `registry.unregister`. Clients of one registry need names of their own.
    """
    collector = _Observed(client, name)
    registry.register(collector)
    client.observe(collector.time)
    return collector


class _Observed(Collector):
    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._durations = Histogram(
            f"{name}_request_duration_seconds",
            "Seconds from a request's start to its end, by the answer's status.",
            ["status"],
            registry=None,
        )

    def time(self, request: Request) -> None:
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
