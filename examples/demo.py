"""`make demo`: sends a shop's day through `Client` to an endpoint on this machine, and compares both sides, id for id.

    python examples/demo.py [--messages N] [--outage SECONDS] [--keep]

It uses only public interfaces: the client's calls on one side, the file that the endpoint saves on the other. On a
terminal the day takes some seconds, so that you can watch it; elsewhere it runs as fast as it can.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

from demo_parts.endpoint import COMMAND, EndpointError, EndpointProcess
from demo_parts.show import Show, Summary
from segment_async import Client, Delivery, HTTPTransport, Response, RetryPolicy, Statistics, Transport

JSON = dict[str, Any]

SHOP_DAY = Path(__file__).parent / "data" / "shop-day.jsonl"
# The day has 144 steps of ten minutes: eight seconds on a terminal.
SECONDS_A_STEP = 8 / 144


def main(arguments: Sequence[str] | None = None, *, endpoint: Sequence[str] = COMMAND) -> int:
    """The exit code: 0 if everything accepted was received, 1 if not, 130 if the demo was stopped.

    `endpoint` is the command that starts it.
    """
    parser = argparse.ArgumentParser(description="A day of a shop, delivered to an endpoint on this machine.")
    parser.add_argument("--messages", type=positive, metavar="N", help="send only the first N messages of the day")
    parser.add_argument("--outage", type=float, default=0, metavar="SECONDS", help="take the endpoint down half-way")
    parser.add_argument("--keep", action="store_true", help="leave the endpoint up afterwards, to look at")
    options = parser.parse_args(arguments)
    with SHOP_DAY.open(encoding="utf-8") as lines:
        messages = [json.loads(line) for line in lines][: options.messages]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C, so that the endpoint is stopped as well
    try:
        return asyncio.run(demo(messages, endpoint, outage=options.outage, keep=options.keep))
    except KeyboardInterrupt:
        print("Stopped.")
        return 130
    except EndpointError as fault:
        print(fault, file=sys.stderr)
        return 1


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


async def demo(messages: list[JSON], command: Sequence[str], *, outage: float, keep: bool) -> int:
    with TemporaryDirectory() as folder:
        async with EndpointProcess(command, Path(folder) / "received.jsonl") as endpoint:
            return await deliver(messages, endpoint, outage=outage, keep=keep)


async def deliver(messages: list[JSON], endpoint: EndpointProcess, *, outage: float, keep: bool) -> int:
    transport = Counting(HTTPTransport(f"{endpoint.url}/v1/batch"))
    # The default back-off grows to a minute, which is too long to watch.
    client = Client("demo", transport=transport, retry=RetryPolicy(max_backoff=2), close_timeout=2)
    show = Show(client, endpoint, [message["timestamp"] for message in messages])
    async with client:
        started = perf_counter()
        with show:
            calls = await send(client, messages, show, endpoint, outage=outage)
            await client.flush()
        elapsed = perf_counter() - started
    received = endpoint.received()
    show.result(summary(calls, received, client.statistics(), transport, elapsed))
    status = report(show, difference(calls, received), len(calls))
    if keep:
        show.say(f"The endpoint stays up at {endpoint.url} until you press Ctrl-C.")
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C ends this, and is not an error
            await asyncio.Event().wait()
    return status


class Call(NamedTuple):
    """One finished call: its type, its delivery, and its duration in seconds."""

    type: str
    delivery: Delivery
    seconds: float


async def send(
    client: Client, messages: list[JSON], show: Show, endpoint: EndpointProcess, *, outage: float
) -> list[Call]:
    """Make the call for each message; with an outage, the second half during the outage and after it."""
    if not outage:
        return await replay(client, messages, show)
    half = len(messages) // 2
    calls = await replay(client, messages[:half], show)
    await endpoint.stop()
    show.say(f"The endpoint is down, for {outage:g} seconds. The shop goes on.", "red")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(come_back(client, show, endpoint, outage))
        calls += await replay(client, messages[half:], show)
    return calls


async def come_back(client: Client, show: Show, endpoint: EndpointProcess, outage: float) -> None:
    await asyncio.sleep(outage)
    await endpoint.start()
    show.say(f"The endpoint is back. {client.statistics().pending:,} messages waited; no call raised.", "green")


async def replay(client: Client, messages: list[JSON], show: Show) -> list[Call]:
    calls: list[Call] = []
    for _, ten_minutes in groupby(messages, key=lambda message: message["timestamp"][:15]):
        step = list(ten_minutes)
        for message in step:
            started = perf_counter()
            delivery = await call(client, message)
            calls.append(Call(message["type"], delivery, perf_counter() - started))
        show.tick(step[-1]["timestamp"])
        await asyncio.sleep(SECONDS_A_STEP if show.animated else 0)
    return calls


async def call(client: Client, message: JSON) -> Delivery:
    """Make the call for this line of the file."""
    user_id, properties, traits = (message.get(name) for name in ("userId", "properties", "traits"))
    common: JSON = {
        "anonymous_id": message.get("anonymousId"),
        "context": message.get("context"),
        "integrations": message.get("integrations"),
        "timestamp": message["timestamp"],
        "message_id": message["messageId"],
    }
    match message["type"]:
        case "track":
            return await client.track(user_id, message["event"], properties, **common)
        case "identify":
            return await client.identify(user_id, traits, **common)
        case "page":
            return await client.page(user_id, message["category"], message["name"], properties, **common)
        case "screen":
            return await client.screen(user_id, message["category"], message["name"], properties, **common)
        case "group":
            return await client.group(user_id, message["groupId"], traits, **common)
        case _:
            return await client.alias(message["previousId"], user_id, **common)


class Counting:
    """Wraps the real transport, and counts the accepted batches and their bytes."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.batches = self.json_bytes = self.wire_bytes = 0

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        response = await self._inner.send(body, headers)
        if response.status == 200:
            self.batches += 1
            self.wire_bytes += len(body)
            # A gzip body ends with the length of its content (RFC 1952).
            self.json_bytes += int.from_bytes(body[-4:], "little")
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


def summary(
    calls: list[Call], received: list[str], statistics: Statistics, transport: Counting, elapsed: float
) -> Summary:
    type_of = {call.delivery.message_id: call.type for call in calls}
    return Summary(
        accepted=Counter(call.type for call in calls),
        received=Counter(type_of[message_id] for message_id in set(received) & type_of.keys()),
        statistics=statistics,
        batches=transport.batches,
        json_bytes=transport.json_bytes,
        wire_bytes=transport.wire_bytes,
        elapsed=elapsed,
        one_call=median(call.seconds for call in calls),
    )


def difference(calls: list[Call], received: list[str]) -> list[str]:
    """The differences between the two sides, one line per id.

    A message may arrive twice, for Segment to deduplicate, only if its outcome says so.
    """
    times = Counter(received)
    sent = {call.delivery.message_id: call.delivery.outcome for call in calls}
    lines = [f"accepted, never received: {message_id}" for message_id in sent if not times[message_id]]
    lines += [f"received, never accepted: {message_id}" for message_id in times if message_id not in sent]
    for message_id, outcome in sent.items():
        if times[message_id] > 1 and not (outcome and outcome.possibly_delivered):
            lines.append(f"received {times[message_id]} times: {message_id}")
    return lines


def report(show: Show, lines: list[str], count: int) -> int:
    """Print the result, and return the exit code."""
    if not lines:
        show.say(f"All {count:,} messages that were accepted were received, id for id.", "bold green")
        return 0
    for line in lines[:10]:
        show.say(line, "red")
    show.say(f"{len(lines):,} of {count:,} messages differ.", "bold red")
    return 1


if __name__ == "__main__":
    sys.exit(main())
