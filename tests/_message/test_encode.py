"""Values: each supported one alone and nested, on the fast path and the slow one, and among 999 good messages."""

import asyncio
import dataclasses
import enum
import inspect
import ipaddress
import itertools
import json
import math
import os
import subprocess
import sys
import uuid
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlparse, urlsplit

import attrs
import httpx2
import msgspec
import multidict
import numpy as np
import orjson
import pydantic
import pydantic.v1
import pytest
import werkzeug.datastructures
import yarl
from django.http import QueryDict
from django.utils.datastructures import MultiValueDict
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import URL, FormData, QueryParams, Secret

from segment_async import Client, MessageError, Response, Status
from segment_async._message.encode import encode, is_plain, plain
from segment_async._message.timestamps import datetime_text
from tests.support.virtual_clock import run

# Django's settings are those of the process, and these are all that the tests use.
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.programs.django_shop.settings"

SECRET = "THE-SECRET"
PLUS_TWO = timezone(timedelta(hours=2))


class Point(NamedTuple):
    x: int
    y: int


class AnotherPath:
    """A path as `os` takes it, of text or of bytes."""

    def __init__(self, path: str | bytes = "/a/b") -> None:
        self._path = path

    def __fspath__(self) -> str | bytes:
        return self._path


class Colour(enum.Enum):
    RED = "red"
    WHEN = datetime(2025, 1, 2, tzinfo=UTC)
    PAIR = (1, 2)


class ChoicesType(enum.EnumMeta):
    """Like the base classes of web frameworks."""


class Choice(enum.Enum, metaclass=ChoicesType):
    YES = uuid.UUID(int=1)


class TextChoice(str, enum.Enum, metaclass=ChoicesType):  # noqa: UP042  # as they were written before StrEnum
    YES = "yes"


class Size(enum.IntEnum):
    LARGE = 3
    HUGE = 2**70


class Plan(enum.StrEnum):
    PRO = "pro"


class Money(Decimal):
    def __str__(self) -> str:
        return f"${super().__str__()}"


class EverFinite(Decimal):
    def is_finite(self) -> bool:
        return True


class Spoken(datetime):
    def isoformat(self, *_: Any, **__: Any) -> str:
        return "half past three"


class Number(float):
    pass


class Name(str):
    __slots__ = ()


@dataclasses.dataclass
class Item:
    sku: str
    price: Decimal
    added: datetime = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    a: int = 1


@attrs.define
class Attrs:
    a: int = 1
    _b: set[int] = attrs.field(factory=lambda: {2})


class Model(pydantic.BaseModel):
    a: int = 1
    when: datetime = datetime(2025, 1, 2, tzinfo=UTC)
    password: pydantic.SecretStr = pydantic.SecretStr(SECRET)


class Linked(pydantic.BaseModel):
    site: pydantic.HttpUrl = pydantic.HttpUrl("https://example.com/a?b=c")


class RootModel(pydantic.RootModel[list[int]]):
    pass


@pydantic.dataclasses.dataclass
class PydanticDataclass:
    a: int = 1


class Card(pydantic.BaseModel):
    number: str
    total: Decimal = Decimal("30.50")
    at: datetime = datetime(2025, 1, 2, 3, 4, 5, tzinfo=PLUS_TWO)
    took: timedelta = timedelta(seconds=90)
    fee: Decimal = Decimal(1)

    @pydantic.field_serializer("number", when_used="json")
    def mask(self, number: str) -> str:
        return f"****{number[-4:]}"

    @pydantic.field_serializer("fee", when_used="json")
    def round(self, fee: Decimal) -> str:
        return f"about {fee}"


class Wallet(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    cards: list[Card]
    by_day: dict[date, Decimal]
    extra: np.ndarray[Any, Any] = np.array([1, 2])


@pydantic.dataclasses.dataclass
class CardData:
    number: str

    @pydantic.field_serializer("number", when_used="json")
    def mask(self, number: str) -> str:
        return f"****{number[-4:]}"


class CardNumber(str):
    __slots__ = ()


class OldCard(pydantic.v1.BaseModel):
    number: CardNumber
    at: datetime = datetime(2025, 1, 2, tzinfo=UTC)
    pin: pydantic.v1.SecretStr = pydantic.v1.SecretStr(SECRET)

    class Config:
        arbitrary_types_allowed = True

    def json(self, **_: Any) -> str:
        return json.dumps({**json.loads(super().json()), "number": f"****{self.number[-4:]}"})


class HiddenText(str):
    """Text with the look of a secret."""

    __slots__ = ()

    def get_secret_value(self) -> str:
        return str(self)


class OtherLibraries:
    """Classes with the names and the looks of other libraries'."""

    class UUID:
        def __init__(self, text: str) -> None:
            self.text = text

        def __str__(self) -> str:
            return self.text

    class ObjectId(UUID):
        pass

    class ULID(UUID):
        pass

    class LazyString(UUID):
        pass

    class NAType:
        def __bool__(self) -> bool:
            raise TypeError(SECRET)

        __hash__ = object.__hash__

        def __eq__(self, other: object) -> Any:
            return self

    class Arrow:
        datetime = datetime(2025, 1, 2, 3, 4, 5, tzinfo=PLUS_TWO)


class DatabaseURL(NamedTuple):
    """Like SQLAlchemy's."""

    host: str
    password: str

    def render_as_string(self, hide_password: bool = True) -> str:
        return f"postgresql://user:{'***' if hide_password else self.password}@{self.host}"


class Series:
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def tolist(self) -> list[Any]:
        return self.items


def multi_valued(items: list[tuple[str, str]]) -> dict[str, Callable[[], Any]]:
    query = "&".join(f"{key}={value}" for key, value in items)
    return {
        "QueryDict": lambda: QueryDict(query),
        "werkzeug MultiDict": lambda: werkzeug.datastructures.MultiDict(items),
        "werkzeug ImmutableMultiDict": lambda: werkzeug.datastructures.ImmutableMultiDict(items),
        "multidict": lambda: multidict.MultiDict(items),
        "multidict proxy": lambda: multidict.MultiDictProxy(multidict.CIMultiDict(items)),
        "starlette QueryParams": lambda: QueryParams(query),
        "starlette FormData": lambda: FormData(items),
        "httpx QueryParams": lambda: httpx2.QueryParams(items),
    }


class OldModel:
    """Like a model of pydantic 1."""

    __fields_set__: ClassVar[set[str]] = set()

    def json(self) -> str:
        return '{"a":1}'


class Struct(msgspec.Struct, rename="camel"):
    first_name: str = "a"
    last_name: str | msgspec.UnsetType = msgspec.UNSET


class NotATime(datetime):
    """Like pandas' NaT."""

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = datetime.__hash__

    def isoformat(self, *_: Any, **__: Any) -> str:
        return "NaT"


def made_of(value: Any) -> Callable[[], Any]:
    return lambda: value


# A value and its JSON. Functions make the values, because a generator can be read only once.
ROWS: dict[str, tuple[Callable[[], Any], str]] = {
    "text": (made_of("naïve ☂ \u2028"), '"naïve ☂ \u2028"'),
    "true": (made_of(True), "true"),
    "none": (made_of(None), "null"),
    "float": (made_of(0.1), "0.1"),
    "float subclass": (made_of(Number(1.5)), "1.5"),
    "str subclass": (made_of(Name("a")), '"a"'),
    "aware datetime": (made_of(datetime(2025, 1, 2, 3, 4, 5, 678_901, PLUS_TWO)), '"2025-01-02T01:04:05.678Z"'),
    "datetime with fold": (made_of(datetime(2025, 1, 2, tzinfo=UTC, fold=1)), '"2025-01-02T00:00:00.000Z"'),
    "naive datetime": (made_of(datetime(2025, 1, 2, 3, 4, 5)), '"2025-01-02T03:04:05.000Z"'),
    "first datetime": (made_of(datetime.min), '"0001-01-01T00:00:00.000Z"'),
    "datetime with text of its own": (made_of(Spoken(2025, 1, 2, tzinfo=UTC)), '"2025-01-02T00:00:00.000Z"'),
    "NaT": (made_of(NotATime(2025, 1, 2)), "null"),
    "date": (made_of(date(2025, 1, 2)), '"2025-01-02"'),
    "time": (made_of(time(1, 2, 3, 4)), '"01:02:03.000004"'),
    "time with zone": (made_of(time(1, 2, tzinfo=PLUS_TWO)), '"01:02:00+02:00"'),
    "UUID": (made_of(uuid.UUID(int=1)), '"00000000-0000-0000-0000-000000000001"'),
    "UUID of another library": (made_of(OtherLibraries.UUID("6ba7b810")), '"6ba7b810"'),
    "ObjectId": (made_of(OtherLibraries.ObjectId("507f191e810c19729de860ea")), '"507f191e810c19729de860ea"'),
    "ULID": (made_of(OtherLibraries.ULID("01ARZ3NDEKTSV4RRFFQ69G5FAV")), '"01ARZ3NDEKTSV4RRFFQ69G5FAV"'),
    "Django's lazy text": (made_of(gettext_lazy("Shoes")), '"Shoes"'),
    "Django's lazy text, formatted": (made_of(format_lazy("{}!", gettext_lazy("Shoes"))), '"Shoes!"'),
    "Django's lazy text as a key": (made_of({gettext_lazy("Shoes"): 1}), '{"Shoes":1}'),
    "safe text": (made_of(mark_safe("<b>")), '"<b>"'),
    "lazy text of other frameworks": (made_of(OtherLibraries.LazyString("Shoes")), '"Shoes"'),
    "yarl URL": (made_of(yarl.URL("https://example.com/a?b=c")), '"https://example.com/a?b=c"'),
    "starlette URL": (made_of(URL("https://example.com/a")), '"https://example.com/a"'),
    "httpx URL": (made_of(httpx2.URL("https://example.com/a")), '"https://example.com/a"'),
    "split URL": (made_of(urlsplit("https://example.com/a?b=c")), '"https://example.com/a?b=c"'),
    "parsed URL": (made_of(urlparse("https://example.com/a;b?c=d#e")), '"https://example.com/a;b?c=d#e"'),
    "database URL": (made_of(DatabaseURL("host", SECRET)), '"postgresql://user:***@host"'),
    "arrow": (made_of(OtherLibraries.Arrow()), '"2025-01-02T01:04:05.000Z"'),
    "pandas NA": (made_of(OtherLibraries.NAType()), "null"),
    "nullable series": (made_of(Series([1, OtherLibraries.NAType()])), "[1,null]"),
    "fragment": (lambda: orjson.Fragment(b'{"a":[1,"\\u00e9"]}'), '{"a":[1,"é"]}'),
    "fragment with digits": (lambda: orjson.Fragment("0.10000000000000000000001"), "0.10000000000000000000001"),
    **{
        f"{name} with one value": (make_it, '{"a":"1","b":"2"}')
        for name, make_it in multi_valued([("a", "1"), ("b", "2")]).items()
    },
    **{
        f"{name} with several values": (make_it, '{"a":["1","2"],"b":"3"}')
        for name, make_it in multi_valued([("a", "1"), ("b", "3"), ("a", "2")]).items()
    },
    "QueryDict without values": (made_of(MultiValueDict({"a": []})), '{"a":[]}'),
    "path": (made_of(Path("/a/b")), '"/a/b"'),
    "path of another library": (AnotherPath, '"/a/b"'),
    "path in bytes": (lambda: AnotherPath(b"/a/b"), '"/a/b"'),
    "path of no UTF-8": (made_of(PurePosixPath("/\udcff")), '"/\ufffd"'),
    "IPv4": (made_of(ipaddress.ip_address("192.0.2.1")), '"192.0.2.1"'),
    "IPv6": (made_of(ipaddress.ip_address("2001:db8::1")), '"2001:db8::1"'),
    "IPv4 network": (made_of(ipaddress.ip_network("192.0.2.0/24")), '"192.0.2.0/24"'),
    "IPv6 interface": (made_of(ipaddress.ip_interface("2001:db8::1/64")), '"2001:db8::1/64"'),
    "enum": (made_of(Colour.RED), '"red"'),
    "enum of a datetime": (made_of(Colour.WHEN), '"2025-01-02T00:00:00.000Z"'),
    "enum of a tuple": (made_of(Colour.PAIR), "[1,2]"),
    "int enum": (made_of(Size.LARGE), "3"),
    "int enum beyond 64 bits": (made_of(Size.HUGE), f'"{2**70}"'),
    "str enum": (made_of(Plan.PRO), '"pro"'),
    "enum of a derived kind": (made_of(Choice.YES), '"00000000-0000-0000-0000-000000000001"'),
    "str enum of a derived kind": (made_of(TextChoice.YES), '"yes"'),
    "timedelta": (made_of(timedelta(days=1, milliseconds=500)), "86400.5"),
    "Decimal": (made_of(Decimal("0.10000000000000000000000000001")), "0.10000000000000000000000000001"),
    "Decimal of an integer": (made_of(Decimal(2**70)), str(2**70)),
    "Decimal with exponent": (made_of(Decimal("1E+300")), "1E+300"),
    "small Decimal": (made_of(Decimal("1E-400")), "1E-400"),
    "Decimal beyond a float": (made_of(Decimal("-1E+400")), '"-1E+400"'),
    "Decimal with more digits than a float has": (made_of(Decimal("1" * 400)), f'"{"1" * 400}"'),
    "Decimal subclass with text of its own": (made_of(Money("3.50")), "3.50"),
    **{f"{name} NaN": (made_of(kind("nan")), "null") for name, kind in (("float", float), ("Decimal", Decimal))},
    **{f"{name} ∞": (made_of(kind("-inf")), "null") for name, kind in (("float", float), ("Decimal", Decimal))},
    "Decimal sNaN": (made_of(Decimal("sNaN")), "null"),
    "Decimal NaN that denies it": (made_of(EverFinite("nan")), "null"),
    "float subclass NaN": (made_of(Number("nan")), "null"),
    "set": (lambda: {1}, "[1]"),
    "frozenset": (made_of(frozenset({1})), "[1]"),
    "deque": (lambda: deque([1, {2}]), "[1,[2]]"),
    "tuple": (made_of((1, (2,))), "[1,[2]]"),
    "namedtuple": (made_of(Point(1, 2)), "[1,2]"),
    "generator": (lambda: (number for number in (1, 2)), "[1,2]"),
    "map": (lambda: map(str, (1, 2)), '["1","2"]'),
    "zip": (lambda: zip("ab", (1, 2), strict=True), '[["a",1],["b",2]]'),
    "dataclass": (
        made_of(Item("a", Decimal("1.50"))),
        '{"sku":"a","price":1.50,"added":"2025-01-02T03:04:05.000Z"}',
    ),
    "dataclass with slots": (made_of(Slotted()), '{"a":1}'),
    "attrs": (Attrs, '{"a":1,"_b":[2]}'),
    "pydantic model": (
        made_of(Model()),
        '{"a":1,"when":"2025-01-02T00:00:00.000Z","password":"**********"}',
    ),
    "pydantic model that masks in its JSON": (
        made_of(Card(number="4242424242424242")),
        '{"number":"****4242","total":30.50,"at":"2025-01-02T01:04:05.000Z","took":90.0,"fee":"about 1"}',
    ),
    "pydantic model in a model": (
        made_of(Wallet(cards=[Card(number="4242424242424242")], by_day={date(2025, 1, 2): Decimal("1.10")})),
        (
            '{"cards":[{"number":"****4242","total":30.50,"at":"2025-01-02T01:04:05.000Z","took":90.0,"fee":"about 1"}],'
            '"by_day":{"2025-01-02":1.10},"extra":[1,2]}'
        ),
    ),
    "pydantic dataclass that masks in its JSON": (made_of(CardData("4242424242424242")), '{"number":"****4242"}'),
    "pydantic 1 model that masks in its JSON": (
        made_of(OldCard(number=CardNumber("4242424242424242"))),
        '{"number":"****4242","at":"2025-01-02T00:00:00+00:00","pin":"**********"}',
    ),
    "secrets in attrs, msgspec and dataclasses": (
        made_of([Attrs(a=pydantic.SecretStr(SECRET)), Struct(pydantic.SecretStr(SECRET)), Slotted(HiddenText(SECRET))]),  # type: ignore[arg-type]
        '[{"a":"**********","_b":[2]},{"firstName":"**********"},{"a":"**********"}]',
    ),
    "pydantic model with an address": (made_of(Linked()), '{"site":"https://example.com/a?b=c"}'),
    "pydantic address": (made_of(pydantic.AnyUrl("http://example.com/")), '"http://example.com/"'),
    "pydantic address of many hosts": (
        made_of(pydantic.PostgresDsn("postgresql://a.example,b.example/shop")),
        '"postgresql://a.example,b.example/shop"',
    ),
    "pydantic root model": (made_of(RootModel([1])), "[1]"),
    "pydantic dataclass": (made_of(PydanticDataclass()), '{"a":1}'),
    "pydantic 1 model": (made_of(OldModel()), '{"a":1}'),
    "msgspec.Struct": (made_of(Struct(last_name="b")), '{"firstName":"a","lastName":"b"}'),
    "msgspec.Struct not wholly set": (made_of(Struct()), '{"firstName":"a"}'),
    "mapping": (made_of(MappingProxyType({"a": {1}})), '{"a":[1]}'),
    "UserDict": (made_of(UserDict(a=1)), '{"a":1}'),
    "OrderedDict": (made_of(OrderedDict(b=1, a=2)), '{"b":1,"a":2}'),
    "numpy int": (made_of(np.int64(5)), "5"),
    "numpy uint": (made_of(np.uint64(2**64 - 1)), str(2**64 - 1)),
    "numpy float": (made_of(np.float64(0.5)), "0.5"),
    "numpy float32": (made_of(np.float32(0.5)), "0.5"),
    "numpy float16 NaN": (made_of(np.float16("nan")), "null"),
    "numpy float64 ∞": (made_of(np.float64("inf")), "null"),
    "numpy longdouble": (made_of(np.longdouble("0.5")), "0.5"),
    "numpy longdouble NaN": (made_of(np.longdouble("nan")), "null"),
    "numpy bool": (made_of(np.bool_(True)), "true"),
    "numpy str": (made_of(np.str_("a")), '"a"'),
    "numpy bytes": (made_of(np.bytes_(b"a")), '"a"'),
    "numpy datetime": (made_of(np.datetime64("2025-01-02T03:04:05.123456789")), '"2025-01-02T03:04:05.123Z"'),
    "numpy NaT": (made_of(np.datetime64("NaT", "s")), "null"),
    "numpy timedelta": (made_of(np.timedelta64(1_500_000_000, "ns")), "1.5"),
    "numpy array": (made_of(np.array([[1, 2], [3, 4]])), "[[1,2],[3,4]]"),
    "numpy array with NaN": (made_of(np.array([1.5, np.nan])), "[1.5,null]"),
    "numpy array of datetimes": (made_of(np.array(["2025-01-02"], "M8[ns]")), '["2025-01-02T00:00:00.000Z"]'),
    "numpy array of objects": (made_of(np.array([{1}, None], object)), "[[1],null]"),
    "bytes of UTF-8": (made_of("naïve".encode()), '"naïve"'),
    "bytes of no UTF-8": (made_of(b"\xff\xfe"), '"//4="'),
    "bytearray": (lambda: bytearray(b"a"), '"a"'),
    "memoryview": (lambda: memoryview(b"\xff"), '"/w=="'),
    "least integer": (made_of(-(2**63)), str(-(2**63))),
    "below the least integer": (made_of(-(2**63) - 1), f'"{-(2**63) - 1}"'),
    "largest integer": (made_of(2**64 - 1), str(2**64 - 1)),
    "beyond the largest integer": (made_of(2**64), f'"{2**64}"'),
    "lone surrogate": (made_of("a\ud800b"), '"a\ufffdb"'),
    "surrogate pair": (made_of("\ud83d\ude00"), '"😀"'),
    "int key": (made_of({1: 2}), '{"1":2}'),
    "bool and None keys": (made_of({True: 1, False: 2, None: 3}), '{"true":1,"false":2,"null":3}'),
    "numpy keys": (made_of({np.bool_(True): 1, np.int64(2): 2}), '{"true":1,"2":2}'),
    "float key": (made_of({0.5: 1}), '{"0.5":1}'),
    "tuple key": (made_of({(1, 2): 3}), '{"(1, 2)":3}'),
    "UUID key": (made_of({uuid.UUID(int=1): 1}), '{"00000000-0000-0000-0000-000000000001":1}'),
    "date key": (made_of({date(2025, 1, 2): 1}), '{"2025-01-02":1}'),
    "time key": (made_of({time(1, 2): 1}), '{"01:02:00":1}'),
    "datetime key": (made_of({datetime(2025, 1, 2, tzinfo=PLUS_TWO): 1}), '{"2025-01-01T22:00:00.000Z":1}'),
    "enum key": (made_of({Colour.RED: 1, Size.LARGE: 2, Plan.PRO: 3}), '{"red":1,"3":2,"pro":3}'),
    "bytes key": (made_of({b"a": 1, b"\xff": 2}), '{"a":1,"/w==":2}'),
    "str subclass key": (made_of({Name("a"): 1}), '{"a":1}'),
    "surrogate key": (made_of({"\ud800": 1}), '{"\ufffd":1}'),
    "secret key": (made_of({pydantic.SecretStr(SECRET): 1}), '{"**********":1}'),
    "SecretStr": (made_of(pydantic.SecretStr(SECRET)), '"**********"'),
    "SecretBytes": (made_of(pydantic.SecretBytes(SECRET.encode())), '"**********"'),
    "pydantic Secret": (made_of(pydantic.Secret[int](5)), '"**********"'),
    "starlette Secret": (made_of(Secret(SECRET)), '"**********"'),
}


class Raises:
    """Raises an exception that quotes a secret."""

    def model_dump(self, **_: Any) -> Any:
        raise RuntimeError(SECRET)


class LazyMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise KeyError(SECRET)

    def __iter__(self) -> Iterator[str]:
        return iter("ab")

    def __len__(self) -> int:
        return 2


class LazyDict(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError(SECRET)


class LazyList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError(SECRET)


class Unbound:
    """A proxy without a target, like those of web frameworks outside of a request."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError(SECRET)


class ShowsStr:
    """A proxy that claims to be a str."""

    __class__ = str  # type: ignore[assignment]


class WithoutText:
    def __str__(self) -> str:
        raise RuntimeError(SECRET)

    __repr__ = __str__


class Endless:
    def tolist(self) -> Any:
        return [Endless()]


def cycle() -> dict[str, Any]:
    knot: dict[str, Any] = {}
    knot["again"] = [knot]
    return knot


def cycle_of_objects() -> Item:
    item = Item("a", Decimal(1))
    item.sku = [item]  # type: ignore[assignment]
    return item


def nested(depth: int, leaf: Any = 1, *, lists: bool = False) -> Any:
    for _ in range(depth):
        leaf = [leaf] if lists else {"a": leaf}
    return leaf


def raising() -> Iterator[int]:
    yield 1
    raise RuntimeError(SECRET)


# A value, the end of the path that the error names, and the type that it names.
REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "object": (object, "", "object"),
    "function": (made_of(len), "", "builtin_function_or_method"),
    "class": (made_of(Item), "", "type"),
    "enum class": (made_of(Colour), "", "EnumType"),
    "complex": (made_of(1j), "", "complex"),
    "range": (made_of(range(3)), "", "range"),
    "iterator": (lambda: itertools.chain([1]), "", "chain"),
    "Ellipsis": (made_of(...), "", "ellipsis"),
    "exception": (made_of(ValueError(SECRET)), "", "ValueError"),
    "its own code fails": (Raises, "", "Raises"),
    "mapping whose code fails": (LazyMapping, "", "LazyMapping"),
    "list whose code fails": (lambda: [object(), LazyList([1])], "[0]", "object"),
    "fragment of no text": (lambda: orjson.Fragment(object()), "", "Fragment"),  # type: ignore[arg-type]
    "fragment of no JSON": (lambda: [orjson.Fragment(b"{")], "[0]", "Fragment"),
    "fragment of a number without an end": (lambda: orjson.Fragment(b"1E+400"), "", "Fragment"),
    "fragment that ends the message": (
        lambda: orjson.Fragment(b'1}},{"type":"track","userId":"other","event":"e","properties":{"a":{"b":1'),
        "",
        "Fragment",
    ),
    "fragment that adds a field": (lambda: orjson.Fragment(b'1},"userId":"other","x":{"y":1'), "", "Fragment"),
    "fragment in a dataclass": (lambda: Item(orjson.Fragment(b"}"), Decimal(1)), ".sku", "Fragment"),  # type: ignore[arg-type]
    "fragment in a generator": (lambda: (orjson.Fragment(b"}") for _ in range(2)), "[0]", "Fragment"),
    "dict whose code fails": (lambda: LazyDict(a=1), "", "LazyDict"),
    "request's user": (lambda: SimpleLazyObject(object), "", "SimpleLazyObject"),
    "unbound proxy": (Unbound, "", "Unbound"),
    "proxy of a str": (ShowsStr, "", "ShowsStr"),
    "key whose code fails": (lambda: {WithoutText(): 1}, "", "WithoutText"),
    "generator that raises": (raising, "", "generator"),
    "endless generator": (itertools.count, "", "count"),
    "endless generator of our own": (lambda: (1 for _ in itertools.count()), "", "generator"),
    "cycle": (cycle, ".again[0]", "dict"),
    "cycle of objects": (cycle_of_objects, ".sku[0]", "Item"),
    "an integer of 5,000 digits": (made_of(10**5_000), "", "int"),
    "datetime beyond the calendar": (made_of(datetime.min.replace(tzinfo=PLUS_TWO)), "", "datetime"),
    "fragment of nothing": (lambda: {"a": object(), "b": orjson.Fragment(b"1")}, ".a", "object"),
    "deep within": (lambda: {"cart": [1, {"owner": object()}]}, ".cart[1].owner", "object"),
    "within an object": (lambda: Item(object(), Decimal(1)), ".sku", "object"),  # type: ignore[arg-type]
    "within a set": (lambda: {len}, "[0]", "builtin_function_or_method"),
}


def message_of(value: Any) -> dict[str, Any]:
    return {"type": "track", "properties": {"odd": value}}


def encoded(value: Any) -> str:
    """The JSON of the value, without what surrounds it."""
    body = encode(message_of(value)).decode()
    head, tail = '{"type":"track","properties":{"odd":', "}}"
    assert body.startswith(head)
    assert body.endswith(tail)
    return body[len(head) : -len(tail)]


def refusal(value: Any) -> MessageError:
    with pytest.raises(MessageError) as caught:
        encode(message_of(value))
    return caught.value


class TestTable:
    @pytest.mark.parametrize("name", ROWS)
    def test_alone(self, name: str) -> None:
        make, expected = ROWS[name]
        assert encoded(make()) == expected

    @pytest.mark.parametrize("name", ROWS)
    def test_nested(self, name: str) -> None:
        make, expected = ROWS[name]
        assert encoded([{"a": (make(),)}]) == f'[{{"a":[{expected}]}}]'

    @pytest.mark.parametrize("name", ROWS)
    def test_beside_a_value_of_the_slow_path(self, name: str) -> None:
        make, expected = ROWS[name]
        assert encoded([{"a": make()}, 2**70]) == f'[{{"a":{expected}}},"{2**70}"]'

    @pytest.mark.parametrize("name", ROWS)
    def test_within_objects(self, name: str) -> None:
        make, expected = ROWS[name]
        assert encoded(Attrs(a=make(), b=set())) == f'{{"a":{expected},"_b":[]}}'

    @pytest.mark.parametrize("name", ROWS)
    def test_made_plain_first(self, name: str) -> None:
        make, expected = ROWS[name]
        walked = plain(message_of(make()))
        assert is_plain(walked)
        assert encoded(walked["properties"]["odd"]) == expected


class TestRefused:
    @pytest.mark.parametrize("name", REFUSED)
    def test_names_the_path_and_the_type_and_no_value(self, name: str) -> None:
        make, path, kind = REFUSED[name]
        error = refusal(make())
        assert error.path == f"properties.odd{path}"
        assert str(error).endswith(f"(type {kind})")
        assert SECRET not in repr(error)
        # The same holds for its cause, although it is not shown.
        assert error.__cause__ is None
        assert error.__context__ is None

    @pytest.mark.parametrize("name", REFUSED)
    def test_after_other_values(self, name: str) -> None:
        make, path, _ = REFUSED[name]
        assert refusal(["\ud800", {"a": make()}]).path == f"properties.odd[1].a{path}"

    @pytest.mark.parametrize(
        "keys",
        [
            {1: "a", "1": "b"},
            {b"a": 1, "a": 2},
            dict.fromkeys(("\ud800", "\udfff")),
            {date(2025, 1, 2): 1, "2025-01-02": 2},
            {pydantic.SecretStr("a"): 1, pydantic.SecretStr("b"): 2},
        ],
    )
    def test_two_keys_that_become_equal(self, keys: dict[Any, Any]) -> None:
        error = refusal(keys)
        assert error.problem == "two keys have the same text"
        assert error.path.startswith("properties.odd.")

    def test_a_dict_whose_code_fails_where_it_is_read(self) -> None:
        assert refusal([LazyDict(a=1)]).path == "properties.odd[0]"
        assert refusal([LazyDict(a=1), 2**70]).path == "properties.odd[0]"


class TestDepth:
    @pytest.mark.parametrize("lists", [False, True])
    @pytest.mark.parametrize("leaf", [1, "\ud800"], ids=["fast", "slow"])
    def test_both_paths_accept_the_same_depth(self, leaf: Any, *, lists: bool) -> None:
        # With the message and its properties, 254 in all.
        encode(message_of(nested(252, leaf, lists=lists)))
        assert "too deeply" in refusal(nested(253, leaf, lists=lists)).problem

    def test_the_path_leads_to_where_it_ends(self) -> None:
        error = refusal(nested(300))
        assert error.path == "properties.odd" + ".a" * 252
        assert "(type dict)" in str(error)

    def test_conversions_without_an_end(self) -> None:
        assert "too deeply" in refusal(Endless()).problem

    def test_called_near_the_recursion_limit(self) -> None:
        def descend(levels: int) -> MessageError:
            return descend(levels - 1) if levels else refusal(nested(250, "\ud800", lists=True))

        error = descend(sys.getrecursionlimit() - len(inspect.stack()) - 300)
        assert (error.path, error.problem) == ("message", "is nested too deeply")

    def test_deeper_than_the_recursion_limit(self) -> None:
        assert refusal(nested(100_000, lists=True)).problem.startswith("is nested too deeply")


class TestInterrupts:
    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
    def test_they_pass_through(self, kind: type[BaseException]) -> None:
        class Interrupts:
            def model_dump(self, **_: Any) -> Any:
                raise kind

        for step in (encode, is_plain, plain):
            with pytest.raises(kind):
                step(message_of(Interrupts()))
        with pytest.raises(kind):
            encode(message_of([2**70, Interrupts()]))

    @pytest.mark.parametrize("step", [encode, is_plain])
    def test_also_those_that_come_once(self, step: Callable[[dict[str, Any]], object]) -> None:
        class InterruptedOnce:
            came = False

            def model_dump(self, **_: Any) -> Any:
                if not self.came:
                    self.came = True
                    raise KeyboardInterrupt
                return {}

        with pytest.raises(KeyboardInterrupt):
            step(message_of(InterruptedOnce()))


def test_is_plain_does_not_consume_generators() -> None:
    numbers = (number for number in (1, 2, 3))
    message = message_of(numbers)
    assert not is_plain(message)
    assert encoded(plain(message)["properties"]["odd"]) == "[1,2,3]"
    assert next(numbers, None) is None


def test_the_most_items_of_a_generator() -> None:
    assert len(plain(message_of(iter_of(16_384)))["properties"]["odd"]) == 16_384
    assert "more items" in refusal(iter_of(16_385)).problem


def iter_of(count: int) -> Iterator[int]:
    return (1 for _ in range(count))


def test_a_naive_datetime_is_logged_once_per_process() -> None:
    program = (
        "import logging, datetime as d; logging.basicConfig(); from segment_async._message.encode import encode\n"
        "for _ in range(3): encode({'a': d.datetime(2025, 1, 2), 'b': {d.datetime(2025, 1, 2): 1}})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr.count("without a time zone") == 1
    assert "2025" not in done.stderr


CHANGED_WHILE_ENCODED = """
from dataclasses import dataclass
from typing import Any
from segment_async._message.encode import encode, is_plain

class Clears:
    def __init__(self, container):
        self.container = container

    def __fspath__(self):
        self.container.clear()
        return "x"

@dataclass
class Holder:
    held: Any

def cleared_list():
    within = []
    within.extend([Clears(within), *(str(number) * 9 for number in range(50))])
    return within

def cleared_dict():
    within = {}
    within.update({"first": Clears(within), **{f"key {number}": str(number) * 9 for number in range(50)}})
    return within

def check(make):
    for wrap in (lambda within: within, lambda within: [(within,)], Holder):
        assert is_plain({"a": wrap(make())})
        assert b'"494949494949494949"' in encode({"a": wrap(make())})

for _ in range(100):
    check(cleared_list)
    check(cleared_dict)
"""


def test_a_list_or_dict_that_a_conversion_changes() -> None:
    # In a process of its own: orjson crashes if it meets such a change.
    done = subprocess.run(
        [sys.executable, "-c", CHANGED_WHILE_ENCODED], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")


class ChangingKey:
    def __init__(self) -> None:
        self.number = 1

    def __hash__(self) -> int:
        return self.number

    def __str__(self) -> str:
        return "key"


def test_a_key_whose_hash_has_changed() -> None:
    """A copy of its dict takes it for another key, and grows."""
    key = ChangingKey()
    given = {key: [1]}
    key.number = 2
    assert encode({"a": given}) == b'{"a":{"key":[1]}}'


class LostKey(ChangingKey):
    def __hash__(self) -> int:
        if self.number == 2:
            raise ValueError("of the application")
        return self.number


def test_a_key_whose_hash_raises() -> None:
    key = LostKey()
    given = {key: [1]}
    key.number = 2
    assert encode({"a": given}) == b'{"a":{"key":[1]}}'


def test_what_is_plain_shares_no_container() -> None:
    given = {"a": [{"b": 1}], "c": MappingProxyType({"d": (1,)})}
    copy = plain(given)
    assert copy == {"a": [{"b": 1}], "c": {"d": [1]}}
    copy["a"][0]["b"] = 2
    assert given["a"] == [{"b": 1}]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text())
    | st.datetimes(timezones=st.just(UTC)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


class TestProperties:
    @given(st.dictionaries(st.text(), JSON, max_size=5))
    def test_both_paths_agree(self, value: dict[str, Any]) -> None:
        fast = orjson.loads(encode({"a": value}))["a"]
        slow = orjson.loads(encode({"a": value, "b": 2**70}))["a"]
        walked = orjson.loads(encode(plain({"a": value})))["a"]
        assert fast == slow == walked

    @given(st.text(st.characters(exclude_categories=()), max_size=20))
    def test_any_text(self, text: str) -> None:
        expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert orjson.loads(encoded(text)) == expected
        assert orjson.loads(encoded({text: 1})) == {expected: 1}

    @given(st.integers())
    def test_any_integer(self, number: int) -> None:
        expected = number if -(2**63) <= number < 2**64 else str(number)
        assert orjson.loads(encoded(number)) == expected

    @given(st.floats())
    def test_any_float(self, number: float) -> None:
        expected = number if math.isfinite(number) else None
        assert orjson.loads(encoded(number)) == expected
        assert orjson.loads(encoded([np.float64(number), 2**70]))[0] == expected

    @given(st.decimals())
    def test_any_decimal(self, number: Decimal) -> None:
        text = encoded(number)
        assert text == "null" if not number.is_finite() else Decimal(text) == number

    @given(st.binary(max_size=50))
    def test_any_bytes(self, raw: bytes) -> None:
        assert isinstance(orjson.loads(encoded(raw)), str)

    @given(st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.timezones()))
    def test_any_moment(self, moment: datetime) -> None:
        text = datetime_text(moment)
        assert text.endswith("Z")
        assert timedelta(0) <= moment - datetime.fromisoformat(text) < timedelta(milliseconds=1)


class Recorder:
    """Keeps every body that it is given."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        self.bodies.append(body)
        return Response(200)

    async def aclose(self) -> None:
        """There is nothing to close."""


class TestAmongGoodOnes:
    """One odd message in a batch of a thousand, in the middle."""

    def send(self, make: Callable[[], Any]) -> tuple[list[bytes], MessageError | None]:
        async def main() -> tuple[list[bytes], MessageError | None]:
            transport, refused = Recorder(), None
            async with Client("key", transport=transport, gzip=False, flush_at=1_000) as client:
                for number in range(1_000):
                    value = make() if number == 500 else number
                    try:
                        delivery = await client.track("user", "Event", {"odd": value})
                    except MessageError as error:
                        assert number == 500
                        refused = error
                await client.flush()
                assert delivery.outcome is not None
                assert delivery.outcome.status is Status.DELIVERED
                assert client.statistics().delivered == 1_000 - (refused is not None)
            return transport.bodies, refused

        return run(main())

    @pytest.mark.parametrize("name", ROWS)
    def test_it_is_sent_as_the_table_says(self, name: str) -> None:
        make, expected = ROWS[name]
        bodies, refused = self.send(make)
        assert refused is None
        assert sum(len(json.loads(body)["batch"]) for body in bodies) == 1_000
        assert sum(body.count(f'"properties":{{"odd":{expected}}}'.encode()) for body in bodies) >= 1

    @pytest.mark.parametrize("name", REFUSED)
    def test_refused_it_does_not_affect_the_others(self, name: str) -> None:
        bodies, refused = self.send(REFUSED[name][0])
        assert refused is not None
        assert sum(len(orjson.loads(body)["batch"]) for body in bodies) == 999
