"""Which message ids came lately: what a duplicate is known by. Pure, and bounded whatever comes."""


class LastIds:
    """Knows at least the last `count` ids, and never more than twice as many.

    Two generations, the older one forgotten as a whole: forgetting one id at a time from the front of a dict means
    walking over all that were forgotten before it, which at some thousand events a second is most of the work.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._younger: set[str] = set()
        self._older: set[str] = set()

    def __len__(self) -> int:
        return len(self._younger) + len(self._older)

    def came_before(self, message_id: str) -> bool:
        """Whether this id is one of them; from now on it is."""
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
