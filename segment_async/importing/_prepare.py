"""From a record to the messages that are sent: mapping, destinations, checks, ids. No network, no files.

A record ends here as messages to send, or with the reason why not. `segment_async.verdicts` decides what Segment would
drop.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

from segment_async.verdicts import MESSAGE_BYTES, MESSAGE_ID_CHARACTERS, Verdict, judge

from ._ids import MessageIds, RecentIds, sorted_json
from ._mapping import CALLS, IDS, Mapping
from ._records import Problem, Record
from ._report import ImportUsageError
from ._values import AHEAD, EARLIEST, Unreadable, as_boolean, as_id, read_time, time_text

Transform = Callable[[dict[str, Any]], Any]
Build = Callable[[Any], list[dict[str, Any]]]

# What Segment adds on arrival; sent again, it would contradict what Segment adds then.
_OF_ARCHIVES: Final = (
    *("sentAt", "sent_at", "projectId", "project_id", "receivedAt", "received_at"),
    *("originalTimestamp", "original_timestamp", "message_id"),
)
# The library's name and version in the context, which the client adds.
_ADDED_BYTES: Final = 120

# Messages of one shape are judged once: millions of rows have a handful of shapes.
_SHAPES: Final = 1_000
_LOOK_EVERY: Final = 256
_JUDGED_BY_VALUE: Final = frozenset(
    {"context", "name", "category", "groupId", "previousId", "sentAt", "originalTimestamp"}
)
_DATES: Final = frozenset({"createdAt", "created_at", "birthday"})

SEND, REJECTED, SKIPPED, DUPLICATE = "send", "rejected", "skipped", "duplicate"


@dataclass(slots=True)
class Prepared:
    """A record's messages, or what became of it.

    Attributes:
        status: ``send``, ``rejected``, ``skipped`` or ``duplicate``.
        columns: names of the record's cells.
        spec: findings that do not keep the messages from being sent.
    """

    record: Record
    columns: list[str] | None
    status: str
    messages: list[dict[str, Any]]
    problem: Problem | None = None
    spec: tuple[Verdict, ...] = ()


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
        *,
        strict: bool,
        since: datetime | None,
        until: datetime | None,
        now: Callable[[], float],
        keeps_ids: bool,
    ) -> None:
        self._mapping = mapping
        self._transform = transform
        self._ids = ids
        self._integrations = integrations
        self._strict = strict
        self._since = since
        self._until = until
        self._now = now
        self._keeps_ids = keeps_ids
        self._recent = RecentIds()
        self._clean_shapes: set[object] = set()
        self._latest = EARLIEST
        self._until_next_look = 0
        self._build: Build | None = None
        self._columns: list[str] | None = None

    def begin_source(self, columns: list[str] | None) -> None:
        """The records that follow are lists of these cells, or dicts (`None`)."""
        self._columns = columns
        if self._transform is not None:
            self._build = None
        elif self._mapping is not None:
            self._build = self._mapping.bind(columns)
        else:
            self._build = _ready_made(columns, keeps_ids=self._keeps_ids)

    def prepare(self, record: Record) -> Prepared:
        """The record's messages. Never raises for what the record holds."""
        if not self._until_next_look:
            self._until_next_look = _LOOK_EVERY
            self._latest = datetime.fromtimestamp(self._now(), UTC) + AHEAD
        self._until_next_look -= 1
        if record.problem is not None:
            return Prepared(record, self._columns, REJECTED, [], record.problem)
        try:
            built = self._built(record.row)
        except Unreadable as error:
            return Prepared(record, self._columns, REJECTED, [], Problem(error.rule, error.path, error.text))
        spec: list[Verdict] = []
        messages: list[dict[str, Any]] = []
        repeated = 0
        for index, message in enumerate(built):
            problem = self._finish(message, index, record, spec)
            if problem is not None:
                return Prepared(record, self._columns, REJECTED, [message], problem)
            if not self._is_wanted(message):
                continue
            if self._recent.seen_before(message["messageId"]):
                repeated += 1
            else:
                messages.append(message)
        status = SEND if messages else DUPLICATE if repeated else SKIPPED
        return Prepared(record, self._columns, status, messages, None, tuple(spec))

    def _row(self, row: Any) -> dict[str, Any]:
        if self._columns is None or isinstance(row, dict):
            return cast("dict[str, Any]", row)
        return {name: cell for name, cell in zip(self._columns, row, strict=True) if cell}

    def _built(self, row: Any) -> list[dict[str, Any]]:
        if self._build is not None:
            return self._build(row)
        assert self._transform is not None
        try:
            made = self._transform(self._row(row))
        except Exception as error:
            raise Unreadable("transform", f"The transform raised {type(error).__name__}.") from error
        several = cast("list[Any]", [] if made is None else [made] if isinstance(made, MappingOf) else made)
        try:
            return [dict(each) for each in several]
        except (TypeError, ValueError):
            raise Unreadable("transform", "The transform must return a message, messages or None.") from None

    def _finish(self, message: dict[str, Any], index: int, record: Record, spec: list[Verdict]) -> Problem | None:
        """Complete the message in place; the reason if it cannot be sent."""
        try:
            self._complete(message)
            content = sorted_json(message)
            message["messageId"] = self._ids.assign(
                message, content, index, record, lambda column: self._cell(record.row, column)
            )
        except Unreadable as error:
            return Problem(error.rule, error.path, error.text)
        except (TypeError, ValueError) as error:
            return Problem("value", "", f"A value cannot be encoded as JSON: {type(error).__name__}.")
        size = len(content) + _ADDED_BYTES + len(message["messageId"])
        shape = _shape(message)
        if shape in self._clean_shapes and size <= MESSAGE_BYTES and len(message["messageId"]) < MESSAGE_ID_CHARACTERS:
            return None
        return self._judged(message, size, shape, spec)

    def _judged(self, message: dict[str, Any], size: int, shape: object, spec: list[Verdict]) -> Problem | None:
        is_clean = shape is not None
        for verdict in judge(message, size=size):
            is_clean = is_clean and verdict.severity == "style"
            if verdict.severity == "dropped" or (self._strict and verdict.severity == "spec"):
                return Problem(verdict.rule, verdict.path, verdict.text)
            if verdict.severity == "spec":
                spec.append(verdict)
        if is_clean and len(self._clean_shapes) < _SHAPES:
            self._clean_shapes.add(shape)
        return None

    def _complete(self, message: dict[str, Any]) -> None:
        if message.get("type") not in CALLS:
            raise Unreadable("type-unknown", f"Must be one of {', '.join(CALLS)}.", "type")
        for name in IDS:
            value = message.get(name)
            if value is not None and not isinstance(value, str):
                message[name] = _at(name, as_id, value)
        if (given := message.get("timestamp")) is not None:
            moment = _at("timestamp", read_time, given)
            if moment < EARLIEST:
                raise Unreadable("time-range", "The time is before 1970.", "timestamp")
            if moment > self._latest:
                raise Unreadable("time-range", "The time is more than an hour ahead.", "timestamp")
            message["timestamp"] = time_text(moment)
        if self._integrations is not None:
            # An empty one is left out: data goes to all destinations.
            message.pop("integrations", None)
            if self._integrations:
                message["integrations"] = self._integrations

    def _is_wanted(self, message: dict[str, Any]) -> bool:
        if self._since is None and self._until is None:
            return True
        given = message.get("timestamp")
        if given is None:
            return True
        moment = datetime.fromisoformat(given)
        return (self._since is None or moment >= self._since) and (self._until is None or moment < self._until)

    def _cell(self, row: Any, column: str) -> Any:
        """One column's value."""
        if isinstance(row, dict):
            fields = cast("dict[str, Any]", row)
            return fields.get(column)
        if self._columns is None or column not in self._columns:
            return None
        return row[self._columns.index(column)]


def _shape(message: dict[str, Any]) -> object:
    """All that the verdicts of severity "dropped" and "spec" depend on, but for the size and the id; `None` if unknown."""
    if not _JUDGED_BY_VALUE.isdisjoint(message):
        return None
    inner = _plain_dict(message.get("properties"))
    traits = _plain_dict(message.get("traits"))
    integrations = _plain_dict(message.get("integrations"))
    event: Any = message.get("event", "")
    if inner is None or traits is None or integrations is None or type(event) is not str:
        return None
    kinds = (*map(type, inner.values()), *map(type, traits.values()))
    if dict in kinds or list in kinds or not _DATES.isdisjoint(traits):
        return None
    if any(type(choice) is not bool for choice in integrations.values()):
        return None
    ids = (bool(message.get("userId")), bool(message.get("anonymousId")))
    return (message["type"], event, ids, *message, None, *inner, None, *traits, None, *integrations, *kinds)


def _plain_dict(value: Any) -> dict[str, Any] | None:
    """A dict, or nothing for an absent one; `None` for what is none."""
    if value is None:
        return {}
    return cast("dict[str, Any]", value) if type(value) is dict else None


def _at(path: str, convert: Callable[[Any], Any], value: Any) -> Any:
    try:
        return convert(value)
    except Unreadable as error:
        error.path = path
        raise


# -- without a mapping


def _ready_made(columns: list[str] | None, *, keeps_ids: bool) -> Build:
    """Rows that are Segment messages already, or whose column names are the paths of one (``traits.address.city``)."""
    left_out = _OF_ARCHIVES if keeps_ids else (*_OF_ARCHIVES, "messageId")

    def build(row: dict[str, Any]) -> list[dict[str, Any]]:
        message: dict[str, Any] = {}
        for name, value in row.items():
            if value is None or name in left_out:
                continue
            if "." in name:
                _put(message, name, value)
            else:
                message[name] = value
        return [message]

    if columns is None:
        return build
    return lambda row: build({name: cell for name, cell in zip(columns, row, strict=True) if cell and name})


def _put(message: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    inner = message
    for name in outer:
        held = inner.setdefault(name, {})
        if not isinstance(held, dict):
            raise Unreadable("columns", f"{path!r} is inside of a column that has a value of its own.", path)
        inner = cast("dict[str, Any]", held)
    if outer[:1] == ["integrations"] and isinstance(value, str):
        # As text, "false" would count as true.
        value = _at(path, as_boolean, value)
    inner[last] = value


def check_ready_made(source: str, columns: list[str]) -> None:
    """Raises:
    ImportUsageError: the column names are not those of messages.
    """
    if "type" not in columns:
        raise ImportUsageError(
            f"source {source}, line 1: has no column 'type'. Without a mapping, columns are named as in a message "
            "(type, userId, event, properties.total); write a mapping with --init, and pass it with --map"
        )


def load_transform(name: str) -> Transform:
    """The function that ``module:function`` names.

    Raises:
        ImportUsageError: there is none.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise ImportUsageError(f"transform {name!r}: must be module:function")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise ImportUsageError(f"transform {name!r}: cannot be imported: {error}") from error
    for part in function.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ImportUsageError(f"transform {name!r}: module {module} has no function {function}")
    return cast("Transform", found)
