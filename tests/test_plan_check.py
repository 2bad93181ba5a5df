"""A client with a tracking plan: every message is judged as it is sent, and none is dropped."""

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from segment_async import Client, MessageError, messages
from segment_async._plan_check import PlanCheck
from segment_async.plans import Plan, PlanError
from segment_async.testing import RecordingTransport
from segment_async.verdicts import Verdict
from tests.plans.samples import ORDER_COMPLETED

PLAN = [ORDER_COMPLETED]
TYPE = "Invalid type. Expected: string, given: integer"
BAD = {"order_id": 1, "plan": None, "totl": 3}


def sent(*calls: tuple[str, dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    async def main() -> list[dict[str, Any]]:
        transport = RecordingTransport()
        async with Client("key", transport=transport, **{"plan": {"rules": PLAN}, **options}) as client:
            for event, properties in calls:
                await client.track("user-1", event, properties)
        return transport.messages

    return asyncio.run(main())


def test_it_warns_once_per_event_and_field_and_sends(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "segment_async"):
        assert len(sent(("Order Completed", BAD), ("Order Completed", BAD), ("Other", {}))) == 3
    once = "(logged once per event and field)."
    assert [record.getMessage() for record in caplog.records] == [
        f"Against the tracking plan: Order Completed: properties.totl: totl is not in the tracking plan. {once}",
        f"Against the tracking plan: Order Completed: properties.order_id: {TYPE} {once}",
        f"Against the tracking plan: Other: event: Other is not in the tracking plan. {once}",
    ]


def test_names_without_end_are_not_remembered(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "segment_async"):
        sent(*((f"Event {number}", {}) for number in range(1_100)))
    assert len(caplog.records) == 1_000


def test_it_raises() -> None:
    async def main() -> None:
        async with Client("key", transport=RecordingTransport(), plan=Plan.load(PLAN), on_violation="raise") as client:
            await client.track("user-1", "Order Completed", {"order_id": "o-1", "plan": None})
            with pytest.raises(MessageError, match=r"properties\.totl: is against the tracking plan: .*\(1 more\)"):
                await client.track("user-1", "Order Completed", BAD)
            with pytest.raises(MessageError, match=r"event: is against the tracking plan"):
                client.enqueue_nowait(messages.track("user-1", "Other"))
            assert client.statistics().accepted == 1

    asyncio.run(main())


def test_it_ignores(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "segment_async"):
        assert len(sent(("Order Completed", BAD), on_violation="ignore")) == 1
    assert caplog.records == []


def test_a_function_gets_the_message_and_its_verdicts() -> None:
    found: list[tuple[dict[str, Any], list[Verdict]]] = []
    sent(("Order Completed", BAD), on_violation=lambda message, verdicts: found.append((message, verdicts)))
    ((message, verdicts),) = found
    assert message["properties"] == BAD
    assert [verdict.path for verdict in verdicts] == ["properties.totl", "properties.order_id"]


@pytest.mark.parametrize("error", [RuntimeError("SECRET"), asyncio.CancelledError("SECRET")], ids=repr)
def test_a_function_that_fails_is_logged_once(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    def fail(message: Any, verdicts: Any) -> None:
        raise error

    with caplog.at_level(logging.WARNING, "segment_async"):
        assert len(sent(("Order Completed", BAD), ("Order Completed", BAD), on_violation=fail)) == 2
    (record,) = caplog.records
    assert record.getMessage().startswith("on_violation failed; the message is sent.")
    assert "SECRET" not in record.getMessage()


def test_the_message_is_judged_as_it_is_sent() -> None:
    found: list[Any] = []

    def mend(message: dict[str, Any]) -> dict[str, Any]:
        return {**message, "properties": {"order_id": "o-1", "plan": None}}

    sent(("Order Completed", BAD), before_send=mend, on_violation=lambda *given: found.append(given))
    assert found == []


def test_a_number_that_no_validator_takes_is_left_alone() -> None:
    check = PlanCheck({"rules": PLAN}, "raise")
    check.check(b'{"type": "track", "event": "Order Completed", "properties": {"integer": 1e400}}')
    with pytest.raises(MessageError):
        check.check(b'{"type": "track", "event": "Order Completed", "properties": {"integer": 1e4}}')


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN))
    assert len(sent(("Order Completed", {"order_id": "o", "plan": None}), plan=path, on_violation="raise")) == 1


class CalledAsynchronously:
    async def __call__(self, message: Any, verdicts: Any) -> None:
        pass


@pytest.mark.parametrize("choice", ["drop", 3, None, CalledAsynchronously()])
def test_what_is_no_choice(choice: Any) -> None:
    with pytest.raises(ValueError, match="on_violation must be"):
        Client("key", on_violation=choice)


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="the plan has no rules"):
        Client("key", plan={"rules": []})
    with pytest.raises(FileNotFoundError):
        Client("key", plan=tmp_path / "missing.json")


def test_without_the_extra() -> None:
    program = (
        "import sys; sys.modules['jsonschema_rs'] = None\n"
        "from segment_async import Client\n"
        "try: Client('key', plan={'rules': [{'key': 'A', 'type': 'TRACK', 'jsonSchema': {}}]})\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert 'pip install "segment-async[plans]"' in done.stdout


def test_a_violation_cannot_raise_where_nothing_raises() -> None:
    """A message that violates the plan is never dropped, which ``on_invalid="drop"`` would do with the error."""
    with pytest.raises(ValueError, match="contradicts on_invalid"):
        Client("key", plan={"rules": PLAN}, on_violation="raise", on_invalid="drop")
    assert len(sent(("Order Completed", BAD), on_violation="ignore", on_invalid="drop")) == 1
