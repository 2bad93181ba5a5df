"""How a request says who sends it: Basic with the write key, or OAuth 2.0 with a token.

Both give the value of the `Authorization` header, and a fresh one on demand; the sender knows no difference. Tokens
are fetched when traffic needs them, renewed in its background at half their life, one request at a time however many
batches wait. Key material stays in memory.

This file knows no batches.
"""

from __future__ import annotations

import asyncio
import base64
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from os import urandom
from typing import Any, Final, Protocol

import orjson

from segment_async._exceptions import TransportError
from segment_async._http.origin import origin
from segment_async._http.transport import HTTPTransport, Response, Secret, Transport
from segment_async._lifecycle.loop_end import abandon_after_fork, end

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
# What token servers say when a clock is off, theirs or ours.
_SKEW: Final = re.compile(rb"\b(iat|exp|expired|too early)\b", re.IGNORECASE)
_RENEW_AT: Final = 0.5
# Seconds that a token must be good for. A shorter one has expired before a request can use it, and the next call would
# fetch another one at once.
_SHORTEST_LIFETIME: Final = 1.0


class Refused(Exception):
    """There are no credentials to be had, and trying again will not help; the text says what to mend."""


class Auth(Protocol):
    """Attributes:
    asks_at: the clock when a token is asked for again, while there is none and the last request for one failed.
    """

    has_tokens: bool
    asks_at: float

    async def header(self) -> str: ...
    def renew(self, sent_at: float) -> None: ...
    async def close_here(self) -> None:
        """Leave nothing on the running loop, which is about to end."""
        ...

    async def aclose(self) -> None: ...
    def abandon(self) -> None:
        """At the interpreter's exit, when no loop runs any more: drop connections without closing them."""
        ...

    def abandon_after_fork(self) -> None:
        """In a forked child, whose clock begins at 0: forget what was learnt by the parent's."""
        ...


class Basic:
    """The write key as the user name, no password
    (https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/#writekey-authentication).
    """

    has_tokens = False
    asks_at = -math.inf

    def __init__(self, write_key: str) -> None:
        self._header = "Basic " + base64.b64encode(f"{write_key}:".encode()).decode()

    def __repr__(self) -> str:
        return "<Basic>"

    async def header(self) -> str:
        return self._header

    def renew(self, sent_at: float) -> None:
        """There is nothing to renew."""

    async def close_here(self) -> None:
        """There is nothing to leave."""

    async def aclose(self) -> None:
        """There is nothing to close."""

    def abandon(self) -> None:
        """There is nothing to drop."""

    def abandon_after_fork(self) -> None:
        """There is nothing to forget."""


@dataclass(frozen=True, slots=True)
class OAuth:
    """Credentials of an OAuth application (https://segment.com/docs/connections/oauth/).

    Attributes:
        client_id: of the application.
        client_key: its private key as PEM text; it stays in memory.
        key_id: of the public key that Segment holds.
        scope: what the token is for.
        auth_server: another token server's origin; `None`: Segment's of the client's region.

    Raises:
        ValueError: one of them is empty, or `auth_server` is no origin.
    """

    client_id: str
    client_key: str = field(repr=False)
    key_id: str
    scope: str = "tracking_api:write"
    auth_server: str | None = None

    def __post_init__(self) -> None:
        for name in ("client_id", "client_key", "key_id", "scope"):
            if not getattr(self, name):
                raise ValueError(f"OAuth needs its {name}")
        if self.auth_server is not None:
            # Before anything can show it: it may hold credentials. Whether plain HTTP will do is the client's to say.
            origin(self.auth_server, allow_http=True)


class Tokens:
    """Fetches tokens, one request at a time, and knows when to.

    Args:
        audience: the token server's origin, without a trailing slash.
        transport: posts to its ``/token``.
        now: the client's monotonic clock; `wall`: seconds since the epoch; `chance`: a random number from 0 to 1.
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
        wall: Callable[[], float],
        chance: Callable[[], float],
        note_failure: Callable[[str, float], object],
    ) -> None:
        try:
            # PyJWT signs with it, and says so only when it is asked to.
            import cryptography  # noqa: F401  # pyright: ignore[reportUnusedImport]
            import jwt
        except ImportError:
            raise ImportError("OAuth needs PyJWT: pip install 'segment-async[oauth]'") from None
        self._sign = jwt.encode
        self._key = _loaded(oauth.client_key, jwt.get_algorithm_by_name("RS256").prepare_key)
        self._oauth = oauth
        self._audience = audience
        self._transport = transport
        self._policy = policy
        self._now = now
        self._wall = wall
        self._chance = chance
        self._note_failure = note_failure
        # Seconds that the server's clock is ahead of ours.
        self._skew = 0.0
        self._begin()

    def _begin(self) -> None:
        self.asks_at = -math.inf
        self._header = ""
        self._fetched_at = self._renew_at = self._expires_at = -math.inf
        self._refusal = ""
        self._refused_at = -math.inf
        self._fetching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return "<Tokens>"

    async def header(self) -> str:
        """The header's value, at once while the token is good; else when a new one has come.

        Raises:
            Refused: the server will not give one.
        """
        while self._now() >= self._expires_at:
            if self._refusal_stands():
                raise Refused(self._refusal)
            # A caller that stops waiting leaves the fetching to the others.
            await asyncio.wait((self._fetch_once(),))
        if self._now() >= self._renew_at and not self._refusal_stands():
            self._fetch_once()
        return self._header

    def renew(self, sent_at: float) -> None:
        """The token that was in use at this reading of the clock is worth nothing."""
        if self._fetched_at <= sent_at:
            self._expires_at = -math.inf

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
                if corrected or not self._corrects_clock(answer):
                    self._refuse(
                        f"{self._audience} answered {answer.status}: check client_id, key_id, client_key and scope of "
                        "the OAuth application, in the workspace's settings under Access Management, and the region"
                    )
                    return
                corrected = True
                continue
            if self._refusal_stands():
                return
            failures += 1
            pause = self._pause(answer, failures)
            if self._now() >= self._expires_at:
                # Nothing can be sent. A token that is only to be renewed is still good.
                self.asks_at = self._now() + pause
                what = f"status {answer.status}" if isinstance(answer, Response) else answer
                self._note_failure(f"no token from {self._audience} ({what})", pause)
            await asyncio.sleep(pause)

    async def _ask(self) -> Response | str:
        """One request for a token; text: why there is no usable answer."""
        assertion = self._assertion()
        if assertion is None:
            return self._refusal
        try:
            return await self._transport.send(
                self._form(assertion.value),
                {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
            )
        except TransportError as error:
            return str(error)
        except Exception as error:
            return f"the transport raised {type(error).__qualname__}"

    def _form(self, assertion: str) -> bytes:
        fields = {
            "grant_type": "client_credentials",
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": assertion,
            "scope": self._oauth.scope,
        }
        from urllib.parse import urlencode

        return urlencode(fields).encode()

    def _assertion(self) -> Secret | None:
        """The signed claims; without a usable key that is a refusal."""
        moment = self._wall() + self._skew
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
            pass
        self._refuse("client_key is no private RSA key in PEM that can be used")
        return None

    def _take(self, answer: Response) -> bool:
        """Whether the answer held a token that is good for at least a second."""
        token, lifetime = _token_of(answer)
        if not token or lifetime < _SHORTEST_LIFETIME:
            return False
        self.asks_at = -math.inf
        self._header = f"Bearer {token}"
        self._fetched_at = self._now()
        self._renew_at = self._fetched_at + lifetime * _RENEW_AT
        self._expires_at = self._fetched_at + lifetime
        self._note_clock(answer)
        return True

    def _note_clock(self, answer: Response) -> None:
        try:
            self._skew = http_date(header(answer, "date") or "") - self._wall()
        except (ValueError, OverflowError):
            # No date, or none that can be read: what was known of the server's clock stands.
            pass

    def _corrects_clock(self, answer: Response) -> bool:
        """Whether the refusal is a matter of clocks, and ours is set by the answer now."""
        if not _SKEW.search(answer.body):
            return False
        self._note_clock(answer)
        return True

    def _pause(self, answer: Response | str, failures: int) -> float:
        if isinstance(answer, Response) and answer.status == 429:
            asked = retry_after(answer, self._wall()) if self._policy.max_retry_after > 0 else None
            return _RATE_LIMITED if asked is None else min(asked, self._policy.max_retry_after)
        return self._policy.delay(failures, self._chance())

    def _refusal_stands(self) -> bool:
        return self._now() - self._refused_at < _REFUSAL_STANDS

    def _refuse(self, refusal: str) -> None:
        self._refusal = refusal
        self._refused_at = self._now()


def _loaded(pem: str, load: Callable[[str], Any]) -> Any:
    """The key ready to sign with, `None` where there is none in it: to load one takes 50 ms, too long for a loop."""
    try:
        return load(pem)
    except Exception:
        # As in `_assertion`; what is wrong is said when a token is needed.
        return None


def _token_of(answer: Response) -> tuple[str, float]:
    try:
        said: Any = orjson.loads(answer.body)
        token, lifetime = said["access_token"], max(0.0, float(said["expires_in"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return "", 0.0
    # What else a header cannot hold.
    return (token, lifetime) if isinstance(token, str) and token.isascii() and token.isprintable() else ("", 0.0)
