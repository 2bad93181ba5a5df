"""What newer versions of Python do differently: no loop unless one was made, and interpreters beside the main one."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fault_server import FaultServer
from tests.support.programs import finished


def test_no_loop_is_needed_before_there_is_one(tmp_path: Path) -> None:
    """From 3.14 on, `asyncio.get_event_loop` makes none."""
    program = tmp_path / "program.py"
    program.write_text("""
import asyncio
from segment_async import Client

client = Client("KEY")
client.nowait.track("user-1", "Before")
client.statistics()

async def main():
    await client.track("user-1", "Within")
    await client.flush()

asyncio.run(main())
client.nowait.track("user-1", "Between")

async def close():
    await client.aclose()

asyncio.run(close())
""")

    async def main() -> list[str]:
        async with FaultServer() as server:
            ended = await finished("-W", "error", program, host=server.url)
            assert (ended.code, ended.err) == (0, "")
            return sorted(message["event"] for (message,) in server.taken.values())

    assert asyncio.run(main()) == ["Before", "Between", "Within"]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="concurrent.interpreters came with Python 3.14")
def test_another_interpreter_says_what_cannot_be_imported_there() -> None:
    """orjson cannot be loaded there, so the package cannot; the main interpreter goes on."""
    program = """
from concurrent import interpreters
from segment_async import Client

interpreter = interpreters.create()
try:
    interpreter.exec("import segment_async")
except interpreters.ExecutionFailed as error:
    print(error.excinfo.formatted)
interpreter.close()
print(Client("KEY", send=False).nowait.track("user-1", "Seen").outcome.reason)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    said = done.stdout.splitlines()
    assert said == ["ImportError: module orjson.orjson does not support loading in subinterpreters", "disabled"], done
