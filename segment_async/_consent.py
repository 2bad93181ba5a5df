"""What a visitor consented to, and what follows for what is done without being asked: page views and the cookie.

Pure: knows neither requests nor messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Preferences = Mapping[str, bool]
GPC = Literal["ignore", "drop"] | Preferences


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


def weighed(given: Preferences | None, *, is_asked_for: bool, gpc: GPC, objects: bool) -> Consent:
    """`objects`: the browser says `Sec-GPC: 1`."""
    preferences = {str(category): granted is True for category, granted in (given or {}).items()}
    if objects and not isinstance(gpc, str):
        preferences |= {str(category): granted is True for category, granted in gpc.items()}
    is_denied = (objects and gpc == "drop") or (given is not None and not any(preferences.values()))
    return Consent(
        preferences=preferences or None,
        allows_page_views=not is_denied,
        allows_cookie=not is_denied and (given is not None or not is_asked_for),
    )
