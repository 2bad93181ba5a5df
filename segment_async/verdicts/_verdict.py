"""One finding, its severity, and the limits and findings that others apply."""

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["dropped", "spec", "plan", "style"]
SEVERITIES: Final[tuple[Severity, ...]] = ("dropped", "spec", "plan", "style")

MESSAGE_BYTES: Final = 32_768
BATCH_MESSAGES: Final = 2_500
MESSAGE_ID_CHARACTERS: Final = 100  # ids must be shorter


@dataclass(frozen=True, slots=True)
class Verdict:
    """One finding about one message. `path` names the field as on the wire; "" is the message itself."""

    severity: Severity
    rule: str
    path: str
    text: str


DUPLICATE_ID: Final = Verdict(
    "dropped", "duplicate-id", "messageId", "A message with this id arrived before; Segment keeps the first one only."
)
BATCH_TOO_LONG: Final = Verdict(
    "dropped", "batch-too-long", "", f"Beyond the {BATCH_MESSAGES:,} messages that Segment accepts in one batch."
)
WRITE_KEY_MISSING: Final = Verdict(
    "dropped", "write-key-missing", "writeKey", "The request has no write key, so Segment cannot determine the source."
)

# The most characters of a path. A key may have 32 KB, and thousands of findings may be below it.
PATH_CHARACTERS: Final = 300

Found = list[Verdict]
JSONObject = dict[str, object]


def at(path: str, key: str) -> str:
    """The path of a key, cut if it is too long."""
    inner = f"{path}.{key}"
    return inner if len(inner) <= PATH_CHARACTERS else f"{inner[: PATH_CHARACTERS - 1]}…"
