"""Drives `segment-analytics-python` by the command line of Segment's end-to-end tests; runs in its environment."""

import json
import sys
from datetime import datetime
from typing import Any

from segment.analytics.client import Client  # type: ignore[import-not-found,unused-ignore]

COMMON = {
    "anonymousId": "anonymous_id",
    "context": "context",
    "integrations": "integrations",
    "timestamp": "timestamp",
    "messageId": "message_id",
}
OWN = {
    "track": {"userId": "user_id", "event": "event", "properties": "properties"},
    "identify": {"userId": "user_id", "traits": "traits"},
    "page": {"userId": "user_id", "category": "category", "name": "name", "properties": "properties"},
    "screen": {"userId": "user_id", "category": "category", "name": "name", "properties": "properties"},
    "group": {"userId": "user_id", "groupId": "group_id", "traits": "traits"},
    "alias": {"userId": "user_id", "previousId": "previous_id"},
}


def run(given: dict[str, Any]) -> dict[str, Any]:
    import time

    problems: list[str] = []
    client = Client(
        given["writeKey"],
        host=given["apiHost"],
        on_error=lambda error, batch: problems.append(f"{len(batch)} messages: {error!r}"),
        **options(given.get("config", {})),
    )
    for sequence in given["sequences"]:
        time.sleep(sequence.get("delayMs", 0) / 1000)
        for event in sequence["events"]:
            problems += send(client, event)
    client.shutdown()
    return {"success": not problems, "sentBatches": 0, **({"error": "; ".join(problems)} if problems else {})}


def options(config: dict[str, Any]) -> dict[str, Any]:
    names = {"flushAt": "upload_size", "maxRetries": "max_retries", "timeout": "timeout"}
    chosen = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    if "flushInterval" in config:
        chosen["upload_interval"] = config["flushInterval"] / 1000
    return chosen


def send(client: Any, event: dict[str, Any]) -> list[str]:
    names = {**COMMON, **OWN[event["type"]]}
    fields = {ours: event[theirs] for theirs, ours in names.items() if theirs in event}
    if "timestamp" in fields:
        # It takes a datetime and nothing else.
        fields["timestamp"] = datetime.fromisoformat(fields["timestamp"])
    try:
        accepted, _ = getattr(client, event["type"])(**fields)
    except Exception as error:
        return [repr(error)]
    return [] if accepted else ["the queue was full"]


if __name__ == "__main__":
    text = sys.argv[sys.argv.index("--input") + 1]
    report = run(json.loads(sys.stdin.read() if text == "-" else text))
    print(json.dumps(report))
    sys.exit(0 if report["success"] else 1)
