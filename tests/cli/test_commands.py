"""All commands: on a terminal whose encoding lacks characters, and interrupted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from segment_async.cli._commands import segment_async
from tests.plans.samples import rule

NAME = "Größe “3”"
MAPPING = f"""
type = "track"
userId = {{ column = "user" }}
event = "A"
properties = {{ "{NAME}" = {{ column = "{NAME}", as = "number" }} }}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("plan.json").write_text(json.dumps([rule(NAME, {NAME: {"type": "any"}})]), "utf-8")
    Path("events.jsonl").write_text(json.dumps({"type": "track", "event": NAME, "properties": {"a": 1}}), "utf-8")
    Path("orders.csv").write_text(f"user,{NAME}\nu1,x\n", "utf-8")
    Path("orders.toml").write_text(MAPPING, "utf-8")
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("plan lint plan.json", 0),
        ("plan check plan.json events.jsonl", 1),
        ("import orders.csv --map orders.toml --destinations none --dry-run", 1),
    ],
)
def test_what_the_terminal_cannot_show_is_escaped(command: str, code: int) -> None:
    result = CliRunner(charset="latin-1").invoke(segment_async, command.split())
    assert result.exit_code == code, result.exception
    assert "Größe \\u201c3\\u201d" in result.stdout


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", ["plan generate plan.json", "plan infer events.jsonl", "import orders.csv --init"])
def test_what_is_read_by_programs_is_utf_8(command: str) -> None:
    result = CliRunner(charset="latin-1").invoke(segment_async, command.split())
    assert result.exit_code == 0, result.exception
    assert NAME in result.stdout_bytes.decode()


def test_ctrl_c_is_no_result(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    os.mkfifo(plan)
    command = [sys.executable, "-m", "segment_async", "plan", "lint", str(plan)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with plan.open("wb"):  # opened once the command reads it
            process.send_signal(signal.SIGINT)
            assert process.communicate() == (b"", b"Interrupted.\n")
    assert process.returncode == 130
