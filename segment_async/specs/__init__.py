"""The events of Segment's semantic specs as types (https://segment.com/docs/connections/spec/semantic/).

    from segment_async.specs.ecommerce import OrderCompleted

    await client.track("user-1", OrderCompleted(order_id="o-1", total=30.5))

One module for each spec, generated from the plan next to it, and `traits` with the traits that Segment reserves. Every
property is optional, because the specs require none. Where a spec contradicts itself, the type is a union.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Final

__all__ = ["SPECS", "plan_of"]

SPECS: Final = ("ab_testing", "ai_copilot", "b2b_saas", "ecommerce", "email", "live_chat", "mobile", "video")
"""The names of the specs, each a module."""


def plan_of(spec: str) -> dict[str, Any]:
    """The spec as a tracking plan, for `segment_async.plans.Plan.load`.

    Raises:
        ValueError: there is no such spec.
    """
    if spec not in SPECS:
        raise ValueError(f"no spec {spec!r}; there are {', '.join(SPECS)}")
    plan: dict[str, Any] = json.loads(files(__name__).joinpath(f"{spec}.json").read_text("utf-8"))
    return plan
