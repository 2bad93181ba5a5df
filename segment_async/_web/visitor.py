"""Identifies the visitor of a request, as far as the application's options allow.

Calls the functions that the application passed in, and combines their results with what `request` and `cookies` read.
This file knows neither clients nor responses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

import orjson

from segment_async._hooks import HookRunner, WrongResult

from . import cookies
from .bots import is_bot
from .consent import GPC, Consent, evaluate, parse_preferences
from .encoded import context_json
from .query import Mode
from .request import (
    Headers,
    Network,
    Scope,
    all_headers_of,
    asks_for_html,
    context_of,
    has_gpc_signal,
    headers_of,
    is_prefetch,
    path_within,
    pieces_of,
)

NoIdentity = Literal["skip", "mint", "raise"]
Hook = Callable[[Any], Any] | None
EncodedFields = tuple[str | None, str | None, bytes]
"""A user id, an anonymous id, and the JSON of a context's members, without braces."""

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

    def encoded(self) -> EncodedFields:
        return self.user_id, self.anonymous_id, orjson.dumps(self.context)[1:-1]


class Answers(NamedTuple):
    """What the application's functions returned for one request.

    Attributes:
        preferences: the visitor's consent by category; `None`: it is not known.
    """

    user_id: str | None = None
    preferences: dict[str, bool] | None = None


NO_ANSWERS: Final = Answers()


class RequestReader:
    """Attributes:
    asks: there are functions of the application's to call.
    observes: a GET must be read before the application answers: a page view or a cookie may follow.
    """

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
        self.observes = page_views or set_cookie
        self._excluded = excluded
        self._skips_bots = skip_bots
        self._query: Mode = query
        self._consent = consent
        self.asks = user_id is not None or consent is not None
        self._gpc: GPC = gpc
        self._considers_consent = consent is not None or gpc != "ignore"

    def later(self, scope: Scope, answers: Answers = NO_ANSWERS) -> Callable[[], EncodedFields]:
        """Returns what reads the request as it is now, and never raises. `answers`: what `ask` returned, if `asks`."""
        try:
            pieces = pieces_of(scope)
        except Exception:
            # Then it cannot be read either, which is logged.
            pieces = {}
        return partial(self._read_late, pieces, answers)

    def _read_late(self, pieces: Mapping[str, Any], answers: Answers) -> EncodedFields:
        try:
            headers = all_headers_of(pieces)
            context = context_json(pieces, headers, self._proxies, self._query)
            if self._considers_consent and (preferences := self._evaluate(answers, headers).preferences) is not None:
                context += b',"consent":{"categoryPreferences":%b}' % orjson.dumps(preferences)
            user_id = self._user_id_of(answers, headers) if self._trusts_user_cookie else answers.user_id
            sent = headers.get(b"cookie")
            anonymous_id = cookies.read_id(sent, cookies.ANONYMOUS_ID) if sent else None
            if self._mints and user_id is None and anonymous_id is None:
                anonymous_id = cookies.new_anonymous_id()
        except Exception as error:
            self._hooks.log_once("reading a request", error)
            return None, None, b""
        return user_id, anonymous_id, context

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
        answers = await self.ask(scope)
        visitor.user_id = self._user_id_of(answers, headers)
        consent = self._evaluate(answers, headers)
        if consent.preferences is not None:
            visitor.context["consent"] = {"categoryPreferences": consent.preferences}
        if self.observes and self._is_visit(scope, headers):
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

    async def ask(self, scope: Scope) -> Answers:
        """Call the application's functions."""
        user_id: str | None = None
        if self._user_id is not None:
            user_id = await self._hooks.call("user_id", self._user_id, scope, _parse_user_id, None)
        preferences: dict[str, bool] | None = None
        if self._consent is not None:
            # If the function fails, nothing is allowed: an empty mapping denies everything.
            denied: dict[str, bool] | None = {}
            preferences = await self._hooks.call("consent", self._consent, scope, parse_preferences, denied)
        return Answers(user_id, preferences)

    def _user_id_of(self, answers: Answers, headers: Headers) -> str | None:
        if answers.user_id is None and self._trusts_user_cookie:
            return cookies.read_id(headers.get(b"cookie", b""), cookies.USER_ID)
        return answers.user_id

    def _evaluate(self, answers: Answers, headers: Headers) -> Consent:
        if not self._considers_consent:
            return _UNRESTRICTED
        is_required, signal = self._consent is not None, has_gpc_signal(headers)
        return evaluate(answers.preferences, is_required=is_required, gpc=self._gpc, has_gpc_signal=signal)

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
        WrongResult: the value is not an id, or too long.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, UUID)):
        raise WrongResult(f"must return a str, an int, a UUID or None, not {type(value).__name__}")
    text = str(value)
    if len(text) > _MAX_USER_ID:
        raise WrongResult(f"returned more than {_MAX_USER_ID:,} characters")
    return text or None
