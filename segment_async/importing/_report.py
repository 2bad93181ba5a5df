"""What an import tells: its counters, its progress, its report, and its errors.

Exit codes are those of the command `segment-async import`; a job that imports from Python finds them in the report.
Wrong usage, 2, is not among them: it raises `ImportUsageError`, and there is no report.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

DONE: Final = 0
SOME_REJECTED: Final = 1
TOO_MANY_REJECTS: Final = 3
REFUSED: Final = 4
UNREACHABLE: Final = 75


class ImportUsageError(ValueError):
    """The options, the mapping or a source is wrong, or the state belongs to another import. Nothing was sent."""


class SourceBroken(Exception):
    """A source cannot be read further: it is truncated or damaged.

    Attributes:
        byte: how far it could be read, in bytes of the file after decompression.
    """

    def __init__(self, byte: int, text: str) -> None:
        super().__init__(text)
        self.byte = byte


class Stopped(Exception):
    """The import cannot go on. What has no outcome is sent by the next run."""

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(slots=True)
class Counts:
    """Records by their outcome: ``records == delivered + rejected + failed + skipped + duplicates``.

    Attributes:
        records: records that have an outcome, those of earlier runs on the same state included.
        skipped: outside `since` and `until`, or the transform gave no message.
        duplicates: all messages of the record had ids that were sent before in this run, of those that it remembers:
            the last 200,000 at least.
        messages: messages delivered; a record can make several.
        reasons: rejected and failed records by rule or reason.
        spec, plan: findings of this severity by rule, in messages that were sent anyway.
    """

    records: int = 0
    delivered: int = 0
    rejected: int = 0
    failed: int = 0
    skipped: int = 0
    duplicates: int = 0
    messages: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])
    spec: Counter[str] = field(default_factory=Counter[str])
    plan: Counter[str] = field(default_factory=Counter[str])

    def as_dict(self) -> dict[str, Any]:
        """The counts for JSON, as `from_dict` reads them."""
        return {name: getattr(self, name) for name in _NUMBERS} | {name: dict(getattr(self, name)) for name in _BY_WORD}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Counts:
        """The counts that `as_dict` made."""
        given: dict[str, Any] = {name: int(saved[name]) for name in _NUMBERS}
        given |= {name: Counter(saved[name]) for name in _BY_WORD}
        return cls(**given)


_NUMBERS: Final = ("records", "delivered", "rejected", "failed", "skipped", "duplicates", "messages")
_BY_WORD: Final = ("reasons", "spec", "plan")


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a running import.

    Attributes:
        counts: of the import so far; do not change it.
        pending: records whose messages are on their way.
        share: how much of the sources is done, from 0 to 1; `None` if their size is unknown.
        rate: messages delivered a second, over the last ten seconds.
        seconds_left: `None` if it cannot be estimated.
        trouble: while deliveries fail, the host and what its last answer was; `None` while they work.
    """

    counts: Counts
    pending: int
    share: float | None
    rate: float
    seconds_left: float | None
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """How an import ended.

    Attributes:
        exit_code: 0 all delivered; 1 some rejected or failed, or a source is damaged; 3 too many rejects; 4 refused;
            75 unreachable; 130 or 143 interrupted. After 3, 75, 130 and 143 the next run resumes.
        problem: why it stopped early; `None` if it did not.
        pending: records without an outcome that were already handed to the client; the next run sends them again.
        broken: sources that could not be read to their end, each with the byte and the reason.
        already_done: an earlier run had finished this import, so nothing was sent.
    """

    exit_code: int
    problem: str | None
    counts: Counts
    pending: int
    seconds: float
    requests: int
    retries: int
    broken: tuple[str, ...]
    state: str
    rejects: str
    already_done: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "exit_code": self.exit_code,
            # It may name a path, which need not be UTF-8.
            "problem": None if self.problem is None else _utf8(self.problem),
            **self.counts.as_dict(),
            "pending": self.pending,
            "seconds": round(self.seconds, 3),
            "requests": self.requests,
            "retries": self.retries,
            "broken": list(self.broken),
            "state": _utf8(self.state),
            "rejects": _utf8(self.rejects),
            "already_done": self.already_done,
        }


def _utf8(text: str) -> str:
    """The text with what is not UTF-8 in its paths replaced, which JSON cannot hold."""
    return text.encode(errors="surrogateescape").decode(errors="replace")
