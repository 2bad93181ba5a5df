"""The clients that are compared, and how each is started: our own in this process, the others in ones of their own.

The official SDKs are installed on demand, each into an environment of its own under `.envs`, from the package
registries that pip and npm are set to.
"""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segment_async import __version__

from .runner import Adapter

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".envs"

OFFICIAL_PYTHON = "segment-analytics-python==2.4.0"
PYTHON_ENVIRONMENT = ENVIRONMENTS / "segment-analytics-python-2.4.0"
OFFICIAL_NODE = "@segment/analytics-node@3.1.0"
NODE_ENVIRONMENT = ENVIRONMENTS / "segment-analytics-node-3.1.0"


@dataclass(frozen=True)
class CompetingClient:
    """A client by its heading in the table.

    `set_up` installs what it needs into `environment`, if that is not there, and returns the way to run it.
    """

    heading: str
    set_up: Callable[[], Adapter]
    environment: Path | None = None


def _our_own() -> Adapter:
    from tests.e2e_cli import run

    return run


def _official_python() -> Adapter:
    python = PYTHON_ENVIRONMENT / "bin" / "python"
    if not PYTHON_ENVIRONMENT.exists():
        subprocess.run([sys.executable, "-m", "venv", PYTHON_ENVIRONMENT], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", OFFICIAL_PYTHON], check=True)
    return command_line(str(python), str(HERE / "adapters" / "official_python.py"), cwd=PYTHON_ENVIRONMENT)


def _official_node() -> Adapter:
    if not NODE_ENVIRONMENT.exists():
        NODE_ENVIRONMENT.mkdir(parents=True)
        npm = shutil.which("npm") or "npm"
        subprocess.run([npm, "install", "--silent", "--prefix", NODE_ENVIRONMENT, OFFICIAL_NODE], check=True)
    return command_line("node", str(HERE / "adapters" / "official_node.mjs"), cwd=NODE_ENVIRONMENT)


def command_line(*command: str, cwd: Path | None = None) -> Adapter:
    """Run a program that speaks the command line of the end-to-end tests, its input on stdin."""

    async def adapter(given: Mapping[str, Any]) -> Mapping[str, Any]:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            *command, "--input", "-", cwd=cwd, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            printed, _ = await child.communicate(json.dumps(given).encode())
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        return _read_report(printed, child.returncode)

    return adapter


def _read_report(printed: bytes, returncode: int | None) -> Mapping[str, Any]:
    try:
        report: Mapping[str, Any] = json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError):
        return {"success": False, "error": f"it ended with {returncode} and no report"}
    return report


CLIENTS = {
    "segment-async": CompetingClient(f"segment-async {__version__}", _our_own),
    "python": CompetingClient("segment-analytics-python 2.4.0", _official_python, PYTHON_ENVIRONMENT),
    "node": CompetingClient("@segment/analytics-node 3.1.0", _official_node, NODE_ENVIRONMENT),
}
