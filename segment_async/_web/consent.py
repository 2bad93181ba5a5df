"""A visitor's consent, and whether it allows the page views and the cookie of the middleware.

Pure: knows neither requests nor messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from segment_async._hooks import WrongResult

Preferences = Mapping[str, bool]
GPC = Literal["ignore", "drop"] | Preferences

# Surrogates, which no JSON holds.
_LONE: Final = re.compile("[\ud800-\udfff]")
_MAX_CATEGORIES: Final = 64
_MAX_CHARACTERS: Final = 2_048


@dataclass(frozen=True, slots=True)
class Consent:
    """What a visitor allows.

    Attributes:
        preferences: for `context.consent.categoryPreferences`; `None`: the field is not sent. Never empty, because an
            empty object means *deny all* (https://segment.com/docs/privacy/consent-management/).
        allows_page_views: false if every category is denied.
        allows_cookie: the same, and false as well while the visitor's consent is not known but required.
    """

    preferences: dict[str, bool] | None = None
    allows_page_views: bool = True
    allows_cookie: bool = True


def parse_preferences(value: Any) -> dict[str, bool] | None:
    """The preferences that the application returned.

    Raises:
        WrongResult: the value is not a mapping, or the preferences would take too much of a message's size.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        kind = type(value).__name__
        raise WrongResult(f'must return a mapping such as {{"Advertising": False}}, or None, not {kind}')
    given = cast("Mapping[object, object]", value)
    preferences = {_LONE.sub("\ufffd", str(category)): granted is True for category, granted in given.items()}
    if len(preferences) > _MAX_CATEGORIES or sum(map(len, preferences)) > _MAX_CHARACTERS:
        raise WrongResult(f"returned more than {_MAX_CATEGORIES} categories, or {_MAX_CHARACTERS:,} characters")
    return preferences


def evaluate(given: Preferences | None, *, is_required: bool, gpc: GPC, has_gpc_signal: bool) -> Consent:
    """The consent that follows from the application's preferences and the browser's `Sec-GPC: 1`.

    `is_required`: the application asks for consent, so that `given` is `None` only while it is not known.
    """
    preferences = dict(given or {})
    if has_gpc_signal and not isinstance(gpc, str):
        preferences |= gpc
    # If the visitor has denied everything, the preferences in `gpc` cannot allow anything.
    allows_something = given is None or (any(given.values()) and any(preferences.values()))
    is_denied = not allows_something or (has_gpc_signal and gpc == "drop")
    return Consent(
        preferences=preferences or None,
        allows_page_views=not is_denied,
        allows_cookie=not is_denied and (given is not None or not is_required),
    )
