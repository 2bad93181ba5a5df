"""Ids made of columns: a column that does not exist never makes two records the same."""

import gzip
import io
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest

from segment_async.importing import Counts, ImportUsageError, dry_run, parse_mapping
from segment_async.importing._ids import _REMEMBERED, RecentIds

from .support import MAPPING, RecordingSegment, imported, options, orders, rejects_of, write_csv

WITH_ID = 'messageId = { columns = ["user", "lien"] }\n' + MAPPING
ROWS = [("o1", "1"), ("o1", "2"), ("o2", "1")]


def write_lines(path, rows):
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def lines_of(rows=ROWS):
    return [{"type": "track", "userId": "u", "event": "A", "order": order, "line": line} for order, line in rows]


def write_parquet(path, rows):
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_ready_csv(path, rows):
    names = [*rows[0]]
    return write_csv(path, [[row[name] for name in names] for row in rows], ",".join(names))


def refused(path, match, **given):
    """Neither an import nor a dry run begins."""
    segment = RecordingSegment()
    given = {"transport": segment} | given
    with pytest.raises(ImportUsageError, match=match):
        dry_run(options(path, **given))
    with pytest.raises(ImportUsageError, match=match):
        imported(path, segment=segment, **{name: each for name, each in given.items() if name != "transport"})
    assert segment.batches == []


@pytest.mark.parametrize(
    ("name", "write", "place"),
    [
        ("a.csv", write_ready_csv, ", line 1: has no"),
        ("a.parquet", write_parquet, ": has no"),
        ("a.jsonl", write_lines, ", lines 1 to 3: none of its 3 records has a"),
    ],
)
@pytest.mark.parametrize("transform", [None, dict])
def test_a_column_of_the_option_that_does_not_exist_is_named(tmp_path, name, write, place, transform):
    path = write(tmp_path / name, lines_of())
    match = rf"source .*{name}{place} column 'lien', which --id names; did you mean 'line'\?"
    given = {"mapping": None, "destinations": "none", "transform": transform}
    refused(path, match, ids="columns", id_columns=("order", "lien"), **given)
    _, segment = imported(path, ids="columns", id_columns=("order", "line"), **given)
    assert len({*segment.ids}) == 3


@pytest.mark.parametrize(
    ("name", "write", "place"),
    [
        ("a.csv", write_ready_csv, "source .* has no"),
        ("a.parquet", write_parquet, "source .* has no"),
        ("a.jsonl", write_lines, "source .*: none of its 2 records has a"),
    ],
)
def test_a_column_of_the_mapping_that_does_not_exist_is_named(tmp_path, name, write, place):
    rows = [{"user": user, "at": at, "total": total, "line": 1} for user, at, total in orders(2)]
    match = rf"map.toml, line 1: {place} column 'lien'; did you mean 'line'\?"
    refused(write(tmp_path / name, rows), match, mapping=parse_mapping(WITH_ID, "map.toml"))


def test_one_record_without_the_column(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", lines_of()[:1])
    match = r"a.jsonl, line 1: its only record has no column 'lien', which --id names; did you mean 'line'\?"
    refused(path, match, mapping=None, destinations="none", ids="columns", id_columns=("lien",))


def write_sparse(path, name, rows=1_000):
    """Records of an order each, of which the last alone has a line; the first 64 KiB have none."""
    lines = [
        {"type": "track", "userId": "u", "event": "A", "order": f"o{number}", "pad": "x" * 200}
        for number in range(rows)
    ]
    content = b"".join(orjson.dumps(line) + b"\n" for line in [*lines, lines[-1] | {name: 2}])
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


SPARSE = {"mapping": None, "destinations": "none", "ids": "columns", "id_columns": ("order", "line")}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("by", ["option", "mapping"])
def test_a_column_that_only_a_late_record_has(tmp_path, name, by):
    path = write_sparse(tmp_path / name, "line")
    given = SPARSE
    if by == "mapping":
        text = 'type="track"\nuserId={column="userId"}\nevent="A"\nmessageId={columns=["order", "line"]}'
        given = {"mapping": parse_mapping(text), "destinations": "none"}
    report, segment = imported(path, **given)
    assert (report.counts.delivered, report.exit_code, len({*segment.ids})) == (1_001, 0, 1_001)
    assert dry_run(options(path, **given)).counts.delivered == 1_001


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_column_that_no_record_has_is_refused_once_all_are_read(tmp_path, name):
    path = write_sparse(tmp_path / name, "lien")
    match = r"lines 1 to 1,001: none of its 1,001 records has a column 'line', which --id names; it has 'type', "
    refused(path, match, **SPARSE)


def test_a_first_record_that_is_longer_than_the_sample(tmp_path):
    rows = [{"type": "track", "userId": "u", "event": "A", "properties": {"a": "x" * 100_000}}, *lines_of()]
    path = write_lines(tmp_path / "a.jsonl", rows)
    refused(path, "none of its 4 records has a column 'lien'", **SPARSE | {"id_columns": ("order", "lien")})


@pytest.mark.parametrize("late", [True, False])
def test_of_standard_input_the_first_records_are_looked_at(tmp_path, late):
    """It cannot be read twice."""
    path = write_sparse(tmp_path / "a.jsonl", "line") if late else write_lines(tmp_path / "a.jsonl", lines_of())
    given = SPARSE | {"stdin": lambda: io.BytesIO(path.read_bytes()), "state": tmp_path / "state.json"}
    if not late:
        assert imported("-", **given)[0].counts.delivered == 3
        given["id_columns"] = ("order", "lien")
    column = "line" if late else "lien"
    match = rf"none of the first [\d,]+ records has a column '{column}', .*[.?] If a later record has it, save standard"
    refused("-", match, **given)


def test_a_column_before_damage_is_found(tmp_path):
    path = write_sparse(tmp_path / "a.jsonl.gz", "line")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    refused(path, "none of its .* records has a column 'lien'", **SPARSE | {"id_columns": ("order", "lien")})
    report, _ = imported(path, **SPARSE | {"id_columns": ("order", "userId")})
    assert (report.exit_code, len(report.broken)) == (1, 1)


def test_a_record_that_lacks_the_column_has_an_empty_one(tmp_path):
    """Many writers of JSON leave out what is null."""
    rows = [*lines_of(), {"type": "track", "userId": "u", "event": "A", "order": "o1"}]
    rows += [rows[-1] | {"line": None}, rows[-1] | {"line": ""}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    report, segment = imported(
        path, mapping=None, destinations="none", ids="columns", id_columns=("order", "line"), restart=True
    )
    assert (report.counts.delivered, report.counts.rejected, report.counts.duplicates) == (4, 0, 2)
    assert len({*segment.ids}) == 4


def test_so_it_is_with_a_mapping(tmp_path):
    rows = [{"user": user, "at": at, "total": total, "lien": 1} for user, at, total in orders(2)]
    del rows[1]["lien"]
    report, segment = imported(write_lines(tmp_path / "a.jsonl", rows), mapping=parse_mapping(WITH_ID))
    assert (report.counts.delivered, len({*segment.ids})) == (2, 2)


@pytest.mark.parametrize(("name", "write"), [("a.jsonl", write_lines), ("a.parquet", write_parquet)])
def test_a_column_inside_of_an_object(tmp_path, name, write):
    mapping = MAPPING.replace("[properties]", 'messageId = { columns = ["order.id"] }\n[properties]')
    rows = [{"user": "u", "at": "2024-05-01", "total": 1, "order": {"id": number}} for number in range(3)]
    _, segment = imported(write(tmp_path / name, rows), mapping=parse_mapping(mapping))
    assert len({*segment.ids}) == 3
    misspelt = parse_mapping(mapping.replace("order.id", "order.nr"))
    refused(tmp_path / name, "column 'order.nr'", mapping=misspelt, restart=True)


def test_the_names_inside_of_a_map_are_free(tmp_path):
    kind = pa.map_(pa.string(), pa.string())
    at, total = ["2024-05-01"], [1]
    table = pa.table({"user": ["u"], "at": at, "total": total, "tags": pa.array([[("shop", "1")]], kind)})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    mapping = parse_mapping(MAPPING.replace("[properties]", '[properties]\nshop = { column = "tags.shop" }'))
    assert imported(path, mapping=mapping)[1].messages[0]["properties"]["shop"] == "1"


def test_a_dotted_column_is_no_path_in_csv(tmp_path):
    path = write_csv(tmp_path / "a.csv", [("u", "2024-05-01", 1, "Bonn")], "user,at,total,address")
    mapping = parse_mapping(MAPPING.replace("[properties]", '[properties]\ncity = { column = "address.city" }'))
    refused(path, "no column 'address.city'", mapping=mapping)


def test_a_repaired_reject_keeps_the_id_of_its_empty_cells(tmp_path):
    path = write_csv(tmp_path / "a.csv", [("u", "never", "1", "")], "user,at,total,line")
    mapping = parse_mapping(WITH_ID.replace("lien", "line"))
    report, _ = imported(path, mapping=mapping)
    repaired = tmp_path / "repaired.jsonl"
    rejects = [reject | {"row": reject["row"] | {"at": "2024-05-01"}} for reject in rejects_of(report)]
    again, segment = imported(write_lines(repaired, rejects), mapping=mapping)
    assert again.counts.delivered == 1
    fine = write_csv(tmp_path / "b.csv", [("u", "2024-05-01", "1", "")], "user,at,total,line")
    assert imported(fine, mapping=mapping)[1].ids == segment.ids


def test_columns_go_with_ids_of_columns(tmp_path):
    path = write_csv(tmp_path / "a.csv", orders(1))
    refused(path, "ids come from row, but columns are named", ids="row", id_columns=("user",))


def test_an_older_id_is_sent_again():
    recent = RecentIds(3)
    assert not any(recent.seen_before(str(number)) for number in range(5))
    assert all(recent.seen_before(str(number)) for number in (2, 3, 4))
    assert not any(recent.seen_before(str(number)) for number in range(10, 16))
    assert not recent.seen_before("0")


def test_the_page_says_how_many_ids_are_remembered():
    page = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
    assert f"at least the last {_REMEMBERED:,} ids are remembered" in page
    assert f"the last {_REMEMBERED:,} at least" in Counts.__doc__
