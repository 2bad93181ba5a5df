"""The page about plans: its programs run, and its commands work in the order of the page."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from segment_async.devserver import serve
from tests.plans.samples import track

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plans.md").read_text("utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^segment-async (plan .+)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan that the page makes, and the module that it generates."""
    folder = tmp_path_factory.mktemp("planned")
    for command in ("plan new --spec ecommerce -o plan.json", "plan generate plan.json -o plan.py"):
        assert command in COMMANDS
        subprocess.run([sys.executable, "-m", "segment_async.cli", *command.split()], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program(program: str, planned: Path, tmp_path: Path) -> None:
    for name in ("plan.json", "plan.py"):
        shutil.copy(planned / name, tmp_path)

    async def main() -> None:
        async with serve() as endpoint:
            env = {**os.environ, "SEGMENT_HOST": endpoint.url}
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "error", "-c", program, cwd=tmp_path, env=env, stderr=subprocess.PIPE
            )
            _, errors = await asyncio.wait_for(process.communicate(), 60)
            assert (process.returncode, errors.decode()) == (0, "")
            assert endpoint.events or "Client(" not in program
            assert not [event for event in endpoint.events if event.verdicts]

    asyncio.run(main())


def test_the_commands(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(json.dumps({"message": track(properties={"total": 3})}))
    ran: list[str] = []
    for command in COMMANDS:
        if " pull " in command:
            continue  # needs an account; it is tested with an API of our own
        done = subprocess.run(
            [sys.executable, "-m", "segment_async.cli", *command.split()], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, (command, done.stderr)
        ran.append(command.split()[1])
    assert ran == ["infer", "lint", "new", "generate", "generate"]
