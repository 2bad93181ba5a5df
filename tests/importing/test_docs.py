"""The how-to page: its commands run in order on its own files, and its Python block sends."""

import os
import re
import subprocess
import sys
from pathlib import Path

import orjson

from segment_async.testing import running_endpoint

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "import.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def shell(block, folder, host):
    # Any free port: the page's own one may be taken.
    command = block.replace("segment-async dev", "segment-async dev --port 0")
    command = command.replace("segment-async ", f"{sys.executable} -m segment_async.cli ")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SEGMENT_HOST": host}
    return subprocess.run(["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_commands_do_what_the_page_says(tmp_path):
    _install, init, dry, rehearsal, real = blocks("sh")
    (tmp_path / "orders.csv").write_text(blocks("csv")[0])
    with running_endpoint() as endpoint:
        done = shell(init, tmp_path, endpoint.url)
        assert done.returncode == 0, done.stderr
        first = (tmp_path / "orders.toml").read_text()
        assert all(text in first for text in ('decimal = ","', 'format = "%d.%m.%Y %H:%M"'))
        (tmp_path / "orders.toml").write_text(blocks("toml")[0])
        done = shell(dry, tmp_path, endpoint.url)
        assert (done.returncode, "unmapped columns: note" in done.stdout) == (1, True), done.stderr
        done = shell(rehearsal, tmp_path, endpoint.url)
        assert done.returncode == 1, done.stderr
        assert not endpoint.events
        done = shell(real, tmp_path, endpoint.url)
        assert done.returncode == 1, done.stderr
        assert [event["message"]["userId"] for event in endpoint.events] == ["0042", "0043"]
    rejects = (tmp_path / "orders.csv.rejects.jsonl").read_bytes().splitlines()
    assert [orjson.loads(line)["rule"] for line in rejects] == ["time"]


def test_the_python_block_sends(tmp_path):
    (block,) = blocks("python")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with running_endpoint() as endpoint:
        done = subprocess.run(
            [sys.executable, "-c", block],
            cwd=tmp_path,
            env={**environment, "SEGMENT_HOST": endpoint.url},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("0 2\n")
        assert len(endpoint.events) == 2
