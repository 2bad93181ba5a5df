"""Prometheus: the metrics equal `statistics`, and the duration of each request is recorded."""

from __future__ import annotations

import asyncio
import sys
from importlib import reload

import pytest

pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

import segment_async.prometheus
from segment_async import Client, bound
from segment_async.prometheus import watch
from tests.support.asgi import recording
from tests.support.fault_server import FaultServer
from tests.support.faults import answer, silence


def test_counts_by_outcome_and_reason() -> None:
    registry = CollectorRegistry()

    async def main() -> None:
        async with FaultServer([answer(400), answer(200)]) as server:
            async with Client("KEY", host=server.url) as client:
                watch(client, registry=registry)
                await (await client.track("user-1", "Refused"))
                await (await client.track("user-1", "Delivered"))
                with bound(without_identity="drop"):
                    await client.track(event="Without Identity")
                await client.track("user-1", "Waiting")
                assert registry.get_sample_value("segment_pending") == 1
                assert registry.get_sample_value("segment_queued") == 1
                waiting = registry.get_sample_value("segment_queued_bytes")
                assert waiting is not None
                assert waiting > 100
                age = registry.get_sample_value("segment_oldest_age_seconds")
                assert age is not None
                assert age >= 0

    asyncio.run(main())

    def messages(outcome: str, reason: str = "") -> float | None:
        return registry.get_sample_value("segment_messages_total", {"outcome": outcome, "reason": reason})

    assert messages("delivered") == 2
    assert messages("failed", "refused") == 1
    assert messages("dropped", "no_identity") == 1
    assert registry.get_sample_value("segment_accepted_total") == 4
    assert registry.get_sample_value("segment_requests_total") == 3
    assert registry.get_sample_value("segment_retries_total") == 0
    assert registry.get_sample_value("segment_pending") == 0
    assert b"# HELP segment_in_flight" in generate_latest(registry)


def test_clients_of_one_registry_need_different_names() -> None:
    registry = CollectorRegistry()
    first, second = recording()[0], recording()[0]
    watch(first, registry=registry, name="shop")
    collector = watch(second, registry=registry, name="admin")
    assert registry.get_sample_value("shop_accepted_total") == registry.get_sample_value("admin_accepted_total") == 0
    registry.unregister(collector)
    assert registry.get_sample_value("admin_accepted_total") is None


def test_requests_are_timed_by_status() -> None:
    registry = CollectorRegistry()
    collector: Collector

    async def main() -> None:
        nonlocal collector
        async with FaultServer([answer(200), answer(503), silence()]) as server:
            async with Client("KEY", host=server.url, timeout=0.2) as client:
                collector = watch(client, registry=registry)
                for number in range(2):
                    await (await client.track("user-1", f"Event {number}"))

    asyncio.run(main())
    counts = {
        status: registry.get_sample_value("segment_request_duration_seconds_count", {"status": status})
        for status in ("200", "503", "none")
    }
    assert counts == {"200": 2, "503": 1, "none": 1}
    registry.unregister(collector)
    assert b"segment" not in generate_latest(registry)


def test_without_prometheus_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "prometheus_client", None)
        with pytest.raises(ImportError, match="pip install prometheus-client"):
            reload(segment_async.prometheus)
    reload(segment_async.prometheus)
