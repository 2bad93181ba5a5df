"""Generated events: type checkers know their properties, and report a misspelt one or one of the wrong type."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from pathlib import Path
from typing import Any, assert_type

from segment_async import Client, Delivery, messages
from segment_async.destinations import only, without
from segment_async.events import NULL
from segment_async.fastapi import Segment
from segment_async.messages import TrackMessage
from segment_async.plans import Plan
from segment_async.specs import ecommerce
from segment_async.specs import traits as spec_traits
from segment_async.testing import Recording
from segment_async.verdicts import Verdict

from .planned import OrderCompleted, OrderCompletedProduct, SignedUp, SignedUpV1, UserTraits

PRODUCTS = [OrderCompletedProduct(price=1.5), OrderCompletedProduct(price=2, sku="sku-1")]


async def right(client: Client, segment: Segment, recording: Recording) -> None:
    order = OrderCompleted(order_id="o-1", plan=None, products=PRODUCTS, season="fall", coupon=NULL, site_id="s")
    assert_type(await client.track("user-1", order), Delivery)
    assert_type(await segment.track("user-1", SignedUp()), Delivery)
    assert_type(await client.track(event=SignedUpV1(), anonymous_id="a"), Delivery)
    assert_type(await client.identify("user-1", UserTraits(plan_name="pro")), Delivery)
    assert_type(await client.group("user-1", "g-1", UserTraits(plan_name="pro")), Delivery)
    assert_type(messages.track("user-1", order), TrackMessage)
    recording.assert_tracked(order, user_id="user-1")


async def wrong(client: Client) -> None:
    OrderCompleted(ordr_id="o-1", plan=None)  # type: ignore[call-arg]
    OrderCompleted(plan=None)  # type: ignore[call-arg]
    OrderCompleted(order_id=1, plan=None)  # type: ignore[arg-type]
    OrderCompleted(order_id=None, plan=None)  # type: ignore[arg-type]
    OrderCompleted(order_id="o-1", plan=NULL)  # type: ignore[arg-type]
    OrderCompleted(order_id="o-1", plan=None, season="spring")  # type: ignore[arg-type]
    OrderCompleted(order_id="o-1", plan=None, kind=NULL)  # type: ignore[arg-type]
    OrderCompleted(order_id="o-1", plan=None, products=[{"price": 1}])  # type: ignore[list-item]
    OrderCompletedProduct(prise=1)  # type: ignore[call-arg]
    await client.track("user-1", SignedUp)  # type: ignore[arg-type]
    await client.track("user-1", UserTraits())  # type: ignore[arg-type]


def report(message: dict[str, Any], verdicts: list[Verdict]) -> None: ...


def options() -> None:
    Client("key", plan="plan.json", on_violation="raise")
    Client("key", plan=Path("plan.json"), on_violation=report)
    Client("key", plan=Plan.load("plan.json"))
    Client("key", plan=3)  # type: ignore[arg-type]
    Client("key", on_violation="drop")  # type: ignore[arg-type]
    Client("key", on_violation=len)  # type: ignore[arg-type]


async def specs(client: Client) -> None:
    traits: spec_traits.UserTraits = {"email": "a@example.com", "createdAt": "2026-01-01T00:00:00Z"}
    await client.identify("user-1", traits, integrations=only("Mixpanel"))
    await client.track("user-1", ecommerce.OrderCompleted(order_id="o-1", total=3), integrations=without("Intercom"))
    spec_traits.UserTraits(emial="a@example.com")  # type: ignore[typeddict-unknown-key]
    ecommerce.OrderCompleted(totl=3)  # type: ignore[call-arg]
