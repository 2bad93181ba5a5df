"""Every Python block of the README and the docs runs against the local endpoint."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from segment_async import Client
from segment_async.devserver import serve

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "docs" / "blocking.md", ROOT / "docs" / "web.md"]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]

FASTAPI = "from fastapi import FastAPI\nfrom segment_async.asgi import SegmentMiddleware\napp = FastAPI()\n"
CLIENT = 'from segment_async import Client\nclient = Client("WRITE_KEY")\n'
DJANGO = 'from django.conf import settings\nsettings.configure(SEGMENT_WRITE_KEY="WRITE_KEY", ALLOWED_HOSTS=["*"])\n'
BEFORE = {
    "# views.py": DJANGO,
    "# asgi.py": DJANGO,
    "app.add_middleware(SegmentMiddleware, page_views=True": FASTAPI,
    "prometheus.watch(client)": CLIENT,
    "client.observe(": CLIENT,
}
SENDING = 'import asyncio\nasync def main():\n    async with client: await client.track("user-1", "Seen")\nasyncio.run(main())\n'
AFTER = {
    "init_app(app": (
        "http = app.test_client()\n"
        'http.set_cookie("ajs_anonymous_id", "visitor-7")\n'
        'assert http.post("/orders").status_code == 200\n'
    ),
    "# views.py": 'from segment_async import bound\nwith bound(user_id="user-1"): order(None)\n',
    "connect(client)": 'app.conf.task_always_eager = True\npay("A-1001", "user-1")\n',
    "@flush_after(client)": (
        "class Context:\n    def get_remaining_time_in_millis(self): return 9_000\nhandler({}, Context())\n"
    ),
    'lifespan=lifespan("WRITE_KEY"': (
        "from fastapi.testclient import TestClient\n"
        "with TestClient(app) as http:\n"
        '    http.cookies.set("ajs_anonymous_id", "visitor-7")\n'
        '    assert http.post("/orders").status_code == 200\n'
    ),
    "prometheus.watch(client)": SENDING,
    "client.observe(": SENDING,
    "SQLiteSpool(": SENDING,
    "otel.watch(client)": SENDING,
    "def test_an_order_is_tracked(segment)": (
        "from segment_async.testing import recording\n"
        "with recording() as segment:\n"
        "    test_an_order_is_tracked(segment)\n"
    ),
}
SENDS_NOTHING = (
    "(segment)",
    "SegmentMiddleware, page_views=True",
    "async def account()",
    "# settings.py",
    "# asgi.py",
)


def _program(block: str) -> str:
    before = "".join(text for mark, text in BEFORE.items() if mark in block)
    return before + block + "".join(text for mark, text in AFTER.items() if mark in block)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs(block: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(port=0) as server:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _program(block),
                cwd=tmp_path,
                env={**os.environ, "SEGMENT_HOST": server.url},
                stderr=subprocess.PIPE,
            )
            _, errors = await asyncio.wait_for(child.communicate(), 60)
            assert child.returncode == 0, errors.decode()
            assert any(mark in block for mark in SENDS_NOTHING) or server.events, "nothing arrived"

    asyncio.run(main())


def test_the_first_block_is_as_short_as_promised() -> None:
    first = re.search(r"```python\n(.*?)```", PAGES[0].read_text(), re.DOTALL)
    assert first is not None
    assert len(first[1].strip().splitlines()) <= 13


COMMANDS = re.findall(r"^segment-async (spool [^#\n]+)", PAGES[0].read_text(), re.MULTILINE)


def test_the_commands_for_a_spool_run_and_are_all_there_are(tmp_path: Path) -> None:
    async def leave() -> None:
        spool = tmp_path / "analytics.db"
        async with Client("KEY", host="http://127.0.0.1:1", spool=spool, close_timeout=0) as client:
            await client.track("user-1", "Left")

    asyncio.run(leave())
    for command in COMMANDS:
        words = command.split()
        # The command would ask for confirmation.
        words += ["--yes"] if "purge" in words else []
        ran = subprocess.run([sys.executable, "-m", "segment_async.cli", *words], cwd=tmp_path, capture_output=True)
        assert ran.returncode == 0, ran.stderr.decode()
    from segment_async.cli._spool import spool

    assert {command.split()[1] for command in COMMANDS} == spool.commands.keys()
