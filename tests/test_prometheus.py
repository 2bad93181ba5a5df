"""Prometheus: the metrics equal `statistics`, and the duration of each request is recorded."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import reload
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

import segment_async.prometheus
from segment_async import Client, MessageError, Response, Statistics, bound, compat
from segment_async._outcome import REASONS
from segment_async.blocking import Client as BlockingClient
from segment_async.instrumentation import GAUGES, SUFFIXES
from segment_async.prometheus import _MODES, watch
from tests.support.asgi import recording
from tests.support.fault_server import FaultServer
from tests.support.faults import answer, silence
from tests.support.programs import PROGRAMS, finished
from tests.support.scripted_transport import ScriptedTransport
from tests.support.served import Served
from tests.support.virtual_clock import run


def test_counts_by_outcome_and_reason() -> None:
    registry = CollectorRegistry()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"client": "1", **labels})

    async def main() -> None:
        async with FaultServer([answer(400), answer(200)]) as server:
            async with Client("KEY", host=server.url) as client:
                watch(client, registry=registry)
                await (await client.track("user-1", "Refused"))
                await (await client.track("user-1", "Delivered"))
                with bound(without_identity="drop"):
                    await client.track(event="Without Identity")
                await client.track("user-1", "Waiting")
                assert value("segment_pending") == 1
                assert value("segment_queued") == 1
                waiting = value("segment_queued_bytes")
                assert waiting is not None
                assert waiting > 100
                age = value("segment_oldest_age_seconds")
                assert age is not None
                assert age >= 0

    asyncio.run(main())

    def messages(outcome: str, reason: str = "") -> float | None:
        return value("segment_messages_total", outcome=outcome, reason=reason)

    assert messages("delivered") == 2
    assert messages("failed", "refused") == 1
    assert messages("dropped", "no_identity") == 1
    assert value("segment_accepted_total") == 4
    assert value("segment_requests_total") == 3
    assert value("segment_retries_total") == 0
    assert value("segment_pending") == 0
    assert value("segment_capacity") == 10_000
    assert value("segment_capacity_bytes") == 33_554_432
    assert value("segment_server_up") == 1
    assert value("segment_dead_letters") == value("segment_disk_bytes") == value("segment_rejected_total") == 0
    assert abs((value("segment_last_delivery_timestamp_seconds") or 0) - time.time()) < 60
    assert b"# HELP segment_in_flight" in generate_latest(registry)


def test_every_gauge_has_a_mode_for_several_processes_and_a_name_with_its_unit() -> None:
    assert _MODES.keys() == GAUGES.keys()
    for name, (unit, _) in GAUGES.items():
        suffix = {"s": "_seconds", "By": "_bytes"}.get(unit, "")
        assert f"{name}{SUFFIXES.get(name, '')}".endswith(suffix), name


def test_every_reason_is_there_before_anything_is_lost() -> None:
    """A series that begins with the first loss has no rate, and no alert sees it."""
    registry = CollectorRegistry()
    watch(recording()[0], registry=registry)
    for reason, (status, _) in REASONS.items():
        labels = {"client": "1", "outcome": status.value, "reason": reason}
        assert registry.get_sample_value("segment_messages_total", labels) == 0
    handed_over = {"client": "1", "outcome": "handed_over", "reason": ""}
    assert registry.get_sample_value("segment_messages_total", handed_over) == 0


def test_each_client_has_its_label_and_is_watched_once() -> None:
    registry = CollectorRegistry()
    first, second, third = recording()[0], recording()[0], recording()[0]
    collector = watch(first, registry=registry)
    assert watch(first, registry=registry, label="again") is collector
    assert watch(second, registry=registry) is collector
    watch(third, registry=registry, label="admin")
    for _ in range(3):
        with pytest.raises(MessageError):
            second.enqueue_nowait({})
    rejected = {
        label: registry.get_sample_value("segment_rejected_total", {"client": label})
        for label in ("1", "2", "admin", "again")
    }
    assert rejected == {"1": 0, "2": 3, "admin": 0, "again": None}
    assert registry.get_sample_value("segment_last_delivery_timestamp_seconds", {"client": "1"}) is None
    assert generate_latest(registry).count(b"# TYPE segment_pending gauge") == 1
    with pytest.raises(ValueError, match="label 'admin'"):
        watch(recording()[0], registry=registry, label="admin")


def test_a_label_is_text() -> None:
    registry = CollectorRegistry()
    with pytest.raises(ValueError, match="label must be text, such as '4711'"):
        watch(recording()[0], registry=registry, label=4711)  # type: ignore[arg-type]
    generate_latest(registry)


def test_a_number_that_is_a_label_already_is_passed_over() -> None:
    registry = CollectorRegistry()
    watch(recording()[0], registry=registry, label="2")
    watch(recording()[0], registry=registry)
    watch(recording()[0], registry=registry)
    labels = {label: registry.get_sample_value("segment_pending", {"client": label}) for label in ("1", "2", "3", "4")}
    assert labels == {"1": None, "2": 0, "3": 0, "4": 0}


def test_prefixes_of_one_registry_are_apart() -> None:
    registry = CollectorRegistry()
    first, second = recording()[0], recording()[0]
    watch(first, registry=registry, name="shop")
    collector = watch(second, registry=registry, name="admin")
    assert registry.get_sample_value("shop_accepted_total", {"client": "1"}) == 0
    assert registry.get_sample_value("admin_accepted_total", {"client": "1"}) == 0
    registry.unregister(collector)
    assert registry.get_sample_value("admin_accepted_total", {"client": "1"}) is None
    # A new start of the application in the same process.
    assert watch(second, registry=registry, name="admin") is not collector
    assert registry.get_sample_value("admin_accepted_total", {"client": "1"}) == 0


def test_names_of_another_collector_are_not_taken() -> None:
    registry = CollectorRegistry()
    Gauge("segment_pending", "The application's own.", registry=registry)
    with pytest.raises(ValueError, match="segment_pending"):
        watch(recording()[0], registry=registry)


def test_a_blocking_client() -> None:
    registry = CollectorRegistry()
    with Served() as server, BlockingClient("KEY", host=server.url) as client:
        watch(client, registry=registry)
        client.track("user-1", "Seen")
    assert registry.get_sample_value("segment_accepted_total", {"client": "1"}) == 1


@pytest.mark.parametrize("client", [compat.Client("KEY", send=False), "KEY"])
def test_something_else_than_a_client_is_refused_and_leaves_the_registry_alone(client: Any) -> None:
    registry = CollectorRegistry()
    with pytest.raises(TypeError, match=r"watch needs a Client of segment_async or of segment_async\.blocking"):
        watch(client, registry=registry)
    assert generate_latest(registry) == b""


def test_a_label_that_is_taken_leaves_a_new_registry_alone() -> None:
    client, _ = recording()
    registry = CollectorRegistry()
    watch(client, registry=registry, label="shop")
    before = generate_latest(registry)
    with pytest.raises(ValueError, match="another client is watched with the label 'shop'"):
        watch(recording()[0], registry=registry, label="shop")
    assert generate_latest(registry) == before


class Failing(Client):
    """Its statistics cannot be read while `fails`."""

    fails = False

    def statistics(self) -> Statistics:
        if self.fails:
            raise OSError("its own")
        return super().statistics()


@pytest.mark.parametrize("is_multiprocess", [False, True])
def test_a_client_that_fails_is_left_out_of_the_scrape(
    is_multiprocess: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if is_multiprocess:
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    registry = CollectorRegistry()
    failing, working = Failing("KEY", send=False), Client("KEY", send=False)
    watch(failing, registry=registry, label="failing")
    watch(working, registry=registry, label="working")
    failing.fails = True
    working.nowait.track("user-1", "Seen")
    for _ in range(2):
        generate_latest(registry)
    assert registry.get_sample_value("segment_accepted_total", {"client": "working"}) == 1
    if not is_multiprocess:
        assert registry.get_sample_value("segment_accepted_total", {"client": "failing"}) is None
    assert caplog.text.count("Error in reading the statistics of the client 'failing': OSError") == 1


def test_an_outage() -> None:
    registry = CollectorRegistry()
    seen = []

    async def main() -> None:
        async with Client("KEY", transport=ScriptedTransport([Response(200), Response(500), Response(200)])) as client:
            watch(client, registry=registry)
            client.observe(lambda _: seen.append(registry.get_sample_value("segment_server_up", {"client": "1"})))
            for _ in range(2):
                await (await client.track("user-1", "Seen"))

    run(main())
    assert seen == [1, 0, 1]


def test_a_spool(tmp_path: Path) -> None:
    registry = CollectorRegistry()

    async def main() -> None:
        async with FaultServer([answer(400)]) as server:
            async with Client("KEY", host=server.url, spool=tmp_path / "spool.db") as client:
                watch(client, registry=registry)
                await (await client.track("user-1", "Refused"))
                await client.flush()
                assert registry.get_sample_value("segment_dead_letters", {"client": "1"}) == 1
                assert (registry.get_sample_value("segment_disk_bytes", {"client": "1"}) or 0) > 4_096

    asyncio.run(main())


def test_several_processes(tmp_path: Path) -> None:
    async def main() -> str:
        async with FaultServer([answer(400), answer(200)]) as server:
            environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
            ended = await finished(PROGRAMS / "multiprocess_metrics.py", host=server.url, **environment)
        assert ended.code == 0, ended.err
        return ended.out

    lines = set(asyncio.run(main()).splitlines())
    # Two messages of the parent, three each of two children that it forks while its own are counted.
    for line in (
        'segment_accepted_total{client="1"} 8.0',
        'segment_messages_total{client="1",outcome="delivered",reason=""} 7.0',
        'segment_messages_total{client="1",outcome="failed",reason="refused"} 1.0',
        'segment_request_duration_seconds_count{client="1",status="200"} 3.0',
        'segment_pending{client="1"} 0.0',
        'segment_server_up{client="1"} 1.0',
        'segment_retries_total{client="1"} 0.0',
    ):
        assert line in lines, lines


def test_threads_that_look_at_once_count_each_message_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    registry, client = CollectorRegistry(), Client("KEY", send=False)
    collector = watch(client, registry=registry)
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            next(iter(collector.collect()))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as pool:
            looking = [pool.submit(look) for _ in range(3)]
            for _ in range(20_000):
                client.nowait.track("user-1", "Seen")
            is_over.set()
            for each in looking:
                each.result()
    finally:
        sys.setswitchinterval(before)
    assert registry.get_sample_value("segment_accepted_total", {"client": "1"}) == 20_000


def test_requests_are_timed_by_status() -> None:
    registry = CollectorRegistry()
    collector: Collector

    async def main() -> None:
        nonlocal collector
        async with FaultServer([answer(200), answer(503), silence()]) as server:
            async with Client("KEY", host=server.url, timeout=1.0) as client:
                collector = watch(client, registry=registry)
                for number in range(2):
                    await (await client.track("user-1", f"Event {number}"))

    asyncio.run(main())
    counts = {
        status: registry.get_sample_value("segment_request_duration_seconds_count", {"client": "1", "status": status})
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
