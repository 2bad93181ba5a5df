"""A plan as large as real ones: a thousand rules and 14,000 properties; and a module of two thousand events."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from segment_async.plans import Plan, generate, lint
from tests.plans.samples import rule

WORDS = "order cart page user list item site view plan step trial email video file team role".split()
VALUES: dict[str, Any] = {"string": "x", "number": 1.5, "integer": 1, "boolean": True}
VALUES["array"] = [{"a b": "x"}]


def seeded(rules: int, properties: int) -> Plan:
    """Three of four names are no identifiers, and types are lists of one, as in a plan that was counted."""
    chance = random.Random(1)
    return Plan.load([_rule(chance, number, properties) for number in range(rules)])


def _rule(chance: random.Random, number: int, count: int) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for index in range(count):
        separator = " " if chance.random() < 0.74 else "_"
        name = separator.join([*chance.sample(WORDS, 2), str(index)])
        properties[name] = {"description": "", "type": [chance.choice([*VALUES][:4])]}
        if chance.random() < 0.05:
            inner = {"type": "object", "properties": {"a b": {"type": ["string"]}}}
            properties[name] = {"type": "array", "items": inner}
    return rule(f"Event {number} Completed", properties, required=tuple(properties)[:3])


def message_of(plan: Plan, index: int) -> dict[str, Any]:
    planned = plan.rules[index]
    types = {name: schema["type"] for name, schema in planned.fields["properties"].items()}
    values = {name: VALUES[kind if isinstance(kind, str) else kind[0]] for name, kind in types.items()}
    context = {"library": {"name": "x", "version": "1"}, "protocols": {"event_version": 1}}
    return {"type": "track", "event": planned.key, "userId": "u", "properties": values, "context": context}


@pytest.mark.untraced
def test_a_thousand_rules() -> None:
    plan = seeded(1_000, 14)
    assert {problem.severity for problem in lint(plan)} <= {"note"}
    assert generate(plan).count("(TrackEvent):") == 1_000
    message = message_of(plan, 7)
    assert plan.judge(message) == []
    best = min(_cpu(lambda: plan.judge(message)) for _ in range(7))
    assert best < 10e-6


def _cpu(call: Any, rounds: int = 2_000) -> float:
    before = time.process_time()
    for _ in range(rounds):
        call()
    return (time.process_time() - before) / rounds


def test_two_thousand_events_import_quickly(tmp_path: Path) -> None:
    (tmp_path / "events.py").write_text(generate(seeded(2_000, 7)), "utf-8")
    program = (
        "import time, datetime, typing, segment_async.events\n"
        "before = time.process_time()\n"
        "import events\n"
        "print(time.process_time() - before)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    env["PYTHONDONTWRITEBYTECODE"] = ""
    took = []
    for _ in range(4):  # the first compiles the module
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
        took.append(float(done.stdout))
    assert min(took[1:]) < 0.25
