"""From a record to the messages that are sent: mapping, destinations, ids, checks. No network, no files.

A record ends here as messages to send, or with the reason why not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

from segment_async import Delivery
from segment_async.verdicts import Verdict

from ._ids import MessageIds, RecentIds, sorted_json
from ._judging import Judge
from ._mapping import CALLS, IDS, Mapping, within
from ._ready_made import Build, Transform, ready_made, transformed
from ._records import Problem, Record
from ._values import AHEAD, EARLIEST, Unreadable, as_choice, as_id, read_time, time_text

_LOOK_EVERY: Final = 256
# Fields whose empty text is no value.
_TEXTS: Final = (*IDS, "event")

SEND, REJECTED, SKIPPED, DUPLICATE = "send", "rejected", "skipped", "duplicate"


@dataclass(slots=True)
class Prepared:
    """A record's messages, or what became of it.

    Attributes:
        status: ``send``, ``rejected``, ``skipped`` or ``duplicate``.
        columns: names of the record's cells.
        findings: what does not keep the messages from being sent.
        deliveries: of the messages, once the client has them.
    """

    record: Record
    columns: list[str] | None
    status: str
    messages: list[dict[str, Any]]
    problem: Problem | None = None
    findings: Sequence[Verdict] = ()
    deliveries: Sequence[Delivery] = ()


class Preparer:
    """Makes messages of records.

    Args:
        now: gives seconds since the epoch: times more than an hour ahead are rejected.
    """

    def __init__(
        self,
        mapping: Mapping | None,
        transform: Transform | None,
        ids: MessageIds,
        integrations: dict[str, bool] | None,
        judge: Judge,
        *,
        since: datetime | None,
        until: datetime | None,
        now: Callable[[], float],
        keeps_ids: bool,
    ) -> None:
        self._mapping = mapping
        self._transform = transform
        self._ids = ids
        self._integrations = integrations
        self._judge = judge
        self._since = since
        self._until = until
        self._has_span = since is not None or until is not None
        self._now = now
        self._keeps_ids = keeps_ids
        self._recent = RecentIds()
        self._latest = EARLIEST
        self._until_next_look = 0
        self._build: Build | None = None
        self._columns: list[str] | None = None

    def begin_source(self, columns: list[str] | None) -> None:
        """The records that follow are lists of these cells, or dicts (`None`)."""
        self._columns = columns
        if self._transform is not None:
            self._build = transformed(self._transform, columns)
        elif self._mapping is not None:
            self._build = self._mapping.bind(columns)
        else:
            self._build = ready_made(columns, keeps_ids=self._keeps_ids)

    def prepare(self, record: Record) -> Prepared:
        """The record's messages. Never raises for what the record holds."""
        if not self._until_next_look:
            self._until_next_look = _LOOK_EVERY
            self._latest = datetime.fromtimestamp(self._now(), UTC) + AHEAD
        self._until_next_look -= 1
        problem = record.problem or (self._unreadable(record) if record.unreadable else None)
        if problem is not None:
            return Prepared(record, self._columns, REJECTED, [], problem)
        assert self._build is not None
        try:
            built = self._build(record.row)
        except Unreadable as error:
            return Prepared(record, self._columns, REJECTED, [], Problem(error.rule, error.path, error.text))
        findings: list[Verdict] = []
        messages: list[dict[str, Any]] = []
        repeated = 0
        for index, message in enumerate(built):
            problem = self._finish(message, index, record, findings)
            if problem is not None:
                # None of the record's messages is sent, so that a later record with one of them is no duplicate.
                self._recent.forget(each["messageId"] for each in messages)
                return Prepared(record, self._columns, REJECTED, [message], problem)
            if self._has_span and not self._is_wanted(message):
                continue
            if self._recent.seen_before(message["messageId"]):
                repeated += 1
            else:
                messages.append(message)
        status = SEND if messages else DUPLICATE if repeated else SKIPPED
        return Prepared(record, self._columns, status, messages, None, findings)

    def _unreadable(self, record: Record) -> Problem | None:
        """Of a value that the record's messages need, and that cannot be read."""
        path = next((column for column in record.unreadable if self._uses(column)), None)
        if path is None:
            return None
        return Problem("value", path, "Python cannot hold the value, such as a time after the year 9999.")

    def _uses(self, column: str) -> bool:
        if self._mapping is None or self._mapping.takes_rest:
            return True
        return any(column in (used, used.split(".")[0]) for used in (*self._mapping.columns, *self._ids.columns))

    def _finish(self, message: dict[str, Any], index: int, record: Record, findings: list[Verdict]) -> Problem | None:
        """Complete the message in place; the reason if it cannot be sent."""
        try:
            self._complete(message, index)
            content = sorted_json(message)
            message["messageId"] = self._ids.assign(message, content, index, record, self._cell)
        except Unreadable as error:
            return Problem(error.rule, error.path, error.text)
        except (TypeError, ValueError) as error:
            return Problem("value", "", f"A value cannot be encoded as JSON: {type(error).__name__}.")
        return self._judge.problem(message, content, findings)

    def _complete(self, message: dict[str, Any], index: int) -> None:
        if message.get("type") not in CALLS:
            raise Unreadable("type-unknown", f"Must be one of {', '.join(CALLS)}.", "type")
        for name in IDS:
            if name in message and type(value := message[name]) is not str and value is not None:
                message[name] = _at(name, as_id, value)
        for name in _TEXTS:
            # Archives and warehouses have an empty text for none.
            if message.get(name) == "":
                del message[name]
        if (given := message.get("timestamp")) is not None:
            # A mapping has read it already.
            is_read = type(given) is datetime and given.tzinfo is UTC
            moment = given if is_read else _at("timestamp", read_time, given)
            if not EARLIEST <= moment <= self._latest:
                text = "before 1970" if moment < EARLIEST else "more than an hour ahead"
                raise Unreadable("time-range", f"The time is {text}.", "timestamp")
            message["timestamp"] = time_text(moment)
        if self._integrations is not None:
            own = message.pop("integrations", None)
            # Empty ones choose nothing, as a map of Parquet without entries.
            is_empty = own is None or own in ("", [], {})
            chosen = self._integrations if is_empty else self._allowed(self._integrations, own, index)
            # An empty one is left out: data goes to all destinations.
            if chosen or not isinstance(chosen, dict):
                message["integrations"] = chosen

    def _allowed(self, integrations: dict[str, bool], own: Any, index: int) -> Any:
        """What both `destinations` and the record allow; `own` is what the `index`-th message of the record says."""
        if not isinstance(own, dict):
            return own  # which is rejected
        choices = {name: value for name, value in cast("dict[str, Any]", own).items() if value is not None}
        if self._mapping is not None:
            # What the mapping says for every record is replaced.
            choices = {name: value for name, value in choices.items() if name in self._mapping.choices[index]}
        choices = {name: _at(f"integrations.{name}", as_choice, value) for name, value in choices.items()}
        if not integrations:
            # Archives have `"All": true` in each message. It changes nothing but the id: leave it out.
            return {name: value for name, value in choices.items() if (name, value) != ("All", True)}
        of_others = choices.get("All", True) is not False
        named = {name: choices.get(name, of_others) for name, is_on in integrations.items() if is_on}
        return {"All": False, **{name: choice for name, choice in named.items() if choice is not False}}

    def _is_wanted(self, message: dict[str, Any]) -> bool:
        given = message.get("timestamp")
        if given is None:
            return True
        moment = datetime.fromisoformat(given)
        return (self._since is None or moment >= self._since) and (self._until is None or moment < self._until)

    def _cell(self, row: Any, column: str) -> Any:
        """One column's value; `None` if the row does not have it."""
        if isinstance(row, dict):
            return within(cast("dict[str, Any]", row), column)
        if self._columns is None or column not in self._columns:
            return None
        return row[self._columns.index(column)]


def _at(path: str, convert: Callable[[Any], Any], value: Any) -> Any:
    try:
        return convert(value)
    except Unreadable as error:
        error.path = path
        raise
