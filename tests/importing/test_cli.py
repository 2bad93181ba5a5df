"""The command in processes of its own, against the local endpoint: exit codes, output, signals, kill -9."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import orjson
import pytest

from segment_async.cli._import import _PASSED, import_
from segment_async.devserver import serve
from segment_async.importing import ImportOptions
from segment_async.testing import running_endpoint

from .crash import Crashes
from .support import MAPPING, orders, write_csv

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "segment_async.cli", "import"]


def environment(host="http://127.0.0.1:1", **more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "SEGMENT_HOST": host, "SEGMENT_WRITE_KEY": "KEY", **more}


def run(folder, *arguments, host="http://127.0.0.1:1", **more):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=folder, env=environment(host, **more), capture_output=True, text=True
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "map.toml").write_text(MAPPING)
    return tmp_path


def test_an_import_has_the_defaults_of_the_python_interface():
    given = import_.make_context("import", ["orders.csv"]).params
    options = ImportOptions(sources=("orders.csv",))
    both = {each.name for each in fields(options)} & given.keys()
    assert both >= {*_PASSED}
    assert {name: given[name] for name in both} == {name: getattr(options, name) for name in both}


def test_an_import_with_rejects(folder):
    write_csv(folder / "orders.csv", [*orders(20), ("u", "soon", "1")])
    with running_endpoint() as endpoint:
        done = run(folder, "orders.csv", "--map", "map.toml", "--rate", 0, host=endpoint.url)
        assert len(endpoint.events) == 20
        assert not any(event["verdicts"] for event in endpoint.events)
        again = run(folder, "orders.csv", "--map", "map.toml", "--rate", 0, "--json", host=endpoint.url)
        assert len(endpoint.events) == 20
    assert done.returncode == 1, done.stderr
    assert "About 21 records" in done.stderr
    assert "Rejects: orders.csv.rejects.jsonl" in done.stderr
    assert "delivered" in done.stdout
    report = orjson.loads(again.stdout)
    assert (report["already_done"], report["delivered"], report["rejected"]) == (True, 20, 1)


def test_a_dry_run_tells_what_would_happen(folder):
    write_csv(folder / "orders.csv", [*orders(20), ("u", "soon", "1")])
    done = run(folder, "orders.csv", "--map", "map.toml", "--dry-run", SEGMENT_WRITE_KEY="")
    assert done.returncode == 1, done.stderr
    assert "orders.csv, line 22: timestamp: Not a time" in done.stdout
    found = orjson.loads(run(folder, "orders.csv", "--map", "map.toml", "--dry-run", "--json").stdout)
    assert (found["users"], found["types"], len(found["first_messages"])) == (20, {"track": 20}, 5)
    assert (found["first"], found["unmapped_columns"]) == ("2024-05-01T10:00:00.000Z", [])
    assert sorted(each.name for each in folder.iterdir()) == ["map.toml", "orders.csv"]


def test_a_dry_run_shows_numbers_with_all_their_digits(folder):
    write_csv(folder / "orders.csv", [("u", "2024-05-01", "12345678901234567.89"), ("u", "2024-05-01", "9" * 30)])
    arguments = ("orders.csv", "--map", "map.toml", "--dry-run")
    for more in ((), ("--json",)):
        done = run(folder, *arguments, *more)
        assert done.returncode == 0, done.stderr
        assert "12345678901234567.89" in done.stdout
        assert "9" * 30 in done.stdout


def test_a_first_mapping_is_one_that_works(folder):
    write_csv(folder / "orders.csv", [(*row, "true") for row in orders(20)], header="customer_id,created_at,total,gift")
    done = run(folder, "orders.csv", "--init")
    assert done.returncode == 0, done.stderr
    assert 'total = { column = "total", as = "number" }' in done.stdout
    (folder / "first.toml").write_text(done.stdout)
    found = orjson.loads(run(folder, "orders.csv", "--map", "first.toml", "--dry-run", "--json").stdout)
    assert (found["delivered"], found["rejected"]) == (20, 0)


def test_a_reader_of_the_first_mapping_that_has_enough_is_no_error(folder):
    """Such as `head`."""
    write_csv(folder / "orders.csv", orders(1))
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, "orders.csv", "--init"]
    done = subprocess.run(command, cwd=folder, env=environment(), stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_import_goes_on_when_what_reads_its_progress_has_ended(folder):
    write_csv(folder / "orders.csv", [*orders(3), ("u", "soon", "1")])
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, "orders.csv", "--map", "map.toml", "--json"]
    with running_endpoint() as endpoint:
        done = subprocess.run(
            command, cwd=folder, env=environment(endpoint.url), stdout=subprocess.PIPE, stderr=writing
        )
        assert len(endpoint.events) == 3
    os.close(writing)
    assert (done.returncode, orjson.loads(done.stdout)["records"]) == (1, 4)


@pytest.mark.parametrize("more", [[], ["--json"], ["--dry-run"], ["--dry-run", "--json"]])
@pytest.mark.parametrize("output", ["a closed pipe", "a full disk"])
def test_the_exit_code_does_not_depend_on_what_reads_the_summary(folder, more, output):
    write_csv(folder / "orders.csv", orders(3))
    reading, writing = os.pipe()
    os.close(reading)
    if output == "a full disk":
        os.close(writing)
        writing = os.open("/dev/full", os.O_WRONLY)
    command = [*COMMAND, "orders.csv", "--map", "map.toml", *more]
    with running_endpoint() as endpoint:
        done = subprocess.run(
            command, cwd=folder, env=environment(endpoint.url), stdout=writing, stderr=subprocess.PIPE, text=True
        )
    os.close(writing)
    assert done.returncode == 0
    assert ("The summary cannot be written: No space" in done.stderr) is (output == "a full disk")
    assert "Error" not in done.stderr


@pytest.mark.parametrize("wrong", ["none.csv", "--no-such-option"])
@pytest.mark.parametrize("output", ["a closed pipe", "a full disk"])
def test_the_exit_code_does_not_depend_on_what_reads_an_error(folder, output, wrong):
    reading, writing = os.pipe()
    os.close(reading)
    if output == "a full disk":
        os.close(writing)
        writing = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run([*COMMAND, wrong, "--map", "map.toml"], cwd=folder, env=environment(), stderr=writing)
    os.close(writing)
    assert done.returncode == 2


def test_an_import_goes_on_when_its_terminal_is_gone(folder):
    write_csv(folder / "orders.csv", orders(40))
    ours, theirs = os.openpty()
    command = [*COMMAND, "orders.csv", "--map", "map.toml", "--rate", "20", "--json"]
    with running_endpoint() as endpoint:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(endpoint.url, TERM="xterm"), stdout=subprocess.PIPE, stderr=theirs
        )
        os.close(theirs)
        text = b""
        while b"About" not in text:
            text += os.read(ours, 4_096)
        os.close(ours)
        output, _ = process.communicate()
        assert len(endpoint.events) == 40
    assert (process.returncode, orjson.loads(output)["delivered"]) == (0, 40)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
@pytest.mark.parametrize("more", [["--map", "map.toml"], ["--map", "map.toml", "--dry-run"], ["--init"]])
def test_a_source_whose_name_is_not_utf_8_is_refused(folder, more):
    name = os.fsdecode(b"\xfc.csv")
    write_csv(folder / name, orders(3))
    done = run(folder, name, *more)
    assert (done.returncode, done.stdout) == (2, "")
    assert "its name is not UTF-8; rename the file" in done.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_an_address_whose_name_is_not_utf_8_is_refused(folder):
    name = os.fsdecode(b"\xfc.csv")
    write_csv(folder / name, orders(3))
    done = run(folder, f"file://{folder}/{name}", "--map", "map.toml")
    assert done.returncode == 2
    assert "its name is not UTF-8; rename the file" in done.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_a_state_whose_name_is_not_utf_8(folder):
    write_csv(folder / "orders.csv", orders(3))
    with running_endpoint() as endpoint:
        arguments = ["orders.csv", "--map", "map.toml", "--state", os.fsdecode(b"\xfc.json"), "--json"]
        done = run(folder, *arguments, host=endpoint.url)
    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stdout)["state"] == "\ufffd.json"


def test_a_write_key_that_is_not_utf_8_is_refused_and_a_dry_run_needs_none(folder):
    write_csv(folder / "orders.csv", orders(3))
    command = [*COMMAND, "orders.csv", "--map", "map.toml"]
    given = environment(SEGMENT_WRITE_KEY=os.fsdecode(b"\xfc"))
    for more, code in ([], 2), (["--dry-run"], 0):
        done = subprocess.run([*command, *more], cwd=folder, env=given, capture_output=True, text=True)
        assert done.returncode == code, done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_stream_may_be_closed_before_the_start(folder, closed):
    write_csv(folder / "orders.csv", orders(1))
    command = f"{' '.join(COMMAND)} orders.csv --map map.toml {closed}"
    with running_endpoint() as endpoint:
        done = subprocess.run(command, shell=True, cwd=folder, env=environment(endpoint.url), capture_output=True)
        assert len(endpoint.events) == 1
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["none.csv", "--map", "map.toml"], "no such file"),
        (["orders.csv"], "--destinations"),
        (["orders.csv", "--map", "map.toml", "--destinations", "all,Mixpanel"], "destinations must be all, none"),
        (["orders.csv", "--map", "map.toml", "--destinations", "M\udcfcller"], "destinations are not UTF-8"),
        (["orders.csv", "--map", "none.toml"], "none.toml: cannot be read"),
        (["orders.csv", "--map", "map.toml", "--id", "columns"], "columns:NAME,NAME"),
        (["orders.csv", "--map", "map.toml", "--transform", "no:thing"], "cannot be imported"),
        (["orders.csv", "--transform", "broken:made"], "cannot be imported: SyntaxError"),
        (["orders.csv", "--transform", "script:made"], "cannot be imported: SystemExit"),
        (["orders.csv", "--transform", ".relative:made"], "cannot be imported: TypeError"),
        (["orders.csv", "--map", "map.toml", "--since", "soon"], "since"),
        (["orders.csv", "--map", "map.toml", "--max-rejects", "x"], "max-rejects"),
        (["orders.csv", "--map", "map.toml", "--host", "http://example.com"], "https://"),
        (["orders.csv", "--map", "map.toml", "--write-key-file", "none"], "write key file"),
        (["orders.csv", "--map", "map.toml", "--rate", "-1"], "rate"),
    ],
)
def test_wrong_usage_exits_2(folder, arguments, text):
    (folder / "broken.py").write_text("def made(:")
    (folder / "script.py").write_text("import sys\nsys.exit(0)")
    write_csv(folder / "orders.csv", orders(1))
    done = run(folder, *arguments)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_transform(folder):
    write_csv(folder / "orders.csv", orders(4))
    (folder / "mine.py").write_text(
        "def made(row):\n"
        "    if row['user'] == 'u0': return None\n"
        "    if row['user'] == 'u1': raise KeyError\n"
        "    message = {'type': 'track', 'userId': row['user'], 'event': 'A'}\n"
        "    return [message, message | {'event': 'B'}] if row['user'] == 'u2' else message\n"
    )
    done = run(folder, "orders.csv", "--transform", "mine:made", "--destinations", "all", "--dry-run", "--json")
    found = orjson.loads(done.stdout)
    assert (found["skipped"], found["rejected"], found["delivered"], found["messages"]) == (1, 1, 2, 3)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_dry_run_shows_messages_with_keys_that_are_no_text(folder, more):
    write_csv(folder / "orders.csv", orders(1))
    (folder / "mine.py").write_text("def made(row): return {'type': 'identify', 'userId': row['user'], 5: 1}\n")
    done = run(folder, "orders.csv", "--transform", "mine:made", "--destinations", "all", "--dry-run", *more)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"5":' in done.stdout


@pytest.mark.parametrize("options", [[], ["--restart"]])
def test_a_run_that_stopped_is_not_to_begin_again(folder, options):
    write_csv(folder / "orders.csv", [*orders(3), ("u", "soon", "1")])
    with running_endpoint() as endpoint:
        arguments = ["orders.csv", "--map", "map.toml", "--max-rejects", 1, *options]
        done = run(folder, *arguments, host=endpoint.url)
    assert done.returncode == 3, done.stderr
    assert ("Leave --restart out of the next run" in done.stderr) == bool(options)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_state(folder, number, code):
    write_csv(folder / "orders.csv", orders(2_000))

    async def main():
        async with serve(keep=10_000) as endpoint:
            command = [*COMMAND, "orders.csv", "--map", "map.toml", "--rate", "400"]
            process = await asyncio.create_subprocess_exec(
                *command, cwd=folder, env=environment(endpoint.url), stderr=asyncio.subprocess.PIPE
            )
            assert await endpoint.wait(200, timeout=60)
            process.send_signal(number)
            _, errors = await process.communicate()
            assert process.returncode == code, errors.decode()
            assert b"run the same command again to resume" in errors
            saved = orjson.loads((folder / "orders.csv.import.json").read_bytes())
            assert 200 <= saved["counts"]["records"] < 2_000
            process = await asyncio.create_subprocess_exec(
                *[*command[:-1], "0"], cwd=folder, env=environment(endpoint.url), stderr=asyncio.subprocess.DEVNULL
            )
            assert await process.wait() == 0
            ids = [message["messageId"] for message in endpoint.messages]
            assert len(set(ids)) == 2_000
            assert len(ids) - 2_000 <= 400

    asyncio.run(main())


def test_ctrl_c_in_a_dry_run_is_no_reject(folder):
    write_csv(folder / "orders.csv", orders(4))
    (folder / "mine.py").write_text("def made(row):\n    raise KeyboardInterrupt\n")
    done = run(folder, "orders.csv", "--transform", "mine:made", "--destinations", "all", "--dry-run")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_kill_9_loses_nothing(tmp_path):
    crashes = Crashes(tmp_path, kills=3, seed=5)
    asyncio.run(crashes.run())
    assert crashes.repeats > 0


def test_two_processes_on_one_state(folder):
    write_csv(folder / "orders.csv", orders(2_000))

    async def main():
        async with serve() as endpoint:
            command = [*COMMAND, "orders.csv", "--map", "map.toml", "--rate", "10"]
            first = await asyncio.create_subprocess_exec(
                *command, cwd=folder, env=environment(endpoint.url), stderr=asyncio.subprocess.DEVNULL
            )
            assert await endpoint.wait(1, timeout=60)
            second = await asyncio.create_subprocess_exec(
                *command, cwd=folder, env=environment(endpoint.url), stderr=asyncio.subprocess.PIPE
            )
            _, errors = await second.communicate()
            assert second.returncode == 2
            assert b"another process" in errors
            first.send_signal(signal.SIGTERM)
            assert await first.wait() == 143

    asyncio.run(main())
