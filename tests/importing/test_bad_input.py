"""Bad input: each row of the table, what it gets, and that the rows around it arrive."""

import bz2
import gzip
import os
from collections import Counter
from pathlib import Path

import orjson
import pytest

from segment_async.importing import ImportUsageError, dry_run, parse_mapping

from .support import MAPPING, RecordingSegment, answer, imported, options, orders, rejects_of, write_csv

GOOD = "u1,2024-05-01T10:00:00Z,1.5"
JSON_GOOD = b'{"type":"track","userId":"u1","event":"Order Completed","timestamp":"2024-05-01T10:00:00Z"}'


def users(segment):
    return [message["userId"] for message in segment.messages]


@pytest.mark.parametrize(
    ("line", "rule", "path"),
    [
        ("u2,2024-05-01T10:00:00Z", "columns", ""),
        ("u2,2024-05-01T10:00:00Z,1.5,extra", "columns", ""),
        ('u2,"2024"x,1', "csv", ""),
        ('u2,"2024-05-01T10:00:00Z,1.5', "csv", ""),
        ("u2,2024-05-01T10:00:00Z,1.5x", "number", "properties.total"),
        ("u2,yesterday,1.5", "time", "timestamp"),
        ("u2,2199-05-01T10:00:00Z,1.5", "time-range", "timestamp"),
        ("u2,1969-12-31T23:59:59Z,1.5", "time-range", "timestamp"),
        (",2024-05-01T10:00:00Z,1.5", "id-missing", "userId"),
    ],
)
def test_a_bad_row_of_csv_is_rejected_alone(tmp_path, line, rule, path):
    file = tmp_path / "orders.csv"
    file.write_text(f"user,at,total\n{GOOD}\n{line}\nu3,2024-05-01T10:00:00Z,3\n")
    report, segment = imported(file)
    assert users(segment) == ["u1", "u3"]
    assert report.exit_code == 1
    (reject,) = rejects_of(report)
    assert list(reject) == ["source", "record", "line", "byte", "rule", "path", "text", "row", "message"]
    assert (reject["rule"], reject["path"], reject["record"], reject["line"]) == (rule, path, 2, 3)
    assert file.read_bytes()[reject["byte"] :].startswith(line.encode())
    assert reject["text"]


def test_a_row_of_one_column_among_many(tmp_path):
    file = tmp_path / "orders.csv"
    file.write_text(f"user,at,total\nu2\n{GOOD},extra\n")
    report, _ = imported(file)
    texts = [reject["text"] for reject in rejects_of(report)]
    assert texts == ["1 column, but the header has 3.", "4 columns, but the header has 3."]


def test_bad_utf8_rejects_its_row(tmp_path):
    file = tmp_path / "orders.csv"
    file.write_bytes(b"user,at,total\nu\xff,2024-05-01T10:00:00Z,1\n" + GOOD.encode() + b"\n")
    report, segment = imported(file)
    assert users(segment) == ["u1"]
    (reject,) = rejects_of(report)
    assert reject["rule"] == "utf-8"
    assert reject["row"]["user"] == "u\ufffd"


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b"{broken", "json"),
        (b"[1]", "json"),
        (b'{"type":"track","userId":"\xff"}', "json"),
        (b'{"type":"track","userId":"u2"}', "event-missing"),
        (b'{"type":"track","event":"A","userId":1.5}', "id-type"),
        (b'{"type":"trakc","event":"A","userId":"u"}', "type-unknown"),
        (b'{"type":"track","event":"A"}', "id-missing"),
        (b'{"type":"group","userId":"u"}', "group-id-missing"),
        (b'{"type":"track","event":"A","userId":"u","properties":{"a":"' + b"x" * 33_000 + b'"}}', "message-too-large"),
        (b'{"type":"track","event":7,"userId":"u"}', "field-type"),
        (b'{"type":"track","event":"A","userId":"u","properties":[1]}', "field-type"),
        (b'{"type":"track","event":"A","userId":"u","properties":0}', "field-type"),
        (b'{"type":"track","event":"A","userId":"u","context":"x"}', "field-type"),
        (b'{"type":"identify","userId":"u","traits":"x"}', "field-type"),
        (b'{"type":"track","event":"A","userId":"u","name":5}', "field-type"),
        (b'{"type":["track"],"event":"A","userId":"u"}', "type-unknown"),
        (b'{"type":"track","event":"A","userId":"u","properties":' + b'{"a":' * 900 + b"1" + b"}" * 901, "value"),
    ],
)
def test_a_bad_line_of_json_is_rejected_alone(tmp_path, line, rule):
    file = tmp_path / "messages.jsonl"
    file.write_bytes(JSON_GOOD + b"\n" + line + b"\n\n" + JSON_GOOD.replace(b"u1", b"u3") + b"\n")
    report, segment = imported(file, mapping=None, destinations="all")
    assert users(segment) == ["u1", "u3"]
    (reject,) = rejects_of(report)
    assert (reject["rule"], reject["line"]) == (rule, 2)
    # A dry run says the same.
    found = dry_run(options(file, mapping=None, destinations="all"))
    assert (found.counts.delivered, found.counts.reasons) == (2, {rule: 1})


def test_a_long_cell_is_one_row(tmp_path):
    """Its lines must not be taken for rows."""
    file = tmp_path / "orders.csv"
    cell = "u2" + "\nu,2024-05-01T10:00:00Z,1" * 20_000
    rows = [GOOD, f'"{cell}",2024-05-01T10:00:00Z,1', "u3,2024-05-01T10:00:00Z,3"]
    file.write_text("\n".join(["user,at,total", *rows]))
    report, segment = imported(file)
    assert users(segment) == ["u1", "u3"]
    assert report.counts.reasons == {"message-too-large": 1}


@pytest.mark.parametrize("context", [{}, {"context": {"library": {"name": "other" * 20, "version": "1"}}}])
@pytest.mark.parametrize("moment", [{}, {"timestamp": "2024-05-01T10:00:00.000Z"}])
def test_a_message_may_have_as_many_bytes_as_segment_takes(tmp_path, context, moment):
    path = tmp_path / "messages.jsonl"

    def sent(note):
        message = {"type": "track", "userId": "u", "event": "A", "properties": {"note": note}, **context, **moment}
        path.write_bytes(orjson.dumps(message))
        return imported(path, mapping=None, destinations="none", restart=True)[1].messages

    room = 32_768 - len(orjson.dumps(*sent("")))
    assert len(orjson.dumps(*sent("x" * room))) == 32_768
    assert not sent("x" * (room + 1))


def test_a_message_id_of_a_hundred_characters_is_rejected(tmp_path):
    file = tmp_path / "messages.jsonl"
    lines = [orjson.dumps(orjson.loads(JSON_GOOD) | {"messageId": "x" * length}) for length in (99, 100)]
    file.write_bytes(b"\n".join(lines))
    report, segment = imported(file, mapping=None, destinations="all", ids="keep")
    assert segment.ids == ["x" * 99]
    assert rejects_of(report)[0]["rule"] == "message-id-long"


@pytest.mark.parametrize(
    ("fields", "delivered"),
    [
        ({"userId": "", "anonymousId": "a1"}, 1),
        ({"userId": "u1", "anonymousId": ""}, 1),
        ({"type": "page", "userId": "u1", "event": "", "groupId": "", "previousId": ""}, 1),
        ({"userId": "", "anonymousId": ""}, 0),
        ({"userId": "u1", "event": ""}, 0),
        ({"type": "group", "userId": "u1", "groupId": ""}, 0),
    ],
)
def test_an_id_that_is_empty_is_absent_in_a_dry_run_as_well(tmp_path, fields, delivered):
    file = tmp_path / "messages.jsonl"
    file.write_bytes(orjson.dumps({"type": "track", "event": "Order Completed"} | fields))
    found = dry_run(options(file, mapping=None, destinations="all"))
    report, segment = imported(file, mapping=None, destinations="all")
    assert found.counts.delivered == report.counts.delivered == delivered
    assert found.counts.reasons == report.counts.reasons
    assert "" not in [value for message in segment.messages for value in message.values()]


def test_a_violation_of_the_spec_is_counted_and_under_strict_rejected(tmp_path):
    file = tmp_path / "messages.jsonl"
    bad = orjson.dumps(orjson.loads(JSON_GOOD) | {"properties": {"revenue": "12"}})
    file.write_bytes(JSON_GOOD + b"\n" + bad + b"\n")
    report, segment = imported(file, mapping=None, destinations="all")
    assert (report.exit_code, report.counts.spec) == (0, {"field-type": 1})
    assert len(segment.messages) == 2
    report, segment = imported(file, mapping=None, destinations="all", strict=True, restart=True)
    assert (report.exit_code, report.counts.reasons) == (1, {"field-type": 1})


def test_what_is_judged_once_is_judged_again_where_it_differs(tmp_path):
    good = orjson.loads(JSON_GOOD) | {"properties": {"revenue": 1.5}}
    bad = [
        (good | {"userId": ""}, "id-missing"),
        (good | {"properties": {"revenue": "1.5"}}, "field-type"),
        (good | {"properties": {"revenue": 2, "note": "x" * 33_000}}, "message-too-large"),
        (good | {"properties": {"revenue": 1.5, "currency": 5}}, "field-type"),
        (good | {"properties": 5}, "field-type"),
        (good | {"traits": {"createdAt": "soon"}}, "timestamp-format"),
        (good | {"context": {"ip": 5}}, "field-type"),
        (good | {"sentAt": "soon"}, "timestamp-format"),
        (good | {"integrations": {"All": {"a": 1}}, "event": ""}, "event-missing"),
    ]
    file = tmp_path / "messages.jsonl"
    file.write_bytes(b"\n".join(orjson.dumps(each) for message, _ in bad for each in (good, message)))
    found = dry_run(options(file, mapping=None, strict=True, ids="row", destinations="all", transform=dict))
    assert found.counts.delivered == len(bad)
    assert found.counts.reasons == Counter(rule for _, rule in bad)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("user,at,total\n".encode("utf-16"), "UTF-16"),
        (b"user,when,total\n", "line 5: source .* has no column 'at'"),
        (b"user,at,Total\n", "has no column 'total'; did you mean 'Total'"),
        (b"user,at,total,user\n", "line 1: two columns are named 'user'"),
        (b"", "no header"),
        ("user,at,größe\n".encode("latin-1"), "is not UTF-8; convert it: iconv -f LATIN1 -t UTF-8"),
        (b"user,at,total\ru1,2024-05-01T10:00:00Z,1\r", "its lines end with CR alone; convert it: tr"),
        (b"PK\x03\x04" + bytes(range(256)), "b.csv: is a workbook of Excel or a zip file: save it as CSV"),
        (bz2.compress(b"user,at,total\n"), "is compressed with bzip2: bzip2 -dc .*b.csv | segment-async import -"),
        (gzip.compress(gzip.compress(b"user,at,total\n", mtime=0), mtime=0), "is compressed twice: gzip -dc"),
    ],
)
def test_what_is_wrong_with_a_whole_file_is_found_before_anything_is_sent(tmp_path, content, text):
    good = write_csv(tmp_path / "a.csv", orders(3))
    bad = tmp_path / "b.csv"
    bad.write_bytes(content)
    segment = RecordingSegment()
    with pytest.raises(ImportUsageError, match=text):
        imported(good, bad, segment=segment)
    assert not segment.batches


def test_what_is_wrong_with_a_line_of_json_is_said_without_a_line_of_its_own(tmp_path):
    file = tmp_path / "messages.jsonl"
    file.write_bytes(b'{"type":\n')
    report, _ = imported(file, mapping=None, destinations="all")
    assert [reject["text"] for reject in rejects_of(report)] == ["Not valid JSON: unexpected end of data."]


def test_a_json_array_is_no_json_lines(tmp_path):
    file = tmp_path / "all.json"
    file.write_text('[{"type": "track"}]')
    with pytest.raises(ImportUsageError, match="jq -c"):
        imported(file, mapping=None, destinations="all")


def test_a_byte_order_mark_is_fine(tmp_path):
    file = tmp_path / "orders.csv"
    file.write_bytes(b"\xef\xbb\xbfuser,at,total\r\n" + GOOD.encode() + b"\r\n")
    assert imported(file)[0].exit_code == 0
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(b"\xef\xbb\xbf" + JSON_GOOD)
    assert imported(lines, mapping=None, destinations="all")[0].counts.delivered == 1


def test_a_byte_order_mark_before_a_header_of_two_lines(tmp_path):
    """It is before the quotation mark of the first name, which goes on in the next line."""
    file = tmp_path / "orders.csv"
    file.write_bytes(b'\xef\xbb\xbf"user\nid",at,total\n' + GOOD.encode() + b"\n")
    mapping = parse_mapping(MAPPING.replace('"user"', '"user\\nid"'))
    report, segment = imported(file, mapping=mapping)
    assert users(segment) == ["u1"]
    assert report.counts.records == 1


def test_of_a_truncated_gzip_file_what_came_before_is_sent(tmp_path):
    file = tmp_path / "orders.csv.gz"
    whole = gzip.compress(write_csv(tmp_path / "orders.csv", orders(5_000)).read_bytes())
    file.write_bytes(whole[: len(whole) // 2])
    other = write_csv(tmp_path / "z.csv", orders(3, first=9_000))
    report, segment = imported(file, other, state=tmp_path / "state.import.json")
    assert report.exit_code == 1
    assert "truncated or damaged after byte" in report.broken[0]
    assert 1_000 < len(segment.messages) < 5_000
    assert users(segment)[-3:] == ["u9000", "u9001", "u9002"]
    assert users(segment)[:-3] == [f"u{number}" for number in range(len(segment.messages) - 3)]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_file_that_is_cut_off_while_it_is_read_is_not_taken_for_whole(tmp_path, scheme):
    path = write_csv(tmp_path / "orders.csv", orders(20_000))
    length = path.stat().st_size
    segment = RecordingSegment(lambda batch: os.truncate(path, 0))
    report, _ = imported(f"{scheme}{path}", segment=segment, state=tmp_path / "state.import.json")
    assert 0 < len(segment.messages) < 20_000
    assert report.exit_code == 1
    assert f"was cut off while the import ran, from {length:,} bytes to" in report.broken[0]


@pytest.mark.parametrize(("content", "code", "count"), [("user,at\nx,y\n", 1, 3), (None, 0, 5)], ids=["other", "more"])
def test_a_file_that_is_another_one_when_its_turn_comes_is_not_read(tmp_path, content, code, count):
    """Its columns are not those that were checked. One that has only grown is read."""
    first = write_csv(tmp_path / "a.csv", orders(3))
    second = write_csv(tmp_path / "b.csv", orders(1, first=3))

    def changed(batch):
        if not segment.messages:
            second.write_text(content or second.read_text() + "u9,2024-05-01T10:00:00Z,1\n")

    segment = RecordingSegment(changed)
    report, _ = imported(first, second, segment=segment, state=tmp_path / "state.import.json")
    assert (report.exit_code, len(segment.messages)) == (code, count)
    problem = f"source {second}: was replaced while the import ran; import it by itself"
    assert report.broken == ((problem,) if code else ())


@pytest.mark.parametrize("is_known", [True, False], ids=["grows", "size unknown"])
def test_a_file_whose_size_is_not_that_of_its_first_bytes_is_not_taken_for_another_one(tmp_path, monkeypatch, is_known):
    """It grows just after they were read, as a log does; or its file system does not know its size, as /proc."""
    path = write_csv(tmp_path / "orders.csv", orders(3))
    real = os.fstat

    def status(descriptor):
        found = real(descriptor)
        if not os.path.samestat(found, os.stat(path)):
            return found
        if not is_known:
            return os.stat_result((*found[:6], 0, *found[7:10]))
        with path.open("a") as file:
            file.write("u3,2024-05-01T10:00:00Z,1\n")
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", status)
    report, segment = imported(path)
    assert (report.broken, report.exit_code) == ((), 0)
    assert users(segment) == ["u0", "u1", "u2", "u3"][: 4 if is_known else 3]


def test_the_same_id_twice_in_a_run_is_sent_once(tmp_path):
    report, segment = imported(write_csv(tmp_path / "orders.csv", [*orders(3), *orders(2)]))
    assert (report.counts.duplicates, report.exit_code) == (2, 0)
    assert len(segment.messages) == 3


def test_a_message_of_a_rejected_row_is_sent_by_the_next_row_that_makes_it(tmp_path):
    mapping = parse_mapping("""
        userId = { column = "user" }
        [[message]]
        type = "identify"
        traits = { plan = { column = "total" } }
        [[message]]
        type = "track"
        event = "Order Completed"
        timestamp = { column = "at" }
    """)
    path = write_csv(tmp_path / "orders.csv", [("u1", "2199-05-01", "pro"), ("u1", "2024-05-01", "pro")])
    report, segment = imported(path, mapping=mapping, destinations="none")
    assert [message["type"] for message in segment.messages] == ["identify", "track"]
    assert (report.counts.delivered, report.counts.rejected, report.counts.messages) == (1, 1, 2)


def test_one_row_among_500_that_segment_refuses_is_rejected_alone(tmp_path):
    def refuses(batch):
        return answer(400) if any(message["userId"] == "u137" for message in batch) else None

    report, segment = imported(write_csv(tmp_path / "orders.csv", orders(500)), segment=RecordingSegment(refuses))
    assert (report.counts.delivered, report.counts.failed, report.exit_code) == (499, 1, 1)
    assert "u137" not in users(segment)
    (reject,) = rejects_of(report)
    assert (reject["rule"], reject["row"]["user"], reject["message"]["userId"]) == ("refused", "u137", "u137")


def test_a_stray_quote_does_not_take_the_rows_behind_it_along(tmp_path):
    file = tmp_path / "orders.csv"
    rows = [",".join(map(str, row)) for row in orders(20_000)]
    rows[10] = 'u10,"2024-05-01T10:00:00Z,1'
    file.write_text("user,at,total\n" + "\n".join(rows) + "\n")
    report, segment = imported(file)
    assert report.counts.reasons == {"csv": 1}
    assert len(segment.messages) == 19_999


def test_a_line_without_an_end_is_rejected_without_being_kept(tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_bytes(JSON_GOOD + b"\n" + b'{"a":"' + b"x" * 5_000_000 + b'"}\n' + JSON_GOOD.replace(b"u1", b"u3"))
    report, segment = imported(file, mapping=None, destinations="all")
    assert users(segment) == ["u1", "u3"]
    assert report.counts.reasons == {"json": 1}
    wide = tmp_path / "wide.csv"
    wide.write_text(f"user,at,total\n{GOOD}\nu2,{'x' * 3_000_000},1\nu3,2024-05-01T10:00:00Z,3\n")
    report, segment = imported(wide)
    assert users(segment) == ["u1", "u3"]
    assert report.counts.reasons == {"csv": 1}


def test_repaired_rejects_are_imported(tmp_path):
    file = write_csv(tmp_path / "orders.csv", [*orders(3), ("u9", "2024-05-01T10:00:00Z", "1o")])
    with file.open("a") as more:
        more.write('u10,2024-05-01T10:00:00Z\nu11,2024-05-01T10:00:00Z,1,2\nu12,"x"y,1\n')
    report, _ = imported(file)
    assert report.counts.rejected == 4
    rejects = rejects_of(report)
    assert rejects[2]["row"]["(extra)"] == ["2"]
    rejects[0]["row"]["total"] = "10"
    rejects[1]["row"]["total"] = ""
    del rejects[2]["row"]["(extra)"]
    rejects[3]["row"] = {"user": "u12", "at": "2024-05-01", "total": "5"}
    repaired = tmp_path / "repaired.jsonl"
    repaired.write_bytes(b"\n".join(map(orjson.dumps, rejects)))
    report, segment = imported(repaired)
    assert report.exit_code == 0
    assert [message.get("properties") for message in segment.messages] == [
        {"total": 10},
        None,
        {"total": 1},
        {"total": 5},
    ]


@pytest.mark.parametrize("content", [b"", b"\r\n"])
def test_a_byte_order_mark_alone_is_no_record(tmp_path, content):
    path = tmp_path / "orders.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + content)
    report, _ = imported(path)
    assert (report.exit_code, report.counts.records) == (0, 0)


@pytest.mark.parametrize(
    "before",
    [b"\xef\xbb\xbf", b"\n", b"\xef\xbb\xbf\n"],
    ids=["byte order mark", "blank line", "byte order mark and blank line"],
)
def test_repaired_rejects_may_have_what_an_editor_put_before_them(tmp_path, before):
    report, _ = imported(write_csv(tmp_path / "orders.csv", [("u9", "2024-05-01T10:00:00Z", "1o")]))
    repaired = tmp_path / "repaired.jsonl"
    repaired.write_bytes(before + Path(report.rejects).read_bytes().replace(b"1o", b"10"))
    again, segment = imported(repaired)
    assert (again.exit_code, users(segment)) == (0, ["u9"])


def test_rejects_that_were_not_repaired_are_rejected_again(tmp_path):
    report, _ = imported(
        write_csv(tmp_path / "orders.csv", [*orders(1), ("u9", "soon", "1"), ("u9", "soon", "1", "2")])
    )
    with open(report.rejects, "a") as file:
        file.write('{"source":"a","record":1,"rule":"csv","row":"u1;2"}\n')
    again, segment = imported(report.rejects)
    assert not segment.messages
    assert again.counts.reasons == {"time": 1, "columns": 1, "row": 1}


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        ("type = 'track'\nuserID = {column='a'}", r"line 2: unknown key 'userID'; did you mean 'userId'\?"),
        ("type = 'trak'", r"line 1: unknown type 'trak'; did you mean 'track'\?"),
        (
            "type = 'track'\nevent = 'E'\n[propertys]\na = 1",
            r"line 3: unknown key 'propertys'; did you mean 'properties'\?",
        ),
        ("type='track'\n[properties]\na = {colum='x'}", r"line 3: unknown key 'colum'; did you mean 'column'\?"),
        ("type='track'\n[properties]\na = {column='x', az='json'}", r"line 3: unknown key 'az' .*did you mean 'as'\?"),
        ("type='track'\n[properties]\na = {column='x', as='nummer'}", r"line 3: unknown as = 'nummer'.*'number'\?"),
        ("type='track'\n[properties]\na = {as='json'}", "line 3: properties.a needs a column"),
        (
            "type='track'\n[properties]\na = {column='b', values={gold='10'}, as='number'}",
            "line 3: values of properties.a say what the field gets, and nothing converts it: take as = 'number' out",
        ),
        (
            "type='track'\n[properties]\na = {column='b', values={gold='10'}, format='%d'}",
            "line 3: values of properties.a say .*: take format = '%d' out",
        ),
        (
            "type='track'\ntimestamp = {column='b', values={gold='2024-07-01T00:00:00'}, zone='Europe/Berlin'}",
            "line 2: values of timestamp say .*: take zone = 'Europe/Berlin' out",
        ),
        ("type='track'\ntimestamp={column='x', zone='Europe/Berlim'}", r"line 2: unknown zone .*'Europe/Berlin'\?"),
        ("type='track'\nmessageId={colums=['a']}", r"line 2: unknown key 'colums'; did you mean 'columns'\?"),
        ("type='track'\nmessageId={columns=[]}", "line 2: columns must be a list"),
        ("type='track'\nuserId = 5", "line 2: userId must be text"),
        ("type='track'\n[properties]\na=[1, {column='x'}]", "line 3: properties.a: a list cannot hold columns"),
        ("type='track'\nrest='context'", "line 2: rest must be"),
        ("type='track'\ntimestamp='soon'", "line 2: Not a time"),
        ("type='track'\nproperties = 5", "line 2: properties must be a table"),
        ("type='track'\n[properties]\na={column='x',decimal=','}", "line 3: decimal of"),
        ("type='track'\n[properties]\na={column='x',as='json',zone='UTC'}", "line 3: format and zone"),
        ("event = 'a'", "type is missing"),
        ("type = ", "line 1: not valid TOML"),
        ("[[message]]\ntype='track'\nevnt='x'", r"line 3: unknown key 'evnt'; did you mean 'event'\?"),
        ("type='track'\nmessage = 5", r"line 2: must be \[\[message\]\] tables"),
    ],
)
def test_a_mapping_that_is_wrong_is_explained(mapping, text):
    with pytest.raises(ImportUsageError, match=f"orders.toml,? ?.*{text}"):
        parse_mapping(mapping, "orders.toml")


def test_the_mapping_of_these_tests_is_right():
    assert parse_mapping(MAPPING).columns == {"user", "at", "total"}


def test_what_a_transform_makes_that_is_no_json_is_rejected_alone(tmp_path):
    def made(row):
        message = {"type": "track", "userId": row["user"], "event": "A", "properties": {"n": 1}}
        if row["user"] == "u1":
            row["self"] = row
            message["event"] = 2**70
        return message

    path = write_csv(tmp_path / "orders.csv", orders(3))
    report, segment = imported(path, mapping=None, transform=made, destinations="none")
    assert users(segment) == ["u0", "u2"]
    (reject,) = rejects_of(report)
    assert (reject["rule"], reject["record"], reject["message"]) == ("value", 2, None)
    assert "'user': 'u1'" in reject["row"]
