"""What a transform returns is judged as it travels: values of other types than JSON's as the client encodes them."""

import asyncio
import importlib
import sys
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial, wraps
from operator import attrgetter
from uuid import UUID

import pydantic
import pytest

from segment_async.importing import ImportUsageError, dry_run, load_transform
from segment_async.importing._ready_made import transformed
from segment_async.importing._values import Unreadable

from .support import imported, options, orders, write_csv


def made(objects):
    return transformed(lambda _: {"type": "track", "userId": "u", "event": "A", **objects}, None)({})[0]


def test_values_are_as_the_client_encodes_them():
    message = made(
        {
            "properties": {"for": timedelta(seconds=3), "days": {1}, "exact": Decimal("1.10"), "key": {7: (1, 2)}},
            "traits": {"createdAt": datetime(2024, 5, 1, tzinfo=UTC), "birthday": date(1990, 1, 2)},
        }
    )
    assert message["properties"] == {"for": 3.0, "days": [1], "exact": Decimal("1.10"), "key": {"7": [1, 2]}}
    assert message["traits"] == {"createdAt": "2024-05-01T00:00:00.000Z", "birthday": "1990-01-02"}


@dataclass
class Item:
    tags: set[int]


def test_equal_sets_make_equal_messages():
    """The order of a set of text is another one in each process, and that of numbers depends on how it was made."""
    forwards, backwards = set(), set()
    for number in (0, 8):
        forwards.add(number)
        backwards.add(8 - number)
    assert [*forwards] != [*backwards]
    tags = [{"a": [{"in": each}]} for each in (forwards, backwards, frozenset(backwards))]
    tags.append(defaultdict(set, a=[OrderedDict({"in": backwards})]))
    assert [made({"properties": each})["properties"] for each in tags] == [{"a": [{"in": [0, 8]}]}] * 4


def test_equal_sets_make_equal_messages_wherever_they_are():
    forwards, backwards = {0, 8}, {8, 0}
    assert [*forwards] != [*backwards]
    for held in (Item, lambda each: deque([each]), lambda each: {("a", frozenset(each))}):
        one, other = (made({"properties": {"in": held(each)}})["properties"] for each in (forwards, backwards))
        assert one == other
        assert repr(one).count("[0, 8]") == 1


class Basket(pydantic.BaseModel):
    """It dumps its sets as lists itself."""

    tags: set[int]
    inner: list[dict[str, frozenset[int]]]


@pydantic.dataclasses.dataclass
class Crate:
    tags: set[int]


def test_equal_sets_of_pydantic_make_equal_messages():
    baskets = [Basket.model_construct(tags=each, inner=[{"a": frozenset(each)}]) for each in ({0, 8}, {8, 0})]
    assert [made({"properties": {"in": each}})["properties"] for each in baskets] == [
        {"in": {"tags": [0, 8], "inner": [{"a": [0, 8]}]}}
    ] * 2
    crates = [Crate({0, 8}), Crate({8, 0})]
    assert [made({"properties": {"in": each}})["properties"] for each in crates] == [{"in": {"tags": [0, 8]}}] * 2


@dataclass(frozen=True, repr=False)
class Plain:
    number: int


def test_sets_are_ordered_by_what_is_sent_for_their_items():
    items = {Plain(number) for number in range(9)}
    assert made({"properties": {"in": items}})["properties"]["in"] == [{"number": number} for number in range(9)]


def test_sets_in_sets_that_cannot_be_sent_are_looked_at_once():
    """Each one twice would take years."""
    for innermost in (object(), None):
        nested = innermost
        for _ in range(300):
            nested = frozenset({nested, "b"})
        with pytest.raises(Unreadable):
            made({"properties": {"in": {nested}}})


def test_what_is_json_already_stays_as_it_is():
    properties = {"n": 1, "list": [{"exact": Decimal("1.1")}, None, True, 2.5, "text"]}
    assert made({"properties": properties})["properties"] is properties


@pytest.mark.parametrize(
    ("value", "travels"),
    [
        (2**70, str(2**70)),
        (float("nan"), None),
        (Decimal("NaN"), None),
        (Decimal("1E+400"), "1E+400"),
        (UUID(int=7), str(UUID(int=7))),
        (Enum("Color", {"RED": "red"}).RED, "red"),
    ],
)
def test_what_is_judged_and_rejected_is_what_travels(tmp_path, value, travels):
    def bought(row):
        return {"type": "track", "userId": row["user"], "event": "Order Completed", "properties": {"total": value}}

    path = write_csv(tmp_path / "orders.csv", orders(1))
    given = {"mapping": None, "transform": bought, "destinations": "none"}
    assert made(bought({"user": "u"}))["properties"] == {"total": travels}
    report, segment = imported(path, **given)
    assert segment.messages[0]["properties"] == {"total": travels}
    assert report.counts.spec["field-type"] == (travels is not None)
    strict, _ = imported(path, strict=True, restart=True, **given)
    assert strict.counts.rejected == (travels is not None)


def test_a_long_integer_beside_other_types_remains_a_number():
    assert made({"properties": {"days": {1}, "exact": Decimal(10**30)}})["properties"]["exact"] == Decimal(10**30)
    assert type(made({"properties": {"days": {1}, "exact": Decimal(10**30)}})["properties"]["exact"]) is Decimal


@pytest.mark.parametrize(
    ("properties", "rule", "path"),
    [
        ({"a": {"b": object()}}, "value", "properties.a.b"),
        ({"long": {"x" * 40_000}}, "message-too-large", ""),
    ],
)
def test_what_cannot_travel_is_named(properties, rule, path):
    with pytest.raises(Unreadable) as caught:
        made({"properties": properties})
    assert (caught.value.rule, caught.value.path) == (rule, path)


def test_what_holds_itself_is_rejected():
    properties: dict[str, object] = {}
    properties["self"] = properties
    with pytest.raises(Unreadable):
        made({"properties": properties})


def test_dates_pass_the_strict_rules(tmp_path):
    def identify(row):
        traits = {"createdAt": datetime(2024, 5, 1, tzinfo=UTC), "seen": {1, 2}}
        return {"type": "identify", "userId": row["user"], "traits": traits}

    path = write_csv(tmp_path / "orders.csv", orders(2))
    report, segment = imported(path, mapping=None, transform=identify, destinations="none", strict=True)
    assert (report.counts.delivered, report.counts.rejected) == (2, 0)
    assert segment.messages[0]["traits"] == {"createdAt": "2024-05-01T00:00:00.000Z", "seen": [1, 2]}


CODE = "def made(row):\n    return {'type': 'track', 'userId': row['user'], 'event': 'A'}\n"
DECORATED = "from tests.importing.test_transform import unnamed\n\n\n@unnamed\n" + CODE


def unnamed(function):
    def called(row):
        return function(row)

    return called


@pytest.mark.parametrize("code", [CODE, DECORATED])
@pytest.mark.parametrize("wrap", [lambda each: each, partial])
def test_a_changed_transform_is_said_on_resume(tmp_path, monkeypatch, code, wrap):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = write_csv(tmp_path / "orders.csv", orders(3))
    given = {"mapping": None, "destinations": "none", "transform_name": "mine:made"}

    def with_code(text):
        (tmp_path / "mine.py").write_text(text)
        sys.modules.pop("mine", None)
        importlib.invalidate_caches()
        return given | {"transform": wrap(load_transform("mine:made"))}

    imported(path, **with_code(code))
    report, _ = imported(path, **with_code(code))
    assert report.already_done
    changed = with_code(code.replace("'A'", "'B'"))
    with pytest.raises(ImportUsageError, match=r"another import: the transform .* changed\. Use --restart"):
        imported(path, **changed)
    imported(path, restart=True, **changed)
    with pytest.raises(ImportUsageError, match="the transform"):
        imported(path, **changed | {"transform_name": "mine:other"})
    sys.modules.pop("mine")


def test_a_transform_without_a_source_is_told_by_its_name(tmp_path):
    path = write_csv(tmp_path / "orders.csv", [("track", "u", "A")], "type,userId,event")
    given = {"mapping": None, "destinations": "none"}

    class Callable:
        __module__ = "typed"

        def __call__(self, row):
            return row

    for transform in (dict, Callable()):
        imported(path, transform=transform, restart=True, **given)
        assert imported(path, transform=transform, **given)[0].already_done
    with pytest.raises(ImportUsageError, match="the transform"):
        imported(path, transform=dict, **given)


@pytest.mark.parametrize("fault", [KeyError, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("kind", ["function", "generator", "query"])
def test_whatever_a_transform_raises_rejects_its_row_alone(tmp_path, fault, kind):
    def bought(row):
        if row["user"] == "u1":
            raise fault(0)
        return {"type": "track", "userId": row["user"], "event": "Order Completed"}

    def each_bought(row):
        yield bought(row)

    class Query:
        def __init__(self, row):
            self.row = row

        def __iter__(self):
            return each_bought(self.row)

    path = write_csv(tmp_path / "orders.csv", orders(3))
    transform = {"function": bought, "generator": each_bought, "query": Query}[kind]
    report, segment = imported(path, mapping=None, transform=transform, destinations="none")
    assert (report.exit_code, report.counts.reasons) == (1, {"transform": 1})
    assert [message["userId"] for message in segment.messages] == ["u0", "u2"]


@pytest.mark.parametrize(
    ("value", "travels", "reasons"),
    [(frozenset({3}), [3], {}), (UUID(int=7), str(UUID(int=7)), {}), (object(), None, {"value": 1})],
)
def test_a_field_that_is_not_known_is_judged_as_it_travels(tmp_path, value, travels, reasons):
    """Its text would be another one in each process, and with it the id."""

    def bought(row):
        return {"type": "track", "userId": row["user"], "event": "A", "future": value}

    path = write_csv(tmp_path / "orders.csv", orders(1))
    given = {"mapping": None, "transform": bought, "destinations": "none"}
    tried = dry_run(options(path, **given))
    report, segment = imported(path, **given)
    assert tried.counts.reasons == report.counts.reasons == reasons
    assert [message["future"] for message in segment.messages] == [travels][: report.counts.delivered]
    assert [message["future"] for message in tried.messages] == [travels][: report.counts.delivered]


@pytest.mark.parametrize("name", ["event", "name", "category"])
@pytest.mark.parametrize("value", [Enum("Name", {"PAID": "Order Paid"}).PAID, bytearray(b"A"), frozenset({"A"})])
def test_a_dry_run_rejects_the_names_that_the_client_refuses(tmp_path, name, value):
    def bought(row):
        return {"type": "track", "userId": row["user"], "event": "A", name: value}

    path = write_csv(tmp_path / "orders.csv", orders(1))
    given = {"mapping": None, "transform": bought, "destinations": "none"}
    assert dry_run(options(path, **given)).counts.reasons == {"field-type": 1}
    assert imported(path, **given)[0].counts.reasons == {"field-type": 1}


def test_a_reject_says_where_the_transform_raised():
    """Not with the exception's text, which might quote the row."""

    def bought(row):
        moment = datetime.fromisoformat(row["at"])
        return {"type": "track", "userId": "u", "event": "A", "timestamp": moment.isoformat()}

    def each_bought(row):
        yield bought(row)

    line = bought.__code__.co_firstlineno + 1
    for transform, error, row in ((bought, "KeyError", {}), (each_bought, "ValueError", {"at": "SECRET"})):
        with pytest.raises(Unreadable) as caught:
            transformed(transform, None)(row)
        assert str(caught.value) == f"The transform raised {error} in line {line} of test_transform.py."


def test_a_reject_names_the_file_of_the_transform_and_not_that_of_its_decorator():
    def bought(row):
        return row["nothing"]

    namespace = {"wraps": wraps}
    text = "def decorated(function):\n    return wraps(function)(lambda row: function(row))"
    exec(compile(text, "decorators.py", "exec"), namespace)  # a file of its own
    with pytest.raises(Unreadable, match=r"of test_transform\.py\.$"):
        transformed(namespace["decorated"](bought), None)({})


def test_a_transform_without_lines_raises():
    with pytest.raises(Unreadable, match=r"The transform raised AttributeError\.$"):
        transformed(attrgetter("nothing"), None)({})
