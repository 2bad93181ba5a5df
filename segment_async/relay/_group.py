"""The relays' consumer group: the commands that hand entries to a relay, and those that put in order what is left behind.

    XREADGROUP      entries that no relay had             XCLAIM          keep, take over or give back a hold
    XGROUP          the group itself, and its consumers

An entry's delivery counter is one more than the requests that carried it, as reading it counts as one.

This file knows the server and entries, and nothing of what this process holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from redis.exceptions import ResponseError

from ._entries import GROUP, RELEASED, Fields, Keys, info_of, is_for_newer, order, pairs_of
from ._server import Server, code_of

# Seconds that an exchange may take.
SECONDS: Final = 5.0
# Entries that one command is about.
CHUNK: Final = 500
# Removes consumers that hold nothing: ARGV[2] at once, others if they were idle for ARGV[3] milliseconds. A script, as
# a consumer that is given an entry in between would take it along.
_TIDY: Final = """
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for index = 1, #info, 2 do consumer[info[index]] = info[index + 1] end
  if consumer['pending'] == 0 and (consumer['name'] == ARGV[2] or consumer['idle'] > tonumber(ARGV[3])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer['name'])
  end
end
"""


# Many entries are one argument of a script, as the client library takes a microsecond to pack each argument.
# XCLAIM: ARGV[4] are the entries, and the arguments before and behind it are those of the command.
_CLAIM: Final = """
local command = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3]}
for entry in string.gmatch(ARGV[4], '%S+') do command[#command + 1] = entry end
for index = 5, #ARGV do command[#command + 1] = ARGV[index] end
return redis.pcall(unpack(command))
"""


class Pending(NamedTuple):
    """An entry that a consumer holds: `deliveries` is its counter, `idle` the milliseconds since it was last claimed."""

    entry_id: bytes
    consumer: bytes
    idle: int
    deliveries: int


class GroupSetup:
    """Makes the group, and notes of which entries attempts may have been forgotten.

    They may be forgotten with the group, or as the server restarted or another one took over.

    Attributes:
        doubtful_until: the last entry of which attempts may have been forgotten.
        noted: the command that asks what relays have noted: the server's run, and `doubtful_until`.
    """

    def __init__(self, server: Server, keys: Keys) -> None:
        self.doubtful_until: bytes | None = None
        self.noted: tuple[str | bytes, ...] = ("HMGET", keys.meta, "run", "before")
        self._server = server
        self._keys = keys

    async def create(self) -> None:
        """Make the group if there is none: from the first entry on, as those that have ended are gone.

        If relays have worked here before, what they had tried is not known any more. That is noted first, so that no
        relay reads from the new group without knowing it.
        """
        run, _ = await self._server.ask(*self.noted, seconds=SECONDS)
        if run is not None:
            await self._doubt_attempts(run)
        await self._make_group()
        if run is None and self._server.run is not None:
            await self._note_run(self._server.run)

    async def _make_group(self) -> None:
        try:
            await self._server.ask("XGROUP", "CREATE", self._keys.messages, GROUP, "0", "MKSTREAM", seconds=SECONDS)
        except ResponseError as refusal:
            if code_of(refusal) != "BUSYGROUP":
                raise

    def read_noted(self, reply: Sequence[bytes | None]) -> bytes | None:
        """Take over what another relay may have noted. Returns the server's run."""
        run, noted = reply
        # The later one: a server whose memory is full may not have taken this relay's note.
        known = [each for each in (noted, self.doubtful_until) if each is not None]
        self.doubtful_until = max(known, key=order, default=None)
        return run

    async def note_run(self, run: str | None) -> None:
        """The server was reached in a run of this name; `None`: it does not say.

        If it is another one than before, the server may have forgotten the last attempts.
        """
        known = self.read_noted(await self._server.ask(*self.noted, seconds=SECONDS))
        if run is None or known == run.encode():
            return
        if known is None:
            await self._make_group()
            await self._note_run(run)
        else:
            await self._doubt_attempts(run)

    async def _doubt_attempts(self, run: str | bytes) -> None:
        """All that is in the stream now counts as attempted from now on."""
        reply = await self._server.ask("XREVRANGE", self._keys.messages, "+", "-", "COUNT", 1, seconds=SECONDS)
        self.doubtful_until = pairs_of(reply)[0][0] if reply else b"0-0"
        await self._note_run(run, "before", self.doubtful_until)

    async def _note_run(self, run: str | bytes, *fields: str | bytes) -> None:
        # A server whose memory is full refuses: then this process knows it alone.
        with suppress(ResponseError):
            await self._server.ask("HSET", self._keys.meta, "run", run, *fields, seconds=SECONDS)


class Group:
    """As one consumer sees it. Every method raises `Unreachable`, or `ResponseError` for a command that was refused.

    A group that is gone is made again.
    """

    def __init__(self, server: Server, setup: GroupSetup, stream: bytes, consumer: bytes, lease: float) -> None:
        self.consumer = consumer
        self.lease = int(lease * 1000)
        self._server = server
        self._setup = setup
        self._stream = stream

    async def _ask(self, *command: Any) -> Any:
        try:
            return await self._server.ask(*command, seconds=SECONDS)
        except ResponseError as refusal:
            if code_of(refusal) != "NOGROUP":
                raise
        await self._setup.create()
        return await self._server.ask(*command, seconds=SECONDS)

    # -- reading

    async def read_new(self, count: int, block: float) -> list[Fields]:
        """Entries that no consumer was given yet; waits for the first one at most `block` seconds."""
        command = ("XREADGROUP", "GROUP", GROUP, self.consumer, "COUNT", count, "BLOCK", max(1, int(block * 1000)))
        commands = [(*command, "STREAMS", self._stream, ">"), self._setup.noted]
        reply, meta = await self._server.ask_all(commands, seconds=block + SECONDS)
        if isinstance(reply, ResponseError) and code_of(reply) in ("NOGROUP", "UNBLOCKED"):
            await self._setup.create()
            return []
        if isinstance(reply, Exception):
            raise reply
        if not isinstance(meta, Exception):
            self._setup.read_noted(meta)
        if not reply:
            return []
        return [
            pair
            for entries in info_of(reply[0] if isinstance(reply, list) else reply).values()
            for pair in pairs_of(entries)
        ]

    async def abandoned(self, count: int) -> list[Pending]:
        """Entries whose consumer has not renewed its hold for a lease, without those that wait for a newer version."""
        found: list[Pending] = []
        start: bytes = b"-"
        while len(found) < count:
            page = await self._pending("IDLE", self.lease, start, b"+", CHUNK)
            found += [each for each in page if not is_for_newer(each.consumer)]
            if len(page) < CHUNK:
                break
            start = b"(" + page[-1].entry_id
        return found[:count]

    async def take_over(self, pending: Iterable[Pending]) -> list[tuple[Fields, int]]:
        """Claim entries that no other relay claimed meanwhile. Returns each with its delivery counter."""
        by_deliveries: dict[int, list[bytes]] = {}
        for each in pending:
            by_deliveries.setdefault(each.deliveries, []).append(each.entry_id)
        taken: list[tuple[Fields, int]] = []
        for deliveries, entry_ids in by_deliveries.items():
            claim = ("XCLAIM", self._stream, GROUP, self.consumer, self.lease, *entry_ids, "RETRYCOUNT", deliveries)
            found = pairs_of(await self._ask(*claim))
            taken += [(each, deliveries) for each in found]
            await self._clear_ghosts(set(entry_ids).difference(entry_id for entry_id, _ in found))
        return sorted(taken, key=lambda each: order(each[0][0]))

    async def _clear_ghosts(self, entry_ids: Iterable[bytes]) -> None:
        """Forget holds on entries that are deleted; later servers do that by themselves."""
        ids = list(entry_ids)
        if ids:
            found = await self._server.ask_all([("XRANGE", self._stream, each, each) for each in ids], seconds=SECONDS)
            if gone := [entry_id for entry_id, reply in zip(ids, found, strict=True) if not reply]:
                await self._ask("XACK", self._stream, GROUP, *gone)

    # -- what this consumer holds

    async def note_attempt(self, entry_ids: Iterable[bytes], attempt: int) -> set[bytes]:
        """Set the delivery counters and renew the holds. Returns the entries that are still held."""
        return await self._claimed(self.consumer, entry_ids, "RETRYCOUNT", attempt + 1, "JUSTID")

    async def renew(self, entry_ids: Iterable[bytes]) -> set[bytes]:
        """Returns the entries that are still held."""
        return await self._claimed(self.consumer, entry_ids, "JUSTID")

    async def held(self) -> list[Pending]:
        """What the server knows as held by this consumer."""
        found: list[Pending] = []
        start: bytes = b"-"
        while True:
            page = await self._pending(start, b"+", CHUNK, self.consumer)
            found += page
            if len(page) < CHUNK:
                return found
            start = b"(" + page[-1].entry_id

    async def give_back(self, entry_ids: Iterable[bytes]) -> set[bytes]:
        """Let another relay take these over at once."""
        return await self._claimed(RELEASED, entry_ids, "IDLE", self.lease + 1, "JUSTID")

    async def park(self, entry_ids: Iterable[bytes], consumer: bytes) -> None:
        """Leave entries to a newer version, under a consumer that this one passes over."""
        await self._claimed(consumer, entry_ids, "IDLE", self.lease + 1, "JUSTID")

    async def leave(self) -> None:
        """Remove this consumer if it holds nothing."""
        await self.tidy(self.consumer)

    # -- order

    async def tidy(self, consumer: bytes = RELEASED) -> None:
        """Remove this consumer, and those of processes that are long gone, if they hold nothing."""
        await self._ask("EVAL", _TIDY, 1, self._stream, GROUP, consumer, 10 * self.lease)

    async def consumers(self) -> list[dict[bytes, Any]]:
        return [info_of(each) for each in await self._ask("XINFO", "CONSUMERS", self._stream, GROUP)]

    # -- commands

    async def _claimed(self, consumer: bytes, entry_ids: Iterable[bytes], *options: Any) -> set[bytes]:
        ids, claimed = list(entry_ids), set[bytes]()
        for first in range(0, len(ids), CHUNK):
            entries = b" ".join(ids[first : first + CHUNK])
            reply = await self._ask("EVAL", _CLAIM, 1, self._stream, GROUP, consumer, 0, entries, *options)
            claimed.update(entry_id for entry_id in reply or () if entry_id is not None)
        return claimed

    async def _pending(self, *arguments: Any) -> list[Pending]:
        reply = await self._ask("XPENDING", self._stream, GROUP, *arguments)
        return [Pending(*each) for each in reply or ()]
