"""The line that is printed for a request."""

from segment_async.devserver import Answered, Event, ReceivedBatch, line
from segment_async.verdicts import Severity, Verdict


def event(*earned: tuple[Severity, str]) -> Event:
    return Event(1, batch(), b"{}", tuple(Verdict(severity, rule, "", "") for severity, rule in earned), "", None, ())


def named(name: str, *earned: tuple[Severity, str, str]) -> Event:
    verdicts = tuple(Verdict(severity, rule, path, "") for severity, rule, path in earned)
    return Event(1, batch(), b"{}", verdicts, "track", name, ())


def batch(**fields: object) -> ReceivedBatch:
    return ReceivedBatch(1, 0.0, "/v1/batch", "key", 1, 3, 1_234, 1_234, None, {})._replace(**fields)


def after_the_time(answered: Answered) -> str:
    return line(answered).partition("  ")[2]


def test_an_accepted_request() -> None:
    assert after_the_time(Answered(batch(), 200, [], "")) == "200 /v1/batch  3 messages  1,234 bytes"


def test_size_on_the_wire_and_attempt_are_shown_if_they_matter() -> None:
    told = after_the_time(Answered(batch(messages=1, wire_bytes=99, attempt=2), 200, [], ""))
    assert told == "200 /v1/batch  1 message  1,234 bytes (99 compressed)  attempt 2"


def test_verdicts_are_counted_by_message_and_named_by_rule() -> None:
    events = [
        event(),
        event(("style", "key-secret"), ("style", "key-secret")),
        event(("dropped", "id-missing"), ("style", "event-name"), ("style", "key-secret")),
        event(("style", "id-email"), ("style", "id-placeholder"), ("style", "key-secret"), ("style", "event-name")),
    ]
    told = after_the_time(Answered(batch(), 200, events, "")).partition("bytes")[2]
    _, dropped, style = told.strip().split("  ")
    assert dropped == "1 would be dropped: id-missing"
    assert style.startswith("3 not recommended: key-secret, event-name, id-")
    assert style.endswith(", …")


def test_a_refused_request_shows_the_reason() -> None:
    assert after_the_time(Answered(batch(), 0, [], "chaos, as asked for")).startswith("reset /v1/batch  ")
    assert after_the_time(Answered(batch(), 400, [], "malformed JSON")).endswith("bytes  malformed JSON")


def test_events_are_named_and_verdicts_name_event_and_field() -> None:
    events = [
        named("Order Completed", ("dropped", "id-missing", "userId")),
        named("Order Completed"),
        named("Signed Up", ("style", "key-secret", "properties.password")),
        Event(1, batch(), b"{}", (), "identify", None, ()),
        Event(1, batch(), b"{}", (), "", None, ()),
    ]
    told = after_the_time(Answered(batch(), 200, events, "")).partition("bytes  ")[2]
    assert told.split("  ") == [
        "Order Completed ×2, Signed Up, identify, …",
        "1 would be dropped: id-missing in Order Completed (userId)",
        "1 not recommended: key-secret in Signed Up (properties.password)",
    ]


def test_the_name_of_an_event_cannot_control_the_terminal() -> None:
    told = line(Answered(batch(), 200, [named("Red \x1b[31m\u202e" + "x" * 500)], ""))
    assert told.endswith("Red \ufffd[31m\ufffd" + "x" * 49 + "…")
    assert told.isprintable()
