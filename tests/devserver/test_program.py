"""`python -m segment_async.devserver` and `segment-async dev` as processes."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

MODULE = (sys.executable, "-m", "segment_async.devserver")
COMMAND = (sys.executable, "-m", "segment_async.cli", "dev")
BOTH = pytest.mark.parametrize("program", [MODULE, COMMAND], ids=["module", "command"])
SEND = """
import json, os, urllib.request
host = os.environ["SEGMENT_HOST"]
message = {"type": "track", "event": "Order Completed", "userId": "u1", "messageId": "m1"}
body = json.dumps({"batch": [message], "writeKey": "key"}).encode()
print(urllib.request.urlopen(f"{host}/v1/batch", body).read().decode())
raise SystemExit(3)
"""


@contextmanager
def running(*command: str, env: Mapping[str, str] = os.environ) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process and its first line of output; it is killed at the end if it still runs."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stdout
    assert process.stderr
    try:
        yield process, process.stdout.readline().rstrip("\n")
    finally:
        process.kill()
        process.communicate()


def run_to_the_end(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def post(url: str, **message: object) -> None:
    body = json.dumps({"batch": [{"type": "track", "messageId": "m1", **message}], "writeKey": "key"}).encode()
    with urllib.request.urlopen(f"{url}/v1/batch", body, timeout=10) as answer:
        assert answer.status == 200


@BOTH
def test_it_prints_its_address_and_then_a_line_for_each_batch(program: tuple[str, ...]) -> None:
    with running(*program, "--port", "0") as (process, first):
        assert process.stdout
        assert first.startswith("Listening on http://127.0.0.1:")
        url = first.removeprefix("Listening on ")
        post(url, event="Order Completed")
        line = process.stdout.readline()
        assert "200 /v1/batch  1 message  " in line
        assert line.endswith("  1 would be dropped: id-missing\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@BOTH
def test_the_saved_file_is_readable_by_its_owner_alone(program: tuple[str, ...], tmp_path: Path) -> None:
    saved = tmp_path / "events.jsonl"
    for user in ("u1", "u2"):
        with running(*program, "--port", "0", "--save", str(saved)) as (_, first):
            post(first.removeprefix("Listening on "), event="Order Completed", userId=user)
    events = [json.loads(line) for line in saved.read_text().splitlines()]
    assert [event["message"]["userId"] for event in events] == ["u1", "u2"]
    assert set(events[0]) == {"received_at", "source", "route", "batch", "attempt", "message", "verdicts"}
    assert saved.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("program", "wrong", "said"),
    [
        (MODULE, ("--port", "70000"), "port must be from 0 to 65535, not 70000"),
        (MODULE, ("--save", "/no/such/folder/events.jsonl"), "No such file"),
        (COMMAND, ("--keep", "0"), "keep and rate must be at least 1"),
        (COMMAND, ("--chaos", "sometimes"), "sometimes"),
    ],
)
def test_invalid_options_are_reported_without_a_traceback(
    program: tuple[str, ...], wrong: tuple[str, str], said: str
) -> None:
    done = run_to_the_end(*program, "--port", "0", *wrong)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_an_error_of_one_line() -> None:
    with running(*MODULE, "--port", "0") as (_, first):
        taken = first.rpartition(":")[2]
        done = run_to_the_end(*MODULE, "--port", taken)
    assert done.returncode == 1
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_beyond_loopback_it_prints_the_token(tmp_path: Path) -> None:
    environment = {**os.environ, "SEGMENT_DEV_TOKEN": "sesame"}
    with running(*MODULE, "--host", "0.0.0.0", "--port", "0", env=environment) as (process, first):
        assert process.stdout
        url = first.removeprefix("Listening on ")
        assert url.startswith("http://127.0.0.1:")
        process.stdout.readline()
        assert process.stdout.readline() == f"{url}/?token=sesame\n"


def test_it_exits_with_the_status_of_its_command() -> None:
    done = run_to_the_end(*COMMAND, "--port", "0", "--", sys.executable, "-c", SEND)
    assert done.returncode == 3
    assert '{"success":true}' in done.stdout
    assert "200 /v1/batch  1 message" in done.stdout


def test_a_signal_is_passed_on_to_the_command_which_can_still_send() -> None:
    waiting = "import signal\nprint('ready', flush=True)\nsignal.sigwait([signal.SIGTERM])\n" + SEND
    # The signal is blocked before Python starts, so that it cannot arrive too early.
    begin = "import os, signal, sys\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
    script = f"{begin}os.execv(sys.executable, [sys.executable, '-c', {waiting!r}])"
    with running(*COMMAND, "--port", "0", "--", sys.executable, "-c", script) as (process, _):
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=20)
        assert '{"success":true}' in said
        assert process.returncode == 3


def test_a_command_that_does_not_exist_is_an_error_of_one_line() -> None:
    done = run_to_the_end(*COMMAND, "--port", "0", "--", "no-such-command")
    assert done.returncode == 1
    assert "no-such-command" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_its_extra_the_command_says_how_to_install_it() -> None:
    hidden = "import sys; sys.modules['click'] = None; from segment_async.cli import main; main()"
    done = run_to_the_end(sys.executable, "-c", hidden)
    assert done.returncode == 1
    assert done.stderr == 'segment-async requires the extra "cli": pip install "segment-async[cli]"\n'


def test_the_devserver_imports_only_the_verdicts_of_this_package() -> None:
    loaded = "import sys; before = set(sys.modules); import segment_async; ours = set(sys.modules)\n"
    loaded += "import segment_async.devserver; print(*sorted(n for n in set(sys.modules) - ours if 'segment' in n))"
    done = run_to_the_end(sys.executable, "-c", loaded)
    others = [name for name in done.stdout.split() if not name.startswith("segment_async.devserver")]
    assert others == ["segment_async.verdicts"]


@BOTH
def test_a_tracking_plan(program: tuple[str, ...], tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps([{"key": "Signed Up", "type": "TRACK", "jsonSchema": {}}]))
    with running(*program, "--port", "0", "--plan", str(plan)) as (process, first):
        assert process.stdout
        post(
            first.removeprefix("Listening on "), event="Order Completed", userId="u1", timestamp="2026-11-21T19:20:03Z"
        )
        assert process.stdout.readline().endswith("  1 against the plan: plan-unplanned-event\n")
    plan.write_text("[]")
    done = run_to_the_end(*program, "--plan", str(plan))
    assert done.returncode == 1
    assert "the plan has no rules" in done.stderr
