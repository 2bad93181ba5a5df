"""Which entries this process holds, and until when it may send them by its own clock.

The server hands an entry to another relay once it was idle for a lease. This process stops sending it after three
quarters of that, so that clocks need not agree and a process that was stopped notices in time. This file is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

# Shares of a lease: between two renewals, and until a hold that was not renewed is given up.
RENEW_AFTER: Final = 0.25
GIVE_UP_AFTER: Final = 0.75


class Holds:
    """By keys, each of which stands for one hold: an entry that is held again has another key."""

    def __init__(self, lease: float, now: Callable[[], float]) -> None:
        self._lease = lease
        self._now = now
        self._entry_ids: dict[int, bytes] = {}
        # When the server was last asked for each entry, and granted it.
        self._since: dict[int, float] = {}
        self._by_entry: dict[bytes, int] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._entry_ids)

    def __contains__(self, key: int) -> bool:
        return key in self._entry_ids

    def take(self, entry_id: bytes, since: float) -> int:
        """Hold an entry. Returns the key; an earlier hold of the entry has ended."""
        if entry_id in self._by_entry:
            self._drop(self._by_entry[entry_id])
        self._last = key = self._last + 1
        self._entry_ids[key], self._since[key], self._by_entry[entry_id] = entry_id, since, key
        return key

    def valid(self, keys: Iterable[int]) -> dict[bytes, int]:
        """The entries that may still be sent, with their keys."""
        latest = self._now() - GIVE_UP_AFTER * self._lease
        return {self._entry_ids[key]: key for key in keys if key in self._since and self._since[key] >= latest}

    def entry_ids(self, keys: Iterable[int]) -> list[bytes]:
        """The entries of these keys, without those whose hold has ended."""
        return [self._entry_ids[key] for key in keys if key in self._entry_ids]

    def due(self) -> list[bytes]:
        """Entries whose hold has to be renewed."""
        latest = self._now() - RENEW_AFTER * self._lease
        return [self._entry_ids[key] for key, since in self._since.items() if since <= latest]

    def renew(self, entry_ids: Iterable[bytes], since: float) -> None:
        for entry_id in entry_ids:
            if entry_id in self._by_entry:
                self._since[self._by_entry[entry_id]] = since

    def end(self, keys: Iterable[int]) -> int:
        """Returns how many of them were held."""
        before = len(self)
        for key in keys:
            self._drop(key)
        return before - len(self)

    def end_entries(self, entry_ids: Iterable[bytes]) -> int:
        """Returns how many of them were held."""
        return self.end([self._by_entry[entry_id] for entry_id in entry_ids if entry_id in self._by_entry])

    def end_expired(self) -> int:
        """Give up what was not renewed in time. Returns how many."""
        latest = self._now() - GIVE_UP_AFTER * self._lease
        return self.end([key for key, since in self._since.items() if since < latest])

    def end_all_but(self, entry_ids: Collection[bytes]) -> int:
        """Give up what the server does not know as held by this process. Returns how many."""
        return self.end_entries([entry_id for entry_id in self._by_entry if entry_id not in entry_ids])

    def is_held(self, entry_id: bytes) -> bool:
        return entry_id in self._by_entry

    def _drop(self, key: int) -> None:
        entry_id = self._entry_ids.pop(key, None)
        if entry_id is not None:
            del self._since[key], self._by_entry[entry_id]
