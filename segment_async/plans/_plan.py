"""A tracking plan that judges messages as Segment does.

The order is Segment's: an unplanned event, unplanned properties or traits, the rule of the event, the rule for all
messages. Rules are compiled when the first message needs them. Messages are in JSON's own types, as they are sent.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, cast

from segment_async.verdicts import Verdict

from ._decision import Decision, Settings, decide
from ._formats import read
from ._near import NearNames
from ._rule import PlanError, Problem, Rule, RuleType, as_object, is_deeper
from ._schema import NoValidator, compiled
from ._wording import described

if TYPE_CHECKING:
    from jsonschema_rs import Draft7Validator

_log = logging.getLogger("segment_async")

# A page or screen call is checked as this event.
VIEWS: Final = {"page": "Page Viewed", "screen": "Screen Viewed"}
# The unplanned properties of one message for which a planned one is looked for.
_MAX_HINTS: Final = 5
# Far deeper than any event, and far from the end of Python's stack.
_MAX_DEPTH: Final = 100
_TYPES: Final[dict[object, RuleType]] = {"identify": "IDENTIFY", "group": "GROUP", "page": "PAGE", "screen": "SCREEN"}


class Plan:
    """A tracking plan; from `Plan.load`.

    Attributes:
        rules: sorted by type, key and version.
        problems: what is not used of the plan as it was read. `lint` finds more.

    Raises:
        PlanError: there are no rules, two for the same key, type and version, or one that is nested too deeply.
    """

    def __init__(self, rules: Iterable[Rule], problems: Iterable[Problem] = ()) -> None:
        self.rules: tuple[Rule, ...] = tuple(sorted(rules, key=_order))
        unused = (rule for rule in self.rules if rule.type == "TRACK" and rule.key is None)
        text = "has no key, so that no event is checked against it"
        self.problems = (*problems, *(Problem("warning", rule.label, "", text) for rule in unused))
        if not self.rules:
            raise PlanError("the plan has no rules")
        for rule in self.rules:
            if is_deeper(rule.schema, _MAX_DEPTH):
                raise PlanError(f"{rule.label} is nested more than {_MAX_DEPTH} levels deep")
        self._checks: dict[tuple[RuleType, str | None], list[_Check]] = {}
        for rule in self.rules:
            checks = self._checks.setdefault((rule.type, rule.key), [])
            if any(check.rule.version == rule.version for check in checks):
                raise PlanError(f"{rule.label} is in the plan twice; delete one of them")
            checks.append(_Check(rule))
        self._common = self._checks.get(("COMMON", None), [])[-1:]
        self._near = NearNames(self.events())

    @classmethod
    def load(cls, source: str | PathLike[str] | Mapping[str, Any] | list[Any]) -> Plan:
        """Read a plan from a JSON file, or take it as decoded JSON.

        Raises:
            OSError: the file cannot be read.
            PlanError: it contains no plan; the text says where, which formats are known, and how to get one.
        """
        return cls(*read(source))

    def __repr__(self) -> str:
        return f"<Plan of {len(self.rules)} {'rule' if len(self.rules) == 1 else 'rules'}>"

    def judge(self, message: Mapping[str, Any]) -> list[Verdict]:
        """All violations of the plan, in Segment's order; empty if there are none.

        A rule that cannot be compiled is logged once and judges nothing.

        Raises:
            NoValidator: the extra `plans` is not installed.
        """
        found: list[Verdict] = []
        check = self._check_for(message, found)
        if check is not None:
            check.unplanned(message, found)
            check.violations(message, found, "plan-violation")
        for common in self._common:
            common.violations(message, found, "plan-common")
        return found

    def outcome(self, message: Mapping[str, Any], settings: Settings) -> Decision:
        """What Segment does with the message under the source's settings.

        Raises:
            NoValidator: the extra `plans` is not installed.
        """
        return decide(message, self.judge(message), settings)

    def events(self) -> list[str]:
        """The names of all planned events, sorted."""
        return sorted(key for kind, key in self._checks if kind == "TRACK" and key is not None)

    def _check_for(self, message: Mapping[str, Any], found: list[Verdict]) -> _Check | None:
        kind, name = message.get("type"), None
        if not isinstance(kind, str):
            return None  # `verdicts` says so
        if kind == "track":
            name = message.get("event")
            checks = self._checks.get(("TRACK", name)) if isinstance(name, str) else None
        elif kind in VIEWS:
            name = VIEWS[kind]
            view, own = _TYPES[kind], message.get("name")
            named = self._checks.get((view, own)) if isinstance(own, str) else None
            checks = self._checks.get(("TRACK", name)) or named or self._checks.get((view, None))
        else:
            checks = self._checks.get((_TYPES[kind], None)) if kind in ("identify", "group") else None
        if checks:
            return checks[0] if len(checks) == 1 and "context" not in message else _of_version(checks, message, found)
        if name is not None:
            found.append(
                Verdict("plan", "plan-unplanned-event", "event" if kind == "track" else "type", self._unplanned(name))
            )
        return None

    def _unplanned(self, name: object) -> str:
        return f"{name} is not in the tracking plan.{self._near.hint(str(name))}"


def _order(rule: Rule) -> tuple[str, str, int]:
    return rule.type, rule.key or "", -1 if rule.version is None else rule.version


def _of_version(checks: list[_Check], message: Mapping[str, Any], found: list[Verdict]) -> _Check | None:
    """The rule for the version that the message names; without one, the oldest, as at Segment."""
    wanted = as_object(as_object(message.get("context")).get("protocols")).get("event_version")
    if wanted is None or checks[-1].rule.version is None:
        return checks[0]
    for check in checks:
        if check.rule.version == wanted:
            return check
    versions = ", ".join(str(check.rule.version) for check in checks)
    text = (
        f"Version {wanted!r} of {checks[0].rule.key or 'the rule'} is not in the tracking plan, which has {versions}."
    )
    found.append(Verdict("plan", "plan-unplanned-event", "context.protocols.event_version", text))
    return None


class _Check:
    """A rule and, once it was needed, its validator."""

    __slots__ = ("_names", "_near", "_patterns", "_validator", "_was_compiled", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._validator: Draft7Validator | None = None
        self._was_compiled = False
        fields = rule.fields
        self._names = frozenset(as_object(fields.get("properties")))
        self._near = NearNames(self._names)
        self._patterns = tuple(as_object(fields.get("patternProperties")))

    def unplanned(self, message: Mapping[str, Any], found: list[Verdict]) -> None:
        if not self.rule.schema:
            return
        section = self.rule.section
        given = message.get(section)
        if not isinstance(given, dict) or self._names.issuperset(names := cast("dict[str, Any]", given)):
            return
        unplanned = [
            name
            for name in names
            if name not in self._names and not any(_matches(pattern, name) for pattern in self._patterns)
        ]
        for count, name in enumerate(unplanned):
            hint = self._near.hint(name) if count < _MAX_HINTS else ""
            text = f"{name} is not in the tracking plan.{hint}"
            found.append(Verdict("plan", "plan-unplanned-property", f"{section}.{name}", text))

    def violations(self, message: Mapping[str, Any], found: list[Verdict], rule: str) -> None:
        validator = self._validator if self._was_compiled else self._compile()
        if validator is None or validator.is_valid(message):
            return
        # A schema may report the same twice, as with allOf.
        pairs = dict.fromkeys(
            pair
            for violation in validator.iter_errors(cast("Any", message))
            for pair in described(violation, self.rule.schema)
        )
        found.extend(Verdict("plan", rule, path, text) for path, text in pairs)

    def _compile(self) -> Draft7Validator | None:
        try:
            self._validator = compiled(self.rule.schema)
        except NoValidator:
            raise
        except PlanError as error:
            _log.warning(
                "Rule cannot be judged: %s: %s; run segment-async plan lint (logged once).", self.rule.label, error
            )
        self._was_compiled = True
        return self._validator


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return True  # lint reports the pattern
