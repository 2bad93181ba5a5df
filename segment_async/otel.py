"""OpenTelemetry metrics for a client, and a span for each batch that it sends.

    client = Client("WRITE_KEY", before_send=remember)
    watch(client)

`watch` creates the metrics and the spans. `remember` is needed for links from a batch's span to the spans in which its
messages were created. Counters are read on demand. Only the API of OpenTelemetry is required, and nothing is recorded
until the application has configured an SDK.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

from . import Client, __version__
from .instrumentation import COUNTERS, GAUGES, Request, outcomes

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
    client: Client, *, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
) -> None:
    """Report the client's counters and, for each request, its duration and a span; `None`: to the global providers."""
    meter = metrics.get_meter(_NAME, __version__, meter_provider)
    tracer = trace.get_tracer(_NAME, __version__, tracer_provider)
    _count(client, meter)
    durations = meter.create_histogram("segment.request.duration", "s", "Duration of requests.")

    def report(request: Request) -> None:
        durations.record(request.seconds, _status(request))
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


def _count(client: Client, meter: Meter) -> None:
    def read(field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda options: [Observation(getattr(client.statistics(), field))]

    for field, (unit, text) in GAUGES.items():
        meter.create_observable_gauge(f"segment.{field}", [read(field)], unit, text)
    for field, text in COUNTERS.items():
        meter.create_observable_counter(f"segment.{field}", [read(field)], description=text)

    def ended(options: CallbackOptions) -> Iterable[Observation]:
        for outcome, reason, count in outcomes(client.statistics()):
            yield Observation(count, {"outcome": outcome, **({"reason": reason} if reason else {})})

    meter.create_observable_counter("segment.messages", [ended], "{message}", "Messages by outcome and reason.")


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
