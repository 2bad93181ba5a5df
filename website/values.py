"""The table of value conversions: expressions whose JSON is computed with the encoder."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import pathlib
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


# Kind of value, an expression, and a note.
ROWS: Final = [
    (
        "aware `datetime`",
        'datetime(2026, 11, 21, 20, 20, tzinfo=ZoneInfo("Europe/Berlin"))',
        "in UTC, with milliseconds",
    ),
    ("naive `datetime`", "datetime(2026, 11, 21, 19, 20)", "taken as UTC; one warning per process"),
    ("`date`", "date(2026, 11, 21)", ""),
    ("`time`", "time(19, 20)", ""),
    ("`timedelta`", "timedelta(minutes=1.5)", "seconds"),
    ("`UUID`", 'UUID("6f1e7c3a-6a52-4a0e-8f3e-0d8a4f3b2c11")', ""),
    ("`Path`", 'PurePosixPath("/srv/shop")', ""),
    ("IP address", 'ip_address("203.0.113.9")', ""),
    ("`Enum`", "Plan.PRO", "its value"),
    ("`Decimal`", 'Decimal("30.50")', "the exact number"),
    ("NaN, ±Infinity", "nan", "also of `Decimal` and numpy"),
    ("`set`, `frozenset`, `deque`, tuple", "deque([1, 2])", "a list; sets have no order"),
    ("generator", "(n for n in range(3))", "read once, at the call"),
    ("dataclass", 'Item("shoe-42", 30.5)', "attrs classes, pydantic models and `msgspec.Struct`, too"),
    ("numpy scalar, array", "array([1.5, 2.5])", ""),
    ("`bytes`, UTF-8", 'b"abc"', ""),
    ("`bytes`, other", 'b"\\xff\\xfe"', "base64"),
    ("`int` beyond 64 bits", "2**70", "text, because JavaScript would round it"),
    ("lone surrogate", '"\\ud800"', "U+FFFD"),
    ("key that is no text", "{1: True}", "two keys that become equal: `MessageError`"),
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
        "Plan": Plan,
        "PurePosixPath": pathlib.PurePosixPath,
        "SecretStr": SecretStr,
        "UUID": uuid.UUID,
        "array": np.array,
        "deque": deque,
        "ip_address": ipaddress.ip_address,
        "nan": float("nan"),
        "ZoneInfo": __import__("zoneinfo").ZoneInfo,
    }
    return eval(expression, names)


assert orjson.loads(b'"\\ufffd"') == "\ufffd"
