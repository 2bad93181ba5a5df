"""The line that the endpoint prints for a request. Pure."""

import time
from collections import Counter
from typing import Final

from segment_async.verdicts import SEVERITIES, Verdict

from ._arrivals import Event
from ._faults import answer_word
from ._tracking import Answered

_MAX_RULES: Final = 3
_MAX_NAMES: Final = 3
_MAX_CHARACTERS: Final = 60
_WORDS: Final = {
    "dropped": "would be dropped",
    "spec": "against the spec",
    "plan": "against the plan",
    "style": "not recommended",
}


def line(answered: Answered) -> str:
    """The local time, the status, the request, its size, its events, and the verdicts with event and field."""
    return "  ".join(text for _, text in parts(answered))


def parts(answered: Answered) -> list[tuple[str, str]]:
    """The parts of the line, each with its kind: "time", "answer", "size", "names", "reason" or a severity."""
    batch = answered.batch
    size = f"{batch.messages:,} message{'' if batch.messages == 1 else 's'}  {batch.bytes:,} bytes"
    if batch.wire_bytes != batch.bytes:
        size += f" ({batch.wire_bytes:,} compressed)"
    if batch.attempt > 1:
        size += f"  attempt {batch.attempt}"
    found = [
        ("time", time.strftime("%H:%M:%S", time.localtime(batch.received_at))),
        ("answer", f"{answer_word(answered.status)} {batch.route}"),
        ("size", size),
    ]
    if answered.events:
        found.append(("names", _listed(Counter(_name(event) for event in answered.events))))
    if answered.reason:
        found.append(("reason", answered.reason))
    return found + _findings(answered)


def _findings(answered: Answered) -> list[tuple[str, str]]:
    counts: Counter[str] = Counter()
    places: Counter[tuple[str, str]] = Counter()
    for event in answered.events:
        counts.update({verdict.severity for verdict in event.verdicts})
        places.update({(verdict.severity, _place(event, verdict)) for verdict in event.verdicts})
    return [
        (severity, f"{counts[severity]:,} {_WORDS[severity]}: {_most_frequent(places, severity)}")
        for severity in SEVERITIES
        if counts[severity]
    ]


def _most_frequent(places: Counter[tuple[str, str]], severity: str) -> str:
    found = [place for (other, place), _ in places.most_common() if other == severity]
    return ", ".join(found[:_MAX_RULES] + (["…"] if len(found) > _MAX_RULES else []))


def _place(event: Event, verdict: Verdict) -> str:
    """A rule, and where it is violated: `id-missing in Order Completed (userId)`."""
    name = _name(event)
    path = f" ({_printable(verdict.path)})" if verdict.path else ""
    return f"{verdict.rule} in {name}{path}" if name else f"{verdict.rule}{path}"


def _name(event: Event) -> str:
    return _printable(event.event or event.type)


def _listed(names: Counter[str]) -> str:
    some = [f"{name or '(no type)'} ×{count}" if count > 1 else name or "(no type)" for name, count in names.items()]
    return ", ".join(some[:_MAX_NAMES] + (["…"] if len(some) > _MAX_NAMES else []))


def _printable(text: str) -> str:
    """Text from outside, without anything that a terminal obeys, and not too much of it."""
    text = text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
