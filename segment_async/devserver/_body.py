"""What the body of a request says: decompressed within bounds, parsed, taken apart.

Pure: bytes in, an `Envelope` out, or `Refused` with the status that Segment answers. Nothing here judges a message;
nothing here knows of sockets.
"""

import base64
import binascii
import zlib
from typing import Final, NamedTuple

import orjson

BODY_BYTES: Final = 500_000
_GZIP: Final = 16 + zlib.MAX_WBITS


class Refused(Exception):
    """The request as a whole is not accepted; `status` is the answer, `retry_after` seconds are asked for with it."""

    def __init__(self, status: int, text: str, *, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


class Envelope(NamedTuple):
    """A request taken apart. `messages` is what the sender put there, objects or not."""

    write_key: str
    sent_at: str | None
    messages: list[object]


TOO_LARGE: Final = f"the request is larger than {BODY_BYTES:,} bytes"


def inflate(body: bytes, encoding: str) -> bytes:
    """The body as sent before compression, never more than `BODY_BYTES` of it.

    Raises:
        Refused: the body is larger than that, damaged, or compressed in a way that Segment does not read.
    """
    if encoding in ("", "identity"):
        plain = body
    elif encoding == "gzip":
        plain = _gunzip(body)
    else:
        raise Refused(400, f"Content-Encoding {encoding!r} is not gzip")
    if len(plain) > BODY_BYTES:
        raise Refused(400, TOO_LARGE)
    return plain


def _gunzip(body: bytes) -> bytes:
    plain = bytearray()
    try:
        while body:  # a gzip file may have several members
            member = zlib.decompressobj(_GZIP)
            plain += member.decompress(body, BODY_BYTES + 1 - len(plain))
            if len(plain) > BODY_BYTES:
                break
            if not member.eof:
                raise Refused(400, "the gzip body ends too early")
            body = member.unused_data
    except zlib.error as fault:
        raise Refused(400, "the body is not gzip") from fault
    return bytes(plain)


def envelope(body: bytes, call: str | None) -> Envelope:
    """Take the body of a batch apart (`call` is `None`), or the body of one call, whose type the path may have told.

    Raises:
        Refused: not JSON, or not the shape that Segment asks for.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        raise Refused(400, f"malformed JSON: {fault.msg}") from fault
    if not isinstance(parsed, dict):
        raise Refused(400, "the body is not a JSON object")
    key, sent_at = parsed.pop("writeKey", None), parsed.get("sentAt")
    messages = _one_call(parsed, call) if call is not None else _batch(parsed)
    return Envelope(
        write_key=key if isinstance(key, str) else "",
        sent_at=sent_at if isinstance(sent_at, str) else None,
        messages=messages,
    )


def _batch(parsed: dict[str, object]) -> list[object]:
    batch = parsed.get("batch")
    if not isinstance(batch, list):
        raise Refused(400, "no list of messages under “batch”")
    return batch


def _one_call(parsed: dict[str, object], call: str) -> list[object]:
    return [parsed if "type" in parsed else {"type": call, **parsed}]


def basic_user(authorization: str) -> str:
    """The user name of a Basic `Authorization` header, where SDKs put the write key; "" when there is none."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""
