"""What visitors do: arrive, look around, fill a cart, order, and sometimes return items.

Event names and properties follow Segment's e-commerce specification (V2). `visits` turns a step into a message;
this file decides only which steps are taken.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random

from .catalogue import (
    CAMPAIGNS,
    CATEGORIES,
    COUPONS,
    ORGANISATIONS,
    PRODUCTS,
    PROMOTIONS,
    REFERRERS,
    SEARCHES,
    SHOP,
    Product,
)
from .visits import JSON, MIDNIGHT, Shop, Visit

FREE_SHIPPING_FROM = 6000


def come_by(shop: Shop, start: datetime) -> None:
    """A whole visit, from the first page to the last."""
    rng = shop.rng
    visit = Visit(shop, start, app=rng.random() < 0.3)
    if 8 <= start.hour < 18 and rng.random() < 0.1:
        visit.organisation = rng.choice(ORGANISATIONS)
    elif rng.random() < 0.35:
        visit.return_signed_in()
    arrive(visit)
    if visit.organisation:
        visit.sign_in()
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2))):
        browse(visit)
    if visit.cart:
        look_into_cart(visit)
    if visit.cart and rng.random() < 0.62:
        check_out(visit)
    elif visit.customer is None and rng.random() < 0.08:
        visit.sign_up()


def arrive(visit: Visit) -> None:
    rng = visit.rng
    if visit.app:
        visit.track("Application Opened", from_background=rng.random() < 0.4)
    elif rng.random() < 0.3:
        visit.context["campaign"] = rng.choice(CAMPAIGNS)
    elif rng.random() < 0.6:
        visit.referrer = rng.choice(REFERRERS)
    visit.look_at("Home", "/", category="Shop")
    if rng.random() < 0.35:
        promotion = rng.choice(PROMOTIONS)
        visit.track("Promotion Viewed", **promotion)
        if rng.random() < 0.3:
            visit.track("Promotion Clicked", **promotion)


def browse(visit: Visit) -> None:
    """Find a list by searching or by category, look at a product or two, perhaps add one to the cart."""
    found = search(visit) if visit.rng.random() < 0.4 else walk_an_aisle(visit)
    for position, product in enumerate(visit.rng.sample(found, visit.rng.choice((1, 1, 2))), start=1):
        visit.track("Product Clicked", **listed(product), position=position)
        visit.look_at(product.name, product.path, category="Shop")
        visit.track("Product Viewed", **listed(product), currency="GBP")
        consider(visit, product)


def search(visit: Visit) -> list[Product]:
    query = visit.rng.choice(SEARCHES)
    visit.look_at("Search", "/search", category="Shop", search=f"?q={query.replace(' ', '+')}")
    visit.track("Products Searched", query=query)
    return visit.rng.sample(PRODUCTS, 3)


def walk_an_aisle(visit: Visit) -> list[Product]:
    rng = visit.rng
    category = rng.choice(CATEGORIES)
    found = [product for product in PRODUCTS if product.category == category]
    list_id = category.lower().replace(" ", "-")
    visit.look_at(category, f"/shop/{list_id}", category="Shop")
    shown = [listed(product) | {"position": position} for position, product in enumerate(found, start=1)]
    visit.track("Product List Viewed", list_id=list_id, category=category, products=shown)
    if rng.random() < 0.25:
        filters = [{"type": "price", "value": rng.choice(("under-50", "50-150", "over-150"))}]
        visit.track("Product List Filtered", list_id=list_id, category=category, filters=filters)
    return found


def consider(visit: Visit, product: Product) -> None:
    rng = visit.rng
    chance = rng.random()
    item = listed(product) | {"variant": rng.choice(product.variants)}
    if chance < 0.34:
        item["quantity"] = rng.randrange(4, 25) if visit.organisation else rng.choice((1, 1, 1, 1, 2))
        visit.cart.append(item)
        visit.track("Product Added", cart_id=visit.cart_id, **item)
    elif chance < 0.42:
        visit.track("Product Added to Wishlist", wishlist_name="Some day", **item)
    elif chance < 0.45:
        visit.track("Product Shared", share_via=rng.choice(("email", "whatsapp")), **item)


def look_into_cart(visit: Visit) -> None:
    visit.look_at("Cart", "/cart", category="Checkout")
    visit.track("Cart Viewed", cart_id=visit.cart_id, products=list(visit.cart))
    if visit.rng.random() < 0.15:
        visit.track("Product Removed", cart_id=visit.cart_id, **visit.cart.pop())


def check_out(visit: Visit) -> None:
    """From the cart to the order, with an account, unless the visitor gives up on the way."""
    rng = visit.rng
    if visit.customer is None:
        rng.choice((visit.sign_in, visit.sign_up))()
    order = order_of(rng, visit.shop.next_order_id(), visit.cart)
    checkout_id = f"chk_{order['order_id']}"
    visit.track("Checkout Started", checkout_id=checkout_id, affiliation=SHOP, **order)
    if "coupon" in order:
        visit.track("Coupon Applied", order_id=order["order_id"], coupon_id=order["coupon"], discount=order["discount"])
    for step, name in enumerate(("Delivery", "Payment"), start=1):
        visit.look_at(name, f"/checkout/{name.lower()}", category="Checkout")
        if rng.random() < 0.12:
            return
        visit.track("Checkout Step Completed", checkout_id=checkout_id, step=step)
    payment = "invoice" if visit.organisation else rng.choice(("card", "card", "paypal", "apple pay"))
    visit.track("Payment Info Entered", checkout_id=checkout_id, payment_method=payment)
    visit.track("Order Completed", checkout_id=checkout_id, affiliation=SHOP, **order)
    visit.look_at("Thank You", "/checkout/thank-you", category="Checkout")
    assert visit.customer is not None
    visit.shop.orders.append((visit.now, visit.customer.user_id, order))


def refund_some(shop: Shop) -> None:
    """Refunds by the back office, without a browser: some of today's orders, more of earlier ones."""
    rng = shop.rng
    for moment, user_id, order in shop.orders:
        if rng.random() < 0.1:
            refund(shop, moment + timedelta(minutes=rng.randrange(20, 300)), user_id, order)
    for number in range(45):
        cart = [listed(product) | {"quantity": 1} for product in rng.sample(PRODUCTS, rng.choice((1, 1, 2, 3)))]
        at_work = MIDNIGHT + timedelta(hours=8, milliseconds=rng.randrange(10 * 3_600_000))
        order = order_of(rng, f"KP-{103_500 + number * 11}", cart)
        refund(shop, at_work, rng.choice(shop.customers[:360]).user_id, order)


def refund(shop: Shop, moment: datetime, user_id: str, order: JSON) -> None:
    """The whole order, or its first line with its share of the amount paid."""
    back = order["products"] if shop.rng.random() < 0.5 else order["products"][:1]
    total = round(order["total"] * 100) * pence(back) // pence(order["products"])
    properties = {"order_id": order["order_id"], "total": total / 100, "currency": "GBP", "products": back}
    message = {"type": "track", "userId": user_id, "event": "Order Refunded", "properties": properties}
    shop.put(moment, message | {"context": {"channel": "server"}})


def order_of(rng: Random, order_id: str, cart: list[JSON]) -> JSON:
    """The sums of an order, calculated in pence so that they add up: total = revenue + shipping + tax."""
    goods = pence(cart)
    coupon = rng.choice((None, None, None, None, None, *COUPONS))
    discount = goods * COUPONS[coupon] // 100 if coupon else 0
    revenue = goods - discount
    shipping = 0 if revenue >= FREE_SHIPPING_FROM else 495
    tax = (revenue + shipping) // 5
    sums = {"revenue": revenue, "shipping": shipping, "tax": tax, "discount": discount}
    sums["total"] = revenue + shipping + tax
    return {
        "order_id": order_id,
        **{name: amount / 100 for name, amount in sums.items()},
        "currency": "GBP",
        **({"coupon": coupon} if coupon else {}),
        "products": list(cart),
    }


def pence(items: list[JSON]) -> int:
    return sum(round(item["price"] * 100) * item["quantity"] for item in items)


def listed(product: Product) -> JSON:
    return {
        "product_id": product.sku,
        "name": product.name,
        "brand": product.brand,
        "category": product.category,
        "price": product.price / 100,
    }
