"""OpenTelemetry: a client's counters, and a span for each batch with links to the spans of its messages."""

from __future__ import annotations

import asyncio
import sys
from importlib import reload
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

import segment_async.otel
from segment_async import Client, MessageError, Statistics, compat
from segment_async._outcome import REASONS
from segment_async.otel import remember, watch
from tests.support.fault_server import FaultServer
from tests.support.faults import answer


class Telemetry:
    """An SDK that records metrics and spans."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.spans = TracerProvider(shutdown_on_exit=False)
        self.spans.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)

    def batches(self) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == "segment batch"]

    def points(self) -> dict[str, list[Any]]:
        read: Any = self._reader.get_metrics_data()
        scopes = [scope for resource in read.resource_metrics for scope in resource.scope_metrics]
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}


def test_counts_by_outcome_and_reason() -> None:
    telemetry = Telemetry()

    async def main() -> None:
        async with FaultServer([answer(400)]) as server, Client("KEY", host=server.url) as client:
            watch(client, meter_provider=telemetry.meters)
            await (await client.track("user-1", "Refused"))
            await (await client.track("user-1", "Delivered"))
            await client.track("user-1", "Waiting")
            points = telemetry.points()
            assert [point.value for point in points["segment.queued"]] == [1]
            assert points["segment.queued_bytes"][0].value > 100
            assert points["segment.oldest_age"][0].value >= 0
            ended = {tuple(point.attributes.values()): point.value for point in points["segment.messages"]}
            assert {key: count for key, count in ended.items() if count} == {
                ("1", "delivered"): 1,
                ("1", "failed", "refused"): 1,
            }
            # So that the first loss can be seen in a rate.
            assert {key[2] for key in ended if len(key) == 3} == REASONS.keys()
            assert [point.value for point in points["segment.requests"]] == [2]

    asyncio.run(main())


def test_each_client_has_its_label_and_is_watched_once(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = Telemetry()

    async def main() -> None:
        async with FaultServer() as server, Client("KEY", host=server.url) as shop, Client("KEY", send=False) as admin:
            for client, label in ((shop, None), (shop, None), (admin, "admin")):
                watch(client, label=label, meter_provider=telemetry.meters, tracer_provider=telemetry.spans)
            assert "segment.last_delivery" not in telemetry.points()
            await (await shop.track("user-1", "Seen"))
            await admin.track("user-1", "Disabled")
            with pytest.raises(MessageError):
                await admin.track("user-1")
        with pytest.raises(ValueError, match="label 'admin'"):
            watch(Client("KEY", send=False), label="admin", meter_provider=telemetry.meters)

    asyncio.run(main())
    points = telemetry.points()

    def by_client(name: str) -> dict[str, Any]:
        return {point.attributes["client"]: point.value for point in points[name]}

    assert by_client("segment.accepted") == {"1": 1, "admin": 1}
    assert by_client("segment.rejected") == {"1": 0, "admin": 1}
    assert by_client("segment.capacity") == {"1": 10_000, "admin": 10_000}
    assert by_client("segment.server_up") == {"1": 1, "admin": 1}
    assert by_client("segment.last_delivery").keys() == {"1"}
    assert by_client("segment.dead_letters") == by_client("segment.disk_bytes") == {"1": 0, "admin": 0}
    assert [point.attributes["client"] for point in points["segment.request.duration"]] == ["1"]
    assert len(telemetry.batches()) == 1
    assert not caplog.records


@pytest.mark.parametrize("client", [compat.Client("KEY", send=False), "KEY"])
def test_something_else_than_a_client_is_refused(client: Any) -> None:
    telemetry = Telemetry()
    with pytest.raises(TypeError, match=r"watch needs a Client of segment_async or of segment_async\.blocking"):
        watch(client, meter_provider=telemetry.meters)
    watch(Client("KEY", send=False), meter_provider=telemetry.meters)
    assert {point.attributes["client"] for point in telemetry.points()["segment.accepted"]} == {"1"}


def test_a_client_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Client):
        fails = False

        def statistics(self) -> Statistics:
            if self.fails:
                raise OSError("its own")
            return super().statistics()

    telemetry = Telemetry()
    failing, working = Failing("KEY", send=False), Client("KEY", send=False)
    watch(failing, meter_provider=telemetry.meters)
    watch(working, meter_provider=telemetry.meters)
    failing.fails = True
    for _ in range(2):
        assert {point.attributes["client"] for point in telemetry.points()["segment.accepted"]} == {"2"}
    assert caplog.text.count("Error in reading the statistics of the client '1': OSError") == 1


def test_clients_of_the_global_provider_share_its_instruments() -> None:
    clients = [Client("KEY", send=False) for _ in range(2)]
    watch(clients[0], label="first")
    watch(clients[1], label="second")
    with pytest.raises(ValueError, match="label 'first'"):
        watch(Client("KEY", send=False), label="first")


def test_a_batchs_span_links_to_the_spans_of_its_messages() -> None:
    telemetry = Telemetry()
    tracer = telemetry.spans.get_tracer("shop")

    async def main() -> list[int]:
        async with FaultServer([answer(503), answer(200)]) as server:
            async with Client("KEY", host=server.url, before_send=remember) as client:
                watch(client, meter_provider=telemetry.meters, tracer_provider=telemetry.spans)
                spans = []
                for _ in range(2):
                    with tracer.start_as_current_span("a request") as span:
                        spans.append(span.get_span_context().span_id)
                        await client.track("user-1", "One")
                        await client.track("user-1", "Two", {"messageId": "not the message's"})
                await client.track("user-1", "Without a Span")
            return spans

    callers = asyncio.run(main())
    first, second = telemetry.batches()
    for span in (first, second):
        assert span.kind is SpanKind.PRODUCER
        assert span.parent is None
        assert [link.context.span_id for link in span.links] == callers
        assert span.attributes is not None
        assert span.attributes["messaging.batch.message_count"] == 5
        assert (span.end_time or 0) > (span.start_time or 0)
    assert first.attributes is not None
    assert (first.attributes["http.response.status_code"], first.attributes["segment.attempt"]) == (503, 1)
    assert (first.status.is_ok, second.status.is_ok) == (False, True)
    assert {
        point.attributes["http.response.status_code"] for point in telemetry.points()["segment.request.duration"]
    } == {*(200, 503)}


def test_without_remember_the_span_has_no_links() -> None:
    telemetry = Telemetry()

    async def main() -> None:
        async with FaultServer() as server, Client("KEY", host=server.url) as client:
            watch(client, tracer_provider=telemetry.spans)
            with telemetry.spans.get_tracer("shop").start_as_current_span("a request"):
                await client.track("user-1", "Seen")

    asyncio.run(main())
    (span,) = telemetry.batches()
    assert (span.parent, len(span.links)) == (None, 0)


def test_without_an_sdk_there_are_no_spans() -> None:
    async def main() -> None:
        async with FaultServer() as server:
            async with Client("KEY", host=server.url, before_send=remember) as client:
                watch(client)
                (await (await client.track("user-1", "Seen"))).raise_for_failure()

    asyncio.run(main())


def test_without_opentelemetry_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "opentelemetry", None)
        with pytest.raises(ImportError, match="pip install opentelemetry-api"):
            reload(segment_async.otel)
    reload(segment_async.otel)
