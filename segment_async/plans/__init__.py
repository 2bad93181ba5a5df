"""Tracking plans: reads them, judges messages against them as Segment does, and generates typed events from them.

    plan = Plan.load("plan.json")
    plan.judge({"type": "track", "event": "Order Completed", "properties": {"totl": 3}})

Pure: of this package it imports only `verdicts`, so that the client, the local endpoint, the test kit and any script
can use it. Judging needs the extra `plans`; the rest does not.
"""

from ._decision import CallSettings, Decision, Settings
from ._diff import Change, diff
from ._generate import generate
from ._infer import infer
from ._lint import lint
from ._plan import Plan
from ._rule import PlanError, Problem, Rule
from ._schema import NoValidator, require_validator

__all__ = [
    "CallSettings",
    "Change",
    "Decision",
    "NoValidator",
    "Plan",
    "PlanError",
    "Problem",
    "Rule",
    "Settings",
    "diff",
    "generate",
    "infer",
    "lint",
    "require_validator",
]

# A traceback names an error as it is imported.
NoValidator.__module__ = __name__
PlanError.__module__ = __name__
