"""Generated events: type checkers know their properties, and report a misspelt one or one of the wrong type."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from typing import assert_type

from segment_async import Client, Delivery, messages
from segment_async.events import NULL
from segment_async.fastapi import Segment
from segment_async.messages import TrackMessage
from segment_async.testing import Recording

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
