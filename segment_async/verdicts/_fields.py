"""Fields whose type Segment's spec defines: traits, properties, context."""

from typing import Final, cast

from ._field_types import (
    DATE,
    FLAG,
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_OR_NUMBER,
    Types,
    check_type,
    either_case,
    kinds_of,
)
from ._naming import check_keys
from ._verdict import Found, JSONObject

# https://segment.com/docs/connections/spec/identify/#custom-traits and .../spec/group/#traits
_USER_OR_GROUP: Final = kinds_of(
    (TEXT, "avatar description email id name phone website"), (OBJECT, "address"), (DATE, "createdAt")
)
_USER: Final = either_case(
    _USER_OR_GROUP
    | kinds_of(
        (TEXT, "firstName gender lastName title username"),
        (NUMBER, "age"),
        (OBJECT, "company"),
        (DATE, "birthday"),
    )
)
_COMPANY: Final = kinds_of((TEXT, "industry name plan"), (TEXT_OR_NUMBER, "id"), (NUMBER, "employee_count"))
# Segment's page defines `employees` as text and shows a number.
_GROUP: Final = either_case(_USER_OR_GROUP | kinds_of((TEXT, "industry plan"), (TEXT_OR_NUMBER, "employees")))

# https://segment.com/docs/connections/spec/page/#properties, .../spec/screen/#properties, .../spec/track/#properties
_PAGE: Final = kinds_of((TEXT, "path referrer search title url"))
_PROPERTIES: Final = {
    "page": _PAGE | kinds_of((TEXT, "name"), (LIST, "keywords")),
    "screen": kinds_of((TEXT, "name")),
    "track": kinds_of((TEXT, "currency"), (NUMBER, "revenue value")),
}

# https://segment.com/docs/connections/spec/ecommerce/v2/
_PRODUCT: Final = kinds_of(
    (TEXT, "brand category coupon image_url name product_id sku url variant"), (NUMBER, "position price quantity")
)
_ORDER: Final = (
    _PROPERTIES["track"]
    | _PRODUCT
    | kinds_of(
        (
            TEXT,
            "affiliation cart_id checkout_id coupon_id coupon_name list_id order_id payment_method shipping_method",
        ),
        (NUMBER, "discount shipping step subtotal tax total"),
        (LIST, "filters products sorts"),
    )
)
_PROMOTION: Final = _PROPERTIES["track"] | kinds_of((TEXT, "creative name position promotion_id"))
_SHOP: Final = {
    **dict.fromkeys(("Promotion Viewed", "Promotion Clicked"), _PROMOTION),
    **dict.fromkeys(
        (
            *("Products Searched", "Product List Viewed", "Product List Filtered", "Product Clicked", "Product Viewed"),
            *("Product Added", "Product Removed", "Cart Viewed", "Checkout Started", "Checkout Step Viewed"),
            *("Checkout Step Completed", "Payment Info Entered", "Order Completed", "Order Updated", "Order Refunded"),
            *("Order Cancelled", "Coupon Entered", "Coupon Applied", "Coupon Denied", "Coupon Removed"),
            *("Product Added to Wishlist", "Product Removed from Wishlist", "Wishlist Product Added to Cart"),
            *("Product Shared", "Cart Shared", "Product Reviewed"),
        ),
        _ORDER,
    ),
}

# https://segment.com/docs/connections/spec/common/#context
_CONTEXT: Final = kinds_of(
    (TEXT, "channel groupId ip locale timezone userAgent"),
    (FLAG, "active"),
    (OBJECT, "app campaign device library location network os page referrer screen traits userAgentData"),
)
_WITHIN_CONTEXT: Final = {
    "campaign": kinds_of((TEXT, "content medium name source term")),
    "location": kinds_of((TEXT, "city country region"), (NUMBER, "latitude longitude speed")),
    "network": kinds_of((TEXT, "carrier"), (FLAG, "bluetooth cellular wifi")),
    "page": _PAGE,
    "screen": kinds_of((NUMBER, "density height width")),
    "traits": _USER,
}


def check_traits(found: Found, message: JSONObject) -> None:
    traits = message.get("traits")
    if message.get("type") == "group":
        _container(found, traits, _GROUP, "traits")
        return
    _container(found, traits, _USER, "traits")
    if isinstance(traits, dict):
        _within(found, cast("JSONObject", traits), "company", _COMPANY, "traits")


def check_context(found: Found, context: object) -> None:
    _container(found, context, _CONTEXT, "context")
    if isinstance(context, dict):
        for name, kinds in _WITHIN_CONTEXT.items():
            _within(found, cast("JSONObject", context), name, kinds, "context")


def check_properties(found: Found, message: JSONObject) -> None:
    call, event, properties = message.get("type"), message.get("event"), message.get("properties")
    kinds = _PROPERTIES.get(call, {}) if isinstance(call, str) else {}
    shop = _SHOP.get(event) if call == "track" and isinstance(event, str) else None
    _container(found, properties, shop or kinds, "properties")
    if shop is _ORDER and isinstance(properties, dict):
        _products(found, cast("JSONObject", properties).get("products"))


def _products(found: Found, products: object) -> None:
    if not isinstance(products, list):
        return
    for index, product in enumerate(cast("list[object]", products)):
        check_type(found, product, OBJECT, f"properties.products[{index}]")
        if isinstance(product, dict):
            _types(found, cast("JSONObject", product), _PRODUCT, f"properties.products[{index}]")


def _container(found: Found, value: object, kinds: dict[str, Types], path: str) -> None:
    if isinstance(value, dict):
        fields = cast("JSONObject", value)
        _types(found, fields, kinds, path)
        check_keys(found, fields, path)
    else:
        check_type(found, value, OBJECT, path)


def _within(found: Found, outer: JSONObject, name: str, kinds: dict[str, Types], path: str) -> None:
    value = outer.get(name)
    if isinstance(value, dict):
        _types(found, cast("JSONObject", value), kinds, f"{path}.{name}")


def _types(found: Found, value: JSONObject, kinds: dict[str, Types], path: str) -> None:
    for key, entry in value.items():
        kind = kinds.get(key)
        if kind is not None and type(entry) not in kind:
            check_type(found, entry, kind, f"{path}.{key}")
