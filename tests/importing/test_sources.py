"""Sources: files, directories, globs, standard input, fsspec; formats by name and first bytes; ids of each mode."""

import errno
import gzip
import io
import os
import tracemalloc
import zlib
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest

from segment_async.importing import ImportOptions, ImportUsageError, dry_run, parse_mapping
from segment_async.importing._reading import sample_size
from segment_async.importing._sources import find

from .support import MAPPING, RecordingSegment, imported, orders, write_csv

MESSAGE = '{"type":"track","userId":"u1","event":"A","messageId":"m1","sentAt":"2024-01-01T00:00:00Z","timestamp":"2024-01-01"}'


def names(*arguments):
    return [(source.name.rpartition("/")[2], source.format) for source in find(map(str, arguments))]


def test_a_source_may_be_any_path(tmp_path):
    write_csv(tmp_path / "a.csv", orders(1))
    given = {"write_key": "KEY", "mapping": parse_mapping(MAPPING)}
    with os.scandir(tmp_path) as entries:
        assert dry_run(ImportOptions(sources=[*entries], **given)).counts.records == 1


def test_files_directories_and_globs_in_name_order(tmp_path):
    for name in ("b.csv", "a.jsonl", "c.txt", ".hidden.csv", "b.csv.import.json", "b.rejects.jsonl", "sub/d.ndjson"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}\n" if "json" in name else "a,b\n")
    everything = [("a.jsonl", "jsonl"), ("b.csv", "csv"), ("c.txt", "csv"), ("d.ndjson", "jsonl")]
    assert names(tmp_path) == everything
    assert names(tmp_path / "*.csv", tmp_path / "a.jsonl", tmp_path / "b.csv") == [everything[0], everything[1]]
    with pytest.raises(ImportUsageError, match="no file matches"):
        names(tmp_path / "*.parquet")
    with pytest.raises(ImportUsageError, match="no such file"):
        names(tmp_path / "none.csv")
    with pytest.raises(ImportUsageError, match="no files"):
        (tmp_path / "empty").mkdir()
        names(tmp_path / "empty")


def test_an_empty_name_is_not_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(ImportUsageError, match=r"a source is empty; for the current directory, give \."):
        find([""])
    assert names(".") == [("a.csv", "csv")]


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("pattern", ["", "*/*.csv", "**/*.csv", "**/", "**", "*/in/b.csv", "*/in/*.csv"])
def test_a_folder_that_cannot_be_read_is_said(tmp_path, monkeypatch, pattern, scheme):
    for name in ("a.csv", "in/a/in/b.csv", "in/locked/in/b.csv", ".locked/c.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("a,b\n")
    locked = tmp_path / "in" / "locked"
    scandir, stat = os.scandir, os.stat

    def refuse(path):
        if "locked/" in f"{os.fspath(path)}/":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def scandir_unless_locked(path):
        refuse(path)
        return scandir(path)

    def stat_unless_locked(path, **given):
        # A folder without permissions can itself be looked at.
        refuse(os.path.dirname(path) if isinstance(path, str) else "")
        return stat(path, **given)

    monkeypatch.setattr(os, "scandir", scandir_unless_locked)
    monkeypatch.setattr(os, "stat", stat_unless_locked)
    with pytest.raises(ImportUsageError, match=f"^source {locked}: cannot be read: Permission denied$"):
        names(f"{scheme}{tmp_path / 'in'}/{pattern}")
    assert names(f"{scheme}{tmp_path}/*.csv") == [("a.csv", "csv")]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_that_cannot_be_listed_is_said_where_it_must_be(tmp_path, monkeypatch, scheme):
    """The name of its file is known; but fsspec lists it."""
    path = tmp_path / "in" / "a.csv"
    path.parent.mkdir()
    path.write_text("a,b\n")
    scandir = os.scandir

    def scandir_unless_locked(path):
        if os.path.basename(os.path.normpath(path)) == "in":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_unless_locked)
    pattern = f"{scheme}{tmp_path}/*/a.csv"
    if not scheme:
        assert names(pattern) == [("a.csv", "csv")]
        return
    with pytest.raises(ImportUsageError, match=f"^source {path.parent}: cannot be read: Permission denied$"):
        names(pattern)


@pytest.mark.parametrize("argument", ["", "inner", "*.csv", "*/*.csv"])
def test_a_link_to_nothing_is_said(tmp_path, argument):
    link = tmp_path / "b.csv" if argument == "*.csv" else tmp_path / "inner/b.csv"
    link.parent.mkdir(exist_ok=True)
    for folder in (tmp_path, link.parent):
        (folder / "a.csv").write_text("a,b\n")
    link.symlink_to("nowhere.csv")
    with pytest.raises(ImportUsageError, match=f"^source {link}: is a link to a file that does not exist$"):
        names(tmp_path / argument)


def test_a_path_that_cannot_be_looked_at_is_said(tmp_path):
    name = str(tmp_path / ("a" * 300))
    with pytest.raises(ImportUsageError, match=f"^source {name}: cannot be read: File name too long$"):
        names(name)


@pytest.mark.parametrize("kind", ["named pipe", "pipe of the shell", "device"])
def test_a_source_that_cannot_be_read_twice_is_refused(tmp_path, kind):
    """Its first bytes say what it is, and would be missing when it is imported."""
    reading, writing = os.pipe()
    path = Path("/dev/null") if kind == "device" else Path(f"/dev/fd/{reading}")
    if kind == "named pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
    try:
        with pytest.raises(
            ImportUsageError, match=rf"source {path}: is not a file .*: cat {path} \| segment-async import -$"
        ):
            find([str(path)])
    finally:
        os.close(reading)
        os.close(writing)


def test_thousands_of_files_take_no_memory(tmp_path):
    (tmp_path / "0.csv").write_bytes(b"a,b\n" + b"1,%s\n" % (b"x" * 997) * 100)
    for number in range(1, 300):
        (tmp_path / f"{number}.csv").hardlink_to(tmp_path / "0.csv")
    tracemalloc.start()
    try:
        sources = find([str(tmp_path)])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(sources) == 300
    assert taken < 3_000_000
    assert sample_size(sources)[1] == pytest.approx(300 * 100, rel=0.01)


def test_a_header_of_several_lines_may_be_longer_than_the_sample(tmp_path):
    path = tmp_path / "orders.csv"
    header = f'user,at,total,"a\nlong {"name" * 20_000}"'
    write_csv(path, [(*order, "") for order in orders(3)], header)
    assert sample_size(find([str(path)])) == (path.stat().st_size, None)
    assert imported(path)[0].counts.delivered == 3


def test_formats_are_known_by_first_bytes(tmp_path):
    (tmp_path / "one").write_bytes(gzip.compress(b'{"type":"track"}\n'))
    (tmp_path / "two").write_text("a;b\n1;2\n")
    assert names(tmp_path) == [("one", "jsonl"), ("two", "csv")]


def test_gzip_with_several_members(tmp_path):
    plain = write_csv(tmp_path / "plain.csv", orders(1_000)).read_bytes()
    path = tmp_path / "orders.csv.gz"
    path.write_bytes(b"".join(gzip.compress(plain[start : start + 999]) for start in range(0, len(plain), 999)))
    assert imported(path)[0].counts.delivered == 1_000


def test_delimiters(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("user\tat\ttotal\nu1\t2024-01-01\t1\n")
    assert imported(path)[0].counts.delivered == 1


def test_quoted_newlines_and_crlf(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"user,at,total,note\r\n" + b'u1,2024-01-01,1,"a\r\nb, ""c"""\r\nu2,2024-01-01,2,\r\n' * 1)
    _, segment = imported(path)
    assert [message["userId"] for message in segment.messages] == ["u1", "u2"]


def test_addresses_of_fsspec(tmp_path):
    system = fsspec.filesystem("memory")
    system.pipe("/import/a.csv", b"user,at,total\nu1,2024-01-01,1\n")
    system.pipe("/import/b.csv", b"user,at,total\nu2,2024-01-01,1\n")
    report, segment = imported("memory://import/*.csv", state=tmp_path / "state.json")
    assert report.exit_code == 0
    assert [message["userId"] for message in segment.messages] == ["u1", "u2"]
    with pytest.raises(ImportUsageError, match="cannot be"):
        imported("memory://import/none.csv", state=tmp_path / "other.json")


class Bucket(fsspec.AbstractFileSystem):
    """Its files are of the class of fsspec that those of S3, GCS and HTTP are of."""

    cachable = False
    contents = b""

    def info(self, path, **options):
        return {"name": path, "size": len(self.contents), "type": "file"}

    def _open(self, path, mode="rb", **options):
        return Blocks(self, path, mode, size=len(self.contents))


class Blocks(fsspec.spec.AbstractBufferedFile):
    def _fetch_range(self, start, end):
        return self.fs.contents[start:end]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.csv.gz", "a.parquet"])
def test_files_of_fsspec_that_are_read_in_blocks(tmp_path, monkeypatch, name):
    stored = {
        "a.csv": b"user,at,total\nu1,2024-01-01,1\nu2,2024-01-01,2\n",
        "a.jsonl": b'{"user":"u1","at":"2024-01-01"}\n{"user":"u2","at":"2024-01-01","total":2}\n',
    }
    stored["a.csv.gz"] = gzip.compress(stored["a.csv"])
    columns = {"user": ["u1", "u2"], "at": ["2024-01-01"] * 2, "total": [1.0, 2.0]}
    pyarrow.parquet.write_table(pa.table(columns), buffer := io.BytesIO())
    stored["a.parquet"] = buffer.getvalue()
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    monkeypatch.setattr(Bucket, "contents", stored[name])
    report, segment = imported(f"bucket://{name}", state=tmp_path / "state.json", rejects=tmp_path / "rejects.jsonl")
    assert [message["userId"] for message in segment.messages] == ["u1", "u2"]
    assert report.exit_code == 0


class NoCredentials(Exception):
    """As the packages of S3 and HTTP have their own."""


class Lost(Blocks):
    def _fetch_range(self, start, end):
        if start:
            raise NoCredentials("the connection was lost")
        return super()._fetch_range(start, end)


class LostPlain(io.BytesIO):
    """As a file within a damaged zip file is."""

    def read(self, size=-1):
        if self.tell() > 70_000:
            raise NoCredentials("the connection was lost")
        return super().read(size)

    def readline(self, size=-1):
        self.read(0)
        return super().readline(size)


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_an_import_can_be_resumed_after_any_error_of_a_file_system(tmp_path, monkeypatch, name, is_plain):
    rows = write_csv(
        tmp_path / "rows.csv", [(f"u{number}", "2024-01-01", os.urandom(20).hex()) for number in range(20_000)]
    )
    stored = rows.read_bytes().replace(b"total", b"text")
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    monkeypatch.setattr(Bucket, "contents", gzip.compress(stored) if name.endswith("gz") else stored)
    given = {"state": tmp_path / "state.json", "rejects": tmp_path / "rejects.jsonl", "segment": RecordingSegment()}
    given["mapping"] = parse_mapping(MAPPING.replace("total", "text").replace(', as = "number"', ""))

    def opened(self, path, mode="rb", **options):
        if is_plain:
            return LostPlain(self.contents)
        return Lost(self, path, mode, block_size=70_000, cache_type="readahead", size=len(self.contents))

    with monkeypatch.context() as lost:
        lost.setattr(Bucket, "_open", opened)
        report, _ = imported(f"bucket://{name}", **given)
    assert report.exit_code == 75
    assert "the connection was lost; run the same command again to resume" in report.problem
    report, segment = imported(f"bucket://{name}", **given)
    assert report.exit_code == 0
    assert {message["userId"] for message in segment.messages} == {f"u{number}" for number in range(20_000)}


def test_a_file_system_that_cannot_be_used_is_named(monkeypatch):
    def refused(self, path, **options):
        raise NoCredentials("unable to locate credentials")

    fsspec.register_implementation("bucket", Bucket, clobber=True)
    monkeypatch.setattr(Bucket, "isdir", refused)
    with pytest.raises(ImportUsageError, match="cannot be opened: unable to locate credentials"):
        find(["bucket://a.csv"])


@pytest.mark.parametrize("address", ["memory://beside", "memory://beside/*"])
def test_folders_of_fsspec_are_read_as_those_of_this_machine(address):
    system = fsspec.filesystem("memory")
    for name in ("a.csv", "a.csv.import.json", "a.csv.rejects.jsonl", ".hidden/b.csv", "inner/c.csv"):
        system.pipe(f"/beside/{name}", b"user,at,total\n")
    inner = [] if address.endswith("*") else ["memory:///beside/inner/c.csv"]
    assert [source.name for source in find([address])] == ["memory:///beside/a.csv", *inner]


def test_the_root_of_an_address_is_a_folder():
    fsspec.filesystem("memory").pipe({"/root/.hidden.csv": b"", "/root/a.csv": b"user,at,total\n"})
    assert "memory:///root/a.csv" in (found := [source.name for source in find(["memory://"])])
    assert "memory:///root/.hidden.csv" not in found


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_glob_may_ask_for_repaired_rejects(tmp_path, scheme):
    for name in ("a.csv.rejects.jsonl", "a.csv.import.json", "b.jsonl"):
        (tmp_path / name).write_text('{"source":"a","record":1,"rule":"time","row":{}}\n')
    (source,) = find([f"{scheme}{tmp_path}/*.rejects.jsonl"])
    assert (source.name, source.format) == (f"{scheme}{tmp_path}/a.csv.rejects.jsonl", "rejects")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_an_import_of_a_glob_of_rejects_resumes(tmp_path, monkeypatch, scheme, count):
    monkeypatch.chdir(tmp_path)
    for number in range(count):
        (tmp_path / f"{number}.rejects.jsonl").write_text('{"source":"a","record":1,"rule":"time","row":{}}\n')
    pattern = f"{scheme}{tmp_path}/*.rejects.jsonl"
    first, again = (imported(pattern, mapping=None, destinations="all")[0] for _ in range(2))
    assert (first.counts.rejected, first.already_done) == (count, False)
    assert (again.counts.rejected, again.already_done, again.rejects) == (count, True, first.rejects)


def test_an_import_resumes_although_its_state_is_in_the_folder_of_its_address(tmp_path):
    write_csv(tmp_path / "a.csv", orders(2))
    for _ in range(2):
        report, _ = imported(f"file://{tmp_path}", state=tmp_path / "state", rejects=tmp_path / "rejects")
        assert (report.exit_code, report.counts.records) == (0, 2)


def test_standard_input(tmp_path):
    report, segment = imported(
        "-", stdin=lambda: io.BytesIO(b"user,at,total\nu1,2024-01-01,1\n"), state=tmp_path / "state.json"
    )
    assert (report.counts.delivered, len(segment.messages)) == (1, 1)
    with pytest.raises(ImportUsageError, match="cannot be combined"):
        find(["-", str(write_csv(tmp_path / "a.csv", []))], stdin=io.BytesIO)


def test_ready_made_messages_lose_what_archives_add(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(MESSAGE)
    _, segment = imported(path, mapping=None, destinations="all")
    (message,) = segment.messages
    assert "sentAt" not in message
    assert message["messageId"] != "m1"
    assert message["timestamp"] == "2024-01-01T00:00:00.000Z"
    _, segment = imported(path, mapping=None, destinations="all", ids="keep", restart=True)
    assert segment.ids == ["m1"]


def test_dotted_columns_without_a_mapping(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("type,userId,traits.address.city,integrations.Mixpanel\nidentify,1,Bonn,false\n")
    _, segment = imported(path, mapping=None, destinations="all", restart=True)
    assert segment.messages[0]["traits"] == {"address": {"city": "Bonn"}}
    bad = write_csv(tmp_path / "b.csv", orders(1))
    with pytest.raises(ImportUsageError, match="no column 'type'"):
        imported(bad, mapping=None, destinations="all")


def test_ids_of_each_mode(tmp_path):
    path = write_csv(tmp_path / "a.csv", [*orders(2), *orders(1)])
    found = {}
    for ids, columns in (("content", ()), ("row", ()), ("columns", ("user",))):
        for key in ("ONE", "TWO"):
            _, segment = imported(path, ids=ids, id_columns=columns, write_key=key, restart=True)
            found[ids, key] = segment.ids
    assert [len(found[ids, "ONE"]) for ids in ("content", "row", "columns")] == [2, 3, 2]
    for ids in ("content", "row", "columns"):
        assert not {*found[ids, "ONE"]} & {*found[ids, "TWO"]}
    turned = write_csv(tmp_path / "turned.csv", [*reversed(orders(2))])
    assert {*imported(turned, write_key="ONE")[1].ids} == {*found["content", "ONE"]}


def test_the_records_of_a_source_are_estimated_by_its_beginning(tmp_path):
    def estimated(*paths):
        return sample_size(find(map(str, paths)))[1]

    plain = write_csv(tmp_path / "plain.csv", orders(20_000))
    assert estimated(plain) == pytest.approx(20_000, rel=0.1)
    quoted = tmp_path / "quoted.csv"
    note = '"' + 'a line, with ""quotes""\r\n' * 50 + '"'
    quoted.write_text("user,note\r\n" + "".join(f"u{number},{note}\r\n" for number in range(500)), newline="")
    assert estimated(quoted) == pytest.approx(500, rel=0.1)
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"a":1}\n' * 1_000)
    assert estimated(lines) == 1_000
    assert estimated(plain, quoted, lines) == pytest.approx(21_500, rel=0.1)
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert estimated(packed) is None
    one = tmp_path / "one.csv"
    one.write_text("user,note\n" + 'u,"' + "x\n" * 50_000 + '"\n')
    assert estimated(one) <= 2
    for path, expected in (("empty.jsonl", None), ("header.csv", 0)):
        (tmp_path / path).write_text("user\n" if expected == 0 else "")
        assert estimated(tmp_path / path) == expected


LONG, PRICE = 12345678901234567890123, "30.5"


class Raw(RecordingSegment):
    def __init__(self):
        super().__init__()
        self.bodies = b""

    async def send(self, body, headers):
        self.bodies += zlib.decompress(body, 31)
        return await super().send(body, headers)


@pytest.mark.parametrize("kind", ["ready", "mapped", "json"])
def test_long_numbers_of_json_keep_their_digits(tmp_path, kind):
    numbers = f'{{"long":{LONG},"price":{PRICE}}}'
    given = {"mapping": None, "destinations": "none"}
    path = tmp_path / "a.jsonl"
    if kind == "ready":
        path.write_text(f'{{"type":"track","userId":{LONG},"event":"A","properties":{numbers}}}\n')
    elif kind == "mapped":
        path.write_text(f'{{"u":{LONG},"o":{numbers}}}\n')
        properties = 'long={column="o.long", as="integer"}\nprice={column="o.price", as="number"}'
        mapping = f'type="track"\nevent="A"\nuserId={{column="u"}}\n[properties]\n{properties}'
        given["mapping"] = parse_mapping(mapping)
    else:
        path = tmp_path / "a.csv"
        path.write_text(f"u,o\n{LONG},'{numbers}'\n".replace('"', '""').replace("'", '"'))
        mapping = 'type="track"\nevent="A"\nuserId={column="u"}\nproperties={o={column="o",as="json"}}'
        given["mapping"] = parse_mapping(mapping)
    report, segment = imported(path, segment=Raw(), **given)
    assert report.counts.delivered == 1
    assert segment.messages[0]["userId"] == str(LONG)
    assert f'"long":{LONG},"price":{PRICE}'.encode() in segment.bodies


def test_the_row_of_a_reject_keeps_all_digits(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"type":"track","event":"A","n":{LONG},"price":{PRICE}}}\n')
    report, _ = imported(path, mapping=None, destinations="none")
    line = Path(report.rejects).read_text()
    assert f'"n":{LONG},"price":{PRICE}' in line
    repaired = tmp_path / "repaired.jsonl"
    repaired.write_text(line.replace(f'"n":{LONG}', f'"userId":{LONG}'))
    _, segment = imported(repaired, mapping=None, destinations="none")
    assert segment.messages[0]["userId"] == str(LONG)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_header_of_standard_input_that_is_longer_than_the_sample(tmp_path, monkeypatch, compress):
    monkeypatch.chdir(tmp_path)
    columns = ["user", "at", "total", *(os.urandom(8).hex() for _ in range(8_000))]
    rows = [f"u{number},2024-05-01T10:00:00Z,1{',' * 8_000}" for number in range(3)]
    content = compress("\n".join([",".join(columns), *rows]).encode())
    report, segment = imported("-", stdin=lambda: io.BytesIO(content))
    assert (report.exit_code, len(segment.messages)) == (0, 3)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_header_of_standard_input_that_is_longer_than_a_line_may_be(compress):
    content = compress(b",".join(b"column_%d" % number for number in range(100_000)) + b"\n")
    with pytest.raises(ImportUsageError, match="line 1: the header cannot be read: the line has more than 1,048,576"):
        imported("-", stdin=lambda: io.BytesIO(content))


def in_members(content, size=60_000):
    return b"".join(gzip.compress(content[start : start + size]) for start in range(0, len(content), size))


@pytest.mark.parametrize("compress", [bytes, in_members])
def test_a_header_of_standard_input_whose_first_line_is_short(tmp_path, monkeypatch, compress):
    monkeypatch.chdir(tmp_path)
    header = ",".join(['"with a\nline end"', "user", "at", "total", *(f"column_{number}" for number in range(8_000))])
    rows = [f",u{number},2024-05-01T10:00:00Z,1{',' * 8_000}" for number in range(3)]
    content = compress("\n".join([header, *rows]).encode())
    report, segment = imported("-", stdin=lambda: io.BytesIO(content))
    assert (report.exit_code, len(segment.messages)) == (0, 3)


@pytest.mark.parametrize("first", [b"", b"us"])
def test_standard_input_whose_first_member_of_gzip_has_no_whole_header(tmp_path, monkeypatch, first):
    monkeypatch.chdir(tmp_path)
    whole = b"user,at,total\nu1,2024-05-01T10:00:00Z,1\n"
    content = gzip.compress(first) + gzip.compress(whole.removeprefix(first))
    report, segment = imported("-", stdin=lambda: io.BytesIO(content))
    assert (report.exit_code, len(segment.messages)) == (0, 1)


def test_the_format_of_a_file_whose_first_member_of_gzip_is_empty(tmp_path):
    path = tmp_path / "messages.gz"
    path.write_bytes(gzip.compress(b"") + gzip.compress(b'{"type":"track"}\n'))
    assert [source.format for source in find([str(path)])] == ["jsonl"]


def test_no_more_of_standard_input_is_read_at_the_start_than_needed():
    """Its next line may be a long time coming."""
    lines = [b'{"type":"track","event":"5\\" screen"}', *([b'{"type":"track"}'] * 10_000)]
    stream = io.BytesIO(b"\n".join(lines))
    find(["-"], stdin=lambda: stream)
    assert stream.tell() == 65_536
