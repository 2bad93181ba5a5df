"""The progress: what a meter tells of an import, one line every ten seconds in a log, a bar on a terminal."""

import io
import os
import pty
import subprocess

import pyarrow.parquet
import pytest

from segment_async.cli._import_progress import Lines, duration, line_of
from segment_async.cli._import_report import announcement
from segment_async.importing import Counts, Importer, Progress, parse_mapping
from segment_async.importing._progress import Meter
from segment_async.importing._reading import open_at
from segment_async.importing._sources import find
from segment_async.importing._state import Position
from segment_async.importing._window import Window
from segment_async.testing import running_endpoint
from tests.support.virtual_clock import run

from .support import MAPPING, RecordingSegment, options, orders, write_csv
from .test_cli import COMMAND, environment, folder  # noqa: F401  # a fixture

TWO_MESSAGES = parse_mapping(f'{MAPPING}[[message]]\n[[message]]\ntype = "identify"\n')


def progress(delivered=0, **given):
    counts = Counts(records=delivered + 3, delivered=delivered, rejected=2, failed=1, messages=delivered)
    return Progress(counts, **{"pending": 0, "share": 0.25, "rate": 500.0, "seconds_left": 3_725.0} | given)


def test_a_line_says_how_far_how_fast_and_how_long():
    line = line_of(progress(1_234))
    assert line == "25%, 1,234 delivered, 3 rejected or failed, 500/s, 1 h 2 min left"
    assert line_of(progress(7, share=None, seconds_left=None)) == "7 delivered, 3 rejected or failed, 500/s"
    failing = line_of(progress(7, seconds_left=None, trouble="api.segment.io: status 503"))
    assert failing == "25%, 7 delivered, 3 rejected or failed, 500/s, retrying api.segment.io: status 503"
    assert [duration(seconds) for seconds in (0.4, 61, 7_260)] == ["0 s", "1 min 1 s", "2 h 1 min"]


def test_a_log_gets_a_line_every_ten_seconds(capsys):
    now = 100.0
    lines = Lines(lambda: now)
    for now in range(100, 131):
        lines.show(progress(now))
    delivered = [line.split(",")[1].split()[0] for line in capsys.readouterr().err.splitlines()]
    assert delivered == ["110", "120", "130"]


def test_a_meter(tmp_path):
    sources = find([str(write_csv(tmp_path / name, orders(100))) for name in ("a.csv", "b.csv")])
    total = sum(source.size for source in sources)
    window = Window(Counts(records=50, messages=50), Position(0, 50))
    meter = Meter(sources, total, 200, window)
    first = meter.tick(None)
    assert (first.share, first.rate, first.seconds_left) == (0.0, 0.0, None)
    window.counts.records = window.counts.messages = 100
    window.begin(Position(1))
    second = meter.tick(None)
    assert (second.share, second.rate, second.seconds_left) == (pytest.approx(0.5, abs=0.01), 25.0, 4.0)
    for _ in range(20):
        latest = meter.tick(None)
    assert (latest.rate, latest.seconds_left) == (0.0, None)


@pytest.mark.parametrize("estimated", [400, None])
@pytest.mark.parametrize("messages", [0, 400])
def test_the_time_left_is_that_of_the_records(tmp_path, messages, estimated):
    """A record may make several messages, or none that is wanted."""
    sources = find([str(write_csv(tmp_path / name, orders(200))) for name in ("a.csv", "b.csv")])
    window = Window(Counts(), Position())
    meter = Meter(sources, sum(source.size for source in sources), estimated, window)
    window.counts.records, window.counts.messages = 200, messages
    window.begin(Position(1))
    shown = meter.tick(None)
    assert (shown.rate, shown.seconds_left) == (messages, 1.0)


def test_a_parquet_file_counts_by_its_size(tmp_path):
    write_csv(tmp_path / "a.csv", orders(5_000))
    pyarrow.parquet.write_table(pyarrow.table({"user": [f"u{number}" for number in range(1_000)]}), tmp_path / "b.pq")
    sources = find([str(tmp_path / "a.csv"), str(tmp_path / "b.pq")])
    first, second = (source.size for source in sources)
    window = Window(Counts(records=5_000), Position(1))
    meter = Meter(sources, first + second, 6_000, window)
    opened = open_at(sources[1], Position(1))
    for _ in range(500):
        next(opened.records)
    assert meter.tick(opened).share == pytest.approx((first + second / 2) / (first + second), abs=1e-4)
    opened.close()


def test_a_meter_without_sizes(tmp_path):
    sources = find([str(write_csv(tmp_path / "a.csv", orders(100)))])
    shown = Meter(sources, None, None, Window(Counts(), Position())).tick(None)
    assert (shown.share, shown.seconds_left) == (None, None)


def test_a_terminal_gets_a_bar(folder):  # noqa: F811
    write_csv(folder / "orders.csv", orders(450))
    outer, inner = pty.openpty()
    with running_endpoint() as endpoint:
        command = [*COMMAND, "orders.csv", "--map", "map.toml", "--rate", "200"]
        given = environment(endpoint.url, TERM="xterm", COLUMNS="120")
        process = subprocess.Popen(command, cwd=folder, env=given, stderr=inner, stdout=subprocess.DEVNULL)
        os.close(inner)
        shown = b""
        try:
            while chunk := os.read(outer, 65_536):
                shown += chunk
        except OSError:
            pass  # the other end is closed: Linux says so with an error
        finally:
            os.close(outer)
        assert process.wait() == 0
    text = shown.decode()
    assert "About 450 records, at 200 a second: 2 s." in text
    assert "━" in text
    assert "delivered, 0 rejected or failed" in text
    assert "\x1b[" in text


def test_a_pipe_gets_no_bar_and_quiet_nothing(folder):  # noqa: F811
    write_csv(folder / "orders.csv", orders(5))
    with running_endpoint() as endpoint:
        command = [*COMMAND, "orders.csv", "--map", "map.toml"]
        given = environment(endpoint.url)
        plain = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True)
        quiet = subprocess.run(
            [*command, "--restart", "--quiet"], cwd=folder, env=given, capture_output=True, text=True
        )
    assert (plain.returncode, plain.stderr) == (0, "About 5 records, at 500 a second: 0 s.\n")
    assert "━" not in plain.stdout
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("source", "given", "said"),
    [
        ("orders.csv", {"limit": 20}, "About 20 records, at 10 a second: 2 s."),
        ("orders.csv", {"limit": 20, "rate": 0}, "About 20 records, without a limit of the rate."),
        ("orders.csv", {"limit": 500}, "About 450 records, at 10 a second: 45 s."),
        ("-", {"limit": 20}, "At most 20 records, at 10 a second: 2 s."),
        ("-", {}, "An unknown number of records, at 10 a second."),
        ("orders.csv", {"limit": 20, "mapping": TWO_MESSAGES}, "About 20 records, at 10 a second: 4 s."),
    ],
)
def test_the_announcement_knows_the_limit(tmp_path, monkeypatch, source, given, said):
    monkeypatch.chdir(tmp_path)
    path = write_csv(tmp_path / "orders.csv", orders(450))
    given = {"rate": 10, "stdin": lambda: io.BytesIO(path.read_bytes()), "transport": RecordingSegment()} | given
    chosen = options(source, **given)
    importer = Importer(chosen)
    try:
        importer.prepare()
        assert announcement(chosen, importer) == said
    finally:
        importer.close()


def test_the_share_of_a_limited_import_is_that_of_its_records(tmp_path):
    sources = find([str(write_csv(tmp_path / "a.csv", orders(2_000)))])
    meter = Meter(sources, None, 400, Window(Counts(records=100, messages=100), Position(0, 100)))
    assert meter.tick(None).share == 0.25
    chosen = options(tmp_path / "a.csv", limit=400, rate=200, transport=RecordingSegment())
    seen = []

    async def main():
        importer = Importer(chosen, on_progress=seen.append)
        importer.prepare()
        try:
            await importer.run()
        finally:
            importer.close()

    run(main())
    assert seen[0].share > 0.4
