"""Decompresses and parses the body of a request, within limits.

Pure: bytes in, a `ParsedRequest` out, or `RequestRefused` with the status that Segment would respond with. This file
does not judge messages and does not know sockets.
"""

import base64
import zlib
from typing import Final, NamedTuple, cast

import orjson

BODY_BYTES: Final = 500_000
_GZIP: Final = 16 + zlib.MAX_WBITS
# Bytes decompressed at once. What follows the end of a member is copied, and a body may have thousands of members.
_PIECE: Final = 4_096


class RequestRefused(Exception):
    """The whole request is refused with this `status` and, if given, `Retry-After: retry_after`."""

    def __init__(self, status: int, text: str, *, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


class ParsedRequest(NamedTuple):
    """The parts of a request. `messages` are what the sender sent, and may be any JSON values."""

    write_key: str
    sent_at: str | None
    messages: list[object]


TOO_LARGE: Final = f"the request is larger than {BODY_BYTES:,} bytes"


def inflate(body: bytes, encoding: str) -> bytes:
    """The decompressed body, of at most `BODY_BYTES`.

    Raises:
        RequestRefused: the body is larger, malformed, or compressed in a format that Segment does not accept.
    """
    if encoding in ("", "identity"):
        plain = body
    elif encoding == "gzip":
        plain = _gunzip(body)
    else:
        raise RequestRefused(400, f"Content-Encoding {encoding[:50]!r} is not gzip")
    if len(plain) > BODY_BYTES:
        raise RequestRefused(400, TOO_LARGE)
    return plain


def _gunzip(body: bytes) -> bytes:
    plain, start = bytearray(), 0
    member = zlib.decompressobj(_GZIP)
    try:
        while start < len(body) and len(plain) <= BODY_BYTES:
            if member.eof:  # a gzip file may have several members
                member = zlib.decompressobj(_GZIP)
            piece = body[start : start + _PIECE]
            plain += member.decompress(piece, BODY_BYTES + 1 - len(plain))
            start += len(piece) - len(member.unused_data)
    except zlib.error as error:
        raise RequestRefused(400, "the body is not gzip") from error
    if body and not member.eof and len(plain) <= BODY_BYTES:
        raise RequestRefused(400, "the gzip body is truncated")
    return bytes(plain)


def parse(body: bytes, call: str | None) -> ParsedRequest:
    """Parse the body of a batch (`call` is `None`) or of a single call, whose type may be given by the path.

    Raises:
        RequestRefused: the body is not JSON, or does not have the structure that Segment requires.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestRefused(400, f"malformed JSON: {error.msg}") from error
    if not isinstance(parsed, dict):
        raise RequestRefused(400, "the body is not a JSON object")
    fields = cast("dict[str, object]", parsed)
    key, sent_at = fields.pop("writeKey", None), fields.get("sentAt")
    messages = _one_call(fields, call) if call is not None else _batch(fields)
    return ParsedRequest(
        write_key=key if isinstance(key, str) else "",
        sent_at=sent_at if isinstance(sent_at, str) else None,
        messages=messages,
    )


def _batch(fields: dict[str, object]) -> list[object]:
    batch = fields.get("batch")
    if not isinstance(batch, list):
        raise RequestRefused(400, "no list of messages under “batch”")
    return cast("list[object]", batch)


def _one_call(fields: dict[str, object], call: str) -> list[object]:
    return [fields if "type" in fields else {"type": call, **fields}]


def basic_user(authorization: str) -> str:
    """The user name of a Basic `Authorization` header, where SDKs put the write key; "" if there is none."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[0]
    except ValueError:  # also of a header that is not ASCII
        return ""
