"""Opens what is left of a spool, reads all that is pending, and holds it against what is known of its past."""

from collections.abc import Iterable
from pathlib import Path

from segment_async.spool import BatchResult, SpoolStatistics, Status, StoredMessage
from segment_async.spool._database import Options
from segment_async.spool._files import base_path
from segment_async.spool._writer import Note, Writer

from .journal import Story
from .victim import body_of


class Lost(AssertionError):
    """The spool broke its word; says how."""


def open_writer(path: Path) -> Writer:
    """The spool without its thread: a witness may fork."""
    return Writer(base_path(path), Options())


def read_all(writer: Writer) -> list[StoredMessage]:
    """Of its own shard, and of those that dead processes left."""
    messages = _read_what_is_there(writer)
    writer.look_after()
    return messages + _read_what_is_there(writer)


def _read_what_is_there(writer: Writer) -> list[StoredMessage]:
    messages: list[StoredMessage] = []
    while (window := writer.read(500, 1_000_000)) is not None:
        messages += window.messages
        assert {each.reason for each in window.dropped} <= {"damaged"}, window.dropped
    return messages


def check(
    path: Path,
    story: Story,
    *,
    attempts_are_known: bool = True,
    refusals_are_known: bool = True,
    may_lose: bool = False,
) -> SpoolStatistics:
    """Hold the spool at the path against its story, and leave it as it was.

    `attempts_are_known`: the disk took every note of an attempt and of an outcome.
    `refusals_are_known`: and what it refused it has never taken, or gave it up again when it could.
    `may_lose`: damage was done on purpose, so that what is missing has to be counted instead of being there.
    """
    writer = open_writer(path)
    try:
        messages = read_all(writer)
        counts = writer.look()()
    finally:
        writer.close()
    _check_messages(messages, story, attempts_are_known=attempts_are_known)
    if refusals_are_known:
        _no("refused, and there", {each.message_id for each in messages} & story.refused)
    _check_counts(messages, counts, story, may_lose=may_lose, outcomes_are_known=attempts_are_known)
    return counts


def drain(path: Path, story: Story) -> SpoolStatistics:
    """Deliver all that is left, and check the books once more."""
    writer = open_writer(path)
    try:
        # To remove messages may bring damage to light, and its salvage some more messages.
        while messages := read_all(writer):
            writer.commit([Note([each.key for each in messages], BatchResult(Status.DELIVERED))])
            _no("changed", (each.message_id for each in messages if each.body != body_of(each.message_id)))
            story.sent.update(each.message_id for each in messages)
            story.delivered.update(each.message_id for each in messages)
        counts = writer.look()()
    finally:
        writer.close()
    if counts.pending:
        raise Lost(f"{counts.pending} messages are still pending after all were delivered")
    return counts


def _check_messages(messages: list[StoredMessage], story: Story, *, attempts_are_known: bool) -> None:
    found = [each.message_id for each in messages]
    _no("read twice", (each for each in found if found.count(each) > 1) if len(set(found)) < len(found) else ())
    _no("never offered", set(found) - story.offered)
    _no("settled, and pending again", set(found) & story.settled if attempts_are_known else ())
    _no("changed", (each.message_id for each in messages if each.body != body_of(each.message_id)))
    if attempts_are_known:
        _no(
            "sent, and not marked",
            (each.message_id for each in messages if each.message_id in story.sent and not each.attempts),
        )


def _check_counts(
    messages: list[StoredMessage], counts: SpoolStatistics, story: Story, *, may_lose: bool, outcomes_are_known: bool
) -> None:
    if counts.accepted != counts.delivered + counts.failed + counts.dropped + counts.pending:
        raise Lost(f"the books do not balance: {counts}")
    if counts.pending != len(messages):
        raise Lost(f"{counts.pending} messages are pending, {len(messages)} were read")
    lost = story.accepted - story.sent - {each.message_id for each in messages}
    if may_lose:
        if len(lost) > counts.reasons.get("damaged", 0):
            raise Lost(f"{len(lost)} messages are lost, {counts.reasons.get('damaged', 0)} are counted: {counts}")
        return
    _no("accepted, and lost", lost)
    if counts.dropped:
        raise Lost(f"{counts.dropped} messages are counted as lost, for nothing: {counts}")
    if outcomes_are_known and (counts.failed < len(story.failed) or counts.delivered < len(story.delivered)):
        raise Lost(f"outcomes are lost: {counts}, {len(story.failed)} failed, {len(story.delivered)} delivered")


def _no(what: str, message_ids: Iterable[str]) -> None:
    if some := sorted(message_ids)[:5]:
        raise Lost(f"messages {what}: {some}")
