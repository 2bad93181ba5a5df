"""Which paths an import may write to: it refuses those of files that it reads or uses itself, and writes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segment_async.importing import ImportUsageError, load_mapping, load_transform
from tests.plans.samples import rule

from .support import MAPPING, RecordingSegment, imported, orders, write_csv

ROOT = Path(__file__).parents[2]
PLAN = json.dumps({"rules": [rule("Order Completed", {"total": {"type": "number"}})]})
TRANSFORM = "def made(row):\n    return {'type': 'track', 'userId': row['user'], 'event': 'A'}\n"


def refused(source, match, **given):
    """Nothing is sent, and every file is as before."""
    folder = source.parent
    before = {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()}
    segment = RecordingSegment()
    with pytest.raises(ImportUsageError, match=match):
        imported(source, segment=segment, restart=True, **given)
    assert {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()} == before
    assert segment.batches == []


@pytest.mark.parametrize("suffix", [".new", ".lock"])
@pytest.mark.parametrize("kind", ["itself", "by another name", "link", "hard link"])
def test_a_file_that_the_state_needs_is_no_place_for_rejects(tmp_path, suffix, kind):
    source = write_csv(tmp_path / "orders.csv", orders(3))
    (tmp_path / "folder").mkdir()
    used = tmp_path / f"state.json{suffix}"
    rejects = tmp_path / "rejects.jsonl"
    if kind == "itself":
        rejects = used
    elif kind == "by another name":
        rejects = tmp_path / "folder" / ".." / used.name
    elif kind == "link":
        rejects.symlink_to(used)
    else:
        used.write_text("left by an import that was killed")
        rejects.hardlink_to(used)
    match = rf"rejects file .*: is also a file .* beside the state file: .*state\.json\{suffix}; choose another with --rejects"
    refused(source, match, state=tmp_path / "state.json", rejects=rejects)


@pytest.mark.parametrize("name", ["rejects", "state"])
@pytest.mark.parametrize("kind", ["itself", "link", "hard link"])
@pytest.mark.parametrize("read", ["mapping", "plan", "transform", "write key"])
def test_a_file_that_the_import_reads_is_not_written_to(tmp_path, monkeypatch, name, kind, read):
    source = write_csv(tmp_path / "orders.csv", orders(3))
    file = tmp_path / f"file_of_{kind.replace(' ', '_')}_{name}_{read.replace(' ', '_')}.py"
    file.write_text({"mapping": MAPPING, "plan": PLAN, "transform": TRANSFORM}.get(read, "KEY"))
    if read == "mapping":
        given = {"mapping": load_mapping(file)}
    elif read == "transform":
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        transform = f"{file.stem}:made"
        given = {"mapping": None, "destinations": "none", "transform": load_transform(transform)}
    else:
        given = {"plan" if read == "plan" else "write_key_file": file}
    path = file if kind == "itself" else tmp_path / "path"
    if kind == "link":
        path.symlink_to(file)
    elif kind == "hard link":
        path.hardlink_to(file)
    refused(source, rf"{name} file .*: is also .*{read}.*; choose another with --{name}", **given, **{name: path})


@pytest.mark.parametrize("suffix", [".new", ".lock"])
@pytest.mark.parametrize("read", ["source", "mapping"])
def test_a_file_beside_the_state_that_the_import_reads_is_not_written_to(tmp_path, suffix, read):
    source = tmp_path / ("state.json" + suffix if read == "source" else "orders.csv")
    write_csv(source, orders(3))
    given = {}
    if read == "mapping":
        (tmp_path / f"state.json{suffix}").write_text(MAPPING)
        given["mapping"] = load_mapping(tmp_path / f"state.json{suffix}")
    match = (
        rf"state file .*state.json: .*state.json\{suffix}, which .* is also the {read} .*; choose another with --state"
    )
    refused(source, match, state=tmp_path / "state.json", **given)


def test_a_source_of_an_address_is_not_written_to(tmp_path):
    source = write_csv(tmp_path / "orders.csv", orders(3))
    content = source.read_bytes()
    with pytest.raises(ImportUsageError, match=r"rejects file .*: is also the source file://"):
        imported(f"file://{source}", state=tmp_path / "state.json", rejects=source)
    assert source.read_bytes() == content


def command(folder, *arguments, **given):
    """The command, with a Segment that cannot be reached."""
    (folder / "map.toml").write_text(MAPPING)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SEGMENT_HOST": "http://127.0.0.1:1"}
    arguments = ["--map", "map.toml", "--restart", "--give-up-after", "0.1", *arguments]
    program = [sys.executable, "-m", "segment_async.cli", "import"]
    return subprocess.run([*program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, **given)


@pytest.mark.parametrize("option", ["--rejects", "--state"])
def test_the_file_of_standard_input_is_not_written_to(tmp_path, option):
    source = write_csv(tmp_path / "orders.csv", orders(3))
    (tmp_path / "key").write_text("KEY")
    content = source.read_bytes()
    with source.open("rb") as file:
        done = command(tmp_path, "-", option, "orders.csv", "--write-key-file", "key", stdin=file)
    assert done.returncode == 2, done.stderr
    assert f"orders.csv: is also standard input; choose another with {option}" in done.stderr
    assert source.read_bytes() == content


@pytest.mark.parametrize("option", ["--rejects", "--state"])
def test_the_file_of_the_write_key_is_not_written_to(tmp_path, option):
    write_csv(tmp_path / "orders.csv", orders(3))
    (tmp_path / "key").write_text("KEY")
    done = command(tmp_path, "orders.csv", "--write-key-file", "key", option, "key")
    assert done.returncode == 2, done.stderr
    assert f"key: is also the file of the write key; choose another with {option}" in done.stderr
    assert (tmp_path / "key").read_text() == "KEY"


def test_other_files_beside_them_may_be_written_to(tmp_path):
    source = write_csv(tmp_path / "orders.csv", [*orders(3), ("u", "soon", "1")])
    (tmp_path / "map.toml").write_text(MAPPING)
    given = {"mapping": load_mapping(tmp_path / "map.toml"), "state": tmp_path / "state.json"}
    report, _ = imported(source, rejects=tmp_path / "state.json.rejects", **given)
    assert (report.counts.delivered, report.counts.rejected) == (3, 1)
    assert (tmp_path / "state.json.rejects").read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("kind", ["no folder", "loop", "file as a folder"])
def test_rejects_that_cannot_be_opened_are_named(tmp_path, kind):
    source = write_csv(tmp_path / "orders.csv", orders(3))
    rejects = tmp_path / "none" / "rejects.jsonl"
    if kind == "loop":
        rejects = tmp_path / "rejects.jsonl"
        rejects.symlink_to(rejects)
    elif kind == "file as a folder":
        rejects = source / "rejects.jsonl"
    match = rf"^rejects file {rejects}: cannot be opened: .*; choose another with --rejects$"
    refused(source, match, rejects=rejects)


def test_a_state_that_cannot_be_opened_is_named(tmp_path):
    state = tmp_path / "none" / "state.json"
    match = rf"^state file {state}: No such file or directory$"
    refused(write_csv(tmp_path / "orders.csv", orders(3)), match, state=state, rejects=tmp_path / "rejects.jsonl")


class Typed:
    """A transform whose class was typed into an interpreter."""

    def __call__(self, row):
        return row


@pytest.mark.parametrize("transform", [dict, Typed()])
def test_a_transform_without_a_file_is_no_obstacle(tmp_path, monkeypatch, transform):
    monkeypatch.setattr(Typed, "__module__", "__main__")
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    source = write_csv(tmp_path / "a.csv", [("track", "u", "A")], "type,userId,event")
    report, _ = imported(source, mapping=None, destinations="none", transform=transform)
    assert report.counts.delivered == 1
