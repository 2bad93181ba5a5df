"""Every code block of the README and the documentation is run, or says why not.

Python blocks run as programs with a local endpoint in the place of Segment, and something must arrive there. Shell
blocks of a page run in order in one folder, in which the page's named blocks are files. Remarks above a block say more:

    <!-- with: flask -->            what `surroundings` puts before and after it
    <!-- with: pytest -->           pytest runs it, beside the other modules of its page
    <!-- sends nothing -->          nothing arrives
    <!-- raises MessageError: userId -->    it ends with this error, whose text begins so
    <!-- arrives: 2 -->             so many events arrive
    <!-- host: Segment's own -->    the local endpoint is not used, and nothing may be sent
    <!-- not run: it serves -->     why it is not run
"""

from __future__ import annotations

import asyncio
import configparser
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from segment_async import Client
from segment_async.devserver import Endpoint, serve
from tests.docs.blocks import ROOT, Block, blocks, pages
from tests.docs.surroundings import AFTER, BEFORE

# Their commands belong together and need files of their own: these tests run every block of them.
HAVE_TESTS = {
    "docs/import.md": "tests/importing/test_docs.py",
    "docs/plans.md": "tests/plans/test_docs.py",
}
# Output, or a picture in text; and what is only looked at.
SHOWN = {"", "text", "http"}

ALL = [block for page in pages() for block in blocks(page)]
RUN = [block for block in ALL if block.page not in HAVE_TESTS and block.remark("not run") is None]
PYTHON = [block for block in RUN if block.language == "python"]
SHELL = {
    page: [block for block in RUN if (block.page, block.language) == (page, "sh")] for page in {b.page for b in RUN}
}


def _environment(url: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SEGMENT_HOST": url, "PYTHONPATH": str(ROOT)}


async def _finished(endpoint: Endpoint, folder: Path, *command: str) -> tuple[int | None, str]:
    child = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=_environment(endpoint.url), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        said, _ = await asyncio.wait_for(child.communicate(), 60)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return child.returncode, said.decode()


def _program(block: Block) -> str:
    names = [name.strip() for name in (block.remark("with") or "").split(",") if name.strip()]
    assert all(name in BEFORE or name in AFTER for name in names), names
    return "".join([*(BEFORE.get(name, "") for name in names), block.text, *(AFTER.get(name, "") for name in names)])


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_python_block_runs(block: Block, tmp_path: Path) -> None:
    async def main() -> None:
        async with serve(port=0) as endpoint:
            if block.remark("with") == "pytest":
                for each in ALL:
                    if each.page == block.page and each.title.endswith(".py"):
                        (tmp_path / each.title).write_text(each.text)
                code, said = await _finished(endpoint, tmp_path, sys.executable, "-m", "pytest", "-q")
                assert code == 0, said
                return
            program = _program(block)
            if block.remark("host") is not None:
                assert block.remark("sends nothing") is not None
                program = f'import os\ndel os.environ["SEGMENT_HOST"]\n{program}'
            code, said = await _finished(endpoint, tmp_path, sys.executable, "-c", program)
            error = next((remark for remark in block.remarks if remark.startswith("raises ")), None)
            if error is not None:
                assert (code, error.removeprefix("raises ") in said) == (1, True), said
                return
            assert code == (143 if block.remark("with") == "terminated" else 0), said
            count = block.remark("arrives")
            if count is not None:
                assert len(endpoint.events) == int(count)
            elif block.remark("sends nothing") is None:
                assert endpoint.events, f"nothing arrived\n{said}"

    asyncio.run(main())


@pytest.mark.parametrize("page", sorted(page for page, found in SHELL.items() if found))
def test_the_commands_of_a_page_run(page: str, tmp_path: Path) -> None:
    for block in ALL:
        if block.page == page and block.title:
            (tmp_path / block.title).write_text(block.text)

    async def main() -> None:
        async with Client("KEY", host="http://127.0.0.1:1", spool=tmp_path / "analytics.db", close_timeout=0) as client:
            await client.track("user-1", "Left")
        async with serve(port=0) as endpoint:
            for block in SHELL[page]:
                # The pages name the port that a reader has.
                text = block.text.replace("http://127.0.0.1:8765", endpoint.url)
                code, said = await _finished(endpoint, tmp_path, "bash", "-euo", "pipefail", "-c", text)
                assert code == 0, f"{block}: {said}"

    asyncio.run(main())


@pytest.mark.parametrize("page", sorted(HAVE_TESTS))
def test_the_other_pages_have_a_test(page: str) -> None:
    assert (ROOT / page).name in (ROOT / HAVE_TESTS[page]).read_text()


def test_other_blocks_can_be_read() -> None:
    for block in RUN:
        if block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            assert "\t" not in block.text
        elif block.language == "ini":
            configparser.RawConfigParser().read_string(block.text)
        else:
            assert block.language in SHOWN | {"python", "sh"}, f"{block}: how is {block.language} run?"


def test_a_reason_is_given_for_what_is_not_run() -> None:
    for block in ALL:
        reason = block.remark("not run")
        assert reason is None or len(reason) > 20, str(block)


def test_every_command_and_option_exists() -> None:
    texts = [block.text for block in ALL if block.language in ("sh", "yaml")]
    lines = re.sub(r"\\\n", " ", "\n".join(texts)).replace('", "', " ").splitlines()
    commands = [found[1] for line in lines if (found := re.search(r"\bsegment-async ([a-z][^#|\"]*)", line))]
    assert len(commands) > 30
    for command in commands:
        assert _unknown(command) == [], command


def _unknown(text: str) -> list[str]:
    """The words of a command line that are no verb and no option of the command before them."""
    from segment_async.cli._commands import segment_async

    command: click.Command = segment_async
    unknown: list[str] = []
    for word in text.partition(" -- ")[0].split():
        if word.startswith("--"):
            if isinstance(command, click.Group) and "run" in command.commands:
                command = command.commands["run"]  # of a group that runs by itself
            options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
            unknown += [] if word.partition("=")[0] in options | {"--version", "--help"} else [word]
        elif isinstance(command, click.Group):
            command = command.get_command(click.Context(command), word) or command
            unknown += [word] if command is segment_async else []  # the name of a verb comes first
    return unknown


def test_a_command_that_does_not_exist_is_found() -> None:
    assert _unknown("dev --chaos down --sav events.jsonl -- uvicorn --reload") == ["--sav"]
    assert _unknown("spool deads analytics.db --reason refused") == ["--reason"]
    assert _unknown("relays --rate 900")[0] == "relays"


def test_no_command_is_shown_as_output() -> None:
    for block in ALL:
        if block.language in SHOWN:
            found = re.search(r"^(segment-async|pip|python|export|curl) .*", block.text, re.MULTILINE)
            assert found is None, f"{block}: {found and found[0]} belongs into a block of the language sh"


def test_the_page_about_spools_has_all_of_their_commands() -> None:
    text = "\n".join(block.text for block in SHELL["docs/how-to/spool.md"])
    assert set(re.findall(r"^segment-async spool ([\w-]+)", text, re.MULTILINE)) == {
        command.name for command in _below("spool")
    }


def _below(group: str) -> list[Any]:
    from segment_async.cli._commands import segment_async

    found: Any = segment_async.get_command(click.Context(segment_async), group)
    return list(found.commands.values())
