"""One line of text for one request: what the endpoint prints. Pure."""

import time
from collections import Counter

from segment_async.verdicts import SEVERITIES

from ._tracking import Answered

_WORDS = {"dropped": "would be dropped", "spec": "against the spec", "style": "worth a thought"}


def line(answered: Answered) -> str:
    """For people: the local time, the request, the answer, and how many messages earned which verdict."""
    batch = answered.batch
    parts = [
        time.strftime("%H:%M:%S", time.localtime(batch.received_at)),
        f"{answered.status} {batch.route}",
        f"{batch.messages:,} message{'' if batch.messages == 1 else 's'}",
        f"{batch.bytes:,} bytes" + (f" ({batch.wire_bytes:,} gzip)" if batch.wire_bytes != batch.bytes else ""),
    ]
    if batch.attempt > 1:
        parts.append(f"attempt {batch.attempt}")
    if answered.reason:
        parts.append(answered.reason)
    return "  ".join(parts + _earned(answered))


def _earned(answered: Answered) -> list[str]:
    counts = Counter(severity for event in answered.events for severity in {v.severity for v in event.verdicts})
    return [f"{counts[severity]:,} {_WORDS[severity]}" for severity in SEVERITIES if counts[severity]]
