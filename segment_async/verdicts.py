"""What Segment would say of a message that it answers with 200: the rules, in one place.

A message is judged as it travels, a plain JSON object. Pure: no clock, no socket, nothing of ours is imported, so that
the local endpoint, the test kit and anybody's script can share it. What takes more than one message to see (an id that
came before, a batch that is too long) is named here, and noticed by whoever holds the messages.

Severity "dropped": Segment would lose the message. "spec": kept, but against Segment's specification, so that a
destination may ignore a field. "style": kept and allowed, worth a thought.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

Severity = Literal["dropped", "spec", "style"]
SEVERITIES: Final[tuple[Severity, ...]] = ("dropped", "spec", "style")

MESSAGE_BYTES: Final = 32_768
BATCH_MESSAGES: Final = 2_500
MESSAGE_ID_CHARACTERS: Final = 100  # ids must stay below


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing to say of one message. `path` names the field as on the wire, "" is the message itself."""

    severity: Severity
    rule: str
    path: str
    text: str


DUPLICATE_ID: Final = Verdict(
    "dropped", "duplicate-id", "messageId", "A message with this id arrived before; Segment keeps the first one."
)
BATCH_TOO_LONG: Final = Verdict(
    "dropped", "batch-too-long", "", f"Beyond the {BATCH_MESSAGES:,} messages that Segment takes in one batch."
)
WRITE_KEY_MISSING: Final = Verdict(
    "dropped", "write-key-missing", "writeKey", "No write key in the request; Segment cannot tell the source."
)


def judge(message: object, *, size: int | None = None) -> list[Verdict]:
    """Everything there is to say of one message, the gravest first.

    `size` is the message's length as JSON in bytes; `None` measures it here, which costs more than all other rules.
    """
    if not isinstance(message, dict):
        return [Verdict("dropped", "not-an-object", "", f"A message is an object, this is {_kind(message)}.")]
    found: list[Verdict] = []
    _size(found, message, size)
    _call(found, message)
    _identity(found, message)
    _message_id(found, message)
    _times(found, message, ("timestamp", "originalTimestamp", "sentAt"), "")
    _integrations(found, message.get("integrations"))
    for name, fields in _CONTAINERS.items():
        _container(found, message, name, fields)
    if len(found) > 1:
        found.sort(key=_gravity)
    return found


def _gravity(verdict: Verdict) -> int:
    return SEVERITIES.index(verdict.severity)


# --- what Segment needs to keep a message at all


def _size(found: list[Verdict], message: dict[str, object], size: int | None) -> None:
    if size is None:
        size = len(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))
    if size > MESSAGE_BYTES:
        found.append(
            Verdict(
                "dropped",
                "message-too-large",
                "",
                f"{size:,} bytes of JSON; above {MESSAGE_BYTES:,} Segment refuses the whole request with 400.",
            )
        )


def _call(found: list[Verdict], message: dict[str, object]) -> None:
    call = message.get("type")
    if call == "track":
        _event(found, message.get("event"))
    elif call == "group":
        _required(found, message, "groupId", "group-id-missing", "A group call needs a group.")
    elif call == "alias":
        _required(found, message, "previousId", "previous-id-missing", "An alias call needs the id it replaces.")
    elif call == "page" or call == "screen":
        _texts(found, message, ("name", "category"))
    elif call != "identify":
        found.append(
            Verdict("spec", "type-unknown", "type", "Not one of track, identify, page, screen, group and alias.")
        )


def _required(found: list[Verdict], message: dict[str, object], field: str, rule: str, text: str) -> None:
    if message.get(field) in (None, ""):
        found.append(Verdict("dropped", rule, field, text))


def _identity(found: list[Verdict], message: dict[str, object]) -> None:
    user, anonymous = message.get("userId"), message.get("anonymousId")
    if user in (None, "") and message.get("type") == "alias":
        found.append(Verdict("dropped", "id-missing", "userId", "An alias call needs the new userId."))
    elif user in (None, "") and anonymous in (None, ""):
        found.append(Verdict("dropped", "id-missing", "userId", "Neither userId nor anonymousId says who it was."))
    for field in _IDS:
        value = message.get(field)
        if value is None:
            continue
        if not isinstance(value, str):
            found.append(Verdict("spec", "id-type", field, f"Ids travel as text, this is {_kind(value)}."))
        elif "@" in value and _EMAIL.fullmatch(value):
            found.append(
                Verdict(
                    "style", "id-email", field, "Looks like an e-mail address; these change, and are personal data."
                )
            )


_IDS: Final = ("userId", "anonymousId", "groupId", "previousId")
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")


def _message_id(found: list[Verdict], message: dict[str, object]) -> None:
    value = message.get("messageId")
    if value in (None, ""):
        found.append(
            Verdict("style", "message-id-missing", "messageId", "Without an id, a re-send counts as a second event.")
        )
    elif not isinstance(value, str):
        found.append(Verdict("spec", "id-type", "messageId", f"Ids travel as text, this is {_kind(value)}."))
    elif len(value) >= MESSAGE_ID_CHARACTERS:
        found.append(
            Verdict(
                "dropped",
                "message-id-long",
                "messageId",
                f"{len(value)} characters; Segment drops ids of {MESSAGE_ID_CHARACTERS} and more.",
            )
        )


# --- event names


def _event(found: list[Verdict], event: object) -> None:
    if event is None or event == "":
        found.append(Verdict("dropped", "event-missing", "event", "A track call needs the name of its event."))
    elif not isinstance(event, str):
        found.append(Verdict("spec", "field-type", "event", f"Segment's spec says text, this is {_kind(event)}."))
    else:
        found.extend(_event_style(event))


@lru_cache(maxsize=4_096)
def _event_style(event: str) -> tuple[Verdict, ...]:
    if _VARIABLE_PART.search(event):
        return (
            Verdict(
                "style", "event-dynamic", "event", "An id or a date in the name makes each one an event of its own."
            ),
        )
    if not _is_object_action(event):
        return (
            Verdict("style", "event-name", "event", "Not Object Action, such as “Order Completed” or “Signed Up”."),
        )
    return ()


_VARIABLE_PART: Final = re.compile(r"\d{4,}|@|[0-9a-f]{8}-[0-9a-f]{4}-", re.IGNORECASE)
_SMALL_WORDS: Final = frozenset("a an and at by for from in of off on or out the to up via with".split())
_IRREGULAR: Final = frozenset(
    "Begun Bought Broken Brought Built Caught Chosen Cut Done Drawn Driven Eaten Fallen Felt Fought Found Frozen Given "
    "Gone Got Grown Heard Held Hidden Hit Kept Known Led Left Lent Let Lost Made Met Paid Put Quit Read Reset Ridden "
    "Run Seen Sent Set Shown Shut Sold Spent Split Spoken Spread Stolen Sung Taken Taught Thrown Told Undone Understood "
    "Unsent Upset Woken Won Worn Written".split()
)


def _is_object_action(event: str) -> bool:
    words = event.split(" ")
    if len(words) < 2 or not all(words):
        return False
    capitalised = all(not word[0].islower() or word in _SMALL_WORDS for word in words)
    return capitalised and any(word.endswith("ed") or word in _IRREGULAR for word in words)


# --- times


_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?", re.IGNORECASE)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")


def _times(found: list[Verdict], fields: dict[str, object], names: tuple[str, ...], prefix: str) -> None:
    for name in names:
        value = fields.get(name)
        if value is not None:
            _time(found, value, prefix + name)


def _time(found: list[Verdict], value: object, path: str, *, date_is_enough: bool = False) -> None:
    matched = _TIME.fullmatch(value) if isinstance(value, str) else None
    if matched and matched[3]:
        return
    if matched:
        found.append(Verdict("spec", "timestamp-zone", path, "No zone; Engage drops such values. End it with Z."))
    elif not (date_is_enough and isinstance(value, str) and _DATE.fullmatch(value)):
        found.append(
            Verdict("spec", "timestamp-format", path, "Not a time in ISO-8601, such as 2026-11-21T19:20:03.047Z.")
        )


# --- fields with a meaning of their own


_TYPES: Final[Mapping[str, frozenset[type]]] = {
    "text": frozenset({str}),
    "number": frozenset({int, float}),
    "true or false": frozenset({bool}),
    "an object": frozenset({dict}),
    "a list": frozenset({list}),
    "text or a number": frozenset({str, int, float}),
}


def _fields(**groups: str) -> dict[str, str]:
    kinds = {
        "text": "text",
        "number": "number",
        "flag": "true or false",
        "object": "an object",
        "list": "a list",
        "either": "text or a number",
        "date": "date",
    }
    return {name: kinds[kind] for kind, names in groups.items() for name in names.split()}


# https://segment.com/docs/connections/spec/identify/#traits and .../spec/group/#traits
_TRAITS: Final = _fields(
    text="avatar description email firstName id industry lastName name phone plan title username website gender",
    number="age",
    object="address",
    date="birthday createdAt",
    either="employees",
)
# https://segment.com/docs/connections/spec/track/#properties and .../spec/page/#properties
_PROPERTIES: Final = _fields(
    text="currency path referrer search title url", number="revenue value", list="keywords products"
)
# https://segment.com/docs/connections/spec/ecommerce/v2/
_SHOP_PROPERTIES: Final = _fields(
    text="cart_id checkout_id coupon order_id product_id sku brand category variant",
    number="discount price quantity shipping subtotal tax total",
)
_SHOP_EVENTS: Final = re.compile(r"(Product|Products|Cart|Checkout|Order|Coupon|Promotion|Payment Info)\b.*ed")
# https://segment.com/docs/connections/spec/common/#context
_CONTEXT: Final = _fields(
    text="channel groupId ip locale timezone userAgent",
    flag="active",
    object="app campaign device library location network os page referrer screen traits userAgentData",
)
_CONTAINERS: Final = {"properties": _PROPERTIES, "traits": _TRAITS, "context": _CONTEXT}


def _container(found: list[Verdict], message: dict[str, object], name: str, fields: dict[str, str]) -> None:
    value = message.get(name)
    if value is None:
        return
    if not isinstance(value, dict):
        found.append(Verdict("spec", "field-type", name, f"Segment's spec says an object, this is {_kind(value)}."))
        return
    _check_types(found, value, fields, name)
    if name == "properties" and _is_shop_event(message.get("event")):
        _check_types(found, value, _SHOP_PROPERTIES, name)
        _products(found, value.get("products"))
    _keys(found, value, name)


def _is_shop_event(event: object) -> bool:
    return isinstance(event, str) and _SHOP_EVENTS.fullmatch(event) is not None


def _check_types(found: list[Verdict], value: dict[str, object], fields: dict[str, str], path: str) -> None:
    for key in fields.keys() & value.keys():
        kind, entry = fields[key], value[key]
        if entry is None:
            continue
        if kind == "date":
            _time(found, entry, f"{path}.{key}", date_is_enough=True)
        elif type(entry) not in _TYPES[kind]:
            text = f"Segment's spec says {kind}, this is {_kind(entry)}."
            found.append(Verdict("spec", "field-type", f"{path}.{key}", text))


def _products(found: list[Verdict], products: object) -> None:
    for index, product in enumerate(products if isinstance(products, list) else ()):
        path = f"properties.products[{index}]"
        if isinstance(product, dict):
            _check_types(found, product, _SHOP_PROPERTIES, path)
        else:
            found.append(
                Verdict("spec", "field-type", path, f"Segment's spec says an object, this is {_kind(product)}.")
            )


def _texts(found: list[Verdict], message: dict[str, object], names: tuple[str, ...]) -> None:
    for name in names:
        value = message.get(name)
        if value is not None and not isinstance(value, str):
            found.append(Verdict("spec", "field-type", name, f"Segment's spec says text, this is {_kind(value)}."))


def _integrations(found: list[Verdict], integrations: object) -> None:
    if integrations is None:
        return
    if not isinstance(integrations, dict):
        text = f"Segment's spec says an object, this is {_kind(integrations)}."
        found.append(Verdict("spec", "field-type", "integrations", text))
        return
    for name, choice in integrations.items():
        if not isinstance(choice, bool | dict):
            text = f"Segment's spec says true, false or an object, this is {_kind(choice)}."
            found.append(Verdict("spec", "field-type", f"integrations.{name}", text))


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "text", int: "a number", float: "a number", dict: "an object", list: "a list"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), type(value).__name__)


# --- keys that tell more than they should


_SECRET: Final = frozenset(
    "accesskey apikey authorization cookie creditcard cardnumber cvc cvv passphrase passwd password privatekey pwd "
    "secret secretkey ssn token".split()
)
_PERSONAL: Final = frozenset(
    "birthday birthdate dateofbirth dob email emailaddress firstname fullname iban ipaddress lastname passport phone "
    "phonenumber socialsecurity streetaddress surname".split()
)
_ALLOWED: Final = frozenset({"context.device.token", "context.traits"})
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@lru_cache(maxsize=4_096)
def _key_rule(key: str) -> str | None:
    """The rule that a key falls under by its last word or its last two, so that `token_count` is none."""
    words = [word.lower() for word in _WORD.findall(key)]
    tails = {"".join(words[-length:]) for length in (1, 2, 3)}
    if tails & _SECRET:
        return "key-secret"
    return "key-personal" if tails & _PERSONAL else None


_KEY_TEXTS: Final = {
    "key-secret": "The name says that this is a secret; every destination would get it.",
    "key-personal": "Personal data belongs in traits, where Segment can find and delete it.",
}


def _keys(found: list[Verdict], container: dict[str, object], path: str) -> None:
    # A stack, not recursion: how deep a message goes is its sender's choice.
    waiting: list[tuple[str, object]] = [(path, container)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, list):
            waiting.extend((f"{path}[{i}]", entry) for i, entry in enumerate(value) if isinstance(entry, dict | list))
        elif isinstance(value, dict):
            for key, entry in value.items():
                rule = _key_rule(key)
                if rule is not None:
                    _key(found, rule, f"{path}.{key}")
                if isinstance(entry, dict | list):
                    waiting.append((f"{path}.{key}", entry))


def _key(found: list[Verdict], rule: str, path: str) -> None:
    in_traits = path.startswith(("traits.", "context.traits."))
    if path not in _ALLOWED and not (rule == "key-personal" and in_traits):
        found.append(Verdict("style", rule, path, _KEY_TEXTS[rule]))
