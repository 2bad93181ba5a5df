"""`segment-async spool`: every sub-command, on a spool that no process uses; what processes notice is the inspector's test."""

import asyncio
import datetime as dt
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from segment_async.cli._spool import spool
from segment_async.spool import BatchResult, SQLiteSpool, Status

from .contract import append_one, read

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool" / "analytics.db"


def message(message_id, **fields):
    return orjson.dumps({"type": "track", "messageId": message_id, "event": "Order Completed", "userId": "u1"} | fields)


def fill(path, failed=(), pending=(), answer="", fingerprint="1"):
    async def main():
        one = SQLiteSpool(path)
        one.claim(fingerprint)
        for each in failed:
            await append_one(one, orjson.loads(each)["messageId"], each)
        if failed:
            keys = [each.key for each in (await read(one)).messages]
            await one.settle(keys, BatchResult(Status.FAILED, "refused", 400, 3, possibly_delivered=True), answer)
        for each in pending:
            await append_one(one, orjson.loads(each)["messageId"], each)
        await one.aclose()

    asyncio.run(main())


def run(*arguments, code=0, **options):
    result = CliRunner().invoke(spool, [str(each) for each in arguments], **options)
    assert result.exit_code == code, result.output
    return result.output


def lines(text):
    return [line.split() for line in text.splitlines()]


def test_status(path):
    fill(path, failed=[message("x")], pending=[message("a"), message("b")])
    names, cells, reason = run("status", path).splitlines()
    shard = dict(zip(names.split(), re.split(r" {2,}", cells), strict=True))
    oldest, size = shard.pop("oldest"), shard.pop("bytes")
    assert dt.datetime.fromisoformat(oldest)
    assert int(size) == len(message("a")) + len(message("b"))
    counts = {"pending": "2", "dead": "1", "accepted": "3", "delivered": "0", "failed": "1", "dropped": "0"}
    assert shard == {"file": "analytics.db", "used": "no", **counts}
    assert reason.split() == ["1", "refused"]


def test_status_names_what_was_set_aside(path):
    fill(path, pending=[message("a")])
    path.with_name("analytics.db.corrupt-20260101T000000Z-abcdef").touch()
    assert "corrupt-20260101T000000Z-abcdef" in run("status", path)


def test_show_lists_what_waits(path):
    fill(path, pending=[message("a"), message("b", type="page", event=None, name="Home"), message("c")])
    head, first, second = lines(run("show", path, "--limit", 2))
    assert head[:3] == ["accepted", "message", "id"]
    assert first[2:7] == ["a", "track", "Order", "Completed", "u1"]
    assert second[2:6] == ["b", "page", "Home", "u1"]


def test_show_prints_one_message(path):
    fill(path, pending=[message("a"), message("b", event="Other")])
    assert orjson.loads(run("show", path, "--id", "b"))["event"] == "Other"
    assert "no such message" in run("show", path, "--id", "z", code=1)


def test_dead_says_why(path):
    fill(path, failed=[message("x")], answer="no \x1b[2Jsuch source")
    _, letter = lines(run("dead", path))
    fields = ["x", "track", "Order", "Completed", "u1", "refused", "400", "3", "yes"]
    assert letter[2:] == [*fields, "no", "\ufffd[2Jsuch", "source"]
    assert orjson.loads(run("dead", path, "--id", "x"))["messageId"] == "x"


def test_dead_shows_whole_ids_because_another_option_takes_them(path):
    message_id = "0123456789" * 9
    fill(path, failed=[message(message_id)])
    assert message_id in run("dead", path)
    assert orjson.loads(run("dead", path, "--id", message_id))["messageId"] == message_id


def test_tables_work_on_a_terminal_that_knows_little(path):
    """In a process of its own, because the encoding of its output is what is tried."""
    fill(
        path, failed=[message("ü€😀" * 10, event="ü€😀" * 40)], pending=[message("ü", event="ü€😀" * 40)], answer="ü€😀"
    )
    for encoding in ("ascii", "latin-1", "cp1252"):
        for command in ("status", "show", "dead"):
            done = subprocess.run(
                [sys.executable, "-W", "error", "-m", "segment_async.cli", "spool", command, str(path)],
                env={**os.environ, "PYTHONIOENCODING": encoding},
                capture_output=True,
                check=False,
                cwd=ROOT,
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.decode(encoding)


def test_nothing_in_a_message_reaches_the_terminal_as_anything_but_text(path):
    fill(path, pending=[message("a", event="[red]\x1b[2J\u202ereversed", userId="x" * 500)])
    out = run("show", path)
    assert "[red]\ufffd[2J\ufffdreversed" in out
    assert "\x1b" not in out
    assert "x" * 48 not in out


@pytest.mark.parametrize(
    ("options", "put_back", "said"),
    [
        (["--id", "zzz"], 0, "no dead letter matches --id zzz"),
        (["--id", "x", "--id", "zz\u001bz"], 1, "no dead letter matches --id zz\ufffdz"),
        (["--reason", "bogus"], 0, "no dead letter matches --reason bogus"),
        (["--reason", "bogus", "--id", "x"], 1, "no dead letter matches --reason bogus"),
    ],
)
def test_retry_names_what_matches_nothing(path, options, put_back, said):
    fill(path, failed=[message("x")])
    shown = run("retry", path, *options, code=1)
    assert shown.startswith(f"{put_back} message{'' if put_back == 1 else 's'} put back\n")
    assert f"{said}\n" in shown


def test_retry_with_a_reason_that_no_dead_letter_has_now_is_done(path):
    """A script may run it whether something failed or not."""
    fill(path, failed=[message("x")])
    assert "no dead letter matches" not in run("retry", path, "--reason", "gave_up", code=0)


def test_retry_puts_some_back_in_line(path):
    fill(path, failed=[message("x"), message("y"), message("z")])
    assert run("retry", path, "--id", "x", "--id", "y") == "2 messages put back\n"
    assert run("retry", path, "--reason", "gave_up") == "0 messages put back\ndead letters by reason: refused (1)\n"
    assert run("retry", path, "--reason", "refused") == "1 message put back\n"
    assert run("retry", path, "--all") == "0 messages put back\nthere are no dead letters\n"
    assert "say which" in run("retry", path, code=2)


def test_ctrl_c_at_a_question_is_no_answer(path):
    fill(path, pending=[message("a")])
    command = [sys.executable, "-m", "segment_async", "spool", "purge", str(path), "--user", "u1"]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **streams) as process:
        assert process.stdout.read(5) == b"Erase"
        # Its input stays open: the end of it is an answer of no. A signal just before it is read is not noticed.
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
        assert process.stderr.read().strip() == b"Interrupted."
    assert process.returncode == 130
    assert run("export", path).count("\n") == 1


def test_purge_asks_first(path):
    fill(path, failed=[message("x")], pending=[message("a"), message("b", userId="u2")])
    asked = run("purge", path, "--user", "u1", code=1, input="n\n")
    assert "Erase 2 messages of this user" in asked
    assert "Aborted" in asked
    assert "Erase 1 message of this user" in run("purge", path, "--user", "u2", code=1, input="n\n")
    assert run("purge", path, "--user", "u1", "--yes") == "2 messages erased\n"
    assert run("purge", path, "--user", "u1", "--yes") == "0 messages erased\n"
    assert [orjson.loads(line)["messageId"] for line in run("export", path).splitlines()] == ["b"]


def test_export_writes_lines_of_json(path, tmp_path):
    fill(path, failed=[message("x")], pending=[message("a"), message("b")])
    assert run("export", path) == (message("a") + b"\n" + message("b") + b"\n").decode()
    run("export", path, "--dead", "--output", tmp_path / "dead.jsonl")
    assert (tmp_path / "dead.jsonl").read_bytes() == message("x") + b"\n"
    assert run("show", path).count("track") == 2


def test_a_reader_that_has_enough_is_no_error(path):
    """Such as `head`."""
    fill(path, pending=[message("a")])
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "segment_async.cli", "spool", "export", str(path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_export_does_not_write_over_its_spool(path):
    fill(path, pending=[message("a")])
    done = CliRunner().invoke(spool, ["export", str(path), "--output", str(path)])
    assert (done.exit_code, "is the spool itself" in done.output) == (2, True)
    assert run("export", path) == message("a").decode() + "\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_an_export_that_finds_the_disk_full_says_so(path):
    fill(path, pending=[message("a")])
    done = CliRunner().invoke(spool, ["export", str(path), "--output", "/dev/full"])
    assert done.exit_code == 1
    assert "No space left on device" in done.output


def test_rotate_key_lets_the_next_client_take_over(path):
    fill(path, pending=[message("a")])
    with pytest.raises(ValueError, match="belongs to another write key or host"):
        fill(path, fingerprint="2")
    assert run("rotate-key", path) == "the next client on this path sends 1 message with its own write key\n"
    fill(path, pending=[message("b")], fingerprint="2")
    with pytest.raises(ValueError):
        fill(path, fingerprint="1")


def test_where_there_is_no_spool(path):
    for command in ("status", "show", "dead", "export", "rotate-key"):
        assert "there is no spool at" in run(command, path, code=1)
    assert not path.parent.exists()
