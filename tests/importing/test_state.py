"""Resuming: the state, its lock, what it belongs to, and what a stopped import leaves."""

import asyncio
import gzip
import io
import os
import resource
from itertools import groupby
from pathlib import Path

import orjson
import pytest

from segment_async import HTTPTransport, Response, RetryPolicy, Status, TransportError
from segment_async._pipeline.retry import AttemptContext, Finish, History, decide
from segment_async.importing import Importer, ImportUsageError, dry_run, parse_mapping, run_import
from segment_async.importing._window import _WRONG_ADDRESS
from tests.support.virtual_clock import run

from .support import MAPPING, RecordingSegment, answer, imported, options, orders, rejects_of, write_csv


def stopped_after(segment, count, *sources, **given):
    """Run an import that is interrupted once so many messages have arrived."""

    async def main():
        importer = Importer(options(*sources, transport=segment, **given))

        def stop(batch):
            if len(segment.messages) + len(batch) >= count:
                importer.stop(130, "interrupted by a test")

        segment._answer = stop
        try:
            importer.prepare()
            return await importer.run()
        finally:
            importer.close()

    return asyncio.run(main())


def content_of(path, kind):
    if kind == "gzip":
        return gzip.compress(path.read_bytes()[:7_000]) + gzip.compress(path.read_bytes()[7_000:])
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["plain", "gzip", "stdin", "jsonl"])
def test_an_interrupted_import_resumes_where_it_stopped(tmp_path, kind):
    plain = write_csv(tmp_path / "plain.csv", orders(40_000))
    given = {"state": tmp_path / "state.import.json"}
    if kind == "jsonl":
        source = tmp_path / "orders.jsonl"
        rows = [dict(zip(("user", "at", "total"), row, strict=True)) for row in orders(40_000)]
        source.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    elif kind == "stdin":
        source = "-"
        given["stdin"] = lambda: io.BytesIO(plain.read_bytes())
    else:
        source = tmp_path / "orders.csv.gz"
        source.write_bytes(content_of(plain, kind))
    first, second = RecordingSegment(), RecordingSegment()
    report = stopped_after(first, 5_000, source, **given)
    assert (report.exit_code, report.counts.records + report.pending < 40_000) == (130, True)
    assert "run the same command again" in report.problem
    report, _ = imported(source, segment=second, **given)
    assert (report.exit_code, report.counts.delivered) == (0, 40_000)
    assert len({*first.ids, *second.ids}) == 40_000
    assert len(second.messages) < 40_000
    repeated = {*first.ids} & {*second.ids}
    assert len(repeated) <= 10_000


def test_a_finished_import_is_not_sent_again_but_restarted(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(10))
    _, first = imported(path)
    report, second = imported(path)
    assert (report.already_done, report.exit_code, report.counts.delivered) == (True, 0, 10)
    assert not second.batches
    _, third = imported(path, restart=True)
    assert third.ids == first.ids


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("content", r"source .*orders.csv \(.*hash"),
        ("size", r"source .*orders.csv \(size"),
        ("mtime", r"source .*orders.csv \(mtime\)"),
        ("mapping", "the mapping"),
        ("key", "the write key"),
        ("host", "the address"),
        ("strict", "the mapping"),
    ],
)
def test_what_changed_is_said(tmp_path, change, text):
    path = write_csv(tmp_path / "orders.csv", orders(10))
    imported(path)
    given = {}
    status = path.stat()
    if change == "content":
        path.write_bytes(path.read_bytes().replace(b"u3", b"x3"))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "size":
        write_csv(path, orders(11))
    elif change == "mtime":
        os.utime(path, ns=(0, 0))
    elif change == "mapping":
        given["mapping"] = parse_mapping(MAPPING.replace("Order Completed", "Order Paid"))
    elif change == "key":
        given["write_key"] = "OTHER"
    elif change == "host":
        given["host"] = "elsewhere"
    else:
        given["strict"] = True
    segment = RecordingSegment()
    with pytest.raises(ImportUsageError, match=f"belongs to another import: .*{text}"):
        imported(path, segment=segment, **given)
    assert not segment.batches


def test_a_changed_list_of_sources_is_said(tmp_path):
    state = tmp_path / "state.json"
    path = write_csv(tmp_path / "orders.csv", orders(10))
    imported(path, state=state)
    with pytest.raises(ImportUsageError, match="the list of sources changed"):
        imported(path, write_csv(tmp_path / "more.csv", orders(1)), state=state)


def test_two_imports_on_one_state(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(10))
    first = Importer(options(path, transport=RecordingSegment()))
    first.prepare()
    with pytest.raises(ImportUsageError, match="another process is working on this import"):
        imported(path)
    first.close()
    assert imported(path)[0].exit_code == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "orders.csv",
        "orders.csv.import.json",
        "orders.csv.rejects.jsonl",
    ]


def test_a_file_that_is_no_state_is_left_alone(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(10))
    other = tmp_path / "notes.json"
    other.write_text('{"version": 99}')
    with pytest.raises(ImportUsageError, match="not a state"):
        imported(path, state=other)
    assert other.read_text() == '{"version": 99}'


def test_rejects_beyond_the_saved_state_are_not_repeated(tmp_path):
    rows = [row if number % 10 else (*row[:2], "bad") for number, row in enumerate(orders(20_000))]
    path = write_csv(tmp_path / "orders.csv", rows)
    report = stopped_after(RecordingSegment(), 3_000, path)
    with open(report.rejects, "a") as file:
        file.write('{"half a line')
    report, _ = imported(path)
    assert report.counts.rejected == 2_000
    assert [reject["record"] for reject in rejects_of(report)] == list(range(1, 20_001, 10))


@pytest.mark.parametrize("end", [b"\n", b""], ids=["line end", "no line end"])
@pytest.mark.parametrize("kept", [0, 1])
def test_rejects_that_were_taken_away_leave_no_hole(tmp_path, kept, end):
    path = write_csv(tmp_path / "orders.csv", [(*row[:2], "bad") for row in orders(6)])
    report, _ = imported(path, limit=3)
    rejects = Path(report.rejects)
    rejects.write_bytes(b"".join(line + end for line in rejects.read_bytes().splitlines()[:kept]))
    report, _ = imported(path)
    assert [reject["record"] for reject in rejects_of(report)] == [1, 4, 5, 6][1 - kept :]
    assert report.counts.rejected == 6


@pytest.mark.parametrize("end", [b"\n", b""], ids=["line end", "no line end"])
def test_rejects_that_were_repaired_in_place_stay(tmp_path, end):
    path = write_csv(tmp_path / "orders.csv", [(*row[:2], "bad") for row in orders(6)])
    report, _ = imported(path, limit=3)
    rejects = Path(report.rejects)
    repaired = rejects.read_bytes().replace(b'"bad"', b'"20.50"').rstrip() + end
    rejects.write_bytes(repaired)
    report, _ = imported(path)
    assert [reject["record"] for reject in rejects_of(report)] == [1, 2, 3, 4, 5, 6]
    assert rejects.read_bytes().startswith(repaired)


def test_a_refused_key_stops_after_one_request_and_the_right_one_may_follow(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(1_000))
    wrong = RecordingSegment(lambda batch: answer(401))
    report, _ = imported(path, segment=wrong, write_key="WRONG")
    assert (report.exit_code, len(wrong.batches), report.counts.records) == (4, 1, 0)
    assert "SEGMENT_WRITE_KEY" in report.problem
    report, right = imported(path)
    assert (report.exit_code, len(right.messages)) == (0, 1_000)


@pytest.mark.parametrize("response", [answer(302, {"Location": "https://login.example/"}), answer(404)])
def test_a_wrong_address_stops_after_one_request(tmp_path, response):
    segment = RecordingSegment(lambda batch: response)
    report, _ = imported(write_csv(tmp_path / "orders.csv", orders(1_000)), segment=segment)
    assert (report.exit_code, len(segment.batches), report.counts.records) == (4, 1, 0)


@pytest.mark.parametrize("status", _WRONG_ADDRESS)
def test_what_stops_an_import_is_final_for_the_client(status):
    context = AttemptContext(now=0.0, wall_clock=0.0, random=0.0, messages=1)
    action, _ = decide(answer(status), History(sends=1), context, RetryPolicy())
    assert action == Finish(Status.FAILED, "refused")


def test_an_unreachable_segment_can_be_resumed(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(1_000))
    report, _ = imported(path, segment=RecordingSegment(lambda batch: answer(503)), give_up_after=0)
    assert (report.exit_code, report.counts.records) == (75, 0)
    assert report.problem.endswith("too long: run the same command again to resume. Last error: status 503")
    assert imported(path)[0].counts.delivered == 1_000


def test_while_nothing_is_delivered_the_progress_and_the_report_say_why(tmp_path, caplog):
    class Unreachable(HTTPTransport):
        async def send(self, body, headers):
            raise TransportError("no connection (refused)", maybe_sent=False)

    seen = []
    path = write_csv(tmp_path / "orders.csv", orders(500))
    given = options(path, give_up_after=60, transport=Unreachable("https://api.segment.io/v1/batch"))
    report = run(run_import(given, on_progress=lambda progress: seen.append(progress.trouble)))
    why = "api.segment.io: no connection (refused)"
    assert seen[-1] == why
    assert report.problem == f"no usable answer for too long: run the same command again to resume. Last error: {why}"
    assert "Deliveries to api.segment.io " in caplog.text


def test_the_error_of_a_message_that_is_given_up_is_not_the_answer_to_others(tmp_path):
    segment = RecordingSegment(lambda batch: answer(500) if any(each["userId"] == "u200" for each in batch) else None)
    path = write_csv(tmp_path / "orders.csv", orders(400))
    report = run(run_import(options(path, rate=50, transport=segment, give_up_after=6)))
    assert report.counts.delivered
    assert report.problem.endswith("Last error: status 500")


def test_an_answer_that_is_not_segments_is_explained(tmp_path):
    seen = []
    page = Response(200, {"Content-Type": "text/html"}, b"<html>Log in</html>")
    path = write_csv(tmp_path / "orders.csv", orders(500))
    given = options(path, transport=RecordingSegment(lambda batch: page))
    report = run(run_import(given, on_progress=lambda progress: seen.append(progress.trouble)))
    why = "status 200 without Segment's confirmation, perhaps from a proxy or a login page"
    assert seen[-1] == why
    assert report.problem.endswith(f"Last error: {why}")


def test_once_it_is_over_the_progress_says_nothing_of_it(tmp_path):
    seen = []
    segment = RecordingSegment(lambda batch: answer(503) if len(segment.batches) < 9 else None)
    path = write_csv(tmp_path / "orders.csv", orders(2_000))
    report = run(
        run_import(
            options(path, rate=100, transport=segment), on_progress=lambda progress: seen.append(progress.trouble)
        )
    )
    assert report.counts.delivered == 2_000
    assert [trouble for trouble, _ in groupby(seen)] == ["status 503", None]


def test_a_wrong_clock_stops_the_import(tmp_path):
    class Elsewhen(RecordingSegment):
        async def send(self, body, headers):
            await super().send(body, headers)
            return Response(200, {"Date": "Mon, 01 Jan 2024 10:00:00 GMT"}, b'{"success":true}')

    segment = Elsewhen()
    report, _ = imported(write_csv(tmp_path / "orders.csv", orders(1_000)), segment=segment)
    assert (report.exit_code, len(segment.batches), report.counts.records) == (75, 1, 0)
    assert "clock" in report.problem


@pytest.mark.parametrize(("limit", "code"), [("10", 3), ("2%", 3), ("100", 1), ("90%", 1)])
def test_too_many_rejects_stop_the_import(tmp_path, limit, code):
    rows = [row if number % 20 else (*row[:2], "bad") for number, row in enumerate(orders(1_200))]
    report, _ = imported(write_csv(tmp_path / "orders.csv", rows), max_rejects=limit)
    assert report.exit_code == code
    if limit == "10":
        assert report.counts.rejected == 10


def refusing(*users):
    """A server that refuses batches with messages of these users."""
    return lambda batch: answer(400) if any(message["userId"] in users for message in batch) else None


@pytest.mark.parametrize("rate", [0, 5_000])
def test_a_stop_for_rejects_sends_nothing_after_the_last_one(tmp_path, rate):
    rows = [row if number % 20 else (*row[:2], "bad") for number, row in enumerate(orders(1_200))]
    path = write_csv(tmp_path / "orders.csv", rows)
    report, first = imported(path, max_rejects="10", rate=rate)
    assert (report.exit_code, report.pending) == (3, 0)
    assert (report.counts.rejected, report.counts.records) == (10, 181)
    assert len(first.messages) == report.counts.messages == 171
    again, second = imported(path)
    assert (again.counts.delivered, again.counts.rejected) == (1_140, 60)
    assert not {*first.ids} & {*second.ids}


def test_a_stop_for_failures_counts_what_was_sent(tmp_path):
    rows = [row if number % 100 else (*row[:2], "bad") for number, row in enumerate(orders(1_200))]
    path = write_csv(tmp_path / "orders.csv", rows)
    refused = refusing("u7", "u8", "u950")
    report, first = imported(path, segment=RecordingSegment(refused), max_rejects="3")
    assert (report.exit_code, report.pending) == (3, 0)
    assert len(first.messages) == report.counts.messages
    again, second = imported(path, segment=RecordingSegment(refused))
    assert (again.counts.delivered, again.counts.failed, again.counts.rejected) == (1_185, 3, 12)
    assert not {*first.ids} & {*second.ids}
    assert len(rejects_of(again)) == 15


@pytest.mark.parametrize("limit", ["1", "3", "0.1%"])
def test_a_stop_says_the_counts_of_the_report(tmp_path, limit):
    """The records under way at the stop are counted after it."""
    rows = [row if number % 100 else (*row[:2], "bad") for number, row in enumerate(orders(1_200), 1)]
    refused = RecordingSegment(refusing("u20", "u30", "u40", "u50"))
    report, _ = imported(write_csv(tmp_path / "orders.csv", rows), segment=refused, max_rejects=limit)
    counts = report.counts
    number = counts.rejected + counts.failed
    assert (report.exit_code, number > 1) == (3, True)
    assert report.problem == (
        f"{number} of {counts.records:,} records were rejected or failed, and --max-rejects is {limit}"
    )


def test_a_stop_at_the_first_record_is_said_of_one(tmp_path):
    rows = [("u", "soon", "1"), *orders(3)]
    report, _ = imported(write_csv(tmp_path / "orders.csv", rows), max_rejects="1")
    assert report.problem == "1 of 1 record was rejected or failed, and --max-rejects is 1"


def test_a_stop_for_rejects_gives_requests_under_way_as_long_as_a_signal(tmp_path):
    rows = [*orders(40), ("u", "soon", "1"), *orders(10, first=100)]
    path = write_csv(tmp_path / "orders.csv", rows)

    class Slow(RecordingSegment):
        async def send(self, body, headers):
            await asyncio.sleep(0.3 if self.batches else 0)
            return await super().send(body, headers)

    report, first = imported(path, segment=Slow(), max_rejects="1")
    assert (report.exit_code, report.pending, report.counts.delivered) == (3, 0, 40)
    assert len(first.messages) == 40


def test_a_share_of_a_short_file_counts_at_its_end(tmp_path):
    rows = [*orders(50), ("u", "soon", "1"), ("u", "soon", "2")]
    path = write_csv(tmp_path / "orders.csv", rows)
    assert imported(path, max_rejects="2%")[0].exit_code == 3
    assert imported(path, max_rejects="2%", limit=51, restart=True)[0].exit_code == 1
    assert imported(path, max_rejects="2%", limit=52)[0].exit_code == 3


def test_a_full_disk_for_rejects_stops_and_skips_nothing(tmp_path):
    rows = [*orders(10), *[("u", "soon", "x" * 100)] * 2_000, *orders(10, first=100)]
    path = write_csv(tmp_path / "orders.csv", rows)
    first = RecordingSegment()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As a full disk, it takes the first part of what is written.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        report, _ = imported(path, segment=first)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert report.exit_code == 75
    assert "file too large" in report.problem.lower()
    saved = orjson.loads((tmp_path / "orders.csv.import.json").read_bytes())
    assert saved["counts"]["rejected"] == 0
    assert saved["position"]["record"] <= 10
    report, second = imported(path)
    assert (report.counts.records, report.counts.rejected) == (2_020, 2_000)
    assert len({*first.ids, *second.ids}) == 20


def test_a_full_disk_for_the_state_stops_and_skips_nothing(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(2_000))
    state = tmp_path / "orders.csv.import.json"
    new = tmp_path / "orders.csv.import.json.new"

    def fill_the_disk(batch):
        if len(first.messages) > 500 and not new.is_symlink():
            new.symlink_to("/dev/full")

    first = RecordingSegment(fill_the_disk)
    report = run(run_import(options(path, rate=200, transport=first)))
    assert (report.exit_code, "space" in report.problem.lower()) == (75, True)
    saved = orjson.loads(state.read_bytes())
    assert 0 < saved["counts"]["records"] <= 600
    new.unlink()
    report, second = imported(path)
    assert (report.exit_code, report.counts.delivered) == (0, 2_000)
    assert {*first.ids} | {*second.ids} == {*imported(path, restart=True)[1].ids}
    assert len(second.ids) == 2_000 - saved["counts"]["records"]


def test_a_folder_that_is_no_utf8_may_be_in_the_problem(tmp_path):
    folder = tmp_path / "state\udcff"
    folder.mkdir()
    segment = RecordingSegment(lambda batch: folder.is_dir() and folder.rename(tmp_path / "other"))
    report, _ = imported(write_csv(tmp_path / "orders.csv", orders(3)), segment=segment, state=folder / "state.json")
    assert report.exit_code == 75
    assert "state\ufffd/state.json" in orjson.loads(orjson.dumps(report.as_dict()))["problem"]


def test_a_state_that_cannot_be_written_stops_before_anything_is_sent(tmp_path):
    segment = RecordingSegment()
    with pytest.raises(ImportUsageError, match="state file"):
        imported(write_csv(tmp_path / "orders.csv", orders(1)), segment=segment, state=tmp_path / "no" / "state.json")
    assert not segment.batches


@pytest.mark.parametrize("named", ["folder", "glob"])
def test_what_an_import_writes_among_its_sources_is_none_of_them(tmp_path, named):
    """Also the lock that a killed import leaves."""
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / name, orders(3))
    source = tmp_path if named == "folder" else tmp_path / "*"
    given = {"state": tmp_path / "state.json", "rejects": tmp_path / "rejects.json"}
    assert imported(source, limit=2, **given)[0].counts.records == 2
    assert given["rejects"].exists()
    (tmp_path / "state.json.lock").touch()
    assert dry_run(options(source, **given)).counts.records == 6
    assert imported(source, **given)[0].counts.records == 6


@pytest.mark.parametrize("option", ["state", "rejects"])
def test_a_source_in_a_folder_is_not_written_to(tmp_path, option):
    paths = [write_csv(tmp_path / name, orders(3)) for name in ("a.csv", "b.csv")]
    given = {"state": tmp_path / "state.json"} | {option: paths[1]}
    with pytest.raises(ImportUsageError, match=f"{option} file .*b.csv: is also the source .*b.csv"):
        imported(tmp_path, **given)
    assert paths[1].read_bytes() == paths[0].read_bytes()


def test_a_limit_counts_over_runs(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(50))
    _, first = imported(path, limit=20)
    report, second = imported(path, limit=30)
    assert (len(first.messages), len(second.messages), report.counts.records) == (20, 10, 30)
    _, third = imported(path)
    assert len({*first.ids, *second.ids, *third.ids}) == 50


def test_cancelling_it_saves_the_state(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(30_000))
    segment = RecordingSegment()

    async def main():
        task = asyncio.create_task(run_import(options(path, transport=segment)))
        reached = asyncio.Event()
        segment._answer = lambda batch: reached.set() if len(segment.messages) > 5_000 else None
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    saved = orjson.loads((tmp_path / "orders.csv.import.json").read_bytes())
    assert 0 < saved["counts"]["records"] < 30_000
    report, rest = imported(path)
    assert report.counts.delivered == 30_000
    assert len({*segment.ids, *rest.ids}) == 30_000


@pytest.mark.parametrize("fault", [asyncio.CancelledError, type("Exit", (BaseException,), {})])
def test_an_import_that_its_progress_ends_does_not_seem_to_be_complete(tmp_path, monkeypatch, fault):
    monkeypatch.setattr("segment_async.importing._run._TICK", 0)
    path = write_csv(tmp_path / "orders.csv", orders(1_000))
    segment = RecordingSegment()

    def ended(progress):
        raise fault

    with pytest.raises(fault):
        asyncio.run(run_import(options(path, transport=segment), on_progress=ended))
    report, rest = imported(path)
    assert report.counts.delivered == 1_000
    assert len({*segment.ids, *rest.ids}) == 1_000


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("state", kind) for kind in ("device", "link", "pipe", "folder", "source", "hard link to a source")),
        *(("rejects", kind) for kind in ("folder", "source", "hard link to a source")),
    ],
)
def test_a_path_that_must_not_be_written_to_is_refused(tmp_path, name, kind):
    source = write_csv(tmp_path / "orders.csv", orders(3))
    content = source.read_bytes()
    path = tmp_path / "path"
    if kind == "device":
        path = Path("/dev/full")
    elif kind == "link":
        path.symlink_to("/dev/null")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "source":
        path.symlink_to(source)
    else:
        path.hardlink_to(source)
    segment = RecordingSegment()
    before = path.lstat()
    with pytest.raises(ImportUsageError, match=rf"{name} file .*choose another.* with --{name}"):
        imported(source, segment=segment, restart=True, **{name: path})
    after = path.lstat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert not path.with_name(path.name + ".lock").exists()
    assert source.read_bytes() == content
    assert not segment.batches


def test_the_state_is_no_place_for_rejects(tmp_path):
    path = write_csv(tmp_path / "orders.csv", orders(3))
    with pytest.raises(ImportUsageError, match=r"rejects file .*state file"):
        imported(path, state=tmp_path / "state", rejects=tmp_path / "state")


@pytest.mark.parametrize("kind", ["device", "link", "loop"])
def test_rejects_may_go_to_a_device(tmp_path, kind):
    source = write_csv(tmp_path / "orders.csv", orders(3))
    path = Path("/dev/null") if kind == "device" else tmp_path / "path"
    if kind != "device":
        path.symlink_to("/dev/null" if kind == "link" else path)
    if kind == "loop":
        with pytest.raises(ImportUsageError, match="symbolic links"):
            imported(source, rejects=path)
        return
    report, _ = imported(source, rejects=path)
    assert report.counts.delivered == 3
