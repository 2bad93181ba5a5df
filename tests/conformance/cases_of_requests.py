"""The cases about what is sent: address, headers, envelope, the fields of each message, the limits.

Data only. Fields are checked as they must travel, so that defaults of an SDK which do no harm are left alone.
"""

from typing import Any

from . import checks
from .case import Case, Event, Expect, at_once, track, tracks

NOTHING = Expect(success=False, delivered=(), requests=(0, 0))


def _arrives_as(row: str, name: str, event: Event, **fields: Any) -> Case:
    """Send one event, which must arrive with these fields; the others of the event as they are."""
    return Case(row, name, at_once(event), Expect(messages={event["messageId"]: {**event, **fields}}))


def _refused(row: str, name: str, event: Event) -> Case:
    """Send a good message and one that Segment would drop: the good one alone must arrive."""
    expect = Expect(success=False, delivered=("good",))
    return Case(row, name, at_once(track("good"), event), expect)


ENDPOINT = [
    Case("any form of the host means `/v1/batch`", f"host{host}", at_once(track()), Expect(looks=(look,)), host=host)
    for host, look in (
        ("", checks.path_is("/v1/batch")),
        ("/", checks.path_is("/v1/batch")),
        ("/v1", checks.path_is("/v1/batch")),
        ("/v1/", checks.path_is("/v1/batch")),
        ("/proxy", checks.path_is("/proxy/v1/batch")),
    )
]

ENVELOPE = [
    Case(
        "`Authorization: Basic` and the write key in the body",
        "headers",
        at_once(track()),
        Expect(looks=(checks.authorized_by_header, checks.authorized_as("a-write-key"))),
    ),
    Case("`User-Agent` and `Content-Type`", "headers", at_once(track()), Expect(looks=(checks.names_itself,))),
    Case(
        "white space around the write key is taken off",
        "a line's end",
        at_once(track()),
        Expect(looks=(checks.authorized_as("a-write-key"),)),
        write_key=" a-write-key\n",
    ),
]

KINDS = "each kind of message arrives with its fields"

MESSAGES = [
    _arrives_as(KINDS, "track", track(properties={"total": 30.5, "items": [1, {"a": "ü"}]})),
    _arrives_as(
        KINDS, "identify", {"type": "identify", "messageId": "m-1", "userId": "u", "traits": {"email": "a@b.example"}}
    ),
    _arrives_as(
        KINDS,
        "page",
        {"type": "page", "messageId": "m-1", "userId": "u", "name": "Home", "category": "Docs", "properties": {"a": 1}},
    ),
    _arrives_as(
        KINDS,
        "screen",
        {
            "type": "screen",
            "messageId": "m-1",
            "userId": "u",
            "name": "Main",
            "category": "App",
            "properties": {"a": 1},
        },
    ),
    _arrives_as(
        KINDS, "group", {"type": "group", "messageId": "m-1", "userId": "u", "groupId": "g", "traits": {"size": 3}}
    ),
    _arrives_as(KINDS, "alias", {"type": "alias", "messageId": "m-1", "userId": "u", "previousId": "before"}),
    _arrives_as(
        KINDS,
        "an anonymous one",
        {"type": "track", "event": "E", "messageId": "m-1", "anonymousId": "somebody"},
    ),
    _arrives_as(KINDS, "integrations", track(integrations={"All": False, "Google Analytics": {"clientId": "1"}})),
    _arrives_as("ids travel as text, 0 is one", "a number", track(userId=12345), userId="12345"),
    _arrives_as("ids travel as text, 0 is one", "zero", track(userId=0), userId="0"),
    Case(
        "the context is the caller's, with our own `library`",
        "a context",
        at_once(track(context={"ip": "203.0.113.7", "library": {"name": "mine"}})),
        Expect(looks=(checks.context_holds("ip", "203.0.113.7"), checks.library_is_own("m-1"))),
    ),
    Case(
        "absent fields are left out: no `null`, no empty object",
        "a bare track",
        at_once(track()),
        Expect(looks=(checks.nothing_empty,)),
    ),
    Case(
        "timestamps are UTC with zone and milliseconds",
        "none given",
        at_once(track()),
        Expect(looks=(checks.timestamp_is_utc,)),
    ),
    Case(
        "timestamps are UTC with zone and milliseconds",
        "given in another zone",
        at_once(track(timestamp="2025-11-21T10:00:00+02:00")),
        Expect(looks=(checks.timestamp_is_utc,)),
    ),
]

DROPPED = "what Segment would silently drop is refused at the call"

REFUSED = [
    _refused(DROPPED, name, event)
    for name, event in (
        ("a track without an event", {"type": "track", "userId": "u", "messageId": "bad"}),
        ("a track with an empty event", track("bad", event="")),
        ("nobody", {"type": "track", "event": "E", "messageId": "bad"}),
        ("an empty user id", track("bad", userId="")),
        ("a group without a group id", {"type": "group", "userId": "u", "messageId": "bad"}),
        ("an alias without a previous id", {"type": "alias", "userId": "u", "messageId": "bad"}),
    )
]

LONG = "x" * 32_000
TOO_LONG = "x" * 32_769

LIMITS = [
    _arrives_as(
        "a message of up to 32 KB is sent, a larger one refused", "nearly 32 KB", track(properties={"a": LONG})
    ),
    _refused(
        "a message of up to 32 KB is sent, a larger one refused", "over 32 KB", track("bad", properties={"a": TOO_LONG})
    ),
    Case(
        "a batch has 500 KB at most",
        "forty messages of 30 KB",
        at_once(*tracks(40, properties={"a": "x" * 30_000})),
        Expect(looks=(checks.small_enough,)),
        config={"flushAt": 100},
    ),
    Case(
        "a batch has 2,500 messages at most",
        "2,501 small messages",
        at_once(*tracks(2_501)),
        Expect(looks=(checks.few_enough,)),
        config={"flushAt": 2_501, "flushInterval": 1_000},
    ),
    _arrives_as("a `messageId` has 99 characters at most", "99 characters", track("x" * 99)),
    _refused("a `messageId` has 99 characters at most", "100 characters", track("x" * 100)),
]
