"""Whom a request comes from, as far as the application's options allow to know it.

Asks the application's callables and puts their answers beside what `_request` reads. This file knows neither clients
nor responses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from segment_async._hooks import Contained

from .bots import is_bot
from .consent import GPC, Consent, preferences_of, weighed
from .query import Mode
from .request import (
    Headers,
    Network,
    asks_for_html,
    context_of,
    cookie_id,
    headers_of,
    is_prefetch,
    objects_to_sale,
)

NoIdentity = Literal["skip", "mint", "raise"]
Scope = Mapping[str, Any]
Ask = Callable[[Any], Any] | None

ANONYMOUS_COOKIE: Final = b"ajs_anonymous_id"
_USER_COOKIE: Final = b"ajs_user_id"
_UNASKED: Final = Consent()
# Characters of an id that the application gives; a message has room for no more than so many of these.
_MAX_USER_ID: Final = 1_024


@dataclass(slots=True)
class Visitor:
    """Attributes:
    may_be_counted: a page that answers this request is seen by a person who does not object.
    may_get_cookie: has none yet, and none is refused.
    """

    headers: Headers = field(default_factory=dict)
    user_id: str | None = None
    anonymous_id: str | None = None
    context: dict[str, Any] = field(default_factory=dict)
    may_be_counted: bool = False
    may_get_cookie: bool = False

    @property
    def page(self) -> Mapping[str, str]:
        page: Mapping[str, str] = self.context.get("page", {})
        return page


class Reader:
    def __init__(
        self,
        contained: Contained,
        *,
        user_id: Ask,
        trust_user_cookie: bool,
        proxies: Sequence[Network],
        no_identity: NoIdentity,
        set_cookie: bool,
        page_views: bool,
        excluded: re.Pattern[str],
        skip_bots: bool,
        query: Mode,
        consent: Ask,
        gpc: GPC,
    ) -> None:
        self._contained = contained
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
        """Never raises: of a request that cannot be read, nothing is known."""
        try:
            return await self._read(scope)
        except Exception as fault:
            self._contained.say("Reading a request", fault)
            return Visitor()

    async def _read(self, scope: Scope) -> Visitor:
        headers = headers_of(scope)
        visitor = Visitor(headers, context=context_of(scope, headers, self._proxies, self._query))
        visitor.anonymous_id = cookie_id(headers, ANONYMOUS_COOKIE)
        visitor.user_id = await self._known_user(scope, headers)
        consent = await self._weighed_consent(scope, headers)
        if consent.preferences is not None:
            visitor.context["consent"] = {"categoryPreferences": consent.preferences}
        if (self._counts_pages or self._sets_cookie) and self._is_visit(scope, headers):
            visitor.may_be_counted = self._counts_pages and consent.allows_page_views
            visitor.may_get_cookie = self._sets_cookie and consent.allows_cookie and visitor.anonymous_id is None
        if self._needs_id(visitor):
            visitor.anonymous_id = new_id()
        return visitor

    def _needs_id(self, visitor: Visitor) -> bool:
        if visitor.anonymous_id is not None:
            return False
        # Whoever asks for HTML most likely gets it, and the cookie with it: calls before that carry its id already.
        gets_cookie = visitor.may_get_cookie and asks_for_html(visitor.headers)
        return gets_cookie or (self._mints and visitor.user_id is None)

    async def _known_user(self, scope: Scope, headers: Headers) -> str | None:
        known = None
        if self._user_id is not None:
            known = await self._contained.ask("user_id", self._user_id, scope, _user_id_of, None)
        if known is None and self._trusts_user_cookie:
            known = cookie_id(headers, _USER_COOKIE)
        return known

    async def _weighed_consent(self, scope: Scope, headers: Headers) -> Consent:
        if self._consent is None and self._gpc == "ignore":
            return _UNASKED
        given: dict[str, bool] | None = None
        if self._consent is not None:
            # Whoever could not be asked allowed nothing: the empty mapping denies.
            denied: dict[str, bool] | None = {}
            given = await self._contained.ask("consent", self._consent, scope, preferences_of, denied)
        objects = objects_to_sale(headers)
        return weighed(given, is_asked_for=self._consent is not None, gpc=self._gpc, objects=objects)

    def _is_visit(self, scope: Scope, headers: Headers) -> bool:
        """Somebody who may be a person asks for what may be a page."""
        if scope["type"] != "http" or scope["method"] != "GET" or is_prefetch(headers):
            return False
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if self._excluded.match(path):
            return False
        return not (self._skips_bots and is_bot(headers.get(b"user-agent", b"").decode("latin-1")))


def _user_id_of(answer: Any) -> str | None:
    """Raises:
    TypeError: it is no id; ValueError: it is too long for one.
    """
    if answer is None:
        return None
    if isinstance(answer, bool) or not isinstance(answer, (str, int, UUID)):
        raise TypeError
    text = str(answer)
    if len(text) > _MAX_USER_ID:
        raise ValueError
    return text or None


def new_id() -> str:
    """An anonymous id as Segment's browser library makes them."""
    return str(uuid4())
