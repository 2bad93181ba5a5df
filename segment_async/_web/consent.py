"""What a visitor consented to, and what follows for what is done without being asked: page views and the cookie.

Pure: knows neither requests nor messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Preferences = Mapping[str, bool]
GPC = Literal["ignore", "drop"] | Preferences

_MOST_CATEGORIES: Final = 64
_MOST_CHARACTERS: Final = 2_048


@dataclass(frozen=True, slots=True)
class Consent:
    """Attributes:
    preferences: for `context.consent.categoryPreferences`; `None`: nothing travels. Never empty, which means
        *deny all* (https://segment.com/docs/privacy/consent-management/).
    allows_page_views: unless every category is denied.
    allows_cookie: the same, and where consent is asked for, an answer is there.
    """

    preferences: dict[str, bool] | None = None
    allows_page_views: bool = True
    allows_cookie: bool = True


def preferences_of(answer: Any) -> dict[str, bool] | None:
    """An answer of the application's as preferences.

    Raises:
        TypeError: it is none.
        ValueError: it would hardly leave room in a message.
    """
    if answer is None:
        return None
    if not isinstance(answer, Mapping):
        raise TypeError
    preferences = {str(category): granted is True for category, granted in answer.items()}
    if len(preferences) > _MOST_CATEGORIES or sum(map(len, preferences)) > _MOST_CHARACTERS:
        raise ValueError
    return preferences


def weighed(given: Preferences | None, *, is_asked_for: bool, gpc: GPC, objects: bool) -> Consent:
    """`objects`: the browser says `Sec-GPC: 1`."""
    preferences = dict(given or {})
    if objects and not isinstance(gpc, str):
        preferences |= gpc
    is_denied = (objects and gpc == "drop") or (given is not None and not any(preferences.values()))
    return Consent(
        preferences=preferences or None,
        allows_page_views=not is_denied,
        allows_cookie=not is_denied and (given is not None or not is_asked_for),
    )
