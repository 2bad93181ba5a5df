"""Rules for messages that Segment answers with 200, and then drops or misreads.

A message is judged as it is sent, as a plain JSON object. Pure: there is no clock and no socket, and nothing else of
this package is imported, so that the local endpoint, the test kit and any script can use it. Rules about more than one
message (a duplicate id, a batch that is too long) have their text here and are applied by the code that has the
messages.

Severity "dropped": Segment would drop the message. "spec": Segment keeps it, but it violates the specification, and a
destination may ignore a field. "plan": it violates your tracking plan (`plans`). "style": it is valid, but not
recommended.
"""

from ._message import judge
from ._verdict import (
    BATCH_MESSAGES,
    BATCH_TOO_LONG,
    DUPLICATE_ID,
    MESSAGE_BYTES,
    MESSAGE_ID_CHARACTERS,
    SEVERITIES,
    WRITE_KEY_MISSING,
    Severity,
    Verdict,
)

__all__ = [
    "BATCH_MESSAGES",
    "BATCH_TOO_LONG",
    "DUPLICATE_ID",
    "MESSAGE_BYTES",
    "MESSAGE_ID_CHARACTERS",
    "SEVERITIES",
    "WRITE_KEY_MISSING",
    "Severity",
    "Verdict",
    "judge",
]
