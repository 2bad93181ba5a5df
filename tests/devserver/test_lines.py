"""The line that is printed for a request."""

from segment_async.devserver import Answered, Event, ReceivedBatch, line
from segment_async.verdicts import Severity, Verdict


def event(*earned: tuple[Severity, str]) -> Event:
    return Event(1, batch(), b"{}", tuple(Verdict(severity, rule, "", "") for severity, rule in earned), "", None, ())


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
    dropped, style = told.strip().split("  ")
    assert dropped == "1 would be dropped: id-missing"
    assert style.startswith("3 not recommended: key-secret, event-name, id-")
    assert style.endswith(", …")


def test_a_refused_request_shows_the_reason() -> None:
    assert after_the_time(Answered(batch(), 0, [], "chaos, as asked for")).startswith("reset /v1/batch  ")
    assert after_the_time(Answered(batch(), 400, [], "malformed JSON")).endswith("bytes  malformed JSON")
