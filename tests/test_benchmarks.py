"""The benchmarks' own parts: numbers, tables, messages, the sink. Nothing is measured here."""

import gzip
import http.client
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import guard, workload
from benchmarks.contestants import BY_NAME, REQUIREMENTS
from benchmarks.parts import PARTS, QUICK
from benchmarks.probes.steps import name_of
from benchmarks.report import publish, tables, targets
from benchmarks.report.figures import median_of_rounds, percentile, percentiles
from benchmarks.server.sink import Sink, compiled

ROOT = Path(__file__).parents[1]


# -- numbers


def test_percentile_is_a_sample_that_was_seen():
    ordered = list(range(1, 101))
    assert percentile(ordered, 0.5) == 50
    assert percentile(ordered, 0.99) == 99
    assert percentile(ordered, 0.999) == 100
    assert percentile([7], 0.5) == 7


def test_percentile_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 0.5)


def test_percentiles_sort_by_themselves():
    assert percentiles([3, 1, 2]) == {"p50": 2, "p99": 3, "p99.9": 3, "max": 3}


def test_median_of_rounds_takes_each_figure_for_itself():
    rounds = [{"a": 1, "b": 30, "longest": {}}, {"a": 9, "b": 10, "longest": {}}, {"a": 2, "b": 20, "longest": {}}]
    assert median_of_rounds(rounds) == {"a": 2, "b": 20}


def test_median_of_rounds_leaves_out_what_one_round_lacks():
    assert median_of_rounds([{"a": 1, "b": 2}, {"a": 3}]) == {"a": 2}


# -- tables


def test_table_is_aligned_markdown():
    assert tables.table(["", "µs"], [["ours", "1.5"], ["a longer one", "20"]]) == (
        "|              |  µs |\n| ------------ | --: |\n| ours         | 1.5 |\n| a longer one |  20 |"
    )


def results_of(*labels: str) -> dict[str, object]:
    figures = [
        {
            "part": "calls",
            "variant": "flat out",
            "label": label,
            "median": {"p50": 1.5, "p99": 3.0, "p99.9": 12.0, "max": 99},
        }
        for label in labels
    ]
    return {
        "date": "2026-11-21",
        "machine": {"cpu": "a CPU", "cores": "2", "load": "0.0", "system": "Linux", "python": "CPython 3.11"},
        "rounds": 3,
        "sink": {"kind": "C", "messages_per_second": {"gzip": 9e6, "plain": 1e6}},
        "versions": {"official": {"segment-analytics-python": "2.4.0"}},
        "missing": {"analytics-go": "no Go"},
        "figures": figures,
    }


def test_markdown_keeps_every_row_and_says_what_is_missing():
    text = tables.markdown(results_of("segment_async (isal)", "somebody faster"))
    assert "| segment_async (isal) |" in text
    assert "| somebody faster      |" in text
    assert "segment-analytics-python 2.4.0" in text
    assert "analytics-go: no Go" in text


def test_what_is_published_is_what_the_last_whole_run_saw():
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert publish.BLOCK.search(publish.README.read_text())
    assert publish.readme(publish.README.read_text(), results) == publish.README.read_text()
    assert publish.page(publish.PAGE.read_text(), results) == publish.PAGE.read_text()


def test_targets_that_were_missed_are_named():
    def entry(contestant: str, **median: float) -> dict[str, Any]:
        return {"part": "delivery", "variant": "medium", "contestant": contestant, "median": median}

    figures = [
        entry("ours-isal", delivered_per_second=90_000, cpu_per_million=6.04, wire_bytes=115.0),
        entry("ours-zlib", delivered_per_second=50_000, cpu_per_million=9.0),
        entry("official", delivered_per_second=10_000),
    ]
    rows = targets.markdown({"figures": figures}).splitlines()
    assert "at least 8 / 6 × |" in rows[2]
    assert "9.0 / **5.0** (missed) × |" in rows[2]
    assert "**6.0** (missed) / 9.0 s |" in rows[3]
    assert "– / – / – µs |" in rows[4]
    assert any(row.endswith("115 bytes |") for row in rows)


def test_terminal_says_where_and_how():
    assert "medians of 3 interleaved rounds" in tables.terminal(results_of("one"))


def test_each_part_has_its_columns_title_and_known_contestants():
    for name, part in PARTS.items():
        assert name in tables.COLUMNS
        assert tables.title(name, part.variants[0])
        assert {BY_NAME[each].environment for each in part.field} <= {*REQUIREMENTS, "node"}
    assert set(QUICK) <= set(PARTS)


# -- messages


@pytest.mark.parametrize("size", workload.MAKERS)
def test_messages_have_the_size_that_is_stated(size: str):
    make = workload.MAKERS[size]
    lengths = [len(json.dumps(workload.on_the_wire(make(i), i), separators=(",", ":"))) for i in range(1000)]
    assert sum(lengths) / len(lengths) == pytest.approx(workload.SIZES[size], rel=0.01)


@pytest.mark.parametrize("size", workload.MAKERS)
def test_a_message_is_made_afresh_and_the_same_again(size: str):
    make = workload.MAKERS[size]
    one, other = make(42), make(42)
    assert one == other
    assert one[2] is not other[2]
    assert one != make(43)


def test_tables_follow_from_their_seed():
    assert workload.tables() == workload.TABLES
    assert workload.tables(1) != workload.TABLES


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_node_makes_the_same_messages(tmp_path: Path):
    script = """
        import { makers } from './benchmarks/workload.mjs'
        import { readFileSync } from 'node:fs'
        const made = makers(JSON.parse(readFileSync(0)))
        const sizes = ['small', 'medium', 'large'].map((size) => [0, 1, 8190, 8191, 77777].map(made[size]))
        console.log(JSON.stringify(sizes))
    """
    node = ["node", "--input-type=module", "--eval", script]
    said = subprocess.run(
        node, cwd=ROOT, input=json.dumps(workload.TABLES), capture_output=True, text=True, check=True
    ).stdout
    for make, made in zip(workload.MAKERS.values(), json.loads(said), strict=True):
        for i, call in zip((0, 1, 8190, 8191, 77777), made, strict=True):
            assert (call["userId"], call["event"], call["properties"], call["context"]) == make(i)


# -- the sink


@pytest.fixture(params=["C", "asyncio"])
def sink(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    program = None
    if request.param == "C":
        program = compiled(tmp_path_factory.getbasetemp())
        if program is None:
            pytest.skip("no C compiler")
    with Sink(program) as running:
        yield running


def batch(first: int, count: int) -> bytes:
    return json.dumps({"batch": [{"messageId": f"id-{i}"} for i in range(first, first + count)]}).encode()


def post(sink: Sink, body: bytes, *, compressed: bool = False) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=10)
    headers = {"Content-Encoding": "gzip"} if compressed else {}
    connection.request("POST", "/v1/batch", gzip.compress(body) if compressed else body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_sink_counts_plain_and_compressed_messages(sink: Sink):
    assert post(sink, batch(0, 3)) == post(sink, batch(3, 400), compressed=True) == 200
    counted, statistics = sink.count(), sink.statistics()
    assert (counted.messages, counted.repeats, counted.other_requests) == (403, 0, 0)
    assert statistics.requests == statistics.answered == 2
    assert statistics.bytes > len(batch(0, 3))
    assert 0 < statistics.first_ns <= statistics.last_ns


def test_sink_sees_repeats_and_requests_that_are_no_batches(sink: Sink):
    post(sink, batch(0, 3))
    post(sink, batch(2, 3))
    post(sink, b"nothing of ours")
    counted = sink.count()
    assert (counted.messages, counted.repeats, counted.other_requests) == (6, 1, 1)


def test_sink_takes_requests_in_pieces_and_several_at_once(sink: Sink):
    body = batch(0, 2)
    request = b"POST / HTTP/1.1\r\ncontent-LENGTH: %d\r\n\r\n%b" % (len(body), body)
    with socket.create_connection(("127.0.0.1", sink.port), timeout=10) as connection:
        connection.sendall(request[:30])
        connection.sendall(request[30:50])
        connection.sendall(request[50:] + request + request[:10])
        connection.sendall(request[10:])
        answers = b""
        while answers.count(b"200 OK") < 3:
            answers += connection.recv(4096)
    assert sink.count().messages == 6


def test_sink_forgets_on_reset(sink: Sink):
    post(sink, batch(0, 3))
    sink.reset()
    assert sink.count().messages == 0
    assert sink.statistics().requests == 0


def test_sink_delays_its_answers(sink: Sink):
    sink.order("latency/30")
    post(sink, batch(0, 1))
    statistics = sink.statistics()
    assert statistics.last_ns - statistics.first_ns >= 29_000_000


def test_stalled_sink_reads_and_answers_nothing_until_told(sink: Sink):
    sink.order("stall/1")
    connection = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=10)
    connection.request("POST", "/v1/batch", batch(0, 1))
    while sink.statistics().requests == 0:
        pass
    assert sink.statistics().answered == 0
    sink.order("stall/0")
    assert connection.getresponse().status == 200
    connection.close()


# -- the probes


def test_steps_are_named_without_looking_into_objects():
    class Watched:
        def work(self) -> None: ...

        def __repr__(self) -> str:
            raise AssertionError("looked at")

    assert name_of(partial(Watched().work, 1)).endswith("Watched.work")
    assert name_of(Watched()).endswith("Watched")


# -- the guard


def test_guard_speaks_up_beyond_its_tolerance():
    kept = {"one call": {"bytecodes": 100}}
    assert guard.grown(kept, {"one call": {"bytecodes": 103}}) == []
    assert guard.grown(kept, {"one call": {"bytecodes": 104}}) == ["one call: bytecodes 100 -> 104 (+4.0%)"]
    assert guard.grown({}, {"one call": {"bytecodes": 104}}) == []


def test_guard_counts_the_same_twice():
    one, other = (
        json.loads(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.guard"], cwd=ROOT, capture_output=True, check=False
            ).stdout
        )
        for _ in range(2)
    )
    assert one["one call"]["bytecodes"] > 100
    assert guard.grown(one, other) == guard.grown(other, one) == []
