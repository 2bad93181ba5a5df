"""The table of value conversions: expressions whose JSON is computed with the encoder."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import pathlib
import types
import urllib.parse
import uuid
from collections import deque
from typing import Any, Final

import orjson

from segment_async._message.encode import encode


class Plan(enum.Enum):
    PRO = "pro"


@dataclasses.dataclass
class Item:
    sku: str
    price: float


class ULID:
    """As of an id library: known by its name, and by having a text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


class LazyString(ULID):
    """As Babel's."""


# Kind of value, an expression, and a note. A test compares the kinds with the encoder's tables.
ROWS: Final = [
    (
        "aware `datetime`",
        'datetime(2026, 11, 21, 20, 20, tzinfo=ZoneInfo("Europe/Berlin"))',
        "in UTC, with milliseconds; Arrow’s, too",
    ),
    ("naive `datetime`", "datetime(2026, 11, 21, 19, 20)", "taken as UTC; one warning per process"),
    ("`date`", "date(2026, 11, 21)", ""),
    ("`time`", "time(19, 20)", ""),
    ("`timedelta`", "timedelta(minutes=1.5)", "seconds"),
    ("`UUID`", 'UUID("6f1e7c3a-6a52-4a0e-8f3e-0d8a4f3b2c11")', ""),
    ("`Path` and other `os.PathLike`", 'PurePosixPath("/srv/shop")', ""),
    ("types of `ipaddress`", 'ip_address("203.0.113.9")', "addresses, networks and interfaces"),
    ("`Enum`", "Plan.PRO", "its value"),
    ("`Decimal`", 'Decimal("30.50")', "the exact number"),
    ("NaN, ±Infinity", "nan", "also of `Decimal` and numpy; pandas’ `NA` and `NaT`, too"),
    ("`Mapping`", "MappingProxyType({'size': 42})", "a key with several values has a list of them"),
    ("`set`, `frozenset`, `deque`, `tuple`", "deque([1, 2])", "a list; sets have no order"),
    ("generator", "(n for n in range(3))", "read once, at the call"),
    ("dataclass", 'Item("shoe-42", 30.5)', "attrs classes, pydantic models and `msgspec.Struct`, too"),
    ("numpy scalar, array", "array([1.5, 2.5])", ""),
    ("`bytes`, `bytearray`, `memoryview`, UTF-8", 'b"abc"', ""),
    ("`bytes`, other", 'b"\\xff\\xfe"', "base64"),
    ("`int` beyond 64 bits", "2**70", "text, because JavaScript would round it"),
    ("lone surrogate", '"\\ud800"', "U+FFFD"),
    ("key that is no text", "{1: True}", "two keys that become equal: `MessageError`"),
    (
        "URL",
        'urlsplit("https://shop.example/cart?item=1")',
        "also pydantic’s, `URL` and `furl`; SQLAlchemy’s without its password",
    ),
    ("`ULID`, `KSUID`, `ObjectId`", 'ULID("01KAKZ9T8QH5W4D0M1XN2V3R7C")', "ids, by the name of their type"),
    ("text that is translated late", 'LazyString("Warenkorb")', "Django’s and Babel’s, in the language of the call"),
    ("pydantic `SecretStr`", 'SecretStr("hunter2")', "the masked text"),
]


def shown(expression: str) -> str:
    """The JSON that the encoder makes of an expression."""
    message = {"type": "track", "properties": {"value": _value_of(expression)}}
    body = encode(message)
    return body.partition(b'"value":')[2][:-2].decode()


def _value_of(expression: str) -> Any:
    import numpy as np
    from pydantic import SecretStr

    names = {
        **vars(dt),
        "Decimal": decimal.Decimal,
        "Item": Item,
        "LazyString": LazyString,
        "MappingProxyType": types.MappingProxyType,
        "Plan": Plan,
        "PurePosixPath": pathlib.PurePosixPath,
        "SecretStr": SecretStr,
        "ULID": ULID,
        "UUID": uuid.UUID,
        "array": np.array,
        "deque": deque,
        "ip_address": ipaddress.ip_address,
        "nan": float("nan"),
        "urlsplit": urllib.parse.urlsplit,
        "ZoneInfo": __import__("zoneinfo").ZoneInfo,
    }
    return eval(expression, names)


assert orjson.loads(b'"\\ufffd"') == "\ufffd"
