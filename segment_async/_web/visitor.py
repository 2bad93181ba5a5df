"""Identifies the visitor of a request, as far as the application's options allow.

Calls the functions that the application passed in, and combines their results with what `request` and `cookies` read.
This file knows neither clients nor responses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import UUID

from segment_async._hooks import HookRunner

from . import cookies
from .bots import is_bot
from .consent import GPC, Consent, evaluate, parse_preferences
from .query import Mode
from .request import (
    Headers,
    Network,
    Scope,
    asks_for_html,
    context_of,
    has_gpc_signal,
    headers_of,
    is_prefetch,
    path_within,
)

NoIdentity = Literal["skip", "mint", "raise"]
Hook = Callable[[Any], Any] | None

_UNRESTRICTED: Final = Consent()
# The most characters of a user id that the application returns; several longer ones would not fit in a message.
_MAX_USER_ID: Final = 1_024


@dataclass(slots=True)
class Visitor:
    """The visitor of one request.

    Attributes:
        may_be_counted: a page in response to this request counts as a page view: a person asked for it, and does not object.
        may_get_cookie: the visitor has no cookie yet, and does not refuse one.
    """

    headers: Headers = field(default_factory=dict[bytes, bytes])
    user_id: str | None = None
    anonymous_id: str | None = None
    context: dict[str, Any] = field(default_factory=dict[str, Any])
    may_be_counted: bool = False
    may_get_cookie: bool = False

    @property
    def page(self) -> Mapping[str, str]:
        page: Mapping[str, str] = self.context.get("page", {})
        return page


class RequestReader:
    def __init__(
        self,
        hooks: HookRunner,
        *,
        user_id: Hook,
        trust_user_cookie: bool,
        proxies: Sequence[Network],
        no_identity: NoIdentity,
        set_cookie: bool,
        page_views: bool,
        excluded: re.Pattern[str],
        skip_bots: bool,
        query: Mode,
        consent: Hook,
        gpc: GPC,
    ) -> None:
        self._hooks = hooks
        self._user_id = user_id
        self._trusts_user_cookie = trust_user_cookie
        self._proxies = proxies
        self._mints = no_identity == "mint"
        self._sets_cookie = set_cookie
        self._counts_pages = page_views
        self._excluded = excluded
        self._skips_bots = skip_bots
        self._query: Mode = query
        self._consent = consent
        self._gpc: GPC = gpc

    async def read(self, scope: Scope) -> Visitor:
        """Read the visitor. Never raises: the visitor of a malformed request is unknown."""
        try:
            return await self._read(scope)
        except Exception as error:
            self._hooks.log_once("reading a request", error)
            return Visitor()

    async def _read(self, scope: Scope) -> Visitor:
        headers = headers_of(scope)
        visitor = Visitor(headers, context=context_of(scope, headers, self._proxies, self._query))
        visitor.anonymous_id = cookies.read_id(headers.get(b"cookie", b""), cookies.ANONYMOUS_ID)
        visitor.user_id = await self._read_user_id(scope, headers)
        consent = await self._read_consent(scope, headers)
        if consent.preferences is not None:
            visitor.context["consent"] = {"categoryPreferences": consent.preferences}
        if (self._counts_pages or self._sets_cookie) and self._is_visit(scope, headers):
            visitor.may_be_counted = self._counts_pages and consent.allows_page_views
            visitor.may_get_cookie = self._sets_cookie and consent.allows_cookie and visitor.anonymous_id is None
        if self._needs_id(visitor):
            visitor.anonymous_id = cookies.new_anonymous_id()
        return visitor

    def _needs_id(self, visitor: Visitor) -> bool:
        if visitor.anonymous_id is not None:
            return False
        # The response to a request for HTML most likely sets the cookie: let the calls before it have the same id.
        gets_cookie = visitor.may_get_cookie and asks_for_html(visitor.headers)
        return gets_cookie or (self._mints and visitor.user_id is None)

    async def _read_user_id(self, scope: Scope, headers: Headers) -> str | None:
        user_id = None
        if self._user_id is not None:
            user_id = await self._hooks.call("user_id", self._user_id, scope, _parse_user_id, None)
        if user_id is None and self._trusts_user_cookie:
            user_id = cookies.read_id(headers.get(b"cookie", b""), cookies.USER_ID)
        return user_id

    async def _read_consent(self, scope: Scope, headers: Headers) -> Consent:
        if self._consent is None and self._gpc == "ignore":
            return _UNRESTRICTED
        given: dict[str, bool] | None = None
        if self._consent is not None:
            # If the function fails, nothing is allowed: an empty mapping denies everything.
            denied: dict[str, bool] | None = {}
            given = await self._hooks.call("consent", self._consent, scope, parse_preferences, denied)
        signal = has_gpc_signal(headers)
        return evaluate(given, is_required=self._consent is not None, gpc=self._gpc, has_gpc_signal=signal)

    def _is_visit(self, scope: Scope, headers: Headers) -> bool:
        """Whether a person may be asking for a page, as far as the request shows."""
        if scope["type"] != "http" or scope["method"] != "GET" or is_prefetch(headers):
            return False
        if self._excluded.match(path_within(scope)):
            return False
        return not (self._skips_bots and is_bot(headers.get(b"user-agent", b"").decode("latin-1")))


def _parse_user_id(value: Any) -> str | None:
    """The user id that the application returned.

    Raises:
        TypeError: the value is not an id.
        ValueError: the id is too long.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, UUID)):
        raise TypeError
    text = str(value)
    if len(text) > _MAX_USER_ID:
        raise ValueError
    return text or None
