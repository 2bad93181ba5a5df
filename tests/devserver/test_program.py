"""`python -m segment_async.devserver` and `segment-async dev` as processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from segment_async.devserver import Options, run

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
    """A process and its first line of output; it is killed at the end if it still runs.

    The lines that follow the first one are read: where to look, and how to send.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stdout
    assert process.stderr
    try:
        first = process.stdout.readline().rstrip("\n")
        for _ in range(1 if "--" in command else 2):
            process.stdout.readline()
        yield process, first
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
        assert line.endswith("  Order Completed  1 would be dropped: id-missing in Order Completed (userId)\n")
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
    ("program", "wrong", "code", "said"),
    [
        (MODULE, ("--port", "70000"), 2, "port must be from 0 to 65535, not 70000"),
        (MODULE, ("--load", "/no/such/events.jsonl"), 1, "No such file"),
        (COMMAND, ("--load", __file__), 1, "test_program.py, line 1: is not an event that --save wrote"),
        (MODULE, ("--save", "/no/such/folder/events.jsonl"), 1, "No such file"),
        (MODULE, ("--keep", "0"), 2, "keep and rate must be at least 1"),
        (COMMAND, ("--keep", "0"), 2, "'--keep': 0 is not in the range"),
        (COMMAND, ("--chaos", "sometimes"), 1, "sometimes"),
    ],
)
def test_invalid_options_are_reported_without_a_traceback(
    program: tuple[str, ...], wrong: tuple[str, str], code: int, said: str
) -> None:
    done = run_to_the_end(*program, "--port", "0", *wrong)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_an_error_of_one_line() -> None:
    with running(*MODULE, "--port", "0") as (_, first):
        taken = first.rpartition(":")[2]
        done = run_to_the_end(*MODULE, "--port", taken)
    assert done.returncode == 1
    assert f"port {taken} of 127.0.0.1 is in use" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def introduction(*options: str, **environment: str) -> list[str]:
    """What it prints before the first request."""
    process = subprocess.Popen(
        (*MODULE, "--port", "0", *options), stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stdout
    lines = [process.stdout.readline().rstrip("\n")]
    while not lines[-1].startswith("Before your application"):
        lines.append(process.stdout.readline().rstrip("\n"))
    process.kill()
    process.communicate()
    return lines


def test_it_says_what_to_open_and_what_to_set() -> None:
    first, page, setting = introduction()
    url = first.removeprefix("Listening on ")
    assert page == f"Open this in a browser:      {url}"
    assert setting == f"Before your application, run: export SEGMENT_HOST={url}"


def test_beyond_loopback_it_prints_the_token() -> None:
    first, _, page, setting = introduction("--host", "0.0.0.0", SEGMENT_DEV_TOKEN="sesame")
    url = first.removeprefix("Listening on ")
    assert url.startswith("http://127.0.0.1:")
    assert page.endswith(f" {url}/?token=sesame")
    assert setting.endswith(f"export SEGMENT_HOST={url} SEGMENT_WRITE_KEY=sesame")


def test_on_a_full_disk_events_are_accepted_and_shown(tmp_path: Path) -> None:
    saved = tmp_path / "events.jsonl"
    limited = ("sh", "-c", 'ulimit -f 4; exec "$@"', "sh", *MODULE)
    with running(*limited, "--port", "0", "--save", str(saved)) as (process, first):
        assert process.stdout
        url = first.removeprefix("Listening on ")
        post(url, event="Order Completed", userId="u1")
        assert " 200 /v1/batch " in process.stdout.readline()
        for _ in range(2):
            post(url, event="Order Completed", userId="u" * 3_000)
        assert " 200 /v1/batch " in process.stdout.readline()
        assert process.stdout.readline().startswith(f"Cannot save events to {saved}: File too large.")
        assert " 200 /v1/batch " in process.stdout.readline()
        post(url, event="Order Completed", userId="u2")
        process.stdout.readline()
        assert process.stdout.readline() == f"Saving events to {saved} again; 2 of them are missing there.\n"
    events = [json.loads(line) for line in saved.read_text().splitlines()]
    assert [event["message"]["userId"] for event in events] == ["u1", "u2"]


@BOTH
def test_events_are_accepted_and_saved_after_the_terminal_is_gone(program: tuple[str, ...], tmp_path: Path) -> None:
    saved = tmp_path / "events.jsonl"
    with running(*program, "--port", "0", "--save", str(saved)) as (process, first):
        assert process.stdout
        process.stdout.close()
        url = first.removeprefix("Listening on ")
        for _ in range(3):
            post(url, event="Order Completed", userId="u1")
        process.stdout = None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert len(saved.read_text().splitlines()) == 3


def test_it_starts_although_what_reads_its_output_has_gone() -> None:
    def show(text: str) -> None:
        raise BrokenPipeError

    options = Options(port=0, command=(sys.executable, "-c", "raise SystemExit(3)"))
    assert asyncio.run(run(options, show=show, show_answered=lambda _: None)) == 3


@BOTH
def test_a_terminal_without_the_letters_of_an_event_shows_escapes(program: tuple[str, ...]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with running(*program, "--port", "0", env=environment) as (process, first):
        assert process.stdout
        post(first.removeprefix("Listening on "), event="Überraschung", userId="u1")
        assert "  \\xdcberraschung  " in process.stdout.readline()


@BOTH
def test_saved_events_can_be_loaded(program: tuple[str, ...], tmp_path: Path) -> None:
    saved = tmp_path / "events.jsonl"
    with running(*program, "--port", "0", "--save", str(saved)) as (_, first):
        url = first.removeprefix("Listening on ")
        post(url, event="Order Completed", userId="u1", properties={"total": 30.5})
        post(url, event="order_lost")
        before = json.load(urllib.request.urlopen(f"{url}/_dev/events", timeout=10))
    with running(*program, "--port", "0", "--load", str(saved), "--save", str(saved)) as (_, first):
        url = first.removeprefix("Listening on ")
        assert json.load(urllib.request.urlopen(f"{url}/_dev/events", timeout=10)) == before
        post(url, event="Order Completed", userId="u2")
        after = json.load(urllib.request.urlopen(f"{url}/_dev/events", timeout=10))
    assert [event["batch"] for event in after["events"]] == [1, 2, 3]
    assert len(saved.read_text().splitlines()) == 3


class WithoutSignals(asyncio.SelectorEventLoop):
    """Like a loop on Windows."""

    def add_signal_handler(self, *_: Any) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_and_stops_where_a_loop_has_no_signals(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def show(text: str) -> None:
        if text.startswith("Before your application"):
            signal.raise_signal(number)

    with asyncio.Runner(loop_factory=WithoutSignals) as runner:
        assert runner.run(run(Options(port=0), show=show, show_answered=lambda _: None)) == 0
    assert signal.getsignal(number) is before


@BOTH
def test_it_exits_with_the_status_of_its_command(program: tuple[str, ...]) -> None:
    done = run_to_the_end(*program, "--port", "0", "--", sys.executable, "-c", SEND)
    assert done.returncode == 3
    assert '{"success":true}' in done.stdout
    assert "200 /v1/batch  1 message" in done.stdout


@BOTH
def test_beyond_loopback_the_command_has_the_token_as_its_write_key(program: tuple[str, ...]) -> None:
    script = "import os; print(os.environ['SEGMENT_WRITE_KEY'])"
    environment = {**os.environ, "SEGMENT_WRITE_KEY": "another", "SEGMENT_DEV_TOKEN": "sesame"}
    command = (*program, "--host", "0.0.0.0", "--port", "0", "--", sys.executable, "-c", script)
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "sesame"


@BOTH
def test_options_after_the_command_are_the_commands_without_two_dashes_as_well(program: tuple[str, ...]) -> None:
    script = "import sys; print(sys.argv)"
    done = run_to_the_end(*program, "--port", "0", sys.executable, "-c", script, "--port", "9", "--reload")
    assert done.returncode == 0, done.stderr
    assert "['-c', '--port', '9', '--reload']" in done.stdout


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
    assert done.stderr == "Error: command not found: no-such-command\n"


def test_without_its_extra_the_command_says_how_to_install_it() -> None:
    for package in ("click", "rich"):
        hidden = f"import sys; sys.modules['{package}'] = None; from segment_async.cli import main; main()"
        done = run_to_the_end(sys.executable, "-c", hidden, "dev")
        assert done.returncode == 1
        assert done.stderr == 'segment-async requires the extra "cli": pip install "segment-async[cli]"\n'


def test_a_command_does_not_import_the_others() -> None:
    loaded = "import sys; from segment_async.cli import main\n"
    loaded += "try: main()\nfinally: print(*(name for name in sys.modules if name.startswith('segment_async.cli._')))"
    done = run_to_the_end(sys.executable, "-c", loaded, "import", "--help")
    modules = set(done.stdout.splitlines()[-1].split())
    assert "segment_async.cli._import" in modules
    assert modules.isdisjoint({"segment_async.cli._dev", "segment_async.cli._relay"})


def test_the_devserver_imports_only_the_verdicts_of_this_package() -> None:
    loaded = "import sys; before = set(sys.modules); import segment_async; ours = set(sys.modules)\n"
    loaded += "import segment_async.devserver; print(*sorted(n for n in set(sys.modules) - ours if 'segment' in n))"
    done = run_to_the_end(sys.executable, "-c", loaded)
    its_own = ("segment_async.devserver", "segment_async.verdicts.")
    others = [name for name in done.stdout.split() if not name.startswith(its_own)]
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
        assert process.stdout.readline().endswith(
            "  1 against the plan: plan-unplanned-event in Order Completed (event)\n"
        )
    plan.write_text("[]")
    done = run_to_the_end(*program, "--plan", str(plan))
    assert done.returncode == 1
    assert "the plan has no rules" in done.stderr
