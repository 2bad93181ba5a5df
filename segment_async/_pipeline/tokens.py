"""Tokens of an OAuth application (https://segment.com/docs/connections/oauth/), from a token server.

They are fetched when traffic needs them, renewed in its background at half their life, one request at a time however
many batches wait. Key material stays in memory. This file knows no batches.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from os import urandom
from typing import Any, Final

import orjson

from segment_async._exceptions import TransportError
from segment_async._http.transport import HTTPTransport, Response, Secret, Transport
from segment_async._lifecycle.loop_end import abandon_after_fork, end

from .auth import OAuth, Refused
from .retry import RetryPolicy, header, http_date, retry_after

_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# Seconds that an assertion is dated back, and good for: clocks differ a little.
_DATED_BACK: Final = 5
_GOOD_FOR: Final = 60
# Seconds to wait after a 429 that does not say how long.
_RATE_LIMITED: Final = 5.0
# Seconds for which a final refusal stands before the token server is asked again.
_REFUSAL_STANDS: Final = 60.0
_FINAL: Final = frozenset({400, 401, 415})
# What token servers say when a clock is off, theirs or ours; also within a code such as `invalid_iat`.
_SKEW: Final = re.compile(rb"(?<![a-z0-9])(iat|exp|expired|too[ _]early)(?![a-z0-9])", re.IGNORECASE)
_RENEW_AT: Final = 0.5
# Seconds that a token must be good for. A shorter one has expired before a request can use it, and the next call would
# fetch another one at once.
_SHORTEST_LIFETIME: Final = 1.0


class TokenRequests:
    """Makes the forms that ask for tokens, each with a signed assertion, dated by the token server's clock.

    Args:
        audience: the token server's origin, without a trailing slash.
        wall_clock: seconds since the epoch.

    Raises:
        ImportError: the extra ``oauth`` is not installed.
        ValueError: the key cannot be used.
    """

    def __init__(self, oauth: OAuth, audience: str, wall_clock: Callable[[], float]) -> None:
        try:
            # PyJWT signs with it, and says so only when it is asked to.
            import cryptography  # noqa: F401  # pyright: ignore[reportUnusedImport]
            import jwt
        except ImportError:
            raise ImportError("OAuth needs PyJWT: pip install 'segment-async[oauth]'") from None
        self._sign = jwt.encode
        self._key = _loaded(oauth.client_key, jwt.get_algorithm_by_name("RS256").prepare_key)
        if self._key is None:
            raise ValueError(
                "OAuth's client_key is not a usable private RSA key in PEM: pass the text of the file, such as "
                'Path("key.pem").read_text()'
            )
        self._oauth = oauth
        self._audience = audience
        self._wall_clock = wall_clock
        # Seconds that the server's clock is ahead of ours.
        self._skew = 0.0

    def assertion(self) -> Secret | None:
        """The signed claims; `None`: the key cannot be used."""
        moment = self._wall_clock() + self._skew
        claims = {
            "iss": self._oauth.client_id,
            "sub": self._oauth.client_id,
            "aud": self._audience,
            "iat": int(moment) - _DATED_BACK,
            "exp": int(moment) - _DATED_BACK + _GOOD_FOR,
            "jti": urandom(16).hex(),
        }
        try:
            return Secret(self._sign(claims, self._key, "RS256", {"kid": self._oauth.key_id}))
        except Exception:
            # Whatever it was, its text and its frames may hold the key.
            return None

    def form(self, assertion: Secret) -> bytes:
        fields = {
            "grant_type": "client_credentials",
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": assertion.value,
            "scope": self._oauth.scope,
        }
        from urllib.parse import urlencode

        return urlencode(fields).encode()

    def note_clock(self, answer: Response) -> None:
        """Date the next assertion by the clock of the server that gave this answer."""
        try:
            self._skew = http_date(header(answer, "date") or "") - self._wall_clock()
        except (ValueError, OverflowError):
            # No date, or none that can be read: what was known of the server's clock stands.
            pass

    def corrects_clock(self, answer: Response) -> bool:
        """Whether the refusal is a matter of clocks, and ours is set by the answer now."""
        if not _SKEW.search(answer.body):
            return False
        self.note_clock(answer)
        return True


@dataclass(frozen=True, slots=True)
class _Token:
    """Attributes:
    header: the value of the `Authorization` header.
    fetched_at, renew_at, expires_at: by the client's clock.
    """

    header: str = field(repr=False)
    fetched_at: float
    renew_at: float
    expires_at: float


_NO_TOKEN: Final = _Token("", -math.inf, -math.inf, -math.inf)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why there is no token to be had, for now; `at`: by the client's clock."""

    text: str
    at: float

    def stands(self, now: float) -> bool:
        """The token server is not to be asked again yet."""
        return now - self.at < _REFUSAL_STANDS


_NO_REFUSAL: Final = _Refusal("", -math.inf)


class Tokens:
    """Fetches tokens, one request at a time, and knows when to.

    Args:
        audience: the token server's origin, without a trailing slash.
        transport: posts to its ``/token``.
        now: the client's monotonic clock; `wall_clock`: seconds since the epoch; `random`: a random number from 0 to 1.
        note_failure: told why nothing can be sent, and in how many seconds a token is asked for again.
    """

    has_tokens = True

    def __init__(
        self,
        oauth: OAuth,
        audience: str,
        transport: Transport,
        policy: RetryPolicy,
        *,
        now: Callable[[], float],
        wall_clock: Callable[[], float],
        random: Callable[[], float],
        note_failure: Callable[[str, float], object],
    ) -> None:
        self._requests = TokenRequests(oauth, audience, wall_clock)
        self._audience = audience
        self._transport = transport
        self._policy = policy
        self._now = now
        self._wall_clock = wall_clock
        self._random = random
        self._note_failure = note_failure
        self._begin()

    def _begin(self) -> None:
        self.asks_at = -math.inf
        self._token = _NO_TOKEN
        self._refusal = _NO_REFUSAL
        self._fetching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return "<Tokens>"

    async def header(self) -> str:
        """The header's value, at once while the token is good; else when a new one has come.

        Raises:
            Refused: the server will not give one.
        """
        while self._now() >= self._token.expires_at:
            if self._refusal.stands(self._now()):
                raise Refused(self._refusal.text)
            # A caller that stops waiting leaves the fetching to the others.
            await asyncio.wait((self._fetch_once(),))
        if self._now() >= self._token.renew_at and not self._refusal.stands(self._now()):
            self._fetch_once()
        return self._token.header

    def renew(self, sent_at: float) -> None:
        """The token that was in use at this reading of the clock is worth nothing."""
        if self._token.fetched_at <= sent_at:
            self._token = replace(self._token, expires_at=-math.inf)

    async def close_here(self) -> None:
        if self._fetching is not None and self._fetching.get_loop() is asyncio.get_running_loop():
            self._stop_fetching()
        if isinstance(self._transport, HTTPTransport):
            await self._transport.close_here()

    async def aclose(self) -> None:
        self._stop_fetching()
        await self._transport.aclose()

    def abandon(self) -> None:
        self._stop_fetching()
        if isinstance(self._transport, HTTPTransport):
            self._transport.abandon()

    def abandon_after_fork(self) -> None:
        abandon_after_fork((self._fetching,))
        self._begin()
        self.abandon()

    def _fetch_once(self) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        fetching = self._fetching
        if fetching is None or fetching.done() or fetching.get_loop() is not loop:
            self._stop_fetching()
            fetching = self._fetching = loop.create_task(self._fetch(), name="segment_async token")
        return fetching

    def _stop_fetching(self) -> None:
        fetching, self._fetching = self._fetching, None
        if fetching is not None:
            end((fetching,))

    async def _fetch(self) -> None:
        failures = 0
        corrected = False
        while True:
            answer = await self._ask()
            if isinstance(answer, Response) and 200 <= answer.status < 300 and self._take(answer):
                return
            if isinstance(answer, Response) and answer.status in _FINAL:
                if corrected or not self._requests.corrects_clock(answer):
                    self._refuse(
                        f"{self._audience} answered {answer.status}: check client_id, key_id, client_key and scope of "
                        "the OAuth application, in the workspace's settings under Access Management, and the region"
                    )
                    return
                corrected = True
                continue
            if self._refusal.stands(self._now()):
                return
            failures += 1
            pause = self._pause(answer, failures)
            if self._now() >= self._token.expires_at:
                # Nothing can be sent. A token that is only to be renewed is still good.
                self.asks_at = self._now() + pause
                what = f"status {answer.status}" if isinstance(answer, Response) else answer
                self._note_failure(f"no token from {self._audience} ({what})", pause)
            await asyncio.sleep(pause)

    async def _ask(self) -> Response | str:
        """One request for a token; text: why there is no usable answer."""
        assertion = self._requests.assertion()
        if assertion is None:
            self._refuse("client_key is not a usable private RSA key in PEM")
            return self._refusal.text
        try:
            return await self._transport.send(
                self._requests.form(assertion),
                {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
            )
        except TransportError as error:
            return str(error)
        except Exception as error:
            return f"the transport raised {type(error).__qualname__}"

    def _take(self, answer: Response) -> bool:
        """Whether the answer held a token that is good for at least a second."""
        token, lifetime = _token_of(answer)
        if not token or lifetime < _SHORTEST_LIFETIME:
            return False
        self.asks_at = -math.inf
        now = self._now()
        self._token = _Token(f"Bearer {token}", now, now + lifetime * _RENEW_AT, now + lifetime)
        self._requests.note_clock(answer)
        return True

    def _pause(self, answer: Response | str, failures: int) -> float:
        back_off = self._policy.delay(failures, self._random())
        if not isinstance(answer, Response):
            return back_off
        asked = retry_after(answer, self._wall_clock()) if self._policy.max_retry_after > 0 else None
        if asked is not None:
            # Not shorter than the first back-off, as for a batch.
            return max(min(asked, self._policy.max_retry_after), self._policy.delay(1, self._random()))
        return _RATE_LIMITED if answer.status == 429 else back_off

    def _refuse(self, refusal: str) -> None:
        self._refusal = _Refusal(refusal, self._now())


def _loaded(pem: str, load: Callable[[str], Any]) -> Any:
    """The key ready to sign with, `None` where there is none in it: to load one takes 50 ms, too long for a loop."""
    try:
        key = load(pem)
    except Exception:
        # As in `assertion`.
        return None
    # A public key can be loaded as well.
    return key if hasattr(key, "sign") else None


def _token_of(answer: Response) -> tuple[str, float]:
    try:
        said: Any = orjson.loads(answer.body)
        token, lifetime = said["access_token"], max(0.0, float(said["expires_in"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return "", 0.0
    # A header cannot hold anything else.
    return (token, lifetime) if isinstance(token, str) and token.isascii() and token.isprintable() else ("", 0.0)
