"""The options of an import, checked before anything is opened."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field
from datetime import datetime
from os import PathLike, fspath
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

from segment_async import Transport
from segment_async.plans import Plan, PlanError, require_validator

from ._mapping import Mapping
from ._paths import FileRead
from ._ready_made import Transform, transform_digest, transform_files
from ._report import ImportUsageError
from ._sources import FORMATS, REJECTS_SUFFIX, STATE_SUFFIX, Source
from ._state import lock_path, new_path
from ._values import Unreadable, dumps, read_time

Ids = Literal["content", "columns", "row", "keep"]
OnViolation = Literal["warn", "reject"]

# The file that a shell has redirected to it, where there is one.
_STANDARD_INPUT: Final = Path("/dev/stdin")
_TYPES: Final[Sequence[tuple[str, Any, str]]] = (
    ("write_key", str, "text, such as 'YOUR_WRITE_KEY'"),
    ("destinations", str | None, "text, such as 'Mixpanel,Amplitude'"),
    ("max_rejects", str | None, "text, such as '2%'"),
    ("rate", int | float, "a number"),
    ("limit", int | None, "a whole number"),
    ("state", (str, PathLike, type(None)), "a path"),
    ("rejects", (str, PathLike, type(None)), "a path"),
    ("write_key_file", (str, PathLike, type(None)), "a path"),
    ("timeout", int | float, "a number of seconds"),
    ("grace", int | float, "a number of seconds"),
    # Text such as "no" would count as `True`, and `restart` sends everything again.
    *((name, bool, "True or False") for name in ("strict", "ordered", "restart")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What to import, and how.

    Attributes:
        sources: files, directories, globs, addresses, or ``-``.
        write_key: of the source that gets the messages; a dry run needs none.
        write_key_file: the file that `write_key` was read from, if there is one: it is never written to.
        mapping: how rows become messages; `None`: rows are messages, or their columns are named as in one.
        format: ``csv``, ``jsonl``, ``parquet`` or ``segment`` (ready-made messages); `None`: by name and first bytes.
        destinations: ``all``, ``none``, or names separated by commas; `None`: the mapping says it. What a
            record's own `integrations` switch off stays off; they switch nothing on that is not chosen here.
        limit: stop after so many records, those of earlier runs included.
        since, until: ISO-8601; messages before `since`, or at `until` and later, are skipped.
        strict: also reject what violates Segment's spec without being dropped.
        plan: a tracking plan, or its JSON file: each message is checked against it. Needs the extra ``plans``.
        on_violation: with `plan`: ``warn``: violations are counted and the messages are sent; ``reject``: they are not.
        rate: messages a second; 0: no limit.
        ordered: one request at a time, for calls where the last one wins.
        ids: where messageIds come from: a hash of the ``content``; of ``columns``; of file and ``row``; or ``keep``.
        id_columns: with ``columns``.
        transform: a function from a row to a message, messages or `None`, in place of a mapping.
        transform_name: stands for `transform` in the state file, with the function's source text.
        state: the state file; `None`: beside the source.
        restart: ignore what an earlier run did.
        rejects: the rejects file; `None`: beside the state file.
        max_rejects: stop at so many rejected and failed records, or at a share such as ``2%``.
        give_up_after: seconds without a usable answer after which the import stops; it can be resumed.
        grace: seconds that requests under way have at an interruption, or at too many rejects.
        transport: in place of HTTP; `host` then stands for it in the state file.
        stdin: opens standard input.
    """

    sources: Sequence[str | PathLike[str]]
    write_key: str = ""
    region: str = "us"
    host: str | None = None
    mapping: Mapping | None = None
    format: str | None = None
    destinations: str | None = None
    limit: int | None = None
    since: str | None = None
    until: str | None = None
    strict: bool = False
    plan: str | PathLike[str] | MappingOf[str, Any] | Plan | None = None
    on_violation: OnViolation = "warn"
    rate: float = 500
    ordered: bool = False
    ids: Ids = "content"
    id_columns: tuple[str, ...] = ()
    transform: Transform | None = None
    transform_name: str = ""
    state: str | PathLike[str] | None = None
    restart: bool = False
    rejects: str | PathLike[str] | None = None
    max_rejects: str | None = None
    write_key_file: str | PathLike[str] | None = None
    timeout: float = 15.0
    give_up_after: float = 43_200
    grace: float = 5.0
    transport: Transport | None = field(default=None, repr=False)
    stdin: Callable[[], BinaryIO] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"<ImportOptions of {', '.join(map(str, self.sources))}>"

    def check(self) -> None:
        """Raises:
        ImportUsageError: an option is wrong, or contradicts another.
        """
        if isinstance(self.sources, str | PathLike):
            raise ImportUsageError(f"sources must be a list: [{str(self.sources)!r}]")
        if not isinstance(given := cast("object", self.sources), Iterable):
            raise ImportUsageError(f"sources must be a list, such as ['orders.csv'], not {type(given).__name__}")
        self._check_types()
        if self.format is not None and self.format not in FORMATS:
            raise ImportUsageError(f"format must be one of {', '.join(FORMATS)}")
        if self.mapping is not None and self.transform is not None:
            raise ImportUsageError("a mapping and a transform contradict each other: the transform makes the messages")
        if self.destinations is None and not (self.mapping is not None and self.mapping.has_integrations):
            raise ImportUsageError(
                "destinations are not given: --destinations all, none, or names such as Mixpanel,Amplitude; or "
                "[integrations] for each message of the mapping"
            )
        if not 0 <= self.rate < math.inf:
            raise ImportUsageError("rate must be 0 (no limit) or a number of messages a second")
        if self.limit is not None and self.limit < 1:
            raise ImportUsageError("limit must be a positive number of records")
        if self.on_violation not in ("warn", "reject"):
            raise ImportUsageError("on-violation must be warn or reject")
        self._check_ids()
        self.integrations()
        self.most_rejects()
        for name in ("since", "until"):
            self.moment(name)

    def _check_types(self) -> None:
        """At run time as well: not every caller has a type checker."""
        if not isinstance(cast("object", self.mapping), Mapping | None):
            raise ImportUsageError("mapping must be what load_mapping or parse_mapping returned")
        if self.transform is not None and not callable(self.transform):
            raise ImportUsageError('transform must be a function, such as of load_transform("module:function")')
        for name, kind, what in _TYPES:
            if not isinstance(given := getattr(self, name), kind):
                raise ImportUsageError(f"{name} must be {what}, not {type(given).__name__}")

    def _check_ids(self) -> None:
        if self.ids not in ("content", "columns", "row", "keep"):
            raise ImportUsageError("ids must be content, columns:NAME,NAME, row or keep")
        if self.ids == "columns" and not self.id_columns:
            raise ImportUsageError("ids from columns need their names: columns:NAME,NAME")
        if self.ids != "columns" and self.id_columns:
            raise ImportUsageError(f"ids come from {self.ids}, but columns are named: columns:NAME,NAME")
        if self.mapping is not None and (self.mapping.keeps_id or self.mapping.id_columns) and self.ids != "content":
            raise ImportUsageError("the mapping sets messageId: leave --id out")

    def id_source(self) -> tuple[str, tuple[str, ...]]:
        """The mode and the columns that ids come from."""
        if self.mapping is not None and self.mapping.id_columns:
            return "columns", self.mapping.id_columns
        if self.mapping is not None and self.mapping.keeps_id:
            return "keep", ()
        return self.ids, self.id_columns

    def loaded_plan(self) -> Plan | None:
        """Raises:
        ImportUsageError: the plan cannot be read or used, or the extra is not installed.
        """
        if self.plan is None:
            return None
        try:
            require_validator()
            return self.plan if isinstance(self.plan, Plan) else Plan.load(self.plan)
        except PlanError as error:
            raise ImportUsageError(f"plan: {error}") from error
        except OSError as error:
            raise ImportUsageError(f"plan {self.plan}: cannot be read: {error.strerror or error}") from error

    def moment(self, name: str) -> datetime | None:
        """The option ``since`` or ``until`` as a time; `None` if it is not set."""
        given = getattr(self, name)
        try:
            return None if given is None else read_time(given)
        except Unreadable as error:
            raise ImportUsageError(f"{name} {given!r}: {error.text}") from None

    def integrations(self) -> dict[str, bool] | None:
        """The `integrations` of a message that has none: empty for all destinations, `None` if there is no choice."""
        if self.destinations is None:
            return None
        if any("\ud800" <= letter <= "\udfff" for letter in self.destinations):
            raise ImportUsageError("destinations are not UTF-8, which JSON needs")
        words = [word.strip() for word in self.destinations.split(",") if word.strip()]
        if [word.lower() for word in words] == ["all"]:
            return {}
        if [word.lower() for word in words] == ["none"]:
            return {"All": False}
        if not words or {"all", "none"} & {word.lower() for word in words}:
            raise ImportUsageError("destinations must be all, none, or names separated by commas")
        return {"All": False, **dict.fromkeys(words, True)}

    def most_rejects(self) -> Callable[[int, int], bool]:
        """Whether there are too many: of rejected and failed records, and of all."""
        given = self.max_rejects
        if given is None:
            return lambda _, __: False
        number = given.removesuffix("%")
        try:
            most = float(number)
        except ValueError:
            most = -1
        if not 0 <= most < math.inf:
            raise ImportUsageError("max-rejects must be a number of records, or a share such as 2%")
        if given.endswith("%"):
            return lambda rejects, records: rejects > records * most / 100
        return lambda rejects, records: rejects >= max(1, most)

    def digest(self) -> str:
        """Changes with everything that changes messages, but for the transform."""
        mapping = self.mapping.digest if self.mapping is not None else ""
        parts: list[Any] = [mapping, self.format, self.destinations, self.since, self.until]
        plan = self.loaded_plan() if self.on_violation == "reject" else None
        rules = [(rule.label, rule.schema) for rule in plan.rules] if plan is not None else None
        return hashlib.sha256(dumps([*parts, self.strict, self.ids, self.id_columns, rules])).hexdigest()

    def transform_digest(self) -> str:
        """Changes with the transform; empty without one."""
        return transform_digest(self.transform, self.transform_name) if self.transform is not None else ""

    def arguments(self) -> list[str]:
        """The sources as text."""
        # The text of a path of another class, such as an entry of `os.scandir`, is not its path.
        return [str(fspath(each) if isinstance(each, PathLike) else each) for each in self.sources]

    def state_path(self, sources: Sequence[Source]) -> Path:
        """Beside a single source; else in the folder that the import runs in."""
        if self.state is not None:
            return Path(self.state)
        if len(sources) == 1 and sources[0].path is not None:
            path = sources[0].path
            return path.with_name(path.name + STATE_SUFFIX)
        names = "\n".join(source.name for source in sources)
        return Path(f"segment-{hashlib.sha256(names.encode()).hexdigest()[:8]}{STATE_SUFFIX}")

    def rejects_path(self, state: Path) -> Path:
        """The file for rejected rows: `rejects`, or one beside the state file."""
        if self.rejects is not None:
            return Path(self.rejects)
        return state.with_name(state.name.removesuffix(STATE_SUFFIX) + REJECTS_SUFFIX)

    def files_written(self) -> list[Path]:
        """The state that `state` names, the files beside it and, once it exists, the rejects that belong to it."""
        if self.state is None:
            return []
        state = Path(self.state)
        rejects = [Path(self.rejects)] if self.rejects is not None and state.exists() else []
        return [state, new_path(state), lock_path(state), *rejects]

    def files_read(self, sources: Sequence[Source]) -> list[FileRead]:
        """The files that the import reads, as far as they are files of this machine."""
        found = [FileRead("the source", each.local, each.name) for each in sources if each.local is not None]
        if self.stdin is None and any(each.name == "-" for each in sources) and _STANDARD_INPUT.is_file():
            found.append(FileRead("standard input", _STANDARD_INPUT))
        if self.mapping is not None and self.mapping.path is not None:
            found.append(FileRead("the mapping", self.mapping.path, str(self.mapping.path)))
        if isinstance(self.plan, str | PathLike):
            found.append(FileRead("the plan", Path(self.plan), str(self.plan)))
        if self.transform is not None:
            files = transform_files(self.transform, self.transform_name)
            found += [FileRead("the file of the transform", each, str(each)) for each in files]
        if self.write_key_file is not None:
            found.append(FileRead("the file of the write key", Path(self.write_key_file)))
        return found
