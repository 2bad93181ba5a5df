"""What a victim was told, in a file that outlives it; and what must therefore be true of the spool.

A line is a sign and an id. The file is only ever appended to, one system call a line, so that a kill leaves whole
lines; it plays the part of the world outside, which does not forget either.
"""

import os
from collections.abc import Iterable
from pathlib import Path

OFFERED, ACCEPTED, REFUSED, SENT, DELIVERED, FAILED = "?+!>-x"


class Journal:
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, sign: str, message_ids: Iterable[str]) -> None:
        os.write(self._descriptor, "".join(f"{sign}{each}\n" for each in message_ids).encode())

    def close(self) -> None:
        os.close(self._descriptor)


class Story:
    """All that is known of a spool's past, told line by line."""

    def __init__(self) -> None:
        self.offered: set[str] = set()
        self.accepted: set[str] = set()
        self.refused: set[str] = set()
        self.sent: set[str] = set()
        self.delivered: set[str] = set()
        self.failed: set[str] = set()
        self._sets = {
            OFFERED: self.offered,
            ACCEPTED: self.accepted,
            REFUSED: self.refused,
            SENT: self.sent,
            DELIVERED: self.delivered,
            FAILED: self.failed,
        }

    def copy(self) -> "Story":
        story = Story()
        for sign, message_ids in self._sets.items():
            story._sets[sign].update(message_ids)
        return story

    @classmethod
    def of(cls, text: bytes) -> "Story":
        story = cls()
        story.tell(text)
        return story

    def tell(self, text: bytes) -> None:
        for line in text.decode().splitlines():
            self._sets[line[0]].add(line[1:])

    @property
    def settled(self) -> set[str]:
        return self.delivered | self.failed
