"""The door for OpenTelemetry: what a client does, as metrics, and a span for each batch that is sent.

    transport = TracedTransport("https://api.segment.io/v1/batch")
    client = Client("WRITE_KEY", transport=transport, before_send=transport.remember)
    watch(client)

`watch` alone is enough for everything but spans and the duration of requests; `before_send` for the links from a
batch's span to those in which its messages were made. Counts are read when a reader asks for them. It needs the API
of OpenTelemetry only, and does nothing until the application has configured an SDK.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

import orjson

from . import Client, __version__
from ._observed import COUNTERS, GAUGES, ObservedTransport, Request, outcomes

try:
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TracerProvider
except ImportError as error:
    raise ImportError("segment_async.otel needs OpenTelemetry: pip install opentelemetry-api") from error

__all__ = ["TracedTransport", "watch"]

_NAME: Final = "segment_async"
# Links that a span takes by OpenTelemetry's own default.
_MOST_LINKS: Final = 128
# Messages whose spans are remembered until they are sent.
_MOST_REMEMBERED: Final = 10_000


def watch(client: Client, *, meter_provider: MeterProvider | None = None) -> None:
    """Report the client's counts with these meters; `None`: with the application's global ones."""
    meter = metrics.get_meter(_NAME, __version__, meter_provider)

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


class TracedTransport(ObservedTransport):
    """The default transport (`HTTPTransport` has its arguments), with a span and a duration for each request."""

    def __init__(
        self,
        url: str,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        **options: Any,
    ) -> None:
        super().__init__(url, self._record, **options)
        self._tracer = trace.get_tracer(_NAME, __version__, tracer_provider)
        meter = metrics.get_meter(_NAME, __version__, meter_provider)
        self._durations = meter.create_histogram("segment.request.duration", "s", "How long requests take.")
        self._made_in: OrderedDict[str, SpanContext] = OrderedDict()

    def remember(self, message: dict[str, Any]) -> dict[str, Any]:
        """For the client's `before_send`: note the span in which this message is made."""
        made_in = trace.get_current_span().get_span_context()
        if made_in.is_valid:
            self._made_in[message["messageId"]] = made_in
            if len(self._made_in) > _MOST_REMEMBERED:
                self._made_in.popitem(last=False)
        return message

    def _record(self, request: Request) -> None:
        status = {} if request.status is None else {"http.response.status_code": request.status}
        self._durations.record(request.seconds, status)
        ids = _message_ids(request)
        span = self._tracer.start_span(
            "segment batch",
            context=Context(),
            kind=SpanKind.PRODUCER,
            attributes={
                **status,
                "segment.attempt": request.attempt,
                "messaging.batch.message_count": len(ids),
                "http.request.body.size": len(request.body),
            },
            links=self._links(ids),
            start_time=int(request.started_at * 1e9),
        )
        if request.status is None or request.status >= 300:
            span.set_status(Status(StatusCode.ERROR))
        span.end(int((request.started_at + request.seconds) * 1e9))

    def _links(self, ids: Iterable[str]) -> list[Link]:
        """One a span, however many of the messages were made in it."""
        spans = (self._made_in.get(message_id) for message_id in ids)
        once = {(span.trace_id, span.span_id): span for span in spans if span is not None}
        return [Link(span) for span in islice(once.values(), _MOST_LINKS)]


def _message_ids(request: Request) -> list[str]:
    is_zipped = request.headers.get("Content-Encoding") == "gzip"
    body = zlib.decompress(request.body, wbits=31) if is_zipped else request.body
    return [message["messageId"] for message in orjson.loads(body)["batch"]]
