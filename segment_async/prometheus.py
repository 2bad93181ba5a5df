"""Prometheus metrics for clients, with `prometheus_client`.

    watch(client)

Counters are read when Prometheus scrapes them; the duration of a request is recorded at its end. In the multiprocess
mode of `prometheus_client` nothing is read on demand, so everything is recorded at the end of each request.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final, Literal
from weakref import WeakKeyDictionary

from . import Statistics
from ._checks import check_watched, checked_label
from ._hooks import HookRunner
from ._locks import fork_safe_lock
from .instrumentation import COUNTERS, GAUGES, SUFFIXES, Request, Watched, outcomes

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as _error:
    raise ImportError("segment_async.prometheus needs prometheus_client: pip install prometheus-client") from _error

__all__ = ["watch"]

_MESSAGES: Final = "Messages by outcome and reason."
# How the values of several processes become one, for each of `GAUGES`. All that share a spool report its numbers.
_Mode = Literal["livesum", "livemin", "livemax", "max"]
_MODES: Final[dict[str, _Mode]] = {
    "queued": "livesum",
    "queued_bytes": "livesum",
    "in_flight": "livesum",
    "pending": "livesum",
    "oldest_age": "livemax",
    "capacity": "livesum",
    "capacity_bytes": "livesum",
    "server_up": "livemin",
    "last_delivery": "max",
    "dead_letters": "livemax",
    "disk_bytes": "livemax",
}
_collectors: Final[WeakKeyDictionary[CollectorRegistry, dict[str, _Clients]]] = WeakKeyDictionary()


def watch(
    client: Watched,
    *,
    label: str | None = None,
    name: str = "segment",
    registry: CollectorRegistry = REGISTRY,
) -> Collector:
    """Report the client's counters and the duration of its requests.

    In the multiprocess mode of `prometheus_client` (``PROMETHEUS_MULTIPROC_DIR``), the numbers are those at the end of
    the last request.

    Args:
        client: of `segment_async` or of `segment_async.blocking`; watched once, however often it is passed.
        label: value of the label ``client``, by which clients are told apart. `None`: ``"1"``, ``"2"`` and so on.
        name: prefix of the metrics.
        registry: where the metrics are collected.

    Returns the collector of all clients with this prefix, for `registry.unregister`.

    Raises:
        TypeError: the client has no counters, such as one of `segment_async.compat`.
        ValueError: the label is not text, or another client has it, or another collector has metrics of this name.
    """
    check_watched(client)
    named = _collectors.setdefault(registry, {})
    clients = named.get(name)
    if clients is None or not _is_registered(clients, registry):
        clients = _Clients(name) if not _is_multiprocess() else _MultiprocessClients(name)
        registry.register(clients)
        named[name] = clients
    clients.add(client, label)
    return clients


def _is_multiprocess() -> bool:
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ or "prometheus_multiproc_dir" in os.environ


def _is_registered(clients: _Clients, registry: CollectorRegistry) -> bool:
    """The registry does not say; but it refuses what it has."""
    try:
        registry.register(clients)
    except ValueError:
        return True
    registry.unregister(clients)
    return False


class _Clients(Collector):
    """Reads the statistics of each client when it is asked. One that fails is left out, and logged once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._clients: dict[str, Watched] = {}
        self._hooks = HookRunner()
        self._durations = Histogram(
            f"{name}_request_duration_seconds",
            "Duration of requests in seconds, by the status of the response.",
            ["client", "status"],
            registry=None,
        )

    def add(self, client: Watched, label: str | None) -> None:
        if client in self._clients.values():
            return
        label = checked_label(label, self._clients)
        self._clients[label] = client
        client.observe(lambda request: self.record(label, request))

    def record(self, label: str, request: Request) -> None:
        self._durations.labels(label, str(request.status or "none")).observe(request.seconds)

    def describe(self) -> Iterable[Metric]:
        """All names, without samples: for the registry, which refuses them to others."""
        fields, ended = self._families()
        yield from fields.values()
        yield ended
        yield from self._durations.describe()

    def collect(self) -> Iterable[Metric]:
        fields, ended = self._families()
        for label in list(self._clients):
            statistics = self._read(label)
            if statistics is None:
                continue
            for field, metric in fields.items():
                value = getattr(statistics, field)
                if value is not None:
                    metric.add_metric([label], value)
            for outcome, reason, count in outcomes(statistics):
                ended.add_metric([label, outcome, reason], count)
        yield from fields.values()
        yield ended
        yield from self._durations.collect()

    def _read(self, label: str) -> Statistics | None:
        try:
            return self._clients[label].statistics()
        except Exception as error:
            self._hooks.log_once(f"reading the statistics of the client {label!r}", error)
            return None

    def _families(self) -> tuple[dict[str, GaugeMetricFamily | CounterMetricFamily], CounterMetricFamily]:
        fields: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
            field: GaugeMetricFamily(self._gauge_name(field), text, labels=["client"])
            for field, (_, text) in GAUGES.items()
        }
        for field, text in COUNTERS.items():
            fields[field] = CounterMetricFamily(f"{self._name}_{field}", text, labels=["client"])
        return fields, CounterMetricFamily(f"{self._name}_messages", _MESSAGES, labels=["client", "outcome", "reason"])

    def _gauge_name(self, field: str) -> str:
        return f"{self._name}_{field}{SUFFIXES.get(field, '')}"


class _MultiprocessClients(_Clients):
    """Keeps the numbers in metrics of `prometheus_client`, which writes them where other processes find them."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._gauges = {
            field: Gauge(self._gauge_name(field), text, ["client"], registry=None, multiprocess_mode=_MODES[field])
            for field, (_, text) in GAUGES.items()
        }
        self._counters = {
            field: Counter(f"{name}_{field}", text, ["client"], registry=None) for field, text in COUNTERS.items()
        }
        self._ended = Counter(f"{name}_messages", _MESSAGES, ["client", "outcome", "reason"], registry=None)
        # What was counted so far, by process: in a forked child the counters of its clients begin at 0. A request may end
        # while another thread collects, so that both look at the same time.
        self._counted: dict[tuple[int, tuple[str, ...]], int] = {}
        self._lock = fork_safe_lock()

    def add(self, client: Watched, label: str | None) -> None:
        super().add(client, label)
        for each in self._clients:
            self._update(each)

    def record(self, label: str, request: Request) -> None:
        super().record(label, request)
        self._update(label)

    def collect(self) -> Iterable[Metric]:
        for label in list(self._clients):
            self._update(label)
        for metric in self._metrics():
            yield from metric.collect()

    def _metrics(self) -> Iterator[Gauge | Counter | Histogram]:
        yield from self._gauges.values()
        yield from self._counters.values()
        yield self._ended
        yield self._durations

    def _update(self, label: str) -> None:
        statistics = self._read(label)
        if statistics is None:
            return
        for field, gauge in self._gauges.items():
            value = getattr(statistics, field)
            if value is not None:
                gauge.labels(label).set(value)
        for field, counter in self._counters.items():
            counter.labels(label).inc(self._new(getattr(statistics, field), label, field))
        for outcome, reason, count in outcomes(statistics):
            self._ended.labels(label, outcome, reason).inc(self._new(count, label, outcome, reason))

    def _new(self, count: int, *key: str) -> int:
        """How much has been added since the last look."""
        place = (os.getpid(), key)
        with self._lock:
            before = self._counted.get(place, 0)
            self._counted[place] = max(before, count)
        return max(0, count - before)
