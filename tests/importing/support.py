"""What the import's tests share: a Segment that records, a short way to run an import, and the law of its counts."""

import asyncio
import zlib
from pathlib import Path

import orjson

from segment_async import Response
from segment_async.importing import ImportOptions, parse_mapping, run_import

MAPPING = """
type = "track"
userId = { column = "user" }
event = "Order Completed"
timestamp = { column = "at" }
[properties]
total = { column = "total", as = "number" }
[integrations]
All = false
"""


class RecordingSegment:
    """A transport that takes everything, but for what `answer` says of a batch."""

    def __init__(self, answer=None):
        self.batches = []
        self.statuses = []
        self._answer = answer

    @property
    def messages(self):
        accepted = zip(self.batches, self.statuses, strict=False)
        return [message for batch, status in accepted if status == 200 for message in batch]

    @property
    def ids(self):
        return [message["messageId"] for message in self.messages]

    async def send(self, body, headers):
        batch = orjson.loads(zlib.decompress(body, 31))["batch"]
        self.batches.append(batch)
        response = self._answer(batch) if self._answer is not None else None
        self.statuses.append(200 if response is None else response.status)
        return response or Response(200, {"Content-Type": "application/json"}, b'{"success":true}')

    async def aclose(self):
        """There is nothing to close."""


def answer(status, headers=None):
    return Response(status, headers or {}, b"{}")


def write_csv(path: Path, rows, header="user,at,total"):
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def orders(count, first=0):
    return [(f"u{number}", "2024-05-01T10:00:00Z", f"{number}.5") for number in range(first, first + count)]


def options(*sources, **given):
    given = {"write_key": "KEY", "rate": 0, "mapping": parse_mapping(MAPPING)} | given
    return ImportOptions(sources=[str(source) for source in sources], **given)


def imported(*sources, segment=None, **given):
    """Run an import to its end; its report and what arrived. The counts must agree."""
    segment = segment or RecordingSegment()
    report = asyncio.run(run_import(options(*sources, transport=segment, **given)))
    assert_counts_agree(report)
    return report, segment


def assert_counts_agree(report):
    counts = report.counts
    parts = counts.delivered + counts.rejected + counts.failed + counts.skipped + counts.duplicates
    assert counts.records == parts
    assert sum(counts.reasons.values()) == counts.rejected + counts.failed


def rejects_of(report):
    return [orjson.loads(line) for line in Path(report.rejects).read_bytes().splitlines()]
