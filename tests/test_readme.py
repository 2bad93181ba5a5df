"""Every Python block of the README runs, against the local endpoint in place of Segment."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from segment_async.devserver import serve

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)

CALLS = {
    "def handler(event, context)": 'handler({"user": "user-1"}, None)',
    "@asynccontextmanager": (
        "from fastapi.testclient import TestClient\n"
        "with TestClient(app) as http:\n"
        '    assert http.post("/orders?total=3").status_code == 200\n'
    ),
}


def _program(block: str) -> str:
    return block + next((call for mark, call in CALLS.items() if mark in block), "")


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block-{number}" for number in range(len(BLOCKS))])
def test_a_block_runs(block: str) -> None:
    if "fastapi" in block:
        pytest.importorskip("fastapi")
        pytest.importorskip("httpx")

    async def main() -> None:
        async with serve(port=0) as server:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _program(block),
                env={**os.environ, "SEGMENT_HOST": server.url},
                stderr=subprocess.PIPE,
            )
            _, errors = await asyncio.wait_for(child.communicate(), 60)
            assert child.returncode == 0, errors.decode()
            assert "RecordingTransport" in block or server.events, "nothing arrived"

    asyncio.run(main())


def test_the_first_block_is_as_short_as_promised() -> None:
    assert len(BLOCKS[0].strip().splitlines()) <= 13
