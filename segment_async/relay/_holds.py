"""Which entries this process holds, and until when it may send them by its own clock.

The server hands an entry to another relay once it was idle for a lease. This process stops sending it after three
quarters of that, so that clocks need not agree and a process that was stopped notices in time. This file is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple

# Shares of a lease: between two renewals, and until a hold that was not renewed is given up.
RENEW_AFTER: Final = 0.25
GIVE_UP_AFTER: Final = 0.75


class Hold(NamedTuple):
    """`since`: when the server was last asked for it and granted it."""

    entry_id: bytes
    since: float


class Holds:
    """By keys, each of which stands for one hold: an entry that is held again has another key."""

    def __init__(self, lease: float, now: Callable[[], float]) -> None:
        self._lease = lease
        self._now = now
        self._holds: dict[int, Hold] = {}
        self._by_entry: dict[bytes, int] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._holds)

    def take(self, entry_id: bytes, since: float) -> int:
        """Hold an entry. Returns the key; an earlier hold of the entry has ended."""
        self._drop(self._by_entry.get(entry_id))
        self._last += 1
        self._holds[self._last] = Hold(entry_id, since)
        self._by_entry[entry_id] = self._last
        return self._last

    def valid(self, keys: Iterable[int]) -> dict[bytes, int]:
        """The entries that may still be sent, with their keys."""
        latest = self._now() - GIVE_UP_AFTER * self._lease
        found: dict[bytes, int] = {}
        for key in keys:
            hold = self._holds.get(key)
            if hold is not None and hold.since >= latest:
                found[hold.entry_id] = key
        return found

    def entry_ids(self, keys: Iterable[int]) -> list[bytes]:
        """The entries of these keys, without those whose hold has ended."""
        return [self._holds[key].entry_id for key in keys if key in self._holds]

    def due(self) -> list[bytes]:
        """Entries whose hold has to be renewed."""
        latest = self._now() - RENEW_AFTER * self._lease
        return [hold.entry_id for hold in self._holds.values() if hold.since <= latest]

    def renew(self, entry_ids: Iterable[bytes], since: float) -> None:
        for entry_id in entry_ids:
            key = self._by_entry.get(entry_id)
            if key is not None:
                self._holds[key] = Hold(entry_id, since)

    def end(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._drop(key)

    def end_entries(self, entry_ids: Iterable[bytes]) -> int:
        """Returns how many of them were held."""
        before = len(self)
        for entry_id in list(entry_ids):
            self._drop(self._by_entry.get(entry_id))
        return before - len(self)

    def end_expired(self) -> int:
        """Give up what was not renewed in time. Returns how many."""
        latest = self._now() - GIVE_UP_AFTER * self._lease
        return self.end_entries([hold.entry_id for hold in self._holds.values() if hold.since < latest])

    def end_all_but(self, entry_ids: Collection[bytes]) -> int:
        """Give up what the server does not know as held by this process. Returns how many."""
        return self.end_entries([entry_id for entry_id in self._by_entry if entry_id not in entry_ids])

    def is_held(self, entry_id: bytes) -> bool:
        return entry_id in self._by_entry

    def _drop(self, key: int | None) -> None:
        hold = self._holds.pop(key, None) if key is not None else None
        if hold is not None:
            del self._by_entry[hold.entry_id]
