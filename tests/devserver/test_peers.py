"""Segment's own SDKs, unchanged, send to the endpoint.

They live in a folder of their own, `.venv-peers` or what `SEGMENT_PEERS` names: a virtual environment with
`segment-analytics-python`, and `@segment/analytics-node` in its `node_modules`.
"""

import asyncio
import os
import random
import shutil
from pathlib import Path

import pytest

from segment_async.devserver import Answered, Endpoint, serve

PEERS = Path(os.environ.get("SEGMENT_PEERS") or Path(__file__).parents[2] / ".venv-peers")
PYTHON = PEERS / "bin" / "python"
NODE = shutil.which("node")
NODE_SDK = PEERS / "node_modules" / "@segment" / "analytics-node"

pytestmark = pytest.mark.peers
needs_python = pytest.mark.skipif(
    not list(PEERS.glob("lib/*/site-packages/segment")), reason="segment-analytics-python is not in .venv-peers"
)
needs_node = pytest.mark.skipif(
    NODE is None or not NODE_SDK.exists(), reason="@segment/analytics-node is not in .venv-peers"
)

IN_PYTHON = """
import sys, segment.analytics as analytics
analytics.write_key, analytics.host, analytics.gzip = "python-key", sys.argv[1], sys.argv[2] == "gzip"
analytics.identify("u1", {"email": "ada@example.com", "createdAt": "2026-03-01T09:00:00Z"})
analytics.track("u1", "Order Completed", {"total": 30.5, "products": [{"sku": "a", "quantity": 2}]})
analytics.page("u1", "Shop", "Home", {"path": "/"})
analytics.screen("u1", "Shop", "Checkout")
analytics.group("u1", "g1", {"employees": 12})
analytics.alias("a1", "u1")
analytics.shutdown()
"""
IN_NODE = """
const { Analytics } = require("@segment/analytics-node");
const analytics = new Analytics({ writeKey: "node-key", host: process.argv[1] });
analytics.identify({ userId: "u1", traits: { email: "ada@example.com", createdAt: "2026-03-01T09:00:00Z" } });
analytics.track({ userId: "u1", event: "Order Completed", properties: { total: 30.5, products: [{ sku: "a", quantity: 2 }] } });
analytics.page({ userId: "u1", category: "Shop", name: "Home", properties: { path: "/" } });
analytics.screen({ userId: "u1", category: "Shop", name: "Checkout" });
analytics.group({ userId: "u1", groupId: "g1", traits: { employees: 12 } });
analytics.alias({ previousId: "a1", userId: "u1" });
analytics.closeAndFlush({ timeout: 20000 });
"""


async def run(*command: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(*map(str, command), cwd=PEERS)
    assert await asyncio.wait_for(process.wait(), 60) == 0


def check_all_six(endpoint: Endpoint, source: str) -> None:
    messages = {message["type"]: message for message in endpoint.messages}
    assert set(messages) == {"identify", "track", "page", "screen", "group", "alias"}
    assert messages["track"]["properties"] == {"total": 30.5, "products": [{"sku": "a", "quantity": 2}]}
    assert messages["group"]["groupId"] == "g1"
    assert messages["alias"]["previousId"] == "a1"
    assert {event.batch.source for event in endpoint.events} == {source}
    assert [verdict for event in endpoint.events for verdict in event.verdicts if verdict.severity != "style"] == []


@needs_python
@pytest.mark.parametrize("gzip", ["gzip", "plain"])
def test_the_python_sdk(gzip: str) -> None:
    async def main() -> None:
        async with serve() as endpoint:
            await run(PYTHON, "-c", IN_PYTHON, endpoint.url, gzip)
            check_all_six(endpoint, "python-key")

    asyncio.run(main())


@needs_node
def test_the_node_sdk() -> None:
    async def main() -> None:
        async with serve() as endpoint:
            await run(NODE or "node", "-e", IN_NODE, endpoint.url)
            check_all_six(endpoint, "node-key")

    asyncio.run(main())


@pytest.mark.parametrize(
    "command",
    [
        pytest.param([PYTHON, "-c", IN_PYTHON], marks=needs_python, id="python"),
        pytest.param([NODE or "node", "-e", IN_NODE], marks=needs_node, id="node"),
    ],
)
def test_they_retry_what_the_chaos_refused(command: list[str | Path]) -> None:
    """Half of all requests are refused; the seed decides which ones."""
    reports: list[Answered] = []

    async def main() -> None:
        async with serve(chaos="500:50%", report=reports.append, random=random.Random(3)) as endpoint:
            await run(*command, endpoint.url, "gzip")
            assert {message["type"] for message in endpoint.messages} >= {"identify", "track", "alias"}
            assert 500 in [report.status for report in reports]
            assert max(report.batch.attempt for report in reports) > 1

    asyncio.run(main())
