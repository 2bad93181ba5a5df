"""Remembers recent message ids, to recognise duplicates. Pure, and bounded for any input."""


class RecentIds:
    """Remembers at least the last `count` ids, and never more than twice as many.

    It has two generations and drops the older one as a whole. Deleting single ids from the front of a dict means
    walking over all entries deleted before, which takes most of the time at some thousand events per second.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._younger: set[str] = set()
        self._older: set[str] = set()

    def __len__(self) -> int:
        return len(self._younger) + len(self._older)

    def seen_before(self, message_id: str) -> bool:
        """Whether this id is remembered; remembers it."""
        if message_id in self._younger:
            return True
        known = message_id in self._older
        self._younger.add(message_id)
        if len(self._younger) == self._count:
            self._older, self._younger = self._younger, set()
        return known

    def clear(self) -> None:
        self._younger = set()
        self._older = set()
