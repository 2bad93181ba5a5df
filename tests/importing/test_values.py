"""Values are read exactly, or not at all."""

import contextlib
import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment_async.importing._values import (
    Unreadable,
    as_boolean,
    as_id,
    as_integer,
    as_json,
    as_number,
    as_text,
    as_time,
    dumps,
    plain_json,
    read_json,
    time_text,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-3", -3), ("30.5", 30.5), ("1e3", 1000.0), (".5", 0.5), ("1234567890123456789", 1234567890123456789)],
)
def test_a_number(text, value):
    assert as_number()(text) == value
    assert type(as_number()(text)) is type(value)


def test_a_number_with_more_digits_than_a_float_has_stays_exact():
    assert as_number()("0.1234567890123456789") == Decimal("0.1234567890123456789")


@pytest.mark.parametrize("text", ["", "abc", "1,5", "1 000", "0x10", "nan", "inf", "1_000", "٣", "--1", "1e9999"])
def test_no_number(text):
    with pytest.raises(Unreadable) as caught:
        as_number()(text)
    assert caught.value.rule == "number"


def test_a_number_that_comes_again_is_the_same():
    read = as_number()
    texts = [f"{number}.{number % 2}" for number in range(1_500)]
    for _ in range(2):
        assert [read(text) for text in texts] == [float(text) for text in texts]
        assert [type(read(text)) for text in ("1", "1.0", "1e0")] == [int, float, float]
        with pytest.raises(Unreadable):
            read("one")


@pytest.mark.parametrize(("text", "value"), [("1,5", 1.5), ("1.234,50", 1234.5), ("1 234 567", 1234567), ("-7", -7)])
def test_a_number_with_a_decimal_comma(text, value):
    assert as_number(",")(text) == value


@pytest.mark.parametrize("text", ["1.5", "12.34,5", "1,2,3", "1.23"])
def test_no_number_with_a_decimal_comma(text):
    with pytest.raises(Unreadable):
        as_number(",")(text)


def test_an_integer_is_no_fraction():
    assert as_integer("007") == 7
    assert as_integer(3.0) == 3
    for value in ("1.0", 1.5, True, "x"):
        with pytest.raises(Unreadable):
            as_integer(value)


@pytest.mark.parametrize(
    ("given", "value"), [("true", True), ("No", False), ("1", True), ("0", False), (0, False), (True, True)]
)
def test_a_boolean(given, value):
    assert as_boolean(given) is value


@pytest.mark.parametrize("given", ["falsch", "2", "", "on", 2, None])
def test_anything_else_is_no_boolean(given):
    with pytest.raises(Unreadable):
        as_boolean(given)


def test_ids_are_text_and_keep_their_digits():
    assert as_id("0042") == "0042"
    assert as_id(1234567890123456789) == "1234567890123456789"
    assert as_id(Decimal(12345678901234567890123)) == "12345678901234567890123"
    for value in (1.5e18, True, Decimal("1.5"), [1]):
        with pytest.raises(Unreadable):
            as_id(value)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("2024-11-21T09:30:00Z", "2024-11-21T09:30:00.000Z"),
        ("2024-11-21 10:30:00+01:00", "2024-11-21T09:30:00.000Z"),
        ("2024-11-21", "2024-11-21T00:00:00.000Z"),
        ("20241121", "2024-11-21T00:00:00.000Z"),
        ("1732181400", "2024-11-21T09:30:00.000Z"),
        ("1732181400123", "2024-11-21T09:30:00.123Z"),
        (1732181400.5, "2024-11-21T09:30:00.500Z"),
        (datetime(2024, 11, 21, 9, 30), "2024-11-21T09:30:00.000Z"),
        (datetime(2024, 11, 21, 11, 30, tzinfo=timezone(timedelta(hours=2))), "2024-11-21T09:30:00.000Z"),
        (date(2024, 11, 21), "2024-11-21T00:00:00.000Z"),
    ],
)
def test_a_time(given, text):
    assert as_time()(given) == text


def test_a_time_in_a_format_and_a_zone_with_summer_time():
    convert = as_time("%d.%m.%Y %H:%M", ZoneInfo("Europe/Berlin"))
    assert convert("21.11.2024 10:30") == "2024-11-21T09:30:00.000Z"
    assert convert("21.06.2024 10:30") == "2024-06-21T08:30:00.000Z"


@pytest.mark.parametrize("given", ["", "soon", "21.11.2024", True, None, "1e400", 10**17, "99999-01-01", float("nan")])
def test_no_time(given):
    with pytest.raises(Unreadable) as caught:
        as_time()(given)
    assert caught.value.rule == "time"


def test_json_and_text():
    assert as_json('{"a": [1]}') == {"a": [1]}
    assert as_json({"a": 1}) == {"a": 1}
    with pytest.raises(Unreadable):
        as_json("{")
    assert [as_text(each) for each in ("x", 5, True, 1.5, {"a": "b"})] == ["x", "5", "true", "1.5", '{"a":"b"}']


def test_plain_json_of_what_a_parquet_file_holds():
    value = {
        "amount": Decimal("1.10"),
        "day": date(2024, 1, 2),
        "at": datetime(2024, 1, 2, 3, tzinfo=UTC),
        "took": timedelta(seconds=1.5),
        "map": [("a", 1), ("b", 2)],
        "list": [None, b"x"],
    }
    assert plain_json(value) == {
        "amount": Decimal("1.10"),
        "day": "2024-01-02",
        "at": "2024-01-02T03:00:00.000Z",
        "took": 1.5,
        "map": {"a": 1, "b": 2},
        "list": [None, "x"],
    }


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**30])
def test_an_integer_of_more_than_64_bits_keeps_its_digits(value):
    for read in (as_integer, as_number()):
        assert dumps(read(str(value))) == str(value).encode()


class OwnTime(datetime):
    """As pandas has one."""


@pytest.mark.parametrize("kind", [datetime, OwnTime])
@pytest.mark.parametrize(
    ("microsecond", "end"), [(0, "10:00:05.000Z"), (1, "10:00:05.000Z"), (123_999, "10:00:05.123Z")]
)
def test_a_time_has_milliseconds(kind, microsecond, end):
    moment = kind(2024, 5, 1, 10, 0, 5, microsecond, tzinfo=UTC)
    assert time_text(moment) == f"2024-05-01T{end}"


@pytest.mark.parametrize("convert", [as_number(), as_integer])
def test_a_number_beyond_every_float_is_no_number(convert):
    # The client would send it as text.
    assert convert("9" * 300) == Decimal("9" * 300)
    with pytest.raises(Unreadable, match="Too large a number"):
        convert("9" * 400)


NUMBERS = [
    *("0.1", "-0.5", "1.10", "1e3", "30.50", "12345678901234567", "1234567890123456789", "-9223372036854775808"),
    *("18446744073709551615", "18446744073709551616", "-9223372036854775809", "123456789012345678901234567890"),
    *(
        "0.30000000000000004",
        "9007199254740993.5",
        "9007199254740.993",
        "0.1234567890123456789",
        "1.00000000000000000000",
    ),
    *("1.2345678901234567e5", "12345678901234567890e3", "1.23456789012345678e-7", "48.137154000000002"),
]
TEXTS = ["12345678901234567890123", "1.2.3.4.5.6.7.8.9.10.11", "a-98765432109876543210", "\u20ac 99999999999999999999"]


def exactly(content):
    return json.loads(content, parse_float=Decimal, parse_int=Decimal)


def as_before(content):
    """Integers have all their digits, and whatever else JSON holds is as orjson reads it."""
    return json.loads(
        content, parse_int=lambda digits: Decimal(digits) if not -(2**63) <= int(digits) < 2**64 else int(digits)
    )


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("line", ["{}", '{{"a":{}}}', '{{"x":"1.2.3","a":[{{"b":{}}},0.5,"\u20ac"],"c":1}}\n'])
def test_integers_of_json_keep_all_digits(number, line):
    content = line.format(number)
    assert as_json(content) == read_json(content.encode()) == as_before(content)
    assert repr(read_json(content.encode())) == repr(as_before(content))


@given(
    st.lists(
        st.sampled_from([*NUMBERS, *map(json.dumps, TEXTS)])
        | st.floats(allow_nan=False, allow_infinity=False).map(repr)
        | st.integers(-(10**25), 10**25).map(str)
    )
)
def test_json_of_many_numbers_keeps_all_digits(values):
    content = f"[{','.join(values)}]"
    assert repr(read_json(content.encode())) == repr(as_before(content))


@pytest.mark.parametrize(("number", "kind"), [("0.5", float), ("0.30000000000000004", float), (str(2**64 - 1), int)])
def test_json_gives_the_types_that_it_always_has_where_nothing_is_lost(number, kind):
    long = f"[{number},{2**64}]".encode()
    assert [type(each) for each in read_json(long)] == [kind, Decimal]
    assert type(read_json(number.encode())) is kind


@pytest.mark.parametrize("text", ["1e400", "9" * 400, "{"])
def test_json_that_cannot_be_read_exactly_is_rejected(text):
    with pytest.raises(Unreadable, match="Not valid JSON"):
        as_json(text)


def test_a_long_integer_that_is_nested_deeply_is_read_exactly_or_rejected():
    """How deep Python's own reader goes depends on its version."""
    depth = 1_000
    value = None
    with contextlib.suppress(Unreadable):
        value = as_json("[" * depth + str(2**70) + "]" * depth)
    if value is None:
        return
    for _ in range(depth):
        (value,) = value
    assert value == 2**70


@pytest.mark.parametrize("convert", [as_id, as_integer, as_number()])
def test_a_long_integer_of_json_or_parquet(convert):
    number = Decimal(10**40 + 1)
    assert convert(number) in (number, str(10**40 + 1))


@pytest.mark.parametrize("number", [Decimal("1E-30"), Decimal(f"{10**40}.5"), Decimal("Infinity"), 0.5])
def test_a_fraction_is_no_integer(number):
    for convert in (as_id, as_integer):
        with pytest.raises(Unreadable):
            convert(number)
