"""OpenTelemetry metrics for clients, and a span for each batch that they send.

    client = Client("WRITE_KEY", before_send=remember)
    watch(client)

`watch` creates the metrics and the spans. `remember` is needed for links from a batch's span to the spans in which its
messages were created. Counters are read on demand. Only the API of OpenTelemetry is required, and nothing is recorded
until the application has configured an SDK.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final
from weakref import WeakKeyDictionary

from . import Statistics, __version__
from ._checks import check_watched, checked_label
from ._hooks import HookRunner
from .instrumentation import COUNTERS, GAUGES, Request, Watched, outcomes

try:
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TracerProvider
except ImportError as _error:
    raise ImportError("segment_async.otel needs OpenTelemetry: pip install opentelemetry-api") from _error

__all__ = ["remember", "watch"]

_NAME: Final = "segment_async"
# OpenTelemetry's default limit of links in a span.
_MAX_LINKS: Final = 128
# Messages whose spans are remembered until they are sent: the default size of a client's queue.
_MAX_REMEMBERED: Final = 10_000
# The span of each message id, for all clients of the process.
_spans: Final[OrderedDict[str, SpanContext]] = OrderedDict()


def watch(
    client: Watched,
    *,
    label: str | None = None,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> None:
    """Report the client's counters and, for each request, its duration and a span.

    Args:
        client: of `segment_async` or of `segment_async.blocking`; watched once, however often it is passed.
        label: value of the attribute ``client``, by which clients are told apart. `None`: ``"1"``, ``"2"`` and so on.
        meter_provider: creates the metrics. `None`: the global one.
        tracer_provider: creates the spans. `None`: the global one.

    Raises:
        TypeError: the client has no counters, such as one of `segment_async.compat`.
        ValueError: the label is not text, or another client has it.
    """
    check_watched(client)
    meters = _meters.get(meter_provider) if meter_provider is not None else _global_meters[0]
    if meters is None:
        meters = _Meters(metrics.get_meter(_NAME, __version__, meter_provider))
        if meter_provider is None:
            _global_meters[0] = meters
        else:
            _meters[meter_provider] = meters
    name = meters.add(client, label)
    if name is None:
        return
    tracer = trace.get_tracer(_NAME, __version__, tracer_provider)

    def report(request: Request) -> None:
        meters.durations.record(request.seconds, {"client": name, **_status(request)})
        _trace(tracer, request)

    client.observe(report)


def remember(message: dict[str, Any]) -> dict[str, Any]:
    """Remember the current span of the message; pass it to the client as `before_send`."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        _spans[message["messageId"]] = span
        if len(_spans) > _MAX_REMEMBERED:
            _spans.popitem(last=False)
    return message


class _Meters:
    """The instruments of a provider. There is one of each, however many clients are watched."""

    def __init__(self, meter: Meter) -> None:
        self._clients: dict[str, Watched] = {}
        self._hooks = HookRunner()
        self.durations = meter.create_histogram("segment.request.duration", "s", "Duration of requests.")
        for field, (unit, text) in GAUGES.items():
            meter.create_observable_gauge(f"segment.{field}", [self._reading(field)], unit, text)
        for field, text in COUNTERS.items():
            meter.create_observable_counter(f"segment.{field}", [self._reading(field)], description=text)
        meter.create_observable_counter(
            "segment.messages", [self._outcomes], "{message}", "Messages by outcome and reason."
        )

    def add(self, client: Watched, label: str | None) -> str | None:
        """Returns the label; `None`: the client was added before."""
        if client in self._clients.values():
            return None
        label = checked_label(label, self._clients)
        self._clients[label] = client
        return label

    def _reading(self, field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(options: CallbackOptions) -> Iterable[Observation]:
            for label, statistics in self._statistics():
                value = getattr(statistics, field)
                if value is not None:
                    # A number, where the field is a truth value.
                    yield Observation(+value, {"client": label})

        return read

    def _outcomes(self, options: CallbackOptions) -> Iterable[Observation]:
        for label, statistics in self._statistics():
            for outcome, reason, count in outcomes(statistics):
                attributes = {"client": label, "outcome": outcome}
                yield Observation(count, {**attributes, "reason": reason} if reason else attributes)

    def _statistics(self) -> Iterator[tuple[str, Statistics]]:
        """By label. A client that fails is left out, and logged once."""
        for label, client in list(self._clients.items()):
            try:
                statistics = client.statistics()
            except Exception as error:
                self._hooks.log_once(f"reading the statistics of the client {label!r}", error)
            else:
                yield label, statistics


# By provider; and those of the global one, which may be replaced by another while its instruments stay.
_meters: Final[WeakKeyDictionary[MeterProvider, _Meters]] = WeakKeyDictionary()
_global_meters: Final[list[_Meters | None]] = [None]


def _trace(tracer: trace.Tracer, request: Request) -> None:
    span = tracer.start_span(
        "segment batch",
        context=Context(),
        kind=SpanKind.PRODUCER,
        attributes={
            **_status(request),
            "segment.attempt": request.attempt,
            "messaging.batch.message_count": request.count,
        },
        links=_links(request),
        start_time=int(request.started_at * 1e9),
    )
    if request.status is None or request.status >= 300:
        span.set_status(Status(StatusCode.ERROR))
    span.end(int((request.started_at + request.seconds) * 1e9))


def _status(request: Request) -> dict[str, int]:
    return {} if request.status is None else {"http.response.status_code": request.status}


def _links(request: Request) -> list[Link]:
    """One link for each span in which messages were created."""
    if not _spans:
        return []
    spans = (_spans.get(message_id) for message_id in request.message_ids())
    unique = {(span.trace_id, span.span_id): span for span in spans if span is not None}
    return [Link(span) for span in islice(unique.values(), _MAX_LINKS)]
