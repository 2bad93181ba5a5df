"""Parquet: nested values, decimals, times with and without a zone, nulls, long ids; resuming within a row group."""

import asyncio
from datetime import UTC, date, datetime
from decimal import Decimal

import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest

from segment_async.importing import Importer, ImportUsageError, parse_mapping

from .support import RecordingSegment, imported, options, orders, rejects_of

NESTED = """
type = "track"
userId = { column = "customer" }
event = "Order Completed"
timestamp = { column = "at" }
[properties]
amount = { column = "amount" }
local = { column = "local" }
city = { column = "address.city" }
tags = { column = "tags" }
day = { column = "day" }
big = { column = "customer", as = "text" }
"""


def write(path, table, **given):
    pyarrow.parquet.write_table(table, path, **given)
    return path


def table_of(rows):
    users, times, totals = zip(*rows, strict=True)
    return pa.table({"user": users, "at": times, "total": totals})


def test_bytes_are_text_or_base64(tmp_path):
    """A column of UUIDs or hashes costs no row, whether it is mapped or not."""
    hashes = pa.array([b"\xff\xfe", b"abc"], pa.binary())
    path = write(tmp_path / "orders.parquet", pa.table({"user": ["u1", "u2"], "hash": hashes, "unmapped": hashes}))
    mapping = parse_mapping('type = "identify"\nuserId = { column = "user" }\n[traits]\nhash = { column = "hash" }')
    report, segment = imported(path, mapping=mapping, destinations="none")
    assert (report.counts.delivered, report.counts.rejected) == (2, 0)
    assert [message["traits"]["hash"] for message in segment.messages] == ["//4=", "abc"]


def test_every_kind_of_value(tmp_path):
    struct = pa.struct([("city", pa.string()), ("since", pa.timestamp("ns"))])
    table = pa.table(
        {
            "customer": pa.array([1234567890123456789, None], pa.int64()),
            "at": pa.array([datetime(2024, 5, 1, 10, tzinfo=UTC)] * 2, pa.timestamp("ns", "Europe/Berlin")),
            "local": pa.array([datetime(2024, 5, 1, 10), None], pa.timestamp("us")),
            "amount": pa.array([Decimal("12345678901234567.89"), None], pa.decimal128(20, 2)),
            "address": pa.array([{"city": "Bonn", "since": datetime(2020, 1, 1)}, None], struct),
            "tags": pa.array([["a", None], []], pa.list_(pa.string())),
            "day": pa.array([date(2024, 5, 1), None]),
        }
    )
    sent = []

    class Raw(RecordingSegment):
        async def send(self, body, headers):
            import zlib

            sent.append(zlib.decompress(body, 31))
            return await super().send(body, headers)

    path = write(tmp_path / "orders.parquet", table)
    report, segment = imported(path, segment=Raw(), mapping=parse_mapping(NESTED), destinations="none")
    (message,) = segment.messages
    assert message["userId"] == "1234567890123456789"
    assert message["timestamp"] == "2024-05-01T10:00:00.000Z"
    assert b'"amount":12345678901234567.89' in sent[0]
    del message["properties"]["amount"]
    assert message["properties"] == {
        "local": "2024-05-01T10:00:00.000Z",
        "city": "Bonn",
        "tags": ["a", None],
        "day": "2024-05-01",
        "big": "1234567890123456789",
    }
    assert report.counts.reasons == {"id-missing": 1}


@pytest.mark.parametrize("kind", ["timestamp", "timestamp with a zone", "milliseconds", "duration", "date"])
def test_a_value_that_python_cannot_hold_rejects_its_row_alone(tmp_path, kind):
    times = pa.array([1, 2**63 - 1000, 2], pa.timestamp("us"))
    values = {
        "timestamp": times,
        "timestamp with a zone": times.cast(pa.timestamp("us", "UTC")),
        "milliseconds": pa.array([1, 2**62, 2], pa.timestamp("ms")),
        "duration": pa.array([1, 2**62, 2], pa.duration("ms")),
        "date": pa.array([1, 10_000_000, 2], pa.date32()),
    }
    path = write(tmp_path / "orders.parquet", pa.table({"user": ["u1", "u2", "u3"], "when": values[kind]}))
    mapping = parse_mapping('type = "identify"\nuserId = { column = "user" }\n[traits]\nwhen = { column = "when" }')
    report, segment = imported(path, mapping=mapping, destinations="none")
    assert [message["userId"] for message in segment.messages] == ["u1", "u3"]
    assert report.exit_code == 1
    (reject,) = rejects_of(report)
    assert (reject["rule"], reject["path"], reject["record"]) == ("value", "when", 2)
    assert reject["row"] == {"user": "u2", "when": None}


OF_TEXTS = pa.map_(pa.string(), pa.string())


@pytest.mark.parametrize(
    ("kind", "value", "travels"),
    [
        (OF_TEXTS, [], {}),
        (OF_TEXTS, [("a", "b")], {"a": "b"}),
        (pa.map_(pa.string(), OF_TEXTS), [("a", []), ("b", None)], {"a": {}, "b": None}),
        (pa.struct([("in", OF_TEXTS), ("of", pa.list_(pa.string()))]), {"in": [], "of": []}, {"in": {}, "of": []}),
        (pa.list_(OF_TEXTS), [[], [("a", "b")]], [{}, {"a": "b"}]),
        (pa.list_(OF_TEXTS, 1), [[]], [{}]),
        (pa.list_(OF_TEXTS), [], []),
    ],
)
def test_a_map_without_entries_is_an_object(tmp_path, kind, value, travels):
    values = pa.array([value, None], kind)
    path = write(tmp_path / "users.parquet", pa.table({"user": ["u1", "u2"], "of": values}))
    mapping = parse_mapping('type = "identify"\nuserId = { column = "user" }\n[traits]\nof = { column = "of" }')
    _, segment = imported(path, mapping=mapping, destinations="none")
    assert [message.get("traits") for message in segment.messages] == [{"of": travels}, None]


@pytest.mark.parametrize(
    ("mapped", "given", "rejected"),
    [
        ("", {}, []),
        ('city = { column = "address.city" }', {}, ["address"]),
        ("", {"ids": "columns", "id_columns": ("user", "when")}, ["when"]),
        ('rest = "traits"', {}, ["when"]),
    ],
    ids=["unmapped", "mapped within", "of the id", "of the rest"],
)
def test_a_value_that_python_cannot_hold_rejects_no_row_that_does_not_use_it(tmp_path, mapped, given, rejected):
    far = pa.array([2**62], pa.timestamp("ms"))
    address = pa.StructArray.from_arrays([pa.array(["Bonn"]), far], ["city", "since"])
    path = write(tmp_path / "users.parquet", pa.table({"user": ["u1"], "when": far, "address": address}))
    before, within = (mapped, "") if "rest" in mapped else ("", mapped)
    text = f'type = "identify"\nuserId = {{ column = "user" }}\n{before}\n[traits]\nkind = "old"\n{within}'
    report, segment = imported(path, mapping=parse_mapping(text), destinations="none", **given)
    assert [reject["path"] for reject in rejects_of(report)] == rejected
    assert [message["traits"] for message in segment.messages] == ([] if rejected else [{"kind": "old"}])


NANOSECONDS = pa.timestamp("ns")


@pytest.mark.parametrize(
    ("value", "kind", "travels"),
    [
        ([("a", 1_001_000_001)], pa.map_(pa.string(), NANOSECONDS), {"a": "1970-01-01T00:00:01.001Z"}),
        ([1, 1_001_000_001], pa.list_(NANOSECONDS, 2), ["1970-01-01T00:00:00.000Z", "1970-01-01T00:00:01.001Z"]),
        (1_714_557_600, pa.timestamp("s", "W. Europe Standard Time"), "2024-05-01T10:00:00.000Z"),
        (253_402_300_799, pa.timestamp("s", "Asia/Tokyo"), "9999-12-31T23:59:59.000Z"),
    ],
)
def test_times_within_others_and_of_zones_that_are_not_known_here(tmp_path, value, kind, travels):
    path = write(tmp_path / "users.parquet", pa.table({"user": ["u1"], "when": pa.array([value], kind)}))
    mapping = parse_mapping('type = "identify"\nuserId = { column = "user" }\n[traits]\nwhen = { column = "when" }')
    report, segment = imported(path, mapping=mapping, destinations="none")
    assert report.exit_code == 0
    assert segment.messages[0]["traits"] == {"when": travels}


def test_times_as_spark_writes_them(tmp_path):
    times = [datetime(9999, 12, 31), datetime(2024, 5, 1, 10, 0, 0, 123_000)]
    table = pa.table({"user": ["u1", "u2"], "until": pa.array(times, pa.timestamp("us"))})
    path = write(tmp_path / "users.parquet", table, use_deprecated_int96_timestamps=True)
    mapping = parse_mapping('type = "identify"\nuserId = { column = "user" }\n[traits]\nuntil = { column = "until" }')
    _, segment = imported(path, mapping=mapping, destinations="none")
    until = [message["traits"]["until"] for message in segment.messages]
    assert until == ["9999-12-31T00:00:00.000Z", "2024-05-01T10:00:00.123Z"]


def test_it_resumes_within_a_row_group(tmp_path):
    path = write(tmp_path / "orders.parquet", table_of(orders(30_000)), row_group_size=7_000)
    first, second = RecordingSegment(), RecordingSegment()

    async def main():
        importer = Importer(options(path, transport=first))
        first._answer = lambda batch: importer.stop() if len(first.messages) > 9_000 else None
        try:
            importer.prepare()
            return await importer.run()
        finally:
            importer.close()

    assert asyncio.run(main()).exit_code == 130
    saved = orjson.loads((tmp_path / "orders.parquet.import.json").read_bytes())
    assert saved["position"]["group"] >= 1
    report, _ = imported(path, segment=second)
    assert report.counts.delivered == 30_000
    assert len({*first.ids, *second.ids}) == 30_000
    assert len(second.messages) < 25_000


def test_a_truncated_file_is_reported_and_the_others_are_sent(tmp_path):
    whole = write(tmp_path / "a.parquet", table_of(orders(10)))
    broken = tmp_path / "b.parquet"
    broken.write_bytes(whole.read_bytes()[:-20])
    report, segment = imported(whole, broken, state=tmp_path / "state.json")
    assert (report.exit_code, len(segment.messages)) == (1, 10)
    assert f"byte {broken.stat().st_size:,}" in report.broken[0]


def test_a_missing_column_is_found_first(tmp_path):
    path = write(tmp_path / "a.parquet", pa.table({"usr": ["u"], "at": ["2024-01-01"], "total": ["1"]}))
    with pytest.raises(ImportUsageError, match=r"no column 'user'; did you mean 'usr'\?"):
        imported(path)


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["u1"]), pa.array(["u2"]), pa.array(["A"])], ["user", "user", "event"])
    mapping = parse_mapping('type = "track"\nuserId = { column = "user" }\nevent = { column = "event" }')
    with pytest.raises(ImportUsageError, match="two columns are named 'user'; rename one"):
        imported(write(tmp_path / "orders.parquet", table), mapping=mapping, destinations="none")


def test_a_time_without_a_zone_is_in_the_zone_of_the_mapping_and_else_in_utc(tmp_path):
    naive = pa.array([datetime(2024, 5, 1, 10)], pa.timestamp("us"))
    aware = pa.array([datetime(2024, 5, 1, 10, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    path = write(tmp_path / "a.parquet", pa.table({"user": ["u"], "at": naive, "aware": aware}))
    mapping = """
    type = "track"
    userId = { column = "user" }
    event = "Order Completed"
    timestamp = { column = "at", zone = "Europe/Berlin" }
    rest = "properties"
    [properties]
    paid = { column = "at", as = "time", zone = "Europe/Berlin" }
    sent = { column = "aware", as = "time", zone = "Europe/Berlin" }
    at = { column = "at" }
    """
    _, segment = imported(path, mapping=parse_mapping(mapping), destinations="none")
    (message,) = segment.messages
    assert message["timestamp"] == "2024-05-01T08:00:00.000Z"
    assert message["properties"] == {
        "paid": "2024-05-01T08:00:00.000Z",
        "sent": "2024-05-01T10:00:00.000Z",
        "at": "2024-05-01T10:00:00.000Z",
    }
