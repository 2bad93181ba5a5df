"""Finds what would lose messages in Redis or hold them up, and gives relays the entries that none would get."""

from __future__ import annotations

from collections.abc import Iterator

from ._entries import GROUP, RELEASED, info_of, is_for_newer, order
from ._reader import PAGE, Consumer, StreamReader
from ._server import info_lines


def problems(reader: StreamReader, lease: float) -> list[str]:
    """One sentence each; `lease`: seconds, as the relays have it."""
    return [*_of_server(reader), *_of_orphans(reader), *_of_consumers(reader, lease), *_of_other_keys(reader, lease)]


def _of_server(reader: StreamReader) -> Iterator[str]:
    [reply] = reader.ask_all(("INFO",))
    if isinstance(reply, Exception):
        yield f"the server does not say how it is set up: {reply}"
        return
    info = info_lines(reply)
    if info.get("maxmemory_policy", "").startswith("allkeys-"):
        yield f"maxmemory-policy is {info['maxmemory_policy']}: the stream may be evicted; set noeviction"
    if info.get("aof_enabled") == "0":
        yield "appendonly is off: a restart of the server loses what came since its last snapshot"
    if info.get("role") == "slave":
        yield "the server is a replica, which takes no writes"
    if info.get("rdb_last_bgsave_status", "ok") != "ok" or info.get("aof_last_write_status", "ok") != "ok":
        yield "the server cannot write to its disk"


def _of_orphans(reader: StreamReader) -> Iterator[str]:
    if orphans := len(_orphans(reader)):
        verb, them = ("belongs", "it") if orphans == 1 else ("belong", "them")
        what = f"{_messages(orphans)} {verb} to a consumer that was removed"
        yield f"{what}, and no relay is ever given {them}: repair {them}"


def _of_consumers(reader: StreamReader, lease: float) -> Iterator[str]:
    consumers = reader.consumers()
    newer = [each for each in consumers if is_for_newer(each.name.encode())]
    relays = [each for each in consumers if each not in newer and each.name.encode() != RELEASED]
    gone = [each for each in relays if each.idle > 3 * lease]
    waiting = reader.ask("XLEN", reader.keys.messages) - _held(newer)
    if waiting and len(gone) == len(relays):
        yield f"{_messages(waiting)} {'waits' if waiting == 1 else 'wait'} and no relay runs: start one with `segment-async relay`"
    for each in gone:
        if each.held and len(gone) < len(relays):
            verb = "is" if each.held == 1 else "are"
            yield f"{_messages(each.held)} {verb} held by {each.name}, which is gone for {each.idle:.0f} s"
    if held := _held(newer):
        yield f"{_messages(held)} {'was' if held == 1 else 'were'} written by a newer version: upgrade the relays"


def _messages(count: int) -> str:
    return f"{count:,} {'message' if count == 1 else 'messages'}"


def _of_other_keys(reader: StreamReader, lease: float) -> Iterator[str]:
    """Of a relay whose write key is not that of its hosts: no message was ever in its stream."""
    stream = reader.keys.messages
    groups = map(info_of, reader.ask_of_group("XINFO", "GROUPS", stream))
    if reader.ask("XLEN", stream) or any(group[b"last-delivered-id"] != b"0-0" for group in groups):
        return
    for other in reader.other_streams():
        waiting, consumers = reader.ask_all(("XLEN", other), ("XINFO", "CONSUMERS", other, GROUP))
        # A user may be bound to one write key.
        if isinstance(waiting, Exception) or not waiting:
            continue
        relays = map(info_of, () if isinstance(consumers, Exception) else consumers)
        if all(each[b"idle"] > 3_000 * lease for each in relays):
            verb, them = ("waits", "it is") if waiting == 1 else ("wait", "they are")
            yield (
                f"{_messages(waiting)} of another write key {verb} in {other.decode()}, and no relay runs for it: if "
                f"{them} of your hosts, start the relay with their SEGMENT_WRITE_KEY"
            )


def _held(consumers: list[Consumer]) -> int:
    return sum(each.held for each in consumers)


# -- orphans


def repair(reader: StreamReader, lease: float) -> int:
    """Let relays have the messages that belong to a consumer that was removed. Returns how many.

    They count as attempted, as it is not known whether they were.
    """
    orphans, milliseconds = _orphans(reader), int(lease * 1000)
    for first in range(0, len(orphans), PAGE):
        ids = orphans[first : first + PAGE]
        options = ("IDLE", milliseconds + 1, "RETRYCOUNT", 2, "FORCE", "JUSTID")
        reader.ask("XCLAIM", reader.keys.messages, GROUP, RELEASED, milliseconds, *ids, *options)
    return len(orphans)


def _orphans(reader: StreamReader) -> list[bytes]:
    """Entries that were given to a consumer, and that none holds."""
    stream = reader.keys.messages
    groups = [
        group for group in map(info_of, reader.ask_of_group("XINFO", "GROUPS", stream)) if group[b"name"] == GROUP
    ]
    if not groups:
        return []
    found: list[bytes] = []
    for entries in reader.pages(stream, groups[0][b"last-delivered-id"]):
        held = _held_between(reader, entries[0][0], entries[-1][0])
        found += [entry_id for entry_id, _ in entries if entry_id not in held]
    # An entry that was read or has ended meanwhile is not one of them.
    return [
        each for each in found if not _held_between(reader, each, each) and reader.ask("XRANGE", stream, each, each)
    ]


def _held_between(reader: StreamReader, first: bytes, last: bytes) -> set[bytes]:
    held: set[bytes] = set()
    start = first
    while True:
        page = [each[0] for each in reader.ask("XPENDING", reader.keys.messages, GROUP, start, last, PAGE)]
        held.update(page)
        if len(page) < PAGE or order(page[-1]) >= order(last):
            return held
        start = b"(" + page[-1]
