"""Runs one case against one client: a fault server with the case's script, a second origin, and the client's report.

What the case means is not known here, and neither is how a client is started.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tests.support.exchange import ReceivedRequest
from tests.support.fault_server import FaultServer, Script
from tests.support.faults import OnRequest, redirect
from tests.support.private_ca import PrivateCA

from .case import Case, Seen
from .checks import findings

Adapter = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Takes the command line's input, sends all of it, and returns what the command line prints."""

SHARED_CONFIG = {"flushAt": 100, "flushInterval": 100, "maxRetries": 6, "timeout": 8}
TIME_LIMIT = 40.0
"""Seconds, by which every case is long over: the longest waits for four answers and their back-offs."""


async def run_case(case: Case, adapter: Adapter) -> list[str]:
    """Say in what the client differs from what the case expects; nothing: it conforms."""
    tls = PrivateCA().self_signed() if case.untrusted else None
    up = case.up_after is None
    async with FaultServer() as elsewhere, FaultServer(_script(case, elsewhere), tls=tls, up=up) as server:
        if case.up_after is not None:
            asyncio.get_running_loop().call_later(case.up_after, server.come_up)
        try:
            async with asyncio.timeout(TIME_LIMIT):
                report = await adapter(_input(case, server))
        except TimeoutError:
            return [f"it did not end within {TIME_LIMIT:g} s"]
        return findings(case, Seen(server.requests, report, elsewhere.connections))


async def run_cases(cases: list[Case], adapter: Adapter, *, at_once: int) -> dict[Case, list[str]]:
    """Run so many cases at once, and return what was found of each."""
    room = asyncio.Semaphore(at_once)

    async def run_one(case: Case) -> list[str]:
        async with room:
            return await run_case(case, adapter)

    found = await asyncio.gather(*map(run_one, cases))
    return dict(zip(cases, found, strict=True))


def _script(case: Case, elsewhere: FaultServer) -> Script:
    if case.redirects is None:
        return case.script()
    status = case.redirects

    def send_elsewhere(request: ReceivedRequest) -> OnRequest:
        return redirect(f"{elsewhere.url}/v1/batch", status)

    return send_elsewhere


def _input(case: Case, server: FaultServer) -> dict[str, Any]:
    return {
        "writeKey": case.write_key,
        "apiHost": f"{server.url}{case.host}",
        "sequences": [{"delayMs": delay * 1000, "events": list(events)} for delay, events in case.sequences],
        "config": {**SHARED_CONFIG, **case.config},
    }
