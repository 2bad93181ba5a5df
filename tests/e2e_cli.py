"""The command-line interface of Segment's end-to-end tests for SDKs, with this client.

    python tests/e2e_cli.py --input '{"writeKey": ..., "apiHost": ..., "sequences": [...], "config": {...}}'

Logs go to stderr; one JSON object with `success`, `sentBatches` and, after a failure, `error` goes to stdout. The exit
status is 0 or 1 for any input. Success means that every message was delivered before the client was closed. A `null`
counts as absent. `--input -` reads from stdin, for input that is too long for a command line. This file uses only the
public interface of the package.
"""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from segment_async import Client, Delivery, MessageError, RetryPolicy, Statistics

Event = Mapping[str, Any]
Report = dict[str, Any]

_log = logging.getLogger("e2e")

COMMON = {
    "anonymousId": "anonymous_id",
    "context": "context",
    "integrations": "integrations",
    "timestamp": "timestamp",
    "messageId": "message_id",
}


async def run(given: Mapping[str, Any]) -> Report:
    """Send everything, flush, close, and say how it went; an exception is part of the report."""
    try:
        return await _send_all(given)
    except Exception as error:
        _log.exception("the run failed")
        return {"success": False, "sentBatches": 0, "error": f"{type(error).__name__}: {error}"}


async def _send_all(given: Mapping[str, Any]) -> Report:
    client = Client(given["writeKey"], host=given.get("apiHost"), **_options(given.get("config") or {}))
    refused: list[str] = []
    async with client:
        for sequence in given.get("sequences") or []:
            await asyncio.sleep((sequence.get("delayMs") or 0) / 1000)
            for event in sequence.get("events") or []:
                try:
                    await _send(client, event)
                except MessageError as error:
                    refused.append(str(error))
        await client.flush()
    return _report(client.statistics(), refused)


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    given = {name: value for name, value in config.items() if value is not None}
    if "flushAt" in given:
        # The tests may exceed Segment's limit, which the client refuses.
        options["flush_at"] = min(given["flushAt"], 2_500)
    if "flushInterval" in given:
        options["flush_interval"] = given["flushInterval"] / 1000
    if "timeout" in given:
        options["timeout"] = given["timeout"]
    if "maxRetries" in given:
        options["retry"] = RetryPolicy(max_retries=given["maxRetries"])
    return options


async def _send(client: Client, event: Event) -> Delivery:
    if not isinstance(event, Mapping) or event.get("type") not in _CALLS:
        # The error concerns this message only: send the others.
        raise MessageError("type", f"must be one of {', '.join(_CALLS)}")
    common = {ours: event[theirs] for theirs, ours in COMMON.items() if theirs in event}
    return await _CALLS[event["type"]](client, event.get, common)


_CALLS: dict[str, Callable[[Client, Callable[[str], Any], dict[str, Any]], Awaitable[Delivery]]] = {
    "track": lambda client, get, common: client.track(get("userId"), get("event"), get("properties"), **common),
    "identify": lambda client, get, common: client.identify(get("userId"), get("traits"), **common),
    "page": lambda client, get, common: client.page(
        get("userId"), get("category"), get("name"), get("properties"), **common
    ),
    "screen": lambda client, get, common: client.screen(
        get("userId"), get("category"), get("name"), get("properties"), **common
    ),
    "group": lambda client, get, common: client.group(get("userId"), get("groupId"), get("traits"), **common),
    "alias": lambda client, get, common: client.alias(get("previousId"), get("userId"), **common),
}


def _report(statistics: Statistics, refused: list[str]) -> Report:
    report: Report = {
        "success": not refused and statistics.delivered == statistics.accepted,
        "sentBatches": statistics.requests - statistics.retries,
    }
    lost = [f"{count} {reason}" for reason, count in sorted(statistics.reasons.items())]
    if refused or lost:
        report["error"] = "; ".join(refused + lost)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", default="", help="the JSON, or - to read it from stdin")
    text = parser.parse_args().input
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    try:
        given = json.loads(sys.stdin.read() if text == "-" else text)
    except ValueError as error:
        report: Report = {"success": False, "sentBatches": 0, "error": f"--input is no JSON: {error}"}
    else:
        report = asyncio.run(run(given))
    print(json.dumps(report))
    return 0 if report["success"] else 1


if __name__ == "__main__":
    sys.exit(main())
