"""What is in Redis: the names of the keys, and how a message and a dead letter are written as an entry of a stream.

    segment:{F}:m       one entry a message, all of them pending: what has ended is deleted
    segment:{F}:dead    one entry a dead letter
    segment:{F}:meta    which server the relays saw last, and up to which entry it may have forgotten attempts
    segment:{F}:pace    the token bucket that all relays share

F is a fingerprint of the write key, never the key itself; the braces keep all of them in one slot of a cluster. This
file is pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from segment_async._outcome import BatchResult
from segment_async.messages import MAX_MESSAGE_BYTES
from segment_async.spool._protocol import NewMessage, without_body

GROUP: Final = b"relays"
# Consumer of what a relay gave back at its end; another one takes it over.
RELEASED: Final = b"released"
# What this version can read: raised with each field that an older relay must not pass over.
FORMAT: Final = 1
_UNKNOWN: Final = b"unknown-"
# Consumer of entries that this version cannot read: they wait for a newer relay.
UNKNOWN: Final = _UNKNOWN + str(FORMAT).encode()

_ID, _BODY, _REPEATED = b"i", b"b", b"r"
_FIELDS: Final = frozenset((_ID, _BODY, _REPEATED))
# Appends messages in one step. KEYS[1]: the stream. ARGV[1]: entries that it may have. ARGV[2]: empty, or a digit for
# each message, 1 if it is repeated. Then the id and the body of each message. Returns how many are stored, from the
# first on. A server that refuses does so at the first one.
APPEND: Final = """
local room = ARGV[1] - redis.call('XLEN', KEYS[1])
local stored = 0
while stored < room and 2 * stored + 3 < #ARGV do
  local id, body = ARGV[2 * stored + 3], ARGV[2 * stored + 4]
  local reply
  if string.sub(ARGV[2], stored + 1, stored + 1) == '1' then
    reply = redis.pcall('XADD', KEYS[1], '*', 'i', id, 'b', body, 'r', '1')
  else
    reply = redis.pcall('XADD', KEYS[1], '*', 'i', id, 'b', body)
  end
  if type(reply) == 'table' then return stored > 0 and stored or reply end
  stored = stored + 1
end
return stored
"""


class Keys(NamedTuple):
    """The names of the keys for one write key."""

    messages: bytes
    dead: bytes
    meta: bytes
    pace: bytes


def keys_for(fingerprint: str) -> Keys:
    prefix = f"segment:{{{fingerprint}}}:"
    return Keys(*(f"{prefix}{name}".encode() for name in ("m", "dead", "meta", "pace")))


class Entry(NamedTuple):
    """A message in the stream. `is_repeated`: its host does not know whether an earlier append arrived, too."""

    entry_id: bytes
    message_id: str
    body: bytes
    is_repeated: bool

    def __repr__(self) -> str:
        return without_body(self)


def append_arguments(messages: Sequence[NewMessage], most: int, repeated: Collection[str]) -> list[Any]:
    """What `APPEND` is given; `repeated`: ids of which an earlier append may have arrived."""
    arguments: list[Any] = [most, "".join("01"[each.message_id in repeated] for each in messages) if repeated else ""]
    for each in messages:
        arguments += (each.message_id.encode(errors="surrogatepass"), each.body)
    return arguments


def entry_of(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry | None:
    """The message in an entry; `None`: a newer version wrote it, or something else did."""
    if _ID not in fields or _BODY not in fields or not fields.keys() <= _FIELDS:
        return None
    try:
        message_id = fields[_ID].decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return None
    body = fields[_BODY]
    return Entry(entry_id, message_id, body, _REPEATED in fields) if len(body) <= MAX_MESSAGE_BYTES else None


def is_for_newer(consumer: bytes) -> bool:
    """Whether what this consumer holds waits for a version later than this one."""
    level = consumer.removeprefix(_UNKNOWN)
    return consumer.startswith(_UNKNOWN) and level.isdigit() and int(level) >= FORMAT


Fields = tuple[bytes, dict[bytes, bytes]]


def pairs_of(entries: Sequence[Any] | None) -> list[Fields]:
    """The ids and fields of the entries in a reply, without those that were deleted meanwhile."""
    return [
        (each[0], dict(zip(each[1][::2], each[1][1::2], strict=True)))
        for each in entries or ()
        if each is not None and each[1] is not None
    ]


# -- dead letters


def dead_fields(entry: Fields, result: BatchResult, answer: str, at: float) -> list[bytes]:
    """The fields of a dead letter: those of the entry, how it ended, and when."""
    entry_id, fields = entry
    ended: dict[bytes, object] = {
        b"accepted": milliseconds(entry_id) / 1000,
        b"reason": result.reason or "",
        b"status": "" if result.status_code is None else result.status_code,
        b"attempts": result.attempts,
        b"possibly": int(result.possibly_delivered),
        b"answer": answer,
        b"at": at,
    }
    written = {name: str(value).encode(errors="replace") for name, value in ended.items()}
    return [part for pair in ({**fields, **written}).items() for part in pair]


def fields_of_letter(fields: Mapping[bytes, bytes]) -> list[bytes]:
    """The fields of a message that is put back: marked as repeated if it may have been delivered."""
    kept = {name: value for name, value in fields.items() if name in _FIELDS}
    if fields.get(b"possibly") == b"1":
        kept[_REPEATED] = b"1"
    return [part for pair in kept.items() for part in pair]


def milliseconds(entry_id: bytes) -> int:
    """When an entry was appended, by the server's clock."""
    return int(entry_id.partition(b"-")[0])


def order(entry_id: bytes) -> tuple[int, int]:
    """For comparing ids."""
    time, _, sequence = entry_id.partition(b"-")
    return int(time), int(sequence or 0)


def info_of(reply: Any) -> dict[bytes, Any]:
    """Names and values of a reply as a mapping, which it is with the newer protocol only."""
    mapping: dict[bytes, Any] = dict(reply if hasattr(reply, "items") else zip(reply[::2], reply[1::2], strict=True))
    return mapping
