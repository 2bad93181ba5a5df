"""The line that the endpoint prints for a request. Pure."""

import time
from collections import Counter
from typing import Final

from segment_async.verdicts import SEVERITIES

from ._tracking import Answered

_MAX_RULES: Final = 3
_WORDS: Final = {
    "dropped": "would be dropped",
    "spec": "against the spec",
    "plan": "against the plan",
    "style": "not recommended",
}


def line(answered: Answered) -> str:
    """The local time, the status, the request, its size, and the number of messages by verdict, with the rules."""
    return "  ".join(text for _, text in parts(answered))


def parts(answered: Answered) -> list[tuple[str, str]]:
    """The parts of the line, each with its kind: "time", "answer", "size", "reason" or a severity."""
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
    return found + _findings(answered)


def _findings(answered: Answered) -> list[tuple[str, str]]:
    verdicts = [{(verdict.severity, verdict.rule) for verdict in event.verdicts} for event in answered.events]
    counts = Counter(severity for found in verdicts for severity in {severity for severity, _ in found})
    rules: Counter[tuple[str, str]] = Counter(pair for found in verdicts for pair in found)
    return [
        (severity, f"{counts[severity]:,} {_WORDS[severity]}: {_names(rules, severity)}")
        for severity in SEVERITIES
        if counts[severity]
    ]


def _names(rules: Counter[tuple[str, str]], severity: str) -> str:
    """The rules of this severity, most frequent first."""
    names = [rule for (other, rule), _ in rules.most_common() if other == severity]
    return ", ".join(names[:_MAX_RULES] + (["…"] if len(names) > _MAX_RULES else []))
