"""Our own client conforms to every case; and the cases can fail: two clients that are no good do not pass."""

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests import e2e_cli
from tests.support.fault_server import FaultServer

from . import official_suite
from .case import Case
from .cases import CASES, GROUPS
from .clients import CLIENTS, PYTHON_ENVIRONMENT, command_line
from .runner import run_case, run_cases


def named(case: Case) -> str:
    return f"{case.row}: {case.name}"


@pytest.fixture(scope="module")
def findings() -> dict[Case, list[str]]:
    """All cases at once: most of their time is waiting."""
    return asyncio.run(run_cases(CASES, e2e_cli.run, at_once=32))


@pytest.mark.parametrize("case", CASES, ids=named)
def test_our_client_conforms(findings: dict[Case, list[str]], case: Case) -> None:
    assert findings[case] == []


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({named(case) for case in CASES}) == len(CASES)


def test_the_comparison_shows_as_many_cases_as_there_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "comparison.md").read_text()
    assert f"in {len(CASES)} cases" in page
    for group, cases in {**GROUPS, "**all**": CASES}.items():
        assert f"| {group} | {len(cases)} of {len(cases)} |" in page


async def lies(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Send nothing, and say that all is well."""
    return {"success": True}


async def posts_once(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Send everything in one request, as most people's first attempt does."""
    batch = [event for sequence in given["sequences"] for event in sequence["events"]]
    try:
        body = io.BytesIO(json.dumps({"batch": batch}).encode())
        async with aiohttp.ClientSession() as session, session.post(f"{given['apiHost']}/v1/batch", data=body):
            pass
    except aiohttp.ClientError:
        return {"success": False}
    return {"success": True}


def test_a_client_that_sends_nothing_passes_no_case() -> None:
    found = asyncio.run(run_cases(CASES, lies, at_once=32))
    assert [named(case) for case, of_case in found.items() if not of_case] == []


def test_a_client_that_posts_once_passes_few_rows() -> None:
    quick = [case for case in CASES if "timeout" not in case.config]
    found = asyncio.run(run_cases(quick, posts_once, at_once=32))
    rows = {case.row for case in quick}
    assert len(rows - {case.row for case, of_case in found.items() if of_case}) < len(rows) / 3


@pytest.mark.peers
@pytest.mark.parametrize("name", ["python", "node"])
def test_an_official_sdk_can_be_driven(name: str) -> None:
    """Nothing is installed for a test: `python -m tests.conformance` does that."""
    client = CLIENTS[name]
    if client.environment is None or not client.environment.exists():
        pytest.skip(f"{client.heading} is not set up")
    simple = [case for case in CASES if case.row.startswith(("2xx", "501"))]
    found = asyncio.run(run_cases(simple, client.set_up(), at_once=3))
    assert [finding for findings in found.values() for finding in findings] == []


@pytest.mark.peers
def test_the_official_sdks_own_tests_pass_on_compat() -> None:
    if not PYTHON_ENVIRONMENT.exists():
        pytest.skip(f"{CLIENTS['python'].heading} is not set up")
    assert {test: text for test, text in official_suite.run().items() if text} == {}


# The command line, as Segment's end-to-end tests call it.

EVENT = {"type": "track", "userId": "u", "event": "E", "messageId": "m-1"}


def call(given: Any) -> subprocess.CompletedProcess[str]:
    return called("--input", json.dumps(given))


def called(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, e2e_cli.__file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_command_line_prints_one_object_and_succeeds() -> None:
    case = next(case for case in CASES if case.row.startswith("408"))
    command = command_line(sys.executable, e2e_cli.__file__)
    reports: list[Mapping[str, Any]] = []

    async def adapter(given: Mapping[str, Any]) -> Mapping[str, Any]:
        reports.append(await command(given))
        return reports[0]

    assert asyncio.run(run_case(case, adapter)) == []
    assert reports == [{"success": True, "sentBatches": 1}]


def test_the_command_line_says_what_failed_and_exits_with_1() -> None:
    events = [{**EVENT, "type": "group"}, EVENT]
    sequences = [{"delayMs": 1, "events": events}]
    done = call({"writeKey": "k", "apiHost": "http://127.0.0.1:1", "sequences": sequences, "config": {"maxRetries": 0}})
    report = json.loads(done.stdout)
    assert (done.returncode, report["success"]) == (1, False)
    assert "groupId" in report["error"]
    assert "gave_up" in report["error"]


def test_the_command_line_reports_what_it_was_given_wrong() -> None:
    done = call({"writeKey": "k", "apiHost": "not a host", "sequences": []})
    assert (done.returncode, json.loads(done.stdout)["success"]) == (1, False)
    assert "not a host" not in done.stdout


@pytest.mark.parametrize("arguments", [(), ("--input", ""), ("--input", "{"), ("--input", "[]"), ("--input", "null")])
def test_the_command_line_prints_its_object_even_where_it_was_given_none(arguments: tuple[str, ...]) -> None:
    done = called(*arguments)
    report = json.loads(done.stdout)
    assert (done.returncode, report["success"], report["sentBatches"]) == (1, False, 0)
    assert report["error"]


def test_the_command_line_takes_null_for_absent() -> None:
    nothing = {"writeKey": "k", "apiHost": "http://127.0.0.1:1", "sequences": None, "config": None}
    settings = dict.fromkeys(("flushAt", "flushInterval", "maxRetries", "timeout"))
    for given in (nothing, {**nothing, "sequences": [{"delayMs": None, "events": None}], "config": settings}):
        done = call(given)
        assert (done.returncode, json.loads(done.stdout)) == (0, {"success": True, "sentBatches": 0})


def test_a_message_of_no_kind_is_refused_and_the_others_are_sent() -> None:
    async def main() -> tuple[Mapping[str, Any], int]:
        async with FaultServer() as server:
            events = [{"type": "nope"}, 5, {}, EVENT]
            given = {"writeKey": "k", "apiHost": server.url, "sequences": [{"events": events}]}
            return await e2e_cli.run(given), len(server.taken)

    report, taken = asyncio.run(main())
    assert (report["success"], report["sentBatches"], taken) == (False, 1, 1)
    assert report["error"].count("type: must be one of") == 3
