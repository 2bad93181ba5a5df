"""What Segment does with a message that violates the plan, by the settings of the source. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, Literal, cast, get_args

from segment_async.verdicts import Verdict

from ._rule import PlanError, as_object

OnCommonViolation = Literal["ALLOW", "BLOCK", "OMIT_PROPERTIES"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """The settings for one kind of call. The defaults let everything pass, as those of a new source do.

    Attributes:
        unplanned_events: keep events that are not in the plan; only for track, page and screen.
        unplanned_fields: keep properties or traits that are not in the plan.
        on_violation: keep messages that violate the rule of their event.
        violating_fields: of those, keep the properties or traits that violate it.
        common: what a violation of the rule for all messages does.
    """

    unplanned_events: bool = True
    unplanned_fields: bool = True
    on_violation: bool = True
    violating_fields: bool = True
    common: OnCommonViolation = "ALLOW"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The schema settings of a source."""

    track: CallSettings = field(default_factory=CallSettings)
    identify: CallSettings = field(default_factory=CallSettings)
    group: CallSettings = field(default_factory=CallSettings)

    @classmethod
    def load(cls, settings: Mapping[str, Any]) -> Settings:
        """Take the settings as Segment's Public API gives them. What is not in them lets everything pass.

        Raises:
            PlanError: they are no mapping, or a name or a value in them is none that Segment knows.
        """
        given: object = settings
        if not isinstance(given, Mapping):
            raise PlanError(
                "settings must be a mapping with track, identify and group, as Segment's Public API gives it; "
                "read a file with json.load first"
            )
        _check_names(settings, (*_NAMES, *_OTHERS), "")
        calls = {name: _call(settings, name) for name in _NAMES}
        return cls(track=_track(calls["track"]), identify=_traits(calls["identify"]), group=_traits(calls["group"]))


_COMMON: Final = "commonEventOnViolations"
_OF_TRAITS: Final = ("allowUnplannedTraits", "allowTraitsOnViolations", _COMMON)
# What is set for each kind of call.
_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "track": (
        "allowUnplannedEvents",
        "allowUnplannedEventProperties",
        "allowEventOnViolations",
        "allowPropertiesOnViolations",
        _COMMON,
    ),
    "identify": _OF_TRAITS,
    "group": _OF_TRAITS,
}
# Where Segment sends violations on to: no business of a plan.
_OTHERS: Final = ("forwardingViolationsTo", "forwardingBlockedEventsTo")


def _call(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    given: object = settings.get(name, {})
    if not isinstance(given, Mapping):
        raise PlanError(f"{name} must be a mapping of settings")
    call = cast("Mapping[str, Any]", given)
    _check_names(call, _NAMES[name], f" of {name}")
    return call


def _check_names(given: Mapping[Any, Any], known: Sequence[str], place: str) -> None:
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise PlanError(f"unknown setting {name!r}{place}; {hint}")


def _track(given: Mapping[str, Any]) -> CallSettings:
    return CallSettings(
        unplanned_events=_flag(given, "allowUnplannedEvents"),
        unplanned_fields=_flag(given, "allowUnplannedEventProperties"),
        on_violation=_flag(given, "allowEventOnViolations"),
        violating_fields=_flag(given, "allowPropertiesOnViolations"),
        common=_common(given),
    )


def _traits(given: Mapping[str, Any]) -> CallSettings:
    return CallSettings(
        unplanned_fields=_flag(given, "allowUnplannedTraits"),
        violating_fields=_flag(given, "allowTraitsOnViolations"),
        common=_common(given),
    )


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, True)
    if not isinstance(value, bool):
        raise PlanError(f"{name} must be true or false")
    return value


def _common(given: Mapping[str, Any]) -> OnCommonViolation:
    value = given.get(_COMMON, "ALLOW")
    if value not in get_args(OnCommonViolation):
        raise PlanError(f"{_COMMON} must be one of {', '.join(get_args(OnCommonViolation))}")
    return cast("OnCommonViolation", value)


@dataclass(frozen=True, slots=True)
class Decision:
    """What Segment does with a message.

    Attributes:
        verdicts: the violations that led to it.
        is_kept: `False`: Segment blocks the message.
        omitted: the paths of the properties and traits that Segment leaves out, such as ``properties.coupon``.
    """

    verdicts: tuple[Verdict, ...]
    is_kept: bool
    omitted: tuple[str, ...]


_SECTIONS: Final = ("properties", "traits")
_CALLS: Final = {"identify": "identify", "group": "group"}


def decide(message: Mapping[str, Any], verdicts: Iterable[Verdict], settings: Settings) -> Decision:
    """Apply the settings to what `Plan.judge` found."""
    verdicts = tuple(verdicts)
    kind = message.get("type")
    chosen: CallSettings = getattr(settings, _CALLS.get(kind, "track") if isinstance(kind, str) else "track")
    omitted: dict[str, None] = {}
    is_kept = True
    for verdict in verdicts:
        match verdict.rule:
            case "plan-unplanned-event":
                is_kept &= chosen.unplanned_events
            case "plan-unplanned-property":
                _omit(omitted, message, verdict.path, wanted=not chosen.unplanned_fields)
            case "plan-violation":
                is_kept &= chosen.on_violation
                _omit(omitted, message, verdict.path, wanted=not chosen.violating_fields)
            case _:
                is_kept &= chosen.common != "BLOCK"
                _omit(omitted, message, verdict.path, wanted=chosen.common == "OMIT_PROPERTIES")
    return Decision(verdicts, is_kept, tuple(omitted) if is_kept else ())


def _omit(omitted: dict[str, None], message: Mapping[str, Any], path: str, *, wanted: bool) -> None:
    """Omit the whole property or trait that the path leads into; one that is missing cannot be omitted."""
    if not wanted:
        return
    section, _, rest = path.partition(".")
    if section not in _SECTIONS:
        return
    # Names may contain dots: the longest that is there.
    names = [
        name for name in as_object(message.get(section)) if rest == name or rest.startswith((f"{name}.", f"{name}["))
    ]
    if names:
        omitted[f"{section}.{max(names, key=len)}"] = None
