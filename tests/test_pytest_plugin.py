"""The pytest plugin as users run it: small test suites, each in a separate run.

Suites with loops run in processes of their own, so that what a test leaves behind shows up there; warnings are errors
in all of them. Only the plugins that a suite needs are loaded, whatever is installed here.
"""

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import segment_async.testing  # noqa: F401 - loaded once, and not by each run within this process

pytest_plugins = "pytester"

OURS = ("-p", "segment_async.pytest_plugin", "-p", "no:cacheprovider")
EXAMPLE = Path(__file__).parents[1] / "examples" / "test_orders.py"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    configure(pytester)


def configure(pytester: pytest.Pytester, *lines: str) -> None:
    pytester.makeini("\n".join(["[pytest]", "filterwarnings = error", "addopts = --strict-markers", *lines]))


def run(pytester: pytest.Pytester, suite: str, *options: str) -> pytest.RunResult:
    """Run a suite without event loops in this process."""
    pytester.makepyfile(suite)
    return pytester.runpytest_inprocess(*OURS, *options)


def run_apart(pytester: pytest.Pytester, suite: str, *options: str) -> pytest.RunResult:
    """Run a suite in a child process, which must write nothing to stderr."""
    pytester.makepyfile(suite)
    result = pytester.runpytest_subprocess(*OURS, *options)
    assert result.stderr.str() == ""
    return result


def passes(result: pytest.RunResult, count: int) -> None:
    result.assert_outcomes(passed=count, warnings=0)
    assert result.ret == 0


# --- with and without loops

ASYNC_TESTS = """
import asyncio

import pytest

from segment_async import messages

FIXTURE
async def ready(segment):
    await segment.client.identify("user-1", {"plan": "pro"})
    yield segment
    await segment.client.track("user-1", "Signed Out")

MARK
async def test_there_at_once(segment):
    await segment.client.track("user-1", "Signed Up")
    segment.assert_tracked("Signed Up", user_id="user-1")

MARK
async def test_delivered(segment):
    outcome = await (await segment.client.track("user-1", "Signed Up"))
    assert outcome.status.value == "delivered"
    assert await segment.client.flush() == 0

MARK
async def test_waits_for_a_thread(segment):
    def call():
        segment.client.enqueue_nowait(messages.track("user-1", "Report Sent"))

    await asyncio.gather(segment.wait_for(count=1, event="Report Sent", timeout=20), asyncio.to_thread(call))

MARK
async def test_with_an_async_fixture(ready):
    ready.assert_identified("user-1", {"plan": "pro"})
    assert len(ready.events) == 1, "nothing of another test"

def test_without_a_loop(segment):
    segment.client.enqueue_nowait(messages.track("user-1", "Signed Up"))
    segment.assert_tracked("Signed Up")
"""


def async_tests(mark: str, fixture: str) -> str:
    return ASYNC_TESTS.replace("FIXTURE", fixture).replace("MARK", mark)


def test_anyio(pytester: pytest.Pytester) -> None:
    suite = async_tests("@pytest.mark.anyio", "@pytest.fixture")
    suite += '\n@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n'
    passes(run_apart(pytester, suite, "-p", "anyio"), 5)


@pytest.mark.parametrize("scope", ["function", "session"])
@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_pytest_asyncio(pytester: pytest.Pytester, mode: str, scope: str) -> None:
    pytest.importorskip("pytest_asyncio")
    configure(
        pytester,
        f"asyncio_mode = {mode}",
        f"asyncio_default_fixture_loop_scope = {scope}",
        f"asyncio_default_test_loop_scope = {scope}",
    )
    if mode == "strict":
        suite = "import pytest_asyncio\n" + async_tests("@pytest.mark.asyncio", "@pytest_asyncio.fixture")
    else:
        suite = async_tests("", "@pytest.fixture")
    passes(run_apart(pytester, suite, "-p", "pytest_asyncio.plugin"), 5)


def test_starlettes_client_with_a_thread_and_loops_of_its_own(pytester: pytest.Pytester) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("httpx2")
    suite = """
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from segment_async import messages
from segment_async.asgi import lifespan

@pytest.fixture
def app(segment):
    async def awaits(request):
        await segment.client.track("user-1", "Order Completed")
        return PlainTextResponse("", background=BackgroundTask(segment.client.track, "user-1", "Receipt Sent"))

    def threaded(request):
        segment.client.enqueue_nowait(messages.track("user-1", "Prices Seen"))
        return PlainTextResponse("")

    return Starlette(
        routes=[Route("/awaits", awaits), Route("/threaded", threaded)], lifespan=lifespan(segment.client)
    )

def test_with_its_lifespan(app, segment):
    with TestClient(app) as http:
        http.get("/awaits")
        segment.assert_tracked("Order Completed")
        segment.assert_tracked("Receipt Sent")
        http.get("/threaded")
        segment.assert_tracked("Prices Seen")
    assert segment.transport.messages == segment.events

def test_without_it_each_request_has_a_loop_of_its_own(app, segment):
    http = TestClient(app)
    for _ in range(3):
        http.get("/awaits")
        http.get("/threaded")
    assert len(segment.events) == 9
"""
    passes(run_apart(pytester, suite, "-p", "anyio"), 2)


def test_the_example(pytester: pytest.Pytester) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx2")
    passes(run_apart(pytester, EXAMPLE.read_text(), "-p", "anyio"), 1)


def test_unittest(pytester: pytest.Pytester) -> None:
    suite = """
import unittest

import pytest

from segment_async import messages

class Shop(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _segment(self, segment):
        self.segment = segment

    def test_an_order(self):
        self.segment.client.enqueue_nowait(messages.track("user-1", "Order Completed"))
        self.segment.assert_tracked("Order Completed")

    def test_a_wrong_order(self):
        self.segment.client.enqueue_nowait(messages.track("user-1", "Order Completed", {"revenue": "1"}))
"""
    run(pytester, suite).assert_outcomes(passed=1, failed=1)


# --- failures


def test_a_failure_points_at_the_test_and_shows_the_difference(pytester: pytest.Pytester) -> None:
    suite = """
from segment_async import messages

def test_total(segment):
    segment.client.enqueue_nowait(messages.track("user-1", "Order Completed", {"total": 30.5}))
    segment.assert_tracked("Order Completed", properties={"total": 31})
"""
    result = run(pytester, suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            '>       segment.assert_tracked("Order Completed", properties={"total": 31})',
            "E       AssertionError: No message matches *",
            "E       The most similar of 1:",
            'E         track "Order Completed" of user-1',
            "E           properties.total: expected 31, got 30.5",
        ]
    )
    result.stdout.no_fnmatch_line("*def assert_tracked*")


WRONG_AND_RIGHT = """
import pytest

from segment_async import messages

def test_wrong(segment):
    segment.client.enqueue_nowait(messages.track("user-1", "Order Completed", {"revenue": "30.5"}))
    segment.assert_tracked("Order Completed")

def test_style_only(segment):
    segment.client.enqueue_nowait(messages.track("ada@example.com", "order"))

@pytest.mark.segment_verdicts("ignore")
def test_meant(segment):
    for _ in range(2):
        segment.client.enqueue_nowait(messages.track("user-1", "Order Completed", message_id="same"))
"""
SAID = [
    "Segment would drop or misread these messages:",
    'track "Order Completed" of user-1',
    "  spec (field-type): properties.revenue: Segment's spec requires a number, but this is text.",
]


def test_messages_against_the_spec_fail_a_test(pytester: pytest.Pytester) -> None:
    result = run(pytester, WRONG_AND_RIGHT)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines([*SAID, "To allow this, use @pytest.mark.segment_verdicts*"])


@pytest.mark.parametrize("value", ["warn", '"warn"'])
def test_messages_against_the_spec_may_warn(pytester: pytest.Pytester, value: str) -> None:
    configure(pytester, f"segment_verdicts = {value}")
    result = run(pytester, WRONG_AND_RIGHT, "-W", "default")
    result.assert_outcomes(passed=3, warnings=1)
    result.stdout.fnmatch_lines([f"*{line}" for line in SAID])


def test_messages_against_the_spec_may_be_ignored(pytester: pytest.Pytester) -> None:
    configure(pytester, "segment_verdicts = ignore")
    passes(run(pytester, WRONG_AND_RIGHT), 3)


@pytest.mark.parametrize("choice", ['"error"', 'choice="error"'])
def test_a_marker_applies_to_one_test(pytester: pytest.Pytester, choice: str) -> None:
    configure(pytester, "segment_verdicts = ignore")
    suite = WRONG_AND_RIGHT.replace('"ignore"', choice)
    result = run(pytester, suite)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["  dropped (duplicate-id): messageId: A message with this id arrived before*"])


def test_messages_sent_during_teardown_are_checked(pytester: pytest.Pytester) -> None:
    suite = """
import pytest

from segment_async import messages

@pytest.fixture
def app(segment):
    yield
    segment.client.enqueue_nowait(messages.track("user-1", "Order Completed", {"revenue": "30.5"}))

def test_passes(app): pass

def test_fails(app): assert False
"""
    result = run(pytester, suite)
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_passes*", *SAID])


def test_verdicts_do_not_change_a_test_that_failed_or_was_expected_to(pytester: pytest.Pytester) -> None:
    suite = """
import pytest

from segment_async import messages

def send(segment):
    segment.client.enqueue_nowait(messages.track("user-1", "Order Completed", {"revenue": "30.5"}))

def test_fails(segment):
    send(segment)
    assert False

def test_skips(segment):
    send(segment)
    pytest.skip("later")

@pytest.mark.xfail
def test_was_to_fail(segment):
    send(segment)
"""
    result = run(pytester, suite)
    result.assert_outcomes(failed=1, skipped=1, xfailed=1)
    result.stdout.no_fnmatch_line("*Segment would drop or misread*")


def test_an_unknown_choice_is_named(pytester: pytest.Pytester) -> None:
    suite = "import pytest\n@pytest.mark.segment_verdicts('maybe')\ndef test_it(segment): segment.events\n"
    run(pytester, suite).stdout.fnmatch_lines(["*segment_verdicts must be one of error, warn, ignore, not 'maybe'*"])
    configure(pytester, "segment_verdicts = never")
    result = run(pytester, suite)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*segment_verdicts must be one of error, warn, ignore, not 'never'*"])


# --- the endpoint


def test_the_endpoint_in_tests_with_and_without_a_loop(pytester: pytest.Pytester) -> None:
    suite = """
import asyncio
import os

import pytest

from segment_async import Client, messages

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_async(segment_endpoint):
    async with Client("key", host=segment_endpoint.url) as client:
        await client.track("user-1", "Signed Up")
        await client.flush()
        assert [event["message"]["event"] for event in segment_endpoint.events] == ["Signed Up"]
        segment_endpoint.clear()
        assert segment_endpoint.events == []

def test_sync(segment_endpoint, monkeypatch):
    monkeypatch.setenv("SEGMENT_HOST", segment_endpoint.url)

    async def main():
        async with Client("key") as client:
            await client.track("user-1", "Order Completed", {"revenue": "1"})

    asyncio.run(main())
    (event,) = segment_endpoint.events
    assert [verdict["path"] for verdict in event["verdicts"]] == ["properties.revenue"]

def test_beside_the_other_one(segment, segment_endpoint):
    segment.client.enqueue_nowait(messages.track("user-1", "Signed Up"))
    assert segment_endpoint.events == []
"""
    passes(run_apart(pytester, suite, "-p", "anyio"), 3)


# --- runs that do not use it


def test_tests_without_the_fixtures_load_nothing_of_it(pytester: pytest.Pytester) -> None:
    suite = """
import sys

def test_light():
    assert "segment_async.pytest_plugin" in sys.modules
    assert not {"segment_async.testing", "segment_async.devserver", "aiohttp", "anyio"} & set(sys.modules)
"""
    passes(run_apart(pytester, suite), 1)


def test_the_package_never_needs_pytest() -> None:
    program = "import sys; sys.modules['pytest'] = None; import segment_async, segment_async.testing"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_pytest_finds_it_if_the_package_is_installed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = entry_points(group="pytest11", name="segment_async")
    assert found.value == "segment_async.pytest_plugin"
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    # Other installed plugins may warn about missing settings.
    result = pytester.runpytest_subprocess("--fixtures", "-W", "default")
    result.stdout.re_match_lines([re.escape("segment -- ") + ".*", re.escape("segment_endpoint -- ") + ".*"])


PLAN = '[{"key": "Signed Up", "type": "TRACK", "jsonSchema": {"properties": {"properties": {"properties": {"plan": {}}}}}}]'
SUITE = """
from segment_async import messages

def test_planned(segment):
    segment.client.enqueue_nowait(messages.track("user-1", "Signed Up", {"plan": "pro"}))

def test_misspelt(segment):
    segment.client.enqueue_nowait(messages.track("user-1", "Signed Up", {"plam": "pro"}))
"""


def test_a_tracking_plan(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("plan.json").write_text(PLAN)
    configure(pytester, "segment_plan = plan.json")
    result = run(pytester, SUITE)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*plan (plan-unplanned-property): properties.plam: plam is not in the tracking plan. Did you mean*"]
    )


def test_a_tracking_plan_that_cannot_be_read(pytester: pytest.Pytester) -> None:
    configure(pytester, "segment_plan = missing.json")
    result = run(pytester, SUITE)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*segment_plan: *missing.json*"])
