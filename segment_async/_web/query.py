"""Filters a query string: keep all of it, nothing, the campaign's fields, or what does not look like a secret.

Pure: text in, text out. Parameters are kept unchanged or removed, so that a broken percent-encoding does not matter.
This file knows neither requests nor messages.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import unquote_plus, unquote_to_bytes

Mode = Literal["scrub", "utm", "none", "all"]

# How deep a parameter may contain another query string, as in the URL to return to after a login.
_MAX_DEPTH: Final = 3

# Matches anywhere in a parameter's name, in lower case and without separators.
_SECRET_NAME: Final = re.compile(
    r"token|secret|passw|pwd|passphrase|credential|signature|session|jwt|bearer|oauth|saml|[cx]srf|xamz|hmac|cookie"
    r"|(?:api|access|private|auth|encryption|license|client|user|signing)key|auth(?:ori[sz]ation|code|enticat)"
    r"|(?:verif|reset|confirm|activat|invit|login|magic|oob|security|access|sms|mfa)\w*(?:code|link|key|hash)"
)
# Matches the whole name only: too many longer names are harmless, such as `promo_code` and `sort_key`.
_WHOLE_SECRET_NAME: Final = re.compile(
    r"key|code|sig|auth|pass|pw|pin|sid|otp|totp|mfa|nonce|ticket|hash|verify|verifier|assertion|reset|activation"
    r"|invite|invitation|magic|sso"
)
_SECRET_VALUE: Final = re.compile(
    r"eyJ[\w-]+\.[\w-]+\."  # a JSON Web Token
    r"|-----BEGIN|://[^/?#\s]*:[^/?#\s]*@"  # a private key; a password in a URL
    r"|\b(?:[sr]k_(?:live|test)_|gh[opsur]_|github_pat_|xox[a-z]-|glpat-|npm_|sk-|AKIA|AIza|ya29\.|SG\.)[\w.-]{8,}"
)
# Fewer letters and digits than this never match the pattern above.
_SHORTEST_SECRET: Final = 12
_LONG_TEXT: Final = re.compile(r"[\w+=-]{32,}", re.ASCII)
_HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F]{32,}")
_UTM: Final = re.compile(r"utm_\w{1,60}", re.ASCII)
# Parameters of advertising networks, whose values look random.
_CLICK_ID: Final = re.compile(
    r"utm_\w+|gclid|gbraid|wbraid|dclid|gclsrc|srsltid|_g[al]|fbclid|msclkid|ttclid|twclid|li_fat_id|yclid|igshid|epik"
    r"|irclickid|sccid|rdt_cid|mc_cid",
    re.IGNORECASE,
)


def filtered(query: str, mode: Mode) -> str:
    """The parameters of the query that may be sent, unchanged."""
    if mode == "all" or not query:
        return query
    if mode == "none":
        return ""
    keeps = _is_utm if mode == "utm" else _is_harmless
    return "&".join(part for part in query.split("&") if part and keeps(part))


def campaign(query: str) -> dict[str, str]:
    """The `utm_*` parameters under the names of Segment's browser library: `utm_campaign` becomes `name`."""
    fields: dict[str, str] = {}
    if "utm_" not in query:
        return fields
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if _UTM.fullmatch(name) and value:
            fields["name" if name == "utm_campaign" else name[4:]] = decoded(value)
    return fields


def decoded(value: str) -> str:
    """The value decoded like in the browser library, or unchanged if it is not valid."""
    try:
        return unquote_to_bytes(value.replace("+", " ")).decode()
    except UnicodeDecodeError:
        return value


def _is_utm(part: str) -> bool:
    return part.startswith("utm_") and _is_harmless(part)


def _is_harmless(part: str) -> bool:
    return not _is_secret(part, _MAX_DEPTH)


def _is_secret(part: str, depth: int) -> bool:
    name, _, value = part.partition("=")
    if "%" in part or "+" in part:
        name, value = unquote_plus(name), unquote_plus(value)
    return _names_a_secret(name) or _holds_a_secret(name, value, depth)


@lru_cache(maxsize=1_024)
def _names_a_secret(name: str) -> bool:
    bare = re.sub(r"[\W_]", "", name.lower())
    return _WHOLE_SECRET_NAME.fullmatch(bare) is not None or _SECRET_NAME.search(bare) is not None


def _holds_a_secret(name: str, value: str, depth: int) -> bool:
    if len(value) < _SHORTEST_SECRET and value.isalnum():
        return False
    if _SECRET_VALUE.search(value) or (not _CLICK_ID.fullmatch(name) and _looks_random(value)):
        return True
    nested = [part for part in re.split(r"[?&;#]", value) if "=" in part or "%" in part]
    return any(depth == 0 or _is_secret(part, depth - 1) for part in nested)


def _looks_random(value: str) -> bool:
    """Whether it has a long run of digits and letters in both cases, or of hexadecimal digits."""
    for text in _LONG_TEXT.findall(value):
        if any(map(str.isdigit, text)) and (
            _HEXADECIMAL.fullmatch(text) or (text.lower() != text and text.upper() != text)
        ):
            return True
    return False
