"""The messages of a file, of a spool, or of standard input, for `segment-async plan check` and `infer`.

A file has one JSON value a line, and is read line by line. If its first line is no JSON, it is read as a whole: then a
value may span lines, as one that is printed prettily does. This file knows no plan.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, cast

import click
import orjson

from segment_async import SpoolUnavailable
from segment_async.spool import SpoolInspector

_KINDS: Final[dict[type[object], str]] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a text",
}


# What JSON allows between two values.
_SPACE: Final = re.compile(r"[ \t\n\r]*")


class BadInput(click.ClickException):
    """Something that was given cannot be read; the text says where and why."""

    exit_code = 2


def messages(path: Path) -> Iterator[dict[str, Any]]:
    """Raises:
    BadInput: there is something other than messages; names the file and the line.
    """
    try:
        if str(path) == "-":
            yield from _of_file(sys.stdin.buffer, "standard input")
        elif path.is_file() and not _is_database(path):
            with path.open("rb") as file:
                yield from _of_file(file, str(path))
        else:
            yield from (orjson.loads(each.body) for each in SpoolInspector(path).pending())
    except (SpoolUnavailable, OSError) as error:
        raise BadInput(str(error)) from None


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _of_file(file: BinaryIO, name: str) -> Iterator[dict[str, Any]]:
    is_first = True
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            given = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if is_first:
                yield from _of_document(b"\n" * (number - 1) + line + file.read(), name)
                return
            raise BadInput(f"{name}:{number}:{error.colno}: not JSON: {error.msg}") from None
        is_first = False
        yield from _within(given, f"{name}:{number}")


def _of_document(content: bytes, name: str) -> Iterator[dict[str, Any]]:
    """The messages of JSON values that may span lines, one after the other."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{name}:{line}: not JSON: not UTF-8") from None
    decoder = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
    number, start = 1, 0
    while True:
        space = _SPACE.match(text, start)
        begin = start if space is None else space.end()
        # From one value to the next, as there may be many.
        number += text.count("\n", start, begin)
        if begin == len(text):
            return
        try:
            given, start = decoder.raw_decode(text, begin)
            # Refuses lone surrogates, as the reader of lines does.
            json.dumps(given, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise BadInput(f"{name}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{name}:{number}: not JSON: {error}") from None
        yield from _within(given, f"{name}:{number}")
        number += text.count("\n", begin, start)


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        _refuse(number)
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _within(given: object, place: str) -> Iterator[dict[str, Any]]:
    """A message, one that `dev --save` wrote, or the messages of a batch or of an array."""
    if isinstance(given, list):
        yield from _each(cast("list[object]", given), place, "the array")
        return
    if not isinstance(given, dict):
        raise BadInput(f"{place}: not a message but {_kind(given)}")
    fields = cast("dict[str, Any]", given)
    if isinstance(fields.get("batch"), list):
        yield from _each(fields["batch"], place, "the batch")
    elif "type" not in fields and isinstance(fields.get("message"), dict):
        yield fields["message"]
    else:
        yield fields


def _each(values: list[object], place: str, whole: str) -> Iterator[dict[str, Any]]:
    for number, each in enumerate(values, 1):
        if not isinstance(each, dict):
            raise BadInput(f"{place}: value {number} of {whole} is not a message but {_kind(each)}")
        yield from _within(cast("object", each), place)


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "an array")
