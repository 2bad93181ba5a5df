"""Segment's semantic specs: the generated modules, and the reserved traits."""

import json
from importlib import import_module
from pathlib import Path

import pytest

import segment_async.specs
from segment_async import messages
from segment_async.events import TrackEvent
from segment_async.plans import Plan, generate, lint
from segment_async.specs import SPECS, plan_of
from segment_async.specs.ecommerce import OrderCompleted, OrderCompletedProduct
from segment_async.verdicts import judge

FOLDER = Path(segment_async.specs.__file__).parent
COUNTS = {"ecommerce": 28, "b2b_saas": 10, "mobile": 13, "live_chat": 4, "email": 6, "ab_testing": 1, "ai_copilot": 8}
COUNTS |= {"video": 17}


@pytest.mark.parametrize("spec", SPECS)
def test_a_module_is_what_its_plan_generates(spec: str) -> None:
    plan = plan_of(spec)
    assert (FOLDER / f"{spec}.py").read_text("utf-8") == generate(Plan.load(plan), title=plan["title"])
    assert lint(Plan.load(plan)) == []


@pytest.mark.parametrize("spec", SPECS)
def test_every_event_is_there_and_needs_nothing(spec: str) -> None:
    module = import_module(f"segment_async.specs.{spec}")
    events = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, TrackEvent)]
    planned = [each for each in events if each is not TrackEvent]
    assert len(planned) == COUNTS[spec]
    assert all(each() == {} and each.VERSION is None for each in planned)


def test_an_order() -> None:
    order = OrderCompleted(order_id="o-1", total=30.5, products=[OrderCompletedProduct(sku="s", price=30.5)])
    message = messages.track("user-1", order)
    assert judge(json.loads(messages.body_of(message))) == []
    assert message["properties"] == {"order_id": "o-1", "total": 30.5, "products": [{"sku": "s", "price": 30.5}]}
    assert "context" not in message


def test_there_is_no_other_spec() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(SPECS)
    with pytest.raises(ValueError, match="no spec 'x'; there are ab_testing, "):
        plan_of("x")
