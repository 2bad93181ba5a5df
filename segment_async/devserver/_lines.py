"""One line of text for one request: what the endpoint prints. Pure."""

import time
from collections import Counter
from typing import Final

from segment_async.verdicts import SEVERITIES

from ._tracking import Answered

_RULES: Final = 3
_WORDS: Final = {"dropped": "would be dropped", "spec": "against the spec", "style": "not recommended"}


def line(answered: Answered) -> str:
    """For people: the local time, the request, the answer, how many messages earned which verdict, by which rules."""
    return "  ".join(text for _, text in parts(answered))


def parts(answered: Answered) -> list[tuple[str, str]]:
    """The pieces of the line, each with what it is: "time", "answer", "size", "reason" or a severity."""
    batch = answered.batch
    size = f"{batch.messages:,} message{'' if batch.messages == 1 else 's'}  {batch.bytes:,} bytes"
    if batch.wire_bytes != batch.bytes:
        size += f" ({batch.wire_bytes:,} compressed)"
    if batch.attempt > 1:
        size += f"  attempt {batch.attempt}"
    found = [
        ("time", time.strftime("%H:%M:%S", time.localtime(batch.received_at))),
        ("answer", f"{answered.status or 'reset'} {batch.route}"),
        ("size", size),
    ]
    if answered.reason:
        found.append(("reason", answered.reason))
    return found + _earned(answered)


def _earned(answered: Answered) -> list[tuple[str, str]]:
    verdicts = [{(verdict.severity, verdict.rule) for verdict in event.verdicts} for event in answered.events]
    counts = Counter(severity for found in verdicts for severity in {severity for severity, _ in found})
    rules: Counter[tuple[str, str]] = Counter(pair for found in verdicts for pair in found)
    return [
        (severity, f"{counts[severity]:,} {_WORDS[severity]}: {_names(rules, severity)}")
        for severity in SEVERITIES
        if counts[severity]
    ]


def _names(rules: Counter[tuple[str, str]], severity: str) -> str:
    """The rules of this severity, the most frequent first."""
    names = [rule for (its, rule), _ in rules.most_common() if its == severity]
    return ", ".join(names[:_RULES] + (["…"] if len(names) > _RULES else []))
