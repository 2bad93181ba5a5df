"""Filters a query string: keep all of it, nothing, the campaign's fields, or what does not look like a secret.

Pure: text in, text out. Parameters are kept unchanged or removed, so that a broken percent-encoding does not matter.
This file knows neither requests nor messages.

Anyone can send any query, so that all work here grows with its length and no faster: a pattern repeats without a limit
only in its last position, and the number of parameters that are examined is limited.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import Final, Literal
from urllib.parse import unquote_plus, unquote_to_bytes

Mode = Literal["scrub", "utm", "none", "all"]

# How deep a parameter may contain another query string, as in the URL to return to after a login.
_MAX_DEPTH: Final = 3
# Parameters that are examined, the ones within others included, and characters of a name. The rest is not sent.
_MAX_EXAMINED: Final = 32
_MAX_NAME: Final = 128

# Anywhere in a parameter's name, in lower case and without separators.
_SECRET_WORDS: Final = (
    *("token", "secret", "passw", "pwd", "passphrase", "credential", "signature", "session", "jwt", "bearer", "oauth"),
    *("saml", "csrf", "xsrf", "xamz", "hmac", "cookie", "apikey", "accesskey", "privatekey", "authkey"),
    *("encryptionkey", "licensekey", "clientkey", "userkey", "signingkey", "authorisation", "authorization"),
    *("authcode", "authenticat"),
)
# One of the first, with one of the second behind it.
_SECRET_ACTIONS: Final = (
    *("verif", "reset", "confirm", "activat", "invit", "login", "magic", "oob", "security", "access", "sms", "mfa"),
)
_SECRET_THINGS: Final = ("code", "link", "key", "hash")
# The whole name only: too many longer names are harmless, such as `promo_code` and `sort_key`.
_WHOLE_SECRET_NAMES: Final = frozenset(
    (
        *("key", "code", "sig", "auth", "pass", "pw", "pin", "sid", "otp", "totp", "mfa", "nonce", "ticket", "hash"),
        *("verify", "verifier", "assertion", "reset", "activation", "invite", "invitation", "magic", "sso"),
    )
)
_SEPARATORS: Final = re.compile(r"[\W_]")
_KEY: Final = re.compile(
    r"\b(?:[sr]k_(?:live|test)_|gh[opsur]_|github_pat_|xox[a-z]-|glpat-|npm_|sk-|AKIA|AIza|ya29\.|SG\.)[\w.-]{8}"
)
# One of them is in each match of the pattern.
_KEY_BEGINNINGS: Final = ("k_", "gh", "github_pat_", "xox", "glpat-", "npm_", "sk-", "AKIA", "AIza", "ya29.", "SG.")
_TOKEN_PART: Final = re.compile(r"[\w-]*")
_AUTHORITY: Final = re.compile(r"[^/?#\s]*")
# Fewer letters and digits than this never match one of the patterns above.
_SHORTEST_SECRET: Final = 12
_NESTED: Final = re.compile(r"[?&;#]")
_LONG_TEXT: Final = re.compile(r"[\w+=-]{32,}", re.ASCII)
_HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F]{32,}")
_UTM: Final = re.compile(r"utm_\w{1,60}", re.ASCII)
# Parameters of advertising networks, whose values look random.
_CLICK_ID: Final = re.compile(
    r"utm_\w{1,60}|gclid|gbraid|wbraid|dclid|gclsrc|srsltid|_g[al]|fbclid|msclkid|ttclid|twclid|li_fat_id|yclid|igshid|epik"
    r"|irclickid|sccid|rdt_cid|mc_cid",
    re.IGNORECASE,
)


def filtered(query: str, mode: Mode) -> str:
    """The parameters of the query that may be sent, unchanged."""
    if mode == "all" or not query:
        return query
    if mode == "none":
        return ""
    examination = _Examination()
    parts = [part for part in query.split("&", _MAX_EXAMINED)[:_MAX_EXAMINED] if part]
    if mode == "utm":
        parts = [part for part in parts if part.startswith("utm_")]
    return "&".join(part for part in parts if not examination.finds_secret(part, _MAX_DEPTH))


def campaign(query: str) -> dict[str, str]:
    """The `utm_*` parameters under the names of Segment's browser library: `utm_campaign` becomes `name`."""
    fields: dict[str, str] = {}
    if "utm_" not in query:
        return fields
    for part in query.split("&", _MAX_EXAMINED)[:_MAX_EXAMINED]:
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


class _Examination:
    """Examines the parameters of one query, up to a number of them; what is not examined counts as a secret."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _MAX_EXAMINED

    def finds_secret(self, part: str, depth: int, *, is_checked: bool = False, is_decoded: bool = False) -> bool:
        """Whether the parameter is a secret, or contains one in a query string within it.

        `is_checked`: it is a part of a value that was found to be harmless. `is_decoded`: decoding changes nothing.
        """
        self._left -= 1
        if self._left < 0:
            return True
        name, _, value = part.partition("=")
        # Decoding takes long for many percent signs, and makes text shorter by two thirds at most.
        if len(name) > 3 * _MAX_NAME or (len(part) > _MAX_NAME and 3 * part.count("%") > len(part)):
            return True
        encoded = value
        if not is_decoded and ("%" in part or "+" in part):
            name, value = unquote_plus(name), unquote_plus(value)
        is_decoded = value == encoded
        is_checked = is_checked and is_decoded
        if len(name) > _MAX_NAME or _names_a_secret(name):
            return True
        if len(value) < _SHORTEST_SECRET and value.isalnum():
            return False
        may_be_random = _CLICK_ID.fullmatch(name) is not None
        if not is_checked and (_is_secret_value(value) or (not may_be_random and _looks_random(value))):
            return True
        return any(
            depth == 0 or self.finds_secret(piece, depth - 1, is_checked=not may_be_random, is_decoded=is_decoded)
            for piece in _NESTED.split(value)
            if "=" in piece or "%" in piece
        )


@lru_cache(maxsize=1_024)
def _names_a_secret(name: str) -> bool:
    bare = _SEPARATORS.sub("", name.lower())
    if bare in _WHOLE_SECRET_NAMES or any(word in bare for word in _SECRET_WORDS):
        return True
    ends = [bare.find(action) + len(action) for action in _SECRET_ACTIONS if action in bare]
    return bool(ends) and any(bare.find(thing, min(ends)) >= 0 for thing in _SECRET_THINGS)


def _is_secret_value(value: str) -> bool:
    """Whether it contains a private key, a key of a well-known service, a JSON Web Token, or a password in a URL."""
    if "-----BEGIN" in value:
        return True
    if any(beginning in value for beginning in _KEY_BEGINNINGS) and _KEY.search(value) is not None:
        return True
    return ("eyJ" in value and _contains_token(value)) or ("://" in value and _contains_password(value))


def _contains_token(value: str) -> bool:
    """Whether there are three parts with dots between them, of which the first begins like encoded JSON."""
    parts = value.split(".")
    heads = pairwise(parts[:-1])
    return any(
        second
        and "eyJ" in first
        and _TOKEN_PART.fullmatch(second)
        and _TOKEN_PART.fullmatch(first.rpartition("eyJ")[2])
        for first, second in heads
    )


def _contains_password(value: str) -> bool:
    authorities = [_AUTHORITY.match(rest) for rest in value.split("://")[1:]]
    return any(":" in authority[0].rpartition("@")[0] for authority in authorities if authority is not None)


def _looks_random(value: str) -> bool:
    """Whether it has a long run of digits and letters in both cases, or of hexadecimal digits."""
    for text in _LONG_TEXT.findall(value):
        if any(map(str.isdigit, text)) and (
            _HEXADECIMAL.fullmatch(text) or (text.lower() != text and text.upper() != text)
        ):
            return True
    return False
