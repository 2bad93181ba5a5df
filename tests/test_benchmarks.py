"""The parts of the benchmarks: percentiles, tables, messages, the sink, the guard. Nothing is measured here."""

import gzip
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import compare, guard, workload
from benchmarks.bench import Bench, Cores, cpu_seconds
from benchmarks.contestants import BY_NAME, REQUIREMENTS
from benchmarks.parts import PARTS, QUICK
from benchmarks.probes.requests import request_scope
from benchmarks.probes.steps import name_of
from benchmarks.report import publish, ratios, tables, targets
from benchmarks.report.figures import median_of_rounds, percentile, percentiles
from benchmarks.server.sink import Sink, compiled

ROOT = Path(__file__).parents[1]


# -- percentiles and medians


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
    text = tables.markdown(results_of("segment_async (isal)", "a faster one"))
    assert "| segment_async (isal) |" in text
    assert "| a faster one         |" in text
    assert "segment-analytics-python 2.4.0" in text
    assert "analytics-go: no Go" in text


def test_what_is_published_is_what_the_last_whole_run_saw():
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert publish.BLOCK.search(publish.README.read_text())
    assert publish.readme(publish.README.read_text(), results) == publish.README.read_text()
    assert publish.page(publish.PAGE.read_text(), results, publish.other_runs()) == publish.PAGE.read_text()


def test_runs_on_other_loops_and_versions_are_beside_the_targets():
    tail = {"p99": 3.0, "p99.9": 12.0, "max": 99}

    def run(python: str, loop: str, rate: float) -> dict[str, Any]:
        figures = [
            {"part": "calls", "variant": "flat out", "contestant": name, "label": name, "median": {"p50": p50} | tail}
            for name, p50 in (("ours-isal", rate), ("official", 30.0))
        ]
        results = results_of()
        machine = {**cast("dict[str, str]", results["machine"]), "python": python}
        return results | {"machine": machine, "loop": loop, "figures": figures}

    first = run("CPython 3.11.7", "asyncio", 4)
    assert "other loops" not in publish.page("", first, {})
    others = {"results-a.json": first, "results-b.json": run("CPython 3.11.7", "uvloop", 2)}
    page = publish.page("", first, others)
    assert "`benchmarks/results-a.json`, `benchmarks/results-b.json`" in page
    assert re.search(r"\| +CPython 3.11.7, asyncio \| +CPython 3.11.7, uvloop \|", page)
    assert re.search(r"one call flat out, p50 .* \*\*4.0\*\* \(missed\) µs \| +2.0 µs \|", page)
    assert "\n- CPython 3.11.7, uvloop: 2026-11-21, a CPU, 2 cores" in page


def test_targets_that_were_missed_are_named():
    def entry(contestant: str, **median: float) -> dict[str, Any]:
        return {"part": "delivery", "variant": "medium", "contestant": contestant, "median": median}

    figures = [
        entry("ours-isal", delivered_per_second=90_000, cpu_per_million=6.04, wire_bytes=97.0),
        entry("ours-zlib", delivered_per_second=50_000, cpu_per_million=9.0),
        entry("official", delivered_per_second=10_000),
        entry("floor", delivered_per_second=100_000, cpu_per_million=5.0),
    ]
    rows = targets.markdown({"figures": figures}).splitlines()
    assert "at least 8 / 6 × |" in rows[2]
    assert "9.00 / **5.00** (missed) × |" in rows[2]
    assert "at least 0.85 × |" in rows[3]
    assert "0.90 × |" in rows[3]
    assert "**1.21** (missed) × |" in rows[4]
    assert any("– / – µs |" in row for row in rows)
    assert any(row.endswith("97.0 bytes |") for row in rows)


def test_ratios_come_first_and_name_what_they_are_beside():
    def entry(part: str, variant: str, contestant: str, **median: float) -> dict[str, Any]:
        return {"part": part, "variant": variant, "contestant": contestant, "median": median}

    figures = [
        entry("delivery", "medium", "ours-isal", delivered_per_second=90_000, cpu_per_million=6.0),
        entry("delivery", "medium", "official", delivered_per_second=10_000, cpu_per_million=60.0),
        entry("delivery", "medium", "floor", delivered_per_second=100_000, cpu_per_million=5.0),
        entry("web", "flat out", "ours-middleware-none", per_second=7_450),
        entry("web", "flat out", "nothing", per_second=8_000),
        entry("calls", "flat out", "ours-isal", p50=3.0),
    ]
    rows = [line.split("|") for line in ratios.markdown({"figures": figures}).splitlines()[2:]]
    assert [(beside.strip(), ratio.strip()) for _, _, beside, ratio, _ in rows] == [
        ("the official SDK", "9.0 ×"),
        ("a bare loop", "90%"),
        ("the official SDK", "1/10"),
        ("a bare loop", "1.2 ×"),
        ("the application alone", "93%"),
    ]


def test_every_ratio_is_of_what_is_measured():
    for each in ratios.RATIOS:
        part = PARTS[each.part]
        assert each.variant in part.variants
        assert {each.ours, each.other} <= set(part.field)


def test_terminal_says_the_ratios_first_and_where_and_how():
    shown = tables.terminal(results_of("one"), "the ratios")
    assert shown.startswith("the ratios\n")
    assert "medians of 3 interleaved rounds" in shown


def test_a_process_cpu_time_is_known():
    assert cpu_seconds(os.getpid()) > 0
    assert cpu_seconds(2**30) == 0.0


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


def test_guard_reports_counts_beyond_its_tolerance():
    old = {"one call": {"bytecodes": 100}}
    assert guard.grown(old, {"one call": {"bytecodes": 105}}) == []
    assert guard.grown(old, {"one call": {"bytecodes": 106}}) == ["one call: bytecodes 100 -> 106 (+6.0%)"]
    assert guard.grown({}, {"one call": {"bytecodes": 106}}) == []


def test_guard_shows_old_and_new_counts():
    shown = guard.compared({"one call": {"bytecodes": 1000}}, {"one call": {"bytecodes": 900, "c_calls": 3}})
    assert "| one call: bytecodes | 1,000 | 900 | -10.0% |" in shown
    assert "| one call: c_calls   |     – |   3 |      – |" in shown


@pytest.mark.untraced
def test_guard_counts_the_same_twice_and_no_more_than_before():
    one, other = (
        subprocess.run(
            [sys.executable, "-m", "benchmarks.guard", "--json"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        for _ in range(2)
    )
    # More than 5 % above `guard.json`: that is for CHANGELOG.md to explain, and `--update --because`.
    assert one.returncode == 0, one.stderr
    counts, again = json.loads(one.stdout), json.loads(other.stdout)
    assert counts["one call"]["bytecodes"] > 100
    assert counts.keys() == guard.WORK.keys()
    assert guard.grown(counts, again) == guard.grown(again, counts) == []


def test_guard_wants_growth_explained_in_the_changelog():
    changelog = "# Changelog\n\n## [Unreleased]\n\n- Bodies are checked\n  twice, at 0.1 µs.\n\n## [0.1.0]\n\n- The old words say much.\n"
    assert guard.explains(changelog, "Bodies are checked twice")
    assert not guard.explains(changelog, "")
    assert not guard.explains(changelog, "checked twice")
    assert not guard.explains(changelog, "The old words say much")


# -- the comparison


def test_comparison_shows_medians_and_the_spread_of_paired_ratios():
    pairs = [(100.0, 110.0), (200.0, 240.0), (50.0, 60.0)]
    assert compare.row("CPU µs a message", pairs)[:-1] == ("CPU µs a message", "100.0", "110.0", "1.20", "1.10", "1.20")


@pytest.mark.parametrize(
    ("label", "ratios", "expected"),
    [
        ("CPU µs a message", [1.1, 1.2, 1.3, 1.2, 1.2], "worse"),
        ("CPU µs a message", [0.8, 0.9, 0.7, 0.8, 0.8], "better"),
        ("spool, 100 callers: accepted a second", [1.1, 1.2, 1.3, 1.2, 1.2], "better"),
        ("messages a second, 50 ms to the server", [0.8, 0.9, 0.7, 0.8, 0.8], "worse"),
        ("one call at 2,000 a second, p50, µs", [1.1, 1.2, 1.3, 1.2, 1.2], "worse"),
        ("CPU µs a message", [0.9, 1.2, 1.3, 1.2, 1.2], "–"),
        ("CPU µs a message", [1.01, 1.02, 1.03, 1.02, 1.02], "–"),
        ("CPU µs a message", [1.4, 1.5, 1.4, 1.5], "–"),
    ],
    ids=str,
)
def test_comparison_judges_only_what_every_round_agrees_on(label: str, ratios: list[float], expected: str):
    assert compare.row(label, [(1000.0, 1000 * ratio) for ratio in ratios])[-1] == expected


def test_comparison_makes_sure_that_it_runs_the_other_package(tmp_path: Path):
    other = tmp_path / "other"
    (other / "segment_async" / "spool").mkdir(parents=True)
    for name in ("__init__.py", "asgi.py", "spool/__init__.py"):
        (other / "segment_async" / name).touch()
    bench = Bench(Sink(None), Cores(None, None))
    assert compare.tree(bench, other, tmp_path / "one").folder == tmp_path / "one"
    (other / "segment_async" / "__init__.py").write_text("raise ImportError('half a package')")
    with pytest.raises(SystemExit, match=r"(?s)cannot import segment_async .* half a package"):
        compare.tree(bench, other, tmp_path / "two")


def test_requests_carry_the_number_and_a_browsers_headers():
    scope = request_scope(7)
    assert (scope["path"], scope["number"]) == ("/orders/7", 7)
    assert (b"host", b"shop.example") in scope["headers"]
