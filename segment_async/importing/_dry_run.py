"""A dry run: reads and checks everything, sends nothing, and tells what an import would do."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ._ids import fingerprint_of
from ._options import ImportOptions
from ._prepare import REJECTED, Prepared
from ._reading import check_columns, next_slice, open_at
from ._report import Counts, SourceBroken
from ._run import preparer_of
from ._sources import find
from ._state import Position

_EXAMPLES: Final = 3
_FIRST: Final = 5
_REGISTER_BITS: Final = 14
_EXACT: Final = 100_000


class DistinctIds:
    """Counts distinct ids: exactly up to 100,000, then within about one percent, in bounded memory (HyperLogLog)."""

    def __init__(self) -> None:
        self._exact: set[bytes] | None = set()
        self._registers = bytearray(1 << _REGISTER_BITS)

    def add(self, text: str) -> None:
        digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
        if self._exact is not None:
            self._exact.add(digest)
            if len(self._exact) > _EXACT:
                self._exact = None
        number = int.from_bytes(digest, "big")
        register = number & ((1 << _REGISTER_BITS) - 1)
        rank = 65 - _REGISTER_BITS - (number >> _REGISTER_BITS).bit_length()
        self._registers[register] = max(self._registers[register], rank)

    @property
    def is_exact(self) -> bool:
        return self._exact is not None

    @property
    def count(self) -> int:
        if self._exact is not None:
            return len(self._exact)
        size = len(self._registers)
        estimate = 0.7213 / (1 + 1.079 / size) * size * size / sum(2.0**-rank for rank in self._registers)
        return round(estimate)


@dataclass(slots=True)
class Finding:
    """One rule: how often, and the first places."""

    count: int = 0
    examples: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class DryRun:
    """What an import would do.

    Attributes:
        counts: `delivered` are the records that would be sent.
        rejected: by rule, with three examples each.
        spec, plan: likewise, what violates Segment's spec or the plan without being rejected.
        types: messages by type.
        own_integrations: messages whose record chooses destinations itself, other ones than the option does.
        users: distinct userIds and anonymousIds: what the import costs in tracked users.
        first, last: the time span of the messages.
        seconds: how long the import would take at its rate; `None` without a limit.
        messages: the first five, finished.
        unmapped: columns that no message uses.
        unseen: mapped columns that no record has.
    """

    counts: Counts = field(default_factory=Counts)
    rejected: dict[str, Finding] = field(default_factory=dict[str, Finding])
    spec: dict[str, Finding] = field(default_factory=dict[str, Finding])
    plan: dict[str, Finding] = field(default_factory=dict[str, Finding])
    types: Counter[str] = field(default_factory=Counter[str])
    own_integrations: int = 0
    users: DistinctIds = field(default_factory=DistinctIds)
    first: str | None = None
    last: str | None = None
    seconds: float | None = None
    # Personal data, which must not end up in logs.
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]], repr=False)
    unmapped: list[str] = field(default_factory=list[str])
    unseen: list[str] = field(default_factory=list[str])
    broken: list[str] = field(default_factory=list[str])

    @property
    def exit_code(self) -> int:
        """0: every row can be sent; 1: some are rejected, or a source is damaged."""
        return 1 if self.counts.rejected or self.broken else 0

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {
            "exit_code": self.exit_code,
            "dry_run": True,
            **self.counts.as_dict(),
            "rules": _shown(self.rejected),
            "spec_rules": _shown(self.spec),
            "plan_rules": _shown(self.plan),
            "types": dict(self.types),
            "own_integrations": self.own_integrations,
            "users": self.users.count,
            "users_exact": self.users.is_exact,
            "first": self.first,
            "last": self.last,
            "seconds": self.seconds,
            "first_messages": self.messages,
            "unmapped_columns": self.unmapped,
            "unseen_columns": self.unseen,
            "broken": self.broken,
        }


def _shown(findings: dict[str, Finding]) -> dict[str, Any]:
    return {rule: {"count": each.count, "examples": each.examples} for rule, each in findings.items()}


def dry_run(options: ImportOptions, *, on_progress: Callable[[int], object] | None = None) -> DryRun:
    """Read and check everything; send nothing and leave no file. Needs no write key.

    `on_progress` is called with the number of records from time to time.

    Raises:
        ImportUsageError: as for an import.
        OSError: a source cannot be read.
    """
    options.check()
    sources = find(options.arguments(), options.format, options.stdin, options.files_written())
    for source in sources:
        check_columns(source, options.mapping, options.id_columns, transformed=options.transform is not None)
    preparer = preparer_of(options, fingerprint_of(options.write_key))
    result = DryRun()
    seen: dict[str, None] = {}
    integrations = options.integrations()
    for index, source in enumerate(sources):
        try:
            opened = open_at(source, Position(index))
        except SourceBroken as error:
            result.broken.append(f"source {source.name}: {error}")
            continue
        preparer.begin_source(opened.columns)
        try:
            while (left := _left(options, result)) is None or left > 0:
                read = next_slice(opened.records, preparer, left)
                for prepared in read.prepared:
                    _count(result, prepared, seen, integrations)
                if isinstance(read.error, SourceBroken):
                    result.broken.append(f"source {source.name}: {read.error}")
                    break
                if read.error is not None:
                    raise read.error
                if not read.prepared:
                    break
                if on_progress is not None:
                    on_progress(result.counts.records)
        finally:
            opened.close()
    _conclude(result, options, [*seen])
    return result


def _left(options: ImportOptions, result: DryRun) -> int | None:
    return None if options.limit is None else options.limit - result.counts.records


def _count(result: DryRun, prepared: Prepared, seen: dict[str, None], integrations: dict[str, bool] | None) -> None:
    counts, record = result.counts, prepared.record
    counts.records += 1
    if prepared.columns is not None:
        seen.update(dict.fromkeys(prepared.columns))
    elif record.problem is None:
        row: dict[str, Any] = record.row
        seen.update(dict.fromkeys(row))
    place = f"{record.source.name}, " + (f"record {record.number}" if record.line is None else f"line {record.line}")
    if prepared.status == REJECTED:
        assert prepared.problem is not None
        rule, path, text = prepared.problem
        counts.rejected += 1
        counts.reasons[rule] += 1
        _find(result.rejected, rule, f"{place}: {f'{path}: ' if path else ''}{text}")
        return
    for verdict in prepared.findings:
        is_plan = verdict.severity == "plan"
        (counts.plan if is_plan else counts.spec)[verdict.rule] += 1
        _find(result.plan if is_plan else result.spec, verdict.rule, f"{place}: {verdict.path}: {verdict.text}")
    if prepared.messages:
        counts.delivered += 1
    elif prepared.status == "duplicate":
        counts.duplicates += 1
    else:
        counts.skipped += 1
    for message in prepared.messages:
        _count_message(result, message)
        if integrations is not None and message.get("integrations", {}) != integrations:
            result.own_integrations += 1


def _count_message(result: DryRun, message: dict[str, Any]) -> None:
    result.counts.messages += 1
    result.types[message["type"]] += 1
    for name in ("userId", "anonymousId"):
        if name in message:
            result.users.add(f"{name}:{message[name]}")
    moment = message.get("timestamp")
    if moment is not None:
        result.first = moment if result.first is None else min(result.first, moment)
        result.last = moment if result.last is None else max(result.last, moment)
    if len(result.messages) < _FIRST:
        result.messages.append(message)


def _find(findings: dict[str, Finding], rule: str, example: str) -> None:
    finding = findings.setdefault(rule, Finding())
    finding.count += 1
    if len(finding.examples) < _EXAMPLES:
        finding.examples.append(example)


def _conclude(result: DryRun, options: ImportOptions, seen: list[str]) -> None:
    if options.rate:
        result.seconds = math.ceil(result.counts.messages / options.rate)
    if options.mapping is not None:
        used = {column.split(".")[0] for column in options.mapping.columns} | options.mapping.columns
        result.unmapped = [] if options.mapping.takes_rest else [column for column in seen if column not in used]
        result.unseen = sorted(
            column for column in options.mapping.columns if column not in seen and column.split(".")[0] not in seen
        )
