"""Rules for messages that Segment answers with 200, and then drops or misreads.

A message is judged as it is sent, as a plain JSON object. Pure: there is no clock and no socket, and nothing else of
this package is imported, so that the local endpoint, the test kit and any script can use it. Rules about more than one
message (a duplicate id, a batch that is too long) have their text here and are applied by the code that has the
messages.

Severity "dropped": Segment would drop the message. "spec": Segment keeps it, but it violates the specification, and a
destination may ignore a field. "plan": it violates your tracking plan (`plans`). "style": it is valid, but not
recommended.
"""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, Literal, TypeGuard, cast

Severity = Literal["dropped", "spec", "plan", "style"]
SEVERITIES: Final[tuple[Severity, ...]] = ("dropped", "spec", "plan", "style")

MESSAGE_BYTES: Final = 32_768
BATCH_MESSAGES: Final = 2_500
MESSAGE_ID_CHARACTERS: Final = 100  # ids must be shorter


@dataclass(frozen=True, slots=True)
class Verdict:
    """One finding about one message. `path` names the field as on the wire; "" is the message itself."""

    severity: Severity
    rule: str
    path: str
    text: str


DUPLICATE_ID: Final = Verdict(
    "dropped", "duplicate-id", "messageId", "A message with this id arrived before; Segment keeps the first one only."
)
BATCH_TOO_LONG: Final = Verdict(
    "dropped", "batch-too-long", "", f"Beyond the {BATCH_MESSAGES:,} messages that Segment accepts in one batch."
)
WRITE_KEY_MISSING: Final = Verdict(
    "dropped", "write-key-missing", "writeKey", "The request has no write key, so Segment cannot determine the source."
)

# The most characters of a path. A key may have 32 KB, and thousands of findings may be below it.
_PATH_CHARACTERS: Final = 300

_Found = list[Verdict]
_JSONObject = dict[str, object]


def judge(message: object, *, size: int | None = None) -> list[Verdict]:
    """All findings about one message, the most severe first.

    `size` is the length of the message's JSON in bytes; `None` measures it, which takes longer than all other rules.
    """
    if not isinstance(message, dict):
        return [Verdict("dropped", "not-an-object", "", f"Must be an object, but is {_describe(message)}.")]
    fields = cast("_JSONObject", message)
    found: _Found = []
    _size(found, _json_bytes(fields) if size is None else size)
    _call(found, fields)
    _identity(found, fields)
    _message_id(found, fields.get("messageId"))
    for name in ("timestamp", "originalTimestamp", "sentAt"):
        if name in fields:
            _time(found, fields[name], name)
    _properties(found, fields)
    _traits(found, fields)
    _context(found, fields.get("context"))
    _integrations(found, fields.get("integrations"))
    _customer_io(found, fields)
    if len(found) > 1:
        found.sort(key=lambda verdict: SEVERITIES.index(verdict.severity))
    return found


# --- what Segment requires of every message


def _json_bytes(message: _JSONObject) -> int:
    return len(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


def _size(found: _Found, size: int) -> None:
    if size > MESSAGE_BYTES:
        text = f"{size:,} bytes of JSON; above {MESSAGE_BYTES:,} bytes, Segment refuses the whole request with 400."
        found.append(Verdict("dropped", "message-too-large", "", text))


def _call(found: _Found, message: _JSONObject) -> None:
    match message.get("type"):
        case "track":
            _required(found, message, "event", "event-missing", "A track call needs an event name.")
            _event(found, message.get("event"))
        case "group":
            _required(found, message, "groupId", "group-id-missing", "A group call needs a groupId.")
        case "alias":
            _required(
                found, message, "previousId", "previous-id-missing", "An alias call needs the id that it replaces."
            )
        case "page" | "screen":
            _field(found, message.get("name"), _TEXT, "name")
            _field(found, message.get("category"), _TEXT, "category")
        case "identify":
            pass
        case _:
            text = "Must be one of track, identify, page, screen, group and alias."
            found.append(Verdict("spec", "type-unknown", "type", text))


def _required(found: _Found, message: _JSONObject, field: str, rule: str, text: str) -> None:
    if message.get(field) in (None, ""):
        found.append(Verdict("dropped", rule, field, text))


_IDS: Final = ("userId", "anonymousId", "groupId", "previousId")
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
# Texts that programs produce for a missing id. "0" may be a real one.
_PLACEHOLDERS: Final = frozenset({"null", "none", "nil", "undefined", "nan", "anonymous", "unknown", "-1"})


def _identity(found: _Found, message: _JSONObject) -> None:
    if message.get("userId") in (None, ""):
        if message.get("type") == "alias":
            found.append(Verdict("dropped", "id-missing", "userId", "An alias call needs the new userId."))
        elif message.get("anonymousId") in (None, ""):
            text = "A call needs a userId or an anonymousId."
            found.append(Verdict("dropped", "id-missing", "userId", text))
    for field in _IDS:
        if field in message:
            _id(found, message[field], field)


def _id(found: _Found, value: object, path: str) -> None:
    if isinstance(value, str):
        if "@" in value and _EMAIL.fullmatch(value):
            text = "Looks like an email address, which may change and is personal data."
            found.append(Verdict("style", "id-email", path, text))
        elif value.lower() in _PLACEHOLDERS:
            text = "Looks like a placeholder for a missing id; Segment merges all users with it into one."
            found.append(Verdict("style", "id-placeholder", path, text))
    elif value is not None:
        text = f"An id must be text, but is {_describe(value)}."
        found.append(Verdict("spec", "id-type", path, text))


def _message_id(found: _Found, value: object) -> None:
    if value is None or value == "":
        text = "Without an id, a retry creates a second event."
        found.append(Verdict("style", "message-id-missing", "messageId", text))
    elif not isinstance(value, str):
        _id(found, value, "messageId")
    elif len(value) >= MESSAGE_ID_CHARACTERS:
        text = f"{len(value)} characters; Segment drops messages whose id has {MESSAGE_ID_CHARACTERS} or more."
        found.append(Verdict("dropped", "message-id-long", "messageId", text))


# --- times: https://segment.com/docs/connections/spec/common/#timestamps


_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(?P<zone>Z|[+-]\d\d:?\d\d)?", re.IGNORECASE)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")


def _time(found: _Found, value: object, path: str, *, date_allowed: bool = False) -> None:
    if value is None:
        return
    text = value if isinstance(value, str) else ""
    matched = _TIME.fullmatch(text) or (_DAY.fullmatch(text) if date_allowed else None)
    if not matched or not _is_valid_date(text):
        problem = "Must be a time in ISO-8601, such as 2026-11-21T19:20:03.047Z."
        found.append(Verdict("spec", "timestamp-format", path, problem))
    elif matched.re is _TIME and not matched["zone"]:
        problem = "Has no time zone; Engage drops such values. Use UTC and end it with Z."
        found.append(Verdict("spec", "timestamp-zone", path, problem))


def _is_valid_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text.upper())
    except ValueError:
        return False
    return True


# --- event names: https://segment.com/academy/collecting-data/naming-conventions-for-clean-data/


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VARIABLE_PART: Final = re.compile(r"\d{4,}|@|[0-9a-f]{8}-[0-9a-f]{4}-", re.IGNORECASE)
_SMALL_WORDS: Final = _words("a an and at by for from in of off on or out the to up via with")
_IRREGULAR: Final = _words(
    "Begun Bought Broken Brought Built Caught Chosen Cut Done Drawn Driven Eaten Fallen Felt Fought Found Frozen Given "
    "Gone Got Grown Heard Held Hidden Hit Kept Known Led Left Lent Let Lost Made Met Paid Put Quit Read Reset Ridden "
    "Run Seen Sent Set Shown Shut Sold Spent Split Spoken Spread Stolen Sung Taken Taught Thrown Told Undone Understood "
    "Unsent Upset Woken Won Worn Written"
)


def _event(found: _Found, event: object) -> None:
    _field(found, event, _TEXT, "event")
    if isinstance(event, str) and event:
        found.extend(_event_style(event))


@lru_cache(maxsize=1_024)
def _event_style(event: str) -> tuple[Verdict, ...]:
    if _VARIABLE_PART.search(event):
        text = "An id or a date in the name creates a new event each time."
        return (Verdict("style", "event-dynamic", "event", text),)
    if not _is_object_action(event.split(" ")):
        text = "Should be Object Action, such as “Order Completed” or “Signed Up”."
        return (Verdict("style", "event-name", "event", text),)
    return ()


def _is_object_action(words: list[str]) -> bool:
    """Whether there are two words or more, capitalised, one of them a verb in the past tense."""
    capitalised = all(word and (not word[0].islower() or word in _SMALL_WORDS) for word in words)
    past = any(word.endswith("ed") or word in _IRREGULAR for word in words)
    return len(words) > 1 and capitalised and past


# --- fields whose type Segment's spec defines


_Types = frozenset[type]
_TEXT: Final = frozenset({str})
_NUMBER: Final = frozenset({int, float})
_FLAG: Final = frozenset({bool})
_OBJECT: Final = frozenset({dict})
_LIST: Final = frozenset({list})
_TEXT_OR_NUMBER: Final = _TEXT | _NUMBER
_CHOICE: Final = _FLAG | _OBJECT
_DATE: Final[_Types] = frozenset()  # checked by `_time`
_KIND_TEXTS: Final = {
    _TEXT: "text",
    _NUMBER: "a number",
    _FLAG: "true or false",
    _OBJECT: "an object",
    _LIST: "a list",
    _TEXT_OR_NUMBER: "text or a number",
    _CHOICE: "true, false or an object",
}


def _kinds(*groups: tuple[_Types, str]) -> dict[str, _Types]:
    return {name: kind for kind, names in groups for name in names.split()}


def _either_case(kinds: dict[str, _Types]) -> dict[str, _Types]:
    """Reserved traits are also allowed in snake_case."""
    return kinds | {_CAPITAL.sub(lambda found: f"_{found[0].lower()}", name): kind for name, kind in kinds.items()}


_CAPITAL: Final = re.compile("[A-Z]")

# https://segment.com/docs/connections/spec/identify/#custom-traits and .../spec/group/#traits
_USER_OR_GROUP: Final = _kinds(
    (_TEXT, "avatar description email id name phone website"), (_OBJECT, "address"), (_DATE, "createdAt")
)
_USER: Final = _either_case(
    _USER_OR_GROUP
    | _kinds(
        (_TEXT, "firstName gender lastName title username"),
        (_NUMBER, "age"),
        (_OBJECT, "company"),
        (_DATE, "birthday"),
    )
)
_COMPANY: Final = _kinds((_TEXT, "industry name plan"), (_TEXT_OR_NUMBER, "id"), (_NUMBER, "employee_count"))
# Segment's page defines `employees` as text and shows a number.
_GROUP: Final = _either_case(_USER_OR_GROUP | _kinds((_TEXT, "industry plan"), (_TEXT_OR_NUMBER, "employees")))

# https://segment.com/docs/connections/spec/page/#properties, .../spec/screen/#properties, .../spec/track/#properties
_PAGE: Final = _kinds((_TEXT, "path referrer search title url"))
_PROPERTIES: Final = {
    "page": _PAGE | _kinds((_TEXT, "name"), (_LIST, "keywords")),
    "screen": _kinds((_TEXT, "name")),
    "track": _kinds((_TEXT, "currency"), (_NUMBER, "revenue value")),
}

# https://segment.com/docs/connections/spec/ecommerce/v2/
_PRODUCT: Final = _kinds(
    (_TEXT, "brand category coupon image_url name product_id sku url variant"), (_NUMBER, "position price quantity")
)
_ORDER: Final = (
    _PROPERTIES["track"]
    | _PRODUCT
    | _kinds(
        (
            _TEXT,
            "affiliation cart_id checkout_id coupon_id coupon_name list_id order_id payment_method shipping_method",
        ),
        (_NUMBER, "discount shipping step subtotal tax total"),
        (_LIST, "filters products sorts"),
    )
)
_PROMOTION: Final = _PROPERTIES["track"] | _kinds((_TEXT, "creative name position promotion_id"))
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
_CONTEXT: Final = _kinds(
    (_TEXT, "channel groupId ip locale timezone userAgent"),
    (_FLAG, "active"),
    (_OBJECT, "app campaign device library location network os page referrer screen traits userAgentData"),
)
_WITHIN_CONTEXT: Final = {
    "campaign": _kinds((_TEXT, "content medium name source term")),
    "location": _kinds((_TEXT, "city country region"), (_NUMBER, "latitude longitude speed")),
    "network": _kinds((_TEXT, "carrier"), (_FLAG, "bluetooth cellular wifi")),
    "page": _PAGE,
    "screen": _kinds((_NUMBER, "density height width")),
    "traits": _USER,
}


def _traits(found: _Found, message: _JSONObject) -> None:
    traits = message.get("traits")
    if message.get("type") == "group":
        _container(found, traits, _GROUP, "traits")
        return
    _container(found, traits, _USER, "traits")
    if isinstance(traits, dict):
        _within(found, cast("_JSONObject", traits), "company", _COMPANY, "traits")


def _context(found: _Found, context: object) -> None:
    _container(found, context, _CONTEXT, "context")
    if isinstance(context, dict):
        for name, kinds in _WITHIN_CONTEXT.items():
            _within(found, cast("_JSONObject", context), name, kinds, "context")


def _properties(found: _Found, message: _JSONObject) -> None:
    call, event, properties = message.get("type"), message.get("event"), message.get("properties")
    kinds = _PROPERTIES.get(call, {}) if isinstance(call, str) else {}
    shop = _SHOP.get(event) if call == "track" and isinstance(event, str) else None
    _container(found, properties, shop or kinds, "properties")
    if shop is _ORDER and isinstance(properties, dict):
        _products(found, cast("_JSONObject", properties).get("products"))


def _products(found: _Found, products: object) -> None:
    if not isinstance(products, list):
        return
    for index, product in enumerate(cast("list[object]", products)):
        _field(found, product, _OBJECT, f"properties.products[{index}]")
        if isinstance(product, dict):
            _types(found, cast("_JSONObject", product), _PRODUCT, f"properties.products[{index}]")


def _integrations(found: _Found, integrations: object) -> None:
    _field(found, integrations, _OBJECT, "integrations")
    if not isinstance(integrations, dict):
        return
    for name, choice in cast("_JSONObject", integrations).items():
        _field(found, choice, _CHOICE, _at("integrations", name))
        near = _near_destination(name)
        if near is not None:
            text = f"Segment does not know this destination and ignores it; {near} differs by its case or one letter."
            found.append(Verdict("spec", "destination-name", _at("integrations", name), text))


# Some of the names that Segment compares exactly. A name that is not here, and not near one, may be right.
_DESTINATIONS: Final = frozenset(
    {"All", "Segment.io"}
    | {"ActiveCampaign", "Actions Amplitude", "Adobe Analytics", "Airship", "Amazon Kinesis", "Amplitude", "AppsFlyer"}
    | {
        "AutopilotHQ",
        "Braze",
        "Bugsnag",
        "ChartMogul",
        "Clearbit",
        "CleverTap",
        "Customer.io",
        "Drip",
        "Facebook Pixel",
    }
    | {"FullStory", "Gainsight", "Google Ads", "Google Analytics", "Google Tag Manager", "Heap", "Help Scout", "Hotjar"}
    | {
        "HubSpot",
        "Intercom",
        "Iterable",
        "Keen",
        "KISSmetrics",
        "Klaviyo",
        "Kustomer",
        "Localytics",
        "MailChimp",
        "Mailchimp",
    }
    | {"Marketo V2", "Mixpanel", "MoEngage", "Optimizely", "Pendo", "Salesforce", "Slack", "Totango", "UserVoice"}
    | {"Vero", "Webhooks", "Woopra", "Zendesk"}
)


@lru_cache(maxsize=1_024)
def _near_destination(name: str) -> str | None:
    """The known name that was probably meant; `None` if this one is known, or near none."""
    if name in _DESTINATIONS or len(name) > 40:
        return None
    lowered = name.lower()
    return next((known for known in sorted(_DESTINATIONS) if _differs_little(lowered, known.lower())), None)


def _differs_little(one: str, other: str) -> bool:
    """Whether at most one letter is missing, added, or another one, in names of four letters or more."""
    if one == other:
        return True
    if min(len(one), len(other)) < 4 or abs(len(one) - len(other)) > 1:
        return False
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    start = next((i for i, (a, b) in enumerate(zip(longer, shorter, strict=False)) if a != b), len(shorter))
    return longer[start + 1 :] == shorter[start + (len(longer) == len(shorter)) :]


# https://segment.com/docs/connections/destinations/catalog/customer-io/
_CUSTOMER_IO: Final = "Customer.io"
_CUSTOMER_IO_TRAITS: Final = 30


def _customer_io(found: _Found, message: _JSONObject) -> None:
    """What Customer.io needs of an identify call that names it."""
    integrations, traits = message.get("integrations"), message.get("traits")
    if message.get("type") != "identify" or not isinstance(integrations, dict):
        return
    if not cast("_JSONObject", integrations).get(_CUSTOMER_IO):
        return
    given = cast("_JSONObject", traits) if isinstance(traits, dict) else {}
    if not given.get("email"):
        text = "Customer.io can send email only to users with the trait email."
        found.append(Verdict("spec", "customer-io-email", "traits.email", text))
    if len(given) > _CUSTOMER_IO_TRAITS:
        text = f"{len(given)} traits; Customer.io takes at most {_CUSTOMER_IO_TRAITS} in one call."
        found.append(Verdict("spec", "customer-io-traits", "traits", text))
    for name in ("unsubscribe", "unsubscribed"):
        if name in given and (name == "unsubscribe" or not isinstance(given[name], bool)):
            text = "To unsubscribe a user at Customer.io, send the trait unsubscribed with true or false."
            found.append(Verdict("spec", "customer-io-unsubscribe", f"traits.{name}", text))


def _container(found: _Found, value: object, kinds: dict[str, _Types], path: str) -> None:
    if isinstance(value, dict):
        fields = cast("_JSONObject", value)
        _types(found, fields, kinds, path)
        _keys(found, fields, path)
    else:
        _field(found, value, _OBJECT, path)


def _within(found: _Found, outer: _JSONObject, name: str, kinds: dict[str, _Types], path: str) -> None:
    value = outer.get(name)
    if isinstance(value, dict):
        _types(found, cast("_JSONObject", value), kinds, f"{path}.{name}")


def _types(found: _Found, value: _JSONObject, kinds: dict[str, _Types], path: str) -> None:
    for key, entry in value.items():
        kind = kinds.get(key)
        if kind is not None and type(entry) not in kind:
            _field(found, entry, kind, f"{path}.{key}")


def _field(found: _Found, value: object, kind: _Types, path: str) -> None:
    """Check the type of one field. Null counts as absent: every SDK sends it for a missing value."""
    if kind is _DATE:
        _time(found, value, path, date_allowed=True)
    elif value is not None and type(value) not in kind:
        text = f"Segment's spec requires {_KIND_TEXTS[kind]}, but this is {_describe(value)}."
        found.append(Verdict("spec", "field-type", path, text))


def _describe(value: object) -> str:
    if value is None:
        return "null"
    fitting = (text for kind, text in _KIND_TEXTS.items() if type(value) in kind)
    return next(fitting, type(value).__name__)


# --- keys that look like secrets or personal data


_SECRET: Final = _words(
    "accesskey apikey authorization cookie creditcard cardnumber cvc cvv passphrase passwd password privatekey pwd "
    "secret secretkey ssn token"
)
_PERSONAL: Final = _words(
    "birthday birthdate dateofbirth dob email emailaddress firstname fullname iban ipaddress lastname passport phone "
    "phonenumber socialsecurity streetaddress surname"
)
_SPECIFIED: Final = "context.device.token"  # defined by the spec
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_KEY_TEXTS: Final = {
    "key-secret": "The name suggests a secret, which every destination would receive.",
    "key-personal": "Personal data belongs in traits, where Segment can find and delete it.",
}


@lru_cache(maxsize=1_024)
def _key_rule(key: str) -> str | None:
    """The rule that applies to a key, decided by its last one, two or three words: `token_count` is no secret."""
    words = [word.lower() for word in _WORD.findall(key)]
    endings = {"".join(words[-length:]) for length in (1, 2, 3)}
    if endings & _SECRET:
        return "key-secret"
    return "key-personal" if endings & _PERSONAL else None


def _keys(found: _Found, container: _JSONObject, path: str) -> None:
    # A stack instead of recursion, because the sender decides how deep a message is nested.
    waiting: list[tuple[str, _JSONObject | list[object]]] = [(path, container)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(
                (f"{path[:_PATH_CHARACTERS]}[{i}]", entry) for i, entry in enumerate(value) if _is_nested(entry)
            )
            continue
        for key, entry in value.items():
            rule = _key_rule(key)
            if rule is not None:
                _key(found, rule, _at(path, key))
            if _is_nested(entry):
                waiting.append((_at(path, key), entry))


def _at(path: str, key: str) -> str:
    """The path of a key, cut if it is too long."""
    inner = f"{path}.{key}"
    return inner if len(inner) <= _PATH_CHARACTERS else f"{inner[: _PATH_CHARACTERS - 1]}…"


def _is_nested(value: object) -> TypeGuard[_JSONObject | list[object]]:
    return isinstance(value, (dict, list))


def _key(found: _Found, rule: str, path: str) -> None:
    in_traits = path.startswith(("traits.", "context.traits."))
    if path != _SPECIFIED and not (rule == "key-personal" and in_traits):
        found.append(Verdict("style", rule, path, _KEY_TEXTS[rule]))
