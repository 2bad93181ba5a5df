"""The shards that this process holds: its own, those of processes that died, and one in memory for bad days.

The first process on a path has the path itself, each further one takes the lowest number that nobody holds, with all
that is in it. What is left behind under other numbers is taken over a while later, so that processes that start
together find their own first; when it is empty it is let go.

Used by one thread at a time. This file knows no loops and no requests.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from segment_async._exceptions import SpoolUnavailable

from . import _tables as tables
from ._file_store import FileStore
from ._files import Place, base_path, inspect, prepare_folder, shard_path, slots_on_disk
from ._intake import NewMessage
from ._ledger import Ledger, slot_of
from ._lock import Lock
from ._protocol import Appended, DroppedMessage, SpoolStatistics, StoredMessage, Window
from ._shard import Limits, Note, Shard
from ._store import DiskFull, PlainStore

_logger = logging.getLogger("segment_async")

_MEMORY: Final = 1 << 18
"""The number of the shard in memory."""
_MEMORY_BYTES: Final = 2**25
_QUIET: Final = 60.0
_MOVED_AT_ONCE: Final = (256, 2**20)
"""Messages, and their bytes."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What statistics are made of; taken often, looked at seldom."""

    ledgers: tuple[Ledger, ...] = ()
    in_memory: int = 0
    recovered: int = 0
    unrecorded: int = 0
    damages: int = 0

    def statistics(self) -> SpoolStatistics:
        reasons: Counter[str] = Counter()
        for ledger in self.ledgers:
            reasons.update(json.loads(ledger.reasons))
        names = ("accepted", "delivered", "failed", "dropped", "pending", "pending_bytes", "dead", "dead_bytes")
        sums = {name: sum(getattr(ledger, name) for ledger in self.ledgers) for name in names}
        return SpoolStatistics(
            **sums,
            recovered=self.recovered,
            in_memory=self.in_memory,
            unrecorded=self.unrecorded,
            damages=self.damages,
            reasons=dict(reasons),
        )


class Shards:
    def __init__(self, path: str | os.PathLike[str], limits: Limits, *, power_safe: bool, falls_back: bool) -> None:
        self._path = path
        self._resolved: Path | None = None
        self._limits = limits
        self._power_safe = power_safe
        self._falls_back = falls_back
        self._own: Shard | None = None
        self._memory: Shard | None = None
        self._adopted: list[Shard] = []
        self._dropped: list[DroppedMessage] = []
        self._recovered = self._damages = 0
        # How the files of shards looked when they were found empty.
        self._known_empty: dict[int, object] = {}
        self._in_trouble = False
        self._next_warning: dict[str, float] = {}

    # -- in

    def note(self, slot: int, note: Note) -> None:
        """Have something recorded with the next `commit`."""
        for shard in self._all():
            if shard.slot == slot:
                shard.unrecorded.append(note)

    def commit(self, messages: Sequence[NewMessage] = ()) -> list[Appended | SpoolUnavailable]:
        """Record the notes and take the messages, as far as the disk does."""
        results = self._append(messages) if messages else []
        for shard in self._all():
            if shard.has_work and not (messages and shard is self._own):
                self._write(shard, ())
        return results

    def _append(self, messages: Sequence[NewMessage]) -> list[Appended | SpoolUnavailable]:
        results = self._write_own(messages)
        refusal = next((result for result in results if isinstance(result, SpoolUnavailable)), None)
        self._tell_of_trouble(refusal)
        return results if refusal is None or not self._falls_back else self._keep_in_memory(messages, refusal)

    def _write_own(self, messages: Sequence[NewMessage]) -> list[Appended | SpoolUnavailable]:
        try:
            return self._write(self._get_own(), messages)
        except SpoolUnavailable as refusal:
            return [refusal] * len(messages)

    def _write(self, shard: Shard, messages: Sequence[NewMessage]) -> list[Appended | SpoolUnavailable]:
        try:
            return [*shard.write(messages)]
        except SpoolUnavailable as refusal:
            if isinstance(refusal, DiskFull):
                with contextlib.suppress(SpoolUnavailable):
                    shard.store.use_reserve()
                    shard.write()
            if shard.unrecorded:
                self._warn("unrecorded", f"the spool cannot record what was sent: {refusal}; it is tried again")
            return [refusal] * len(messages)

    # -- memory, for as long as the disk refuses

    def _keep_in_memory(
        self, messages: Sequence[NewMessage], refusal: SpoolUnavailable
    ) -> list[Appended | SpoolUnavailable]:
        if self._memory is None:
            self._memory = Shard(
                _MEMORY, PlainStore(tables.create(None)), replace(self._limits, max_bytes=_MEMORY_BYTES)
            )
        kept = self._memory.write(messages)
        by_status: dict[str, Appended | SpoolUnavailable] = {"stored": Appended("memory"), "full": refusal}
        return [by_status.get(result.status, result) for result in kept]

    def _move_to_disk(self) -> None:
        """Bring what nobody holds from memory to the disk, once it works again."""
        while self._memory is not None and (messages := self._memory.read(*_MOVED_AT_ONCE)):
            results = self._write_own([NewMessage(each.message_id.encode(), each.body, False) for each in messages])
            if any(isinstance(result, SpoolUnavailable) or result.status == "full" for result in results):
                self._memory.give_back(messages)
                return
            self._memory.let_go(messages)
            self._tell_of_trouble(None)

    def _tell_of_trouble(self, refusal: SpoolUnavailable | None) -> None:
        if refusal is not None:
            instead = "kept in memory" if self._falls_back else "refused"
            self._warn("trouble", f"the spool cannot be written: {refusal}; new messages are {instead} until it can")
        elif self._in_trouble:
            self._warn("end of trouble", f"the spool {self._path} can be written again")
        self._in_trouble = refusal is not None

    def _warn(self, kind: str, text: str) -> None:
        """A disk that comes and goes is no news more than once a minute."""
        now = time.monotonic()
        if now >= self._next_warning.get(kind, now):
            self._next_warning[kind] = now + _QUIET
            _logger.warning("%s", text)

    # -- out

    def read(self, max_count: int, max_bytes: int) -> Window | None:
        """The next messages, of the shard that has the oldest; `None` where there is nothing to tell."""
        messages: list[StoredMessage] = []
        try:
            self._get_own()
        except SpoolUnavailable as refusal:
            self._tell_of_trouble(refusal)
        for shard in self._all():
            try:
                messages = shard.read(max_count, max_bytes)
            except SpoolUnavailable as refusal:
                self._warn("unreadable", f"the spool cannot be read: {refusal}; what is in it waits")
            self._dropped += shard.dropped
            shard.dropped = []
            if messages:
                break
        dropped, self._dropped = self._dropped, []
        return Window(messages, dropped) if messages or dropped else None

    def give_back(self, window: Window) -> None:
        """What a reader got who is not there any more."""
        self._dropped += window.dropped
        for shard in self._all():
            shard.give_back([each for each in window.messages if slot_of(each.key) == shard.slot])

    # -- which shards

    def look_after(self) -> None:
        """What nobody asks for: the shards of the dead, the empty ones, the disk that works again."""
        self._move_to_disk()
        self.commit()
        for shard in self._all():
            shard.give_room_back()
        for shard in [each for each in self._adopted if each.is_done]:
            self._adopted.remove(shard)
            self._close(shard)
        for slot in slots_on_disk(self._base):
            if all(shard.slot != slot for shard in self._all()):
                self._take_over(slot)

    def _all(self) -> list[Shard]:
        """The older messages first, as far as one can tell."""
        return [*self._adopted, *(shard for shard in (self._memory, self._own) if shard is not None)]

    def _get_own(self) -> Shard:
        if self._own is None:
            self._own = self._count_in(self._open_own())
        return self._own

    def _open_own(self) -> Shard:
        try:
            prepare_folder(self._base.parent)
            for slot in itertools.count():
                shard = self._open(slot)
                if shard is not None:
                    return shard
        except OSError as fault:
            raise SpoolUnavailable(f"{self._path}: {fault}") from fault
        raise AssertionError

    def _open(self, slot: int) -> Shard | None:
        """Open a shard; `None` where somebody else holds it."""
        place = Place(shard_path(self._base, slot))
        inspect(place)
        lock = Lock.acquire(place.lock)
        if lock is None:
            return None
        store = FileStore(place, lock, self._limits.now, power_safe=self._power_safe)
        try:
            return Shard(slot, store, self._limits)
        except BaseException:
            store.close()
            raise

    def _take_over(self, slot: int) -> None:
        place = Place(shard_path(self._base, slot))
        with contextlib.suppress(SpoolUnavailable, OSError):
            shard = None if self._known_empty.get(slot) == place.looks() else self._open(slot)
            if shard is not None and shard.ledger.pending:
                self._adopted.append(self._count_in(shard))
            elif shard is not None:
                self._close(shard)
                self._known_empty[slot] = place.looks()

    def _count_in(self, shard: Shard) -> Shard:
        self._recovered += shard.recovered
        return shard

    def _close(self, shard: Shard) -> None:
        self._damages += shard.store.damages
        shard.store.close()

    # -- books, and the end

    @property
    def _base(self) -> Path:
        # Not a cached_property: before Python 3.12 that has a lock, which a child may inherit locked.
        if self._resolved is None:
            self._resolved = base_path(self._path)
        return self._resolved

    def snapshot(self) -> Snapshot:
        shards = self._all()
        return Snapshot(
            ledgers=tuple(shard.counted() for shard in shards),
            in_memory=0 if self._memory is None else self._memory.ledger.pending,
            recovered=self._recovered,
            unrecorded=sum(len(shard.unrecorded) for shard in shards),
            damages=self._damages + sum(shard.store.damages for shard in shards),
        )

    def close(self) -> None:
        self._move_to_disk()
        self.commit()
        snapshot = self.snapshot()
        if snapshot.in_memory or snapshot.unrecorded:
            _logger.warning(
                "the spool %s closes while the disk refuses: %d messages were in memory only, %d notes are not recorded",
                self._path,
                snapshot.in_memory,
                snapshot.unrecorded,
            )
        for shard in self._all():
            shard.give_room_back()
            self._close(shard)
        self._own = self._memory = None
        self._adopted.clear()

    def abandon(self) -> None:
        """In a forked child: all of it is the parent's."""
        for shard in self._all():
            shard.store.abandon()
